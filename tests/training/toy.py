"""A training of seconds; as a process, one that kills itself: ``toy.py CHECKPOINT STATE STEP [KEY=VALUE ...]``."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from qbench.config import AugmentConfig, TrainConfig, TrainerConfig
from qbench.data.base import TrainingData
from qbench.data.splits import split_training
from qbench.data.synthetic import Synthetic
from qbench.models.build import build_model
from qbench.progress import Progress, SilentProgress
from qbench.training.loop import TrainOutcome, fit

RECIPE = TrainConfig(epochs=3, batch_size=32, lr=0.05, precision="float32")
AUGMENT = AugmentConfig(flip=True, crop_padding=1)


def toy_data() -> TrainingData:
    dataset = Synthetic(channels=1, height=8, width=8, num_classes=4, train_images=300, test_images=4)
    images = dataset.load_train(Path(), Path())
    return split_training(
        images, dataset.class_names, validation_fraction=0.2, calibration_images=16, limit=None, seed=0
    )


def toy_network() -> nn.Module:
    return build_model("qbench.models.small.small_cnn", {}, 1, 8, 8, 4, seed=0)


def toy_fit(
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    network: nn.Module | None = None,
    augment: AugmentConfig = AUGMENT,
    seed: int = 0,
    trainer: TrainerConfig | None = None,
    **changes: Any,
) -> TrainOutcome:
    return fit(
        network or toy_network(),
        toy_data(),
        replace(RECIPE, **changes),
        augment,
        seed=seed,
        device=torch.device("cpu"),
        checkpoint=checkpoint,
        progress=progress or SilentProgress(),
        trainer=trainer,
    )


class Killer(SilentProgress):
    """Kills this process after so many steps, as an impatient user or a full machine would."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.left -= steps
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(1)
    checkpoint_path, state_path, step, *words = sys.argv[1:]
    given = {key: float(value) for key, value in (word.split("=") for word in words)}
    save_file(toy_fit(Path(checkpoint_path), Killer(int(step)), **given).state, state_path)
