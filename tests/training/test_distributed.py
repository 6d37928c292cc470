"""One training by two processes: what one process makes of the same batches; a lost process; going on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from toy import toy_fit, toy_rank

from qbench.config import TrainerConfig
from qbench.errors import TrainingError
from qbench.progress import SilentProgress
from qbench.training.distributed import run_together

# all that is drawn for a whole batch, or computed from all gradients; three parts of sixteen images are of two sizes
RECIPE = {"mixup_alpha": 0.3, "ema_decay": 0.9, "grad_clip": 0.5, "epochs": 2}
PARTS = TrainerConfig(devices=2, accumulate=3)
CPU = torch.device("cpu")


class Log(SilentProgress):
    def __init__(self) -> None:
        self.events: list[str] = []

    def begin(self, label: str, total: int) -> None:
        self.events.append(f"begin {label} {total}")

    def line(self, text: str) -> None:
        self.events.append(text.partition(":")[0])


@dataclass(frozen=True)
class Made:
    history: list[dict[str, float]]
    state: dict[str, Tensor]
    told: list[str]


def together(folder: Path, trainer: TrainerConfig = PARTS, **recipe: Any) -> Made:
    log = Log()
    arguments = (folder, {**RECIPE, **recipe}, trainer)
    run_together(toy_rank, arguments, devices=2, device=CPU, threads=2, progress=log)
    return Made(json.loads((folder / "history.json").read_text()), load_file(folder / "state"), log.events)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return together(tmp_path_factory.mktemp("together"))


def figures(history: Sequence[Any], name: str) -> list[float]:
    return [one[name] if isinstance(one, dict) else getattr(one, name) for one in history]


def children() -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(one.cmdline())]


def test_two_processes_train_as_one_does(made: Made) -> None:
    alone = toy_fit(**RECIPE)
    for name in ("train_loss", "validation_loss"):
        assert figures(made.history, name) == pytest.approx(figures(alone.history, name), rel=1e-4), name
    assert figures(made.history, "lr") == figures(alone.history, "lr")
    assert made.state.keys() == alone.state.keys()
    for name, value in alone.state.items():
        torch.testing.assert_close(made.state[name], value, rtol=1e-3, atol=1e-5, msg=name)
    assert made.told == [
        "begin train epoch 1/2 7", "train epoch 1/2", "begin train epoch 2/2 7", "train epoch 2/2"
    ]  # fmt: skip  # once, not once per process
