"""The training loop: what it keeps, how it goes on after a kill, and how it says that it cannot."""

from __future__ import annotations

import copy
import logging
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from calling import ROOT
from torch import Tensor, nn
from toy import toy_data, toy_fit, toy_network

import qbench.training.loop
from qbench.config import AugmentConfig
from qbench.errors import TrainingError
from qbench.progress import SilentProgress
from qbench.training.loop import validate


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_training_learns_and_tells_how_it_went() -> None:
    network = toy_network()
    outcome = toy_fit(network=network, epochs=4)
    assert [stats.epoch for stats in outcome.history] == [0, 1, 2, 3]
    losses = [stats.train_loss for stats in outcome.history]
    assert losses[-1] < 0.8 * losses[0] and math.isfinite(losses[0])
    assert outcome.history[outcome.best_epoch].validation_top1_percent > 60  # of 25 by chance
    assert all(stats.seconds > 0 for stats in outcome.history)
    assert outcome.seconds == pytest.approx(sum(stats.seconds for stats in outcome.history))
    assert outcome.precision == "float32" and outcome.history[-1].lr < 0.05
    assert all(value.device.type == "cpu" and not value.requires_grad for value in outcome.state.values())


def test_same_seed_same_weights_other_seed_others() -> None:
    first = toy_fit(epochs=1).state
    torch.manual_seed(1234)  # the caller's random numbers are none of its business
    assert same(first, toy_fit(epochs=1).state)
    assert not same(first, toy_fit(epochs=1, seed=1).state)


@pytest.mark.parametrize(
    "change",
    [
        {"ema_decay": 0.9},
        {"mixup_alpha": 0.4},
        {"optimizer": "adamw"},
        {"grad_clip": 0.01},
        {"precision": "bfloat16"},
        {"momentum": 0.0},
        {"weight_decay": 0.1},
        {"warmup_fraction": 0.5},
        {"label_smoothing": 0.3},
        {"lr": 0.01},
        {"batch_size": 16},
        {"augment": AugmentConfig()},
        {"augment": AugmentConfig(flip=True, crop_padding=1, cutout=3)},
    ],
    ids=str,
)
def test_every_setting_changes_the_weights(change: dict[str, Any]) -> None:
    plain, changed = toy_fit(epochs=1), toy_fit(**{"epochs": 1, **change})
    assert not same(plain.state, changed.state)
    assert all(bool(torch.isfinite(value).all()) for value in changed.state.values())
    if "precision" in change:
        assert (plain.precision, changed.precision) == ("float32", "bfloat16")
        assert all(value.dtype == torch.float32 for value in changed.state.values() if value.is_floating_point())


def test_no_epochs_keep_the_weights() -> None:
    network = toy_network()
    before = copy.deepcopy(network.state_dict())
    outcome = toy_fit(network=network, epochs=0)
    assert same(outcome.state, before)
    assert (outcome.history, outcome.best_epoch) == ((), -1)


def test_the_best_validation_epoch_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Tensor]] = []
    scores = iter([40.0, 80.0, 80.0, 60.0])

    def scripted(module: nn.Module, *rest: object) -> tuple[float, float]:
        seen.append(copy.deepcopy(module.state_dict()))
        return 1.0, next(scores)

    monkeypatch.setattr(qbench.training.loop, "validate", scripted)
    outcome = toy_fit(epochs=4)
    assert outcome.best_epoch == 1  # of two equals the first
    assert same(outcome.state, seen[1]) and not same(seen[1], seen[2])


@pytest.mark.parametrize("ema_decay", [0.0, 0.9], ids=["weights", "average"])
def test_the_kept_state_has_the_reported_accuracy(ema_decay: float) -> None:
    outcome = toy_fit(ema_decay=ema_decay)
    network = toy_network()
    network.load_state_dict(outcome.state)
    network.train()
    loss, top1 = validate(network, toy_data(), torch.device("cpu"), None)
    best = outcome.history[outcome.best_epoch]
    assert top1 == best.validation_top1_percent
    # the trained network lies channels last in memory, this one does not: float32 sums in another order
    assert loss == pytest.approx(best.validation_loss, rel=1e-5)
    assert network.training  # as it was


def test_validation_counts_right_answers() -> None:
    data = toy_data()

    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([0.0, 3.0, 0.0, 0.0]).expand(len(images), 4)

    loss, top1 = validate(Constant(), data, torch.device("cpu"), None)
    share = float((data.validation.labels == 1).float().mean())
    assert top1 == pytest.approx(100 * share)
    log_total = math.log(3 + math.exp(3))
    assert loss == pytest.approx(log_total - 3 * share, rel=1e-6)  # float32 sums


