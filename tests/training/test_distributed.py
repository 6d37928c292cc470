"""Batches in parts, and what is made of processes that fail; ``tests/faults/test_devices.py`` starts real ones."""

from __future__ import annotations

import errno
import signal
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from toy import toy_fit, toy_network

from qbench.config import TrainerConfig
from qbench.errors import ConfigError, DataError, TrainingError
from qbench.files import has_no_room
from qbench.progress import Progress, SilentProgress
from qbench.training.distributed import Ranks, _failure, check_devices, run_together
from qbench.training.resuming import EpochStats
from qbench.training.step import parts_of

# all that is drawn for a whole batch, or computed from all gradients
RECIPE = {"mixup_alpha": 0.3, "ema_decay": 0.9, "grad_clip": 0.5, "epochs": 2}
WHO = "rank 1 of 2 training processes"
CPU = torch.device("cpu")


def figures(history: Sequence[EpochStats], name: str) -> list[float]:
    return [getattr(one, name) for one in history]


@pytest.mark.parametrize("accumulate", [4, 3, 1000], ids=["even", "uneven", "more than images"])
def test_a_batch_in_parts_gives_the_gradients_of_the_whole(accumulate: int) -> None:
    whole, parts = toy_fit(**RECIPE), toy_fit(**RECIPE, trainer=TrainerConfig(accumulate=accumulate))
    for name in ("train_loss", "validation_loss"):
        assert figures(parts.history, name) == pytest.approx(figures(whole.history, name), rel=1e-4), name
    for name, value in whole.state.items():
        torch.testing.assert_close(parts.state[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_the_network_sees_the_parts() -> None:
    sizes: list[int] = []
    network = toy_network()
    network.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])) if module.training else None)
    toy_fit(network=network, epochs=1, trainer=TrainerConfig(accumulate=3))
    assert sizes == [10, 11, 11] * 7


def test_synchronized_batch_norms_keep_their_names() -> None:
    """Where nobody else trains they are plain ones, on a CPU too: what is exchanged is torch's affair."""

    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)
        )

    plain, synchronized = network(), network()
    expected = toy_fit(network=plain, epochs=1)
    found = toy_fit(network=synchronized, epochs=1, trainer=TrainerConfig(sync_batch_norm=True))
    assert isinstance(synchronized.get_submodule("1"), nn.SyncBatchNorm)
    assert found.state.keys() == expected.state.keys()
    assert all(torch.equal(found.state[name], value) for name, value in expected.state.items())


@pytest.mark.parametrize("count, parts", [(32, 4), (32, 6), (7, 7), (5, 1)])
def test_parts_cover_every_image_once_and_differ_by_one(count: int, parts: int) -> None:
    found = parts_of(count, parts)
    assert [index for part in found for index in range(count)[part]] == [*range(count)]
    lengths = {part.stop - part.start for part in found}
    assert len(found) == parts and min(lengths) >= 1 and max(lengths) - min(lengths) <= 1


def test_random_numbers_within_are_the_process_own() -> None:
    def drawn(ranks: Ranks) -> tuple[float, float]:
        torch.manual_seed(0)
        with ranks.own_randomness(seed=0, step=3, device=CPU):
            inside = float(torch.rand(()))
        return inside, float(torch.rand(()))

    first, second, alone = drawn(Ranks(0, 2)), drawn(Ranks(1, 2)), drawn(Ranks())
    assert first[0] != second[0] and first[1] == second[1]
    torch.manual_seed(0)
    assert alone == (float(torch.rand(())), float(torch.rand(())))  # one process draws as it always did
    assert first[1] == alone[0]


class Failure:
    """What the launcher knows of a process that failed."""

    def __init__(self, message: Any, exitcode: int = 1) -> None:
        self.message, self.exitcode = message, exitcode

    def signal_name(self) -> str:
        return signal.Signals(-self.exitcode).name


class Failed(Exception):
    def __init__(self, failure: Failure) -> None:
        self.failure = failure

    def get_first_failure(self) -> tuple[int, Failure]:
        return 1, self.failure


def told(text: str) -> dict[str, Any]:
    return {"message": text, "extraInfo": {"py_callstack": "Traceback of the process", "timestamp": "0"}}


@pytest.mark.parametrize(
    "failure, kind, text",
    [
        (Failure(told("DataError: no images")), DataError, "no images"),
        (Failure(told("MethodError: conv: no")), TrainingError, f"{WHO} failed: MethodError: conv: no"),
        (Failure(told("KeyError: 'x'")), TrainingError, f"{WHO} failed: KeyError: 'x'"),
        (Failure("", 7), TrainingError, f"{WHO} ended with 7; the same command goes on from the last whole epoch"),
        (Failure("Signal 9 (SIGKILL)", -9), TrainingError, f"{WHO} was killed by SIGKILL; the same command goes on"),
    ],
    ids=["qbench's", "of two arguments", "Python's", "exit code", "signal"],
)
def test_failures_as_errors(failure: Failure, kind: type[Exception], text: str) -> None:
    error = _failure(Failed(failure), 2)
    assert type(error) is kind and str(error).startswith(text)


def test_a_full_disk_is_told_as_one() -> None:
    error = _failure(Failed(Failure(told("OSError: [Errno 28] No space left on device: '/store/x'"))), 2)
    refusal = has_no_room(error)
    assert refusal is not None and (refusal.errno, refusal.filename) == (errno.ENOSPC, "/store/x")


def nothing(*arguments: Any, ranks: Ranks, device: torch.device, progress: Progress) -> None:
    raise AssertionError("a process was started")


@pytest.mark.parametrize(
    "device, there, text", [("cuda", 1, "1 GPU"), ("cuda", 0, "0 GPUs"), ("mps", 0, "cpu or cuda")]
)
def test_too_few_devices_are_refused_before_anything_starts(
    device: str, there: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    check_devices(2, CPU)
    with pytest.raises(ConfigError, match=rf"^trainer\.devices=2: not with device={device}: .*{text}"):
        run_together(nothing, (), devices=2, device=torch.device(device), threads=1, progress=SilentProgress())
