"""How far a training has come: what its checkpoint holds, and how it goes on from there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qbench.training.checkpoint import load_checkpoint, save_checkpoint
from qbench.training.recipe import ExponentialAverage


@dataclass(frozen=True)
class EpochStats:
    """One epoch. Accuracies are percent; the validation split selects the epoch kept."""

    epoch: int
    lr: float
    train_loss: float
    validation_loss: float
    validation_top1_percent: float
    seconds: float


@dataclass
class Progressed:
    """What a checkpoint holds, beside the module, the optimizer and the average."""

    next_epoch: int
    history: list[EpochStats]
    best: dict[str, Tensor]
    best_epoch: int

    @property
    def best_top1(self) -> float:
        return max((stats.validation_top1_percent for stats in self.history), default=-1.0)


def save_progress(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: ExponentialAverage | None,
    done: Progressed,
) -> None:
    """Replace the checkpoint by the state after an epoch."""
    save_checkpoint(
        path,
        {
            "module": module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": None if average is None else {"state": average.state, "updates": average.updates},
            "next_epoch": done.next_epoch,
            "history": [asdict(stats) for stats in done.history],
            "best": done.best,
            "best_epoch": done.best_epoch,
        },
    )


def resume(
    path: Path | None,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: ExponentialAverage | None,
    device: torch.device,
) -> Progressed:
    """What the checkpoint at ``path`` holds, with module, optimizer and average set to it; nothing done without one."""
    state: dict[str, Any] | None = load_checkpoint(path) if path is not None else None
    if state is None:
        return Progressed(0, [], {}, -1)
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    if average is not None and state["average"] is not None:
        average.state = {name: value.to(device) for name, value in state["average"]["state"].items()}
        average.updates = state["average"]["updates"]
    history = [EpochStats(**stats) for stats in state["history"]]
    return Progressed(state["next_epoch"], history, state["best"], state["best_epoch"])
