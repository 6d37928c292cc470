"""Fine-tuning for methods that train: the training loop, on a run's data, resumable from its stage's folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from qbench.config import AugmentConfig, RunConfig, TrainConfig, TrainerConfig
from qbench.data.base import TrainingData
from qbench.methods.base import Tuning
from qbench.progress import Progress
from qbench.training.loop import fit
from qbench.training.objective import Guidance
from qbench.training.recipe import resolve_device

CHECKPOINT = ".checkpoint"  # the store drops files of such names when the stage is done


class Tuner:
    """The ``fine_tune`` of a context: the training loop on this run's data, resumable from the stage's folder."""

    def __init__(self, config: RunConfig, data: TrainingData, folder: Path, progress: Progress) -> None:
        self.config, self.data, self.folder, self.progress = config, data, folder, progress
        self.facts: list[dict[str, Any]] = []

    def __call__(
        self,
        module: nn.Module,
        tuning: Tuning,
        *,
        teacher: nn.Module | None = None,
        before_step: Callable[[int, int], None] | None = None,
    ) -> None:
        asked = {**asdict(tuning)}
        guidance = Guidance(
            before_step, asked.pop("keep"), teacher, asked.pop("distillation"), asked.pop("temperature")
        )
        recipe = TrainConfig(**asked, precision=self.config.train.precision, augment=self.config.train.augment)
        device = resolve_device(self.config.device)
        if teacher is not None:
            teacher.to(device).eval()
        outcome = fit(
            module,
            self.data,
            recipe,
            self.config.dataset.augment if recipe.augment else AugmentConfig(),
            seed=self.config.seed,
            device=device,
            checkpoint=self.folder / f"{CHECKPOINT}-{len(self.facts)}",
            progress=self.progress,
            label=f"{self.config.method.name} fine-tuning",
            guidance=guidance,
            trainer=TrainerConfig(accumulate=self.config.trainer.accumulate),  # in one process: see docs/training.md
        )
        module.load_state_dict(outcome.state)
        module.cpu().eval()
        history = [asdict(stats) for stats in outcome.history]
        self.facts.append({"seconds": outcome.seconds, "best_epoch": outcome.best_epoch, "history": history})
