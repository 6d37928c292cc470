"""scikit-learn's digits: 1,797 grey images of 8x8 pixels that ship inside the library, so no file and no network.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn.functional import interpolate

from qbench.data.base import ImageSet

SIZE = 32  # pixels; the upsampled height and width
TEST_FRACTION = 0.2
# The official set has no test split; this constant makes ours the same for everybody. Changing it changes results.
SPLIT_SEED = 1797


@dataclass(frozen=True)
class Digits:
    """Handwritten digits, upsampled to 32x32 with bilinear interpolation; 1,437 for training, 360 for testing."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(str(digit) for digit in range(10))

    def load_train(self, root: Path, cache: Path) -> ImageSet:
        """Load the training images, uint8 [1437, 1, 32, 32]."""
        return self._load(train=True)

    def load_test(self, root: Path, cache: Path) -> ImageSet:
        """Load the test images, uint8 [360, 1, 32, 32], stratified by class."""
        return self._load(train=False)

    def _load(self, *, train: bool) -> ImageSet:
        bunch = load_digits()
        rows = range(len(bunch.target))
        parts = train_test_split(rows, test_size=TEST_FRACTION, random_state=SPLIT_SEED, stratify=bunch.target)
        chosen = torch.tensor(sorted(parts[0 if train else 1]))
        # [N, 8, 8] with values 0..16 -> [N, 1, 8, 8] with values 0..255
        pixels = torch.from_numpy(bunch.images)[chosen].to(torch.float32).unsqueeze(1) * (255 / 16)
        images = interpolate(pixels, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
        labels = torch.from_numpy(bunch.target)[chosen].to(torch.int64)
        return ImageSet(images.round().clamp(0, 255).to(torch.uint8), labels)
