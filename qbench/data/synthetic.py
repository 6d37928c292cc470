"""Generated images that a small network learns in seconds: for demos and tests, never for claims about accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from qbench.data.base import ImageSet
from qbench.errors import DataError

_COARSE = 4  # templates are noise of 4x4 pixels, smoothly enlarged
_MAX_SHIFT = 2  # pixels, with wrap-around
_TEMPLATE_SEED, _TRAIN_SEED, _TEST_SEED = 11, 12, 13


@dataclass(frozen=True)
class Synthetic:
    """One smooth random template per class, randomly shifted, plus Gaussian noise.

    Attributes:
        channels: Of the images.
        height: Pixels.
        width: Pixels.
        num_classes: Classes, each with as many images as the others to within one.
        train_images: Images in the training split.
        test_images: Images in the test split.
        noise: Standard deviation of the noise, for pixels in [0, 1].
    """

    channels: int = 3
    height: int = 32
    width: int = 32
    num_classes: int = 10
    train_images: int = 4096
    test_images: int = 1024
    noise: float = 0.15

    def __post_init__(self) -> None:
        for key in ("channels", "height", "width", "num_classes", "train_images", "test_images"):
            if getattr(self, key) < 1:
                raise DataError(f"dataset.{key}={getattr(self, key)} must be at least 1")
        if self.noise < 0:
            raise DataError(f"dataset.noise={self.noise} must not be negative")

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(f"template {index}" for index in range(self.num_classes))

    def load_train(self, root: Path, cache: Path) -> ImageSet:
        """Generate the training images, uint8 [train_images, channels, height, width]."""
        return self._generate(self.train_images, _TRAIN_SEED)

    def load_test(self, root: Path, cache: Path) -> ImageSet:
        """Generate the test images, uint8 [test_images, channels, height, width], from the same templates."""
        return self._generate(self.test_images, _TEST_SEED)

    def _generate(self, count: int, seed: int) -> ImageSet:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(count)[torch.randperm(count, generator=generator)] % self.num_classes
        shift = torch.randint(-_MAX_SHIFT, _MAX_SHIFT + 1, (2, count, 1), generator=generator)
        rows = (torch.arange(self.height) + shift[0]) % self.height
        columns = (torch.arange(self.width) + shift[1]) % self.width
        templates = self._templates(min(count, self.num_classes))  # a thousand large ones would take gigabytes
        images = torch.empty(count, self.channels, self.height, self.width, dtype=torch.uint8)
        for part in torch.split(torch.arange(count), 1024):  # bounds the float copies
            # Advanced indices [B, 1, 1, 1], [1, C, 1, 1], [B, 1, H, 1], [B, 1, 1, W] -> [B, C, H, W]
            clean = templates[
                labels[part, None, None, None],
                torch.arange(self.channels)[None, :, None, None],
                rows[part, None, :, None],
                columns[part, None, None, :],
            ]
            noisy = clean + self.noise * torch.randn(clean.shape, generator=generator)
            images[part] = (noisy.clamp(0, 1) * 255).round().to(torch.uint8)
        return ImageSet(images, labels)

    def _templates(self, used: int) -> Tensor:
        """Draw the first classes' templates, float32 [used, channels, height, width], each spanning [0.1, 0.9]."""
        generator = torch.Generator().manual_seed(_TEMPLATE_SEED)
        coarse = torch.randn(self.num_classes, self.channels, _COARSE, _COARSE, generator=generator)
        smooth = interpolate(coarse[:used], size=(self.height, self.width), mode="bilinear", align_corners=True)
        low, high = smooth.amin(dim=(1, 2, 3), keepdim=True), smooth.amax(dim=(1, 2, 3), keepdim=True)
        # A one-pixel grey image has no span; the floor keeps it finite.
        return 0.1 + 0.8 * (smooth - low) / (high - low).clamp(min=1e-6)
