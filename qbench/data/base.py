"""What a data set is to qbench: uint8 images in one tensor, and splits that cannot leak into each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and labels. ``images`` uint8 [N, C, H, W], ``labels`` int64 [N]."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise ValueError(f"images must be uint8 [N, C, H, W], not {self.images.dtype} {tuple(self.images.shape)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels must be int64 [{len(self.images)}], not {self.labels.dtype} {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> ImageSet:
        """The images at ``indices`` (int64 [M]), in that order."""
        return ImageSet(self.images[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Everything training and methods may see: three disjoint parts of the training split, and what follows from them.

    ``mean`` and ``std`` are per channel, of pixel values in [0, 1], from ``train`` alone.
    """

    train: ImageSet
    calibration: ImageSet
    validation: ImageSet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]


class Dataset(Protocol):
    """A data set. The two official splits are loaded apart: a stage that trains never holds test images.

    ``root`` is the user's ``data_dir``; ``cache`` a folder where decoded images may be kept (atomically written).
    Both raise DataError with the ways to get the data when it is not there.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def load_train(self, root: Path, cache: Path) -> ImageSet: ...

    def load_test(self, root: Path, cache: Path) -> ImageSet: ...
