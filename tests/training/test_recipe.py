"""The parts of training that are functions of the recipe: schedule, optimizer, precision, averages."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from qbench.config import TrainConfig
from qbench.errors import ConfigError, TrainingError
from qbench.training.memory import memory_errors
from qbench.training.objective import mixup
from qbench.training.recipe import (
    ExponentialAverage,
    autocast_dtype,
    make_optimizer,
    one_cycle_lr,
    resolve_device,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("warmup", [0.0, 0.2, 0.9], ids=str)
@pytest.mark.parametrize("total", [1, 2, 7, 500], ids=str)
def test_the_schedule_rises_to_its_peak_and_falls_to_almost_nothing(total: int, warmup: float) -> None:
    rates = [one_cycle_lr(step, total, 0.4, warmup) for step in range(total)]
    assert all(0 < rate <= 0.4 for rate in rates)
    top = rates.index(max(rates))
    assert all(left < right for left, right in pairwise(rates[: top + 1]))
    assert all(left > right for left, right in pairwise(rates[top:]))
    if total == 500:
        assert abs(top - 500 * warmup) <= 1 and max(rates) > 0.39
        assert rates[-1] < 0.4 / 25 and rates[0] >= (0.4 / 25 if warmup else 0.39)


def test_the_schedule_by_hand() -> None:
    # 10 steps, warm-up over the first 2: mid-step positions 0.05, 0.15, 0.25, ... of the whole
    assert one_cycle_lr(0, 10, 1.0, 0.2) == pytest.approx(0.04 + 0.96 * 0.25)
    assert one_cycle_lr(1, 10, 1.0, 0.2) == pytest.approx(0.04 + 0.96 * 0.75)
    assert one_cycle_lr(2, 10, 1.0, 0.2) == pytest.approx(0.75 / 0.8)
    assert one_cycle_lr(9, 10, 1.0, 0.2) == pytest.approx(0.05 / 0.8)


def test_weight_decay_spares_biases_and_batch_norm() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    network[2].weight.requires_grad_(False)
    decayed, spared = make_optimizer(network, TrainConfig(weight_decay=0.01)).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    assert [tuple(p.shape) for p in decayed["params"]] == [(2, 1, 3, 3)]  # the frozen matrix is left alone
    assert [tuple(p.shape) for p in spared["params"]] == [(2,), (2,), (2,), (2,)]


def test_optimizers() -> None:
    network = nn.Linear(2, 2)
    sgd = make_optimizer(network, TrainConfig(momentum=0.8))
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.8, True)
    assert make_optimizer(network, TrainConfig(momentum=0.0)).defaults["nesterov"] is False
    assert isinstance(make_optimizer(network, TrainConfig(optimizer="adamw")), torch.optim.AdamW)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("cpu") == CPU
    for device in ("cuda", "cuda:1", "mps", "tpu"):
        with pytest.raises(
            ConfigError, match=rf"^device={device}: not available to this torch .*; available here: cpu$"
        ):
            resolve_device(device)


@pytest.mark.parametrize("native", [True, False], ids=["native", "emulated"])
def test_bfloat16_is_taken_where_it_is_native_or_asked_for(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    assert autocast_dtype("auto", CPU) == (torch.bfloat16 if native else None)
    assert autocast_dtype("bfloat16", CPU) == torch.bfloat16
    assert autocast_dtype("float32", CPU) is None
    assert autocast_dtype("auto", torch.device("mps")) is None


def test_mixup_blends_pairs_of_the_batch() -> None:
    torch.manual_seed(0)
    images, labels = torch.eye(6).view(6, 1, 2, 3), torch.arange(6)
    blended, others, share = mixup(images, labels, 0.4)
    assert 0.0 <= share <= 1.0 and sorted(others.tolist()) == labels.tolist()
    torch.testing.assert_close(blended, share * images + (1 - share) * images[others])
    assert torch.equal(images, torch.eye(6).view(6, 1, 2, 3))


def test_the_average_follows_with_a_decay_that_warms_up() -> None:
    network = nn.BatchNorm2d(1, momentum=None)
    average = ExponentialAverage(network, decay=0.15)
    network.weight.data.fill_(2.0)  # it begins at 1
    network.num_batches_tracked += 5
    average.update(network)
    assert average.state["weight"].item() == pytest.approx(1.9)  # decay (1 + 0) / (10 + 0)
    average.update(network)
    assert average.state["weight"].item() == pytest.approx(2 - 0.1 * 0.15)  # 0.15, below (1 + 1) / (10 + 1)
    assert average.state["num_batches_tracked"].item() == 5 and average.updates == 2
    assert network.weight.item() == 2.0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    ],
    ids=["python", "cuda", "linux", "windows"],
)
def test_memory_errors_say_what_to_do(error: Exception) -> None:
    with (
        pytest.raises(TrainingError, match=r"^out of memory while training: lower train\.batch_size$"),
        memory_errors(),
    ):
        raise error


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), memory_errors():
        raise RuntimeError("shapes differ")
