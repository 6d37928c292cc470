"""Seeded, stratified, disjoint parts of a training split, and the statistics that follow from its train part."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from qbench.data.base import ImageSet, TrainingData
from qbench.errors import DataError

_CHUNK = 4096  # images summed at a time: bounds the int32 copy to about 50 MB at 3x32x32
_MIN_STD = 1 / 255  # one grey level; keeps a constant channel from dividing by zero


def split_training(
    images: ImageSet,
    class_names: Sequence[str],
    *,
    validation_fraction: float,
    calibration_images: int,
    limit: int | None,
    seed: int,
) -> TrainingData:
    """Cut a training split into validation, calibration and train parts.

    The parts are consecutive pieces of one permutation, hence disjoint; the permutation spreads every class evenly,
    hence each part has each class's share of images to within one.

    Args:
        images: The official training split.
        class_names: Name of each label.
        validation_fraction: Share of the images taken that goes to validation, in (0, 1); at least one image.
        calibration_images: Images for calibration, >= 1. When ``limit`` leaves images out, at most a fifth of
            those taken, so that a quick trial keeps most of its images for training.
        limit: Take at most this many images in all, as many of each class as possible; None takes all.
        seed: Seeds the permutation; the same seed gives the same parts.

    Raises:
        DataError: Labels without a name, settings out of their domain, or too few images for three non-empty parts.
    """
    if len(images) and int(images.labels.max()) >= len(class_names):
        raise DataError(f"label {int(images.labels.max())} has no name: there are {len(class_names)} classes")
    if not 0 < validation_fraction < 1:
        raise DataError(f"dataset.validation_fraction={validation_fraction} must lie between 0 and 1")
    if calibration_images < 1:
        raise DataError(f"dataset.calibration_images={calibration_images} must be at least 1")
    taken = images if limit is None else limit_images(images, limit, seed)
    num_validation = max(1, round(validation_fraction * len(taken)))
    num_calibration = calibration_images
    if len(taken) < len(images):
        num_calibration = min(num_calibration, max(1, len(taken) // 5))
    num_train = len(taken) - num_validation - num_calibration
    if num_train < 1:
        raise DataError(
            f"{len(taken)} training images are too few for {num_validation} validation and {num_calibration} "
            "calibration images and at least one to train on; lower dataset.validation_fraction or "
            "dataset.calibration_images, or take more images"
        )
    order = _spread_order(taken.labels, seed, proportional=True)
    validation, calibration, train = torch.split(order, [num_validation, num_calibration, num_train])
    train_part = taken.subset(train)
    mean, std = channel_statistics(train_part.images)
    return TrainingData(
        train=train_part,
        calibration=taken.subset(calibration),
        validation=taken.subset(validation),
        mean=mean,
        std=std,
        class_names=tuple(class_names),
    )


def limit_images(images: ImageSet, limit: int | None, seed: int) -> ImageSet:
    """Take at most ``limit`` images, as many of each class as possible (all of them when ``limit`` is None or larger).

    Raises:
        DataError: ``limit`` is below 1.
    """
    if limit is None or limit >= len(images):
        return images
    if limit < 1:
        raise DataError(f"a limit of {limit} images leaves none; it must be at least 1")
    return images.subset(_spread_order(images.labels, seed, proportional=False)[:limit])


def fit_images(images: ImageSet, channels: int, min_size: int) -> ImageSet:
    """Make images fit a network: pad with zeros to at least ``min_size`` x ``min_size``, repeat a grey channel.

    Padding is symmetric (an odd pixel goes to the bottom or right). Images are never shrunk.

    Raises:
        DataError: The images have several channels, and not ``channels`` of them.
    """
    pixels = images.images
    _, found, height, width = pixels.shape
    if found not in (1, channels):
        raise DataError(f"the network takes {channels} channel(s) but the images have {found}")
    extra_h, extra_w = max(0, min_size - height), max(0, min_size - width)
    if extra_h or extra_w:
        left, top = extra_w // 2, extra_h // 2
        pixels = pad(pixels, (left, extra_w - left, top, extra_h - top))
    if found != channels:
        pixels = pixels.repeat(1, channels, 1, 1)
    return images if pixels is images.images else ImageSet(pixels, images.labels)


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation per channel of uint8 [N, C, H, W], N >= 1, for pixels in [0, 1].

    The sums are integers, so the result is exact up to the last division and does not depend on the order of images.
    A standard deviation below one grey level (a constant channel) becomes one grey level, 1/255.
    """
    channels = images.shape[1]
    total, total_sq = torch.zeros(channels, dtype=torch.int64), torch.zeros(channels, dtype=torch.int64)
    for chunk in torch.split(images, _CHUNK):
        values = chunk.to(torch.int32)
        total += values.sum(dim=(0, 2, 3), dtype=torch.int64).cpu()
        total_sq += (values * values).sum(dim=(0, 2, 3), dtype=torch.int64).cpu()
    count = images.numel() // channels
    sums, sums_sq = total.tolist(), total_sq.tolist()
    mean = tuple(s / (count * 255) for s in sums)
    # Python integers do not overflow: n * sum(x^2) - sum(x)^2 is exact where float subtraction would cancel.
    std = tuple(math.sqrt(count * q - s * s) / (count * 255) for s, q in zip(sums, sums_sq))
    return mean, tuple(max(value, _MIN_STD) for value in std)


def _spread_order(labels: Tensor, seed: int, *, proportional: bool) -> Tensor:
    """Draw a seeded permutation, int64 [N], that spreads the classes evenly.

    proportional=True:  every stretch holds each class in its share of the whole, to within one image.
    proportional=False: every prefix holds equally many images of each class, until a class runs out.
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    classes = labels[shuffled].cpu()
    by_class = torch.argsort(classes, stable=True)
    counts = torch.bincount(classes)
    starts = torch.cumsum(counts, 0) - counts
    # Position of each image among those of its class, 0-based, in shuffled order.
    rank = torch.empty(len(labels), dtype=torch.float64)
    rank[by_class] = (torch.arange(len(labels)) - starts[classes[by_class]]).to(torch.float64)
    place = (rank + 0.5) / counts[classes] if proportional else rank
    return shuffled[torch.argsort(place, stable=True)]
