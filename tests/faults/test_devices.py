"""One training by two real processes: what one makes of the same batches; one of them killed, or all told to stop."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from calling import Bench
from faults.procs import SMALL, Running, call, in_folder, start, wait_until
from safetensors.torch import load_file
from torch.testing import assert_close

from qbench.record import Record, load_records

EPOCHS = 12  # long enough to be disturbed twice
# all that is drawn for a whole batch or computed from all gradients; three parts of 24 images, of 23 and less
RECIPE = (
    "run", *SMALL, "method=fp32", f"train.epochs={EPOCHS}", "train.optimizer=sgd", "train.lr=0.02",
    "train.mixup_alpha=0.3", "train.label_smoothing=0.1", "train.ema_decay=0.9", "train.grad_clip=0.5",
    "train.batch_size=47", "train.precision=float32",
)  # fmt: skip
TOGETHER = (*RECIPE, "trainer.devices=2", "trainer.accumulate=3")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("devices"), None)  # type: ignore[arg-type]  # only forked processes print


@pytest.fixture(scope="module")
def together(home: Bench) -> tuple[Bench, str]:
    bench = in_folder(home, "together")
    code, output = call(bench, TOGETHER)
    assert code == 0, output
    return bench, output


def record_of(bench: Bench) -> Record:
    (record,), problems = load_records(bench.outputs / "records")
    assert problems == []
    return record


def weights(bench: Bench) -> Path:
    (path,) = bench.store.glob("train/*/weights.safetensors")
    return path


def figures(bench: Bench) -> list[dict[str, Any]]:
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in record_of(bench).history]


def trained(output: str) -> list[int]:
    """The epochs that a call trained itself."""
    words = [line.split(" epoch ")[1] for line in output.splitlines() if " epoch " in line and "validation" in line]
    return [int(word.partition("/")[0]) for word in words]


def so_far(running: Running) -> str:
    return b"".join(running.parts).decode()


def ranks_of(running: Running) -> list[psutil.Process]:
    """The training processes, in their order."""
    found = psutil.Process(running.process.pid).children(recursive=True)
    return sorted((one for one in found if "spawn_main" in " ".join(one.cmdline())), key=lambda one: one.create_time())


def test_two_processes_train_as_one_does(home: Bench, together: tuple[Bench, str]) -> None:
    alone = in_folder(home, "alone")
    code, output = call(alone, RECIPE)
    assert code == 0, output
    bench, output = together
    assert trained(output) == [*range(1, EPOCHS + 1)]  # told once, not by each process
    history, usual = figures(bench), figures(alone)
    assert usual[-1]["train_loss"] < 0.8 * usual[0]["train_loss"]  # it learns: curves are compared, not constants
    for name in ("train_loss", "validation_loss"):
        # sums in another order differ by some 1e-7, which a hundred steps make more of
        assert [one[name] for one in history] == pytest.approx([one[name] for one in usual], rel=1e-4), name
    assert [one["lr"] for one in history] == [one["lr"] for one in usual]
    ours, theirs = load_file(weights(bench)), load_file(weights(alone))
    assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert weights(bench).parent.name != weights(alone).parent.name  # their keys differ


def test_a_killed_process_and_an_interrupted_call_go_on_to_the_same_weights(
    home: Bench, together: tuple[Bench, str]
) -> None:
    bench = in_folder(home, "disturbed")
    running = start(bench, TOGETHER)
    wait_until(lambda: bool(trained(so_far(running))))
    ranks = ranks_of(running)
    assert len(ranks) == 2
    ranks[1].kill()
    code, first = running.end()
    assert code == 1
    killed = "rank 1 of 2 training processes was killed by SIGKILL; the same command goes on from the last whole epoch"
    assert f"  failed: {killed}" in first.splitlines()
    assert not [one for one in ranks if one.is_running()]
    running = start(bench, TOGETHER)
    wait_until(lambda: bool(trained(so_far(running))))
    ranks = ranks_of(running)
    os.kill(running.process.pid, signal.SIGINT)
    code, second = running.end()
    assert code == 130 and "interrupted; finished stages are kept" in second
    assert len(ranks) == 2 and not [one for one in ranks if one.is_running()]
    code, third = call(bench, TOGETHER)
    assert code == 0
    told = trained(first) + trained(second) + trained(third)
    assert told == sorted(set(told)) and told[0] == 1 and told[-1] == EPOCHS  # no epoch twice
    assert trained(second)[0] > 1 and trained(third)[0] > 2
    assert weights(bench).read_bytes() == weights(together[0]).read_bytes()
    assert figures(bench) == figures(together[0])
    assert "Traceback" not in first + second + third