# --- going on


def killed_after(steps: int, folder: Path, *settings: str) -> int:
    """Train in a process that kills itself after so many steps; returns its exit status."""
    script = Path(__file__).with_name("toy.py")
    command = [sys.executable, str(script), str(folder / "checkpoint"), str(folder / "state"), str(steps), *settings]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, check=False).returncode


# 7 steps make an epoch
@pytest.mark.parametrize(
    "steps, settings",
    [(10, {}), (20, {"ema_decay": 0.9, "mixup_alpha": 0.3})],
    ids=["second epoch", "third epoch, average and mixup"],
)
def test_killed_and_resumed_equals_undisturbed_bit_for_bit(
    steps: int, settings: dict[str, float], tmp_path: Path
) -> None:
    words = [f"{key}={value}" for key, value in settings.items()]
    assert killed_after(steps, tmp_path, *words) == -signal.SIGKILL
    assert (tmp_path / "checkpoint").is_file() and not (tmp_path / "state").exists()
    resumed = toy_fit(tmp_path / "checkpoint", **settings)
    undisturbed = toy_fit(**settings)
    assert same(resumed.state, undisturbed.state)
    assert resumed.best_epoch == undisturbed.best_epoch

    def figures(outcome: Any) -> list[tuple[float, ...]]:
        return [(s.epoch, s.lr, s.train_loss, s.validation_loss, s.validation_top1_percent) for s in outcome.history]

    assert figures(resumed) == figures(undisturbed)


def test_killed_before_the_first_checkpoint_starts_again(tmp_path: Path) -> None:
    assert killed_after(3, tmp_path) == -signal.SIGKILL
    assert [*tmp_path.iterdir()] == []
    assert same(toy_fit(tmp_path / "checkpoint").state, toy_fit().state)


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first = toy_fit(tmp_path / "checkpoint")

    class Untouched(SilentProgress):
        def begin(self, label: str, total: int) -> None:
            raise AssertionError("trains again")

    again = toy_fit(tmp_path / "checkpoint", Untouched())
    assert same(first.state, again.state) and again.history == first.history


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [_flip, lambda content: content[:-1], lambda content: content[: len(content) // 2], lambda content: b""],
    ids=["bit flip", "one byte short", "half", "empty"],
)
def test_a_damaged_checkpoint_is_reported_and_training_starts_again(
    damage: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "checkpoint"
    toy_fit(path, epochs=1)
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        outcome = toy_fit(path, epochs=1)
    assert caplog.messages == ["checkpoint checkpoint is damaged (checksum); training starts from its first epoch"]
    assert same(outcome.state, toy_fit(epochs=1).state)


# --- refusing


def test_a_diverging_loss_names_the_step_and_the_learning_rate() -> None:
    message = r"the loss is (nan|inf) at step \d+, learning rate \d.*: lower train\.lr or set train\.grad_clip=1\.0"
    with pytest.raises(TrainingError, match=message):
        toy_fit(lr=1e30)


def test_fewer_images_than_a_batch() -> None:
    message = r"^224 training images are fewer than one batch: lower train\.batch_size=225$"
    with pytest.raises(TrainingError, match=message):
        toy_fit(batch_size=225)
    assert len(toy_fit(batch_size=224, epochs=1).history) == 1
    assert toy_fit(batch_size=225, epochs=0).history == ()  # nothing is trained, nothing is refused


def test_running_out_of_memory_says_what_to_lower() -> None:
    class Hungry(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, images: Tensor) -> Tensor:
            return images.new_empty(10**15) + self.weight

    with pytest.raises(TrainingError, match=r"out of memory while training: lower train\.batch_size"):
        toy_fit(network=Hungry())


def test_progress_is_told_of_every_step_and_closed_when_it_fails() -> None:
    class Log(SilentProgress):
        def __init__(self) -> None:
            self.events: list[str] = []

        def begin(self, label: str, total: int) -> None:
            self.events.append(f"begin {label} {total}")

        def advance(self, steps: int = 1, note: str = "") -> None:
            assert note.startswith("loss ")
            self.events.append("step")

        def line(self, text: str) -> None:
            self.events.append(text.partition(":")[0])

        def end(self) -> None:
            self.events.append("end")

    log = Log()
    toy_fit(progress=log, epochs=1)
    assert log.events == ["begin train epoch 1/1 7", *["step"] * 7, "end", "train epoch 1/1"]
    log = Log()
    with pytest.raises(TrainingError, match="the loss is"):
        toy_fit(progress=log, lr=1e30)
    assert log.events[-1] == "end"
