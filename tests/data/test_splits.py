from __future__ import annotations

import numpy as np
import pytest
import torch

from qbench.data.base import ImageSet, TrainingData
from qbench.data.splits import channel_statistics, fit_images, limit_images, split_training
from qbench.errors import DataError

NAMES = ("a", "b", "c")


def numbered(counts: list[int]) -> ImageSet:
    """Images whose first two pixels spell their index, so that parts can be compared as sets."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    images = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    index = torch.arange(len(labels))
    images[:, 0, 0, 0], images[:, 0, 0, 1] = (index // 256).to(torch.uint8), (index % 256).to(torch.uint8)
    return ImageSet(images, labels)


def indices(images: ImageSet) -> list[int]:
    pixels = images.images.to(torch.int64)
    return (pixels[:, 0, 0, 0] * 256 + pixels[:, 0, 0, 1]).tolist()


def split(images: ImageSet, *, limit: int | None = None, seed: int = 0, calibration: int = 30) -> TrainingData:
    return split_training(
        images, NAMES, validation_fraction=0.1, calibration_images=calibration, limit=limit, seed=seed
    )


def parts(data: TrainingData) -> list[list[int]]:
    return [indices(part) for part in (data.train, data.calibration, data.validation)]


@pytest.mark.parametrize("counts", [[100, 100, 100], [500, 60, 7]], ids=["balanced", "imbalanced"])
def test_parts_are_disjoint_complete_and_stratified(counts: list[int]) -> None:
    images = numbered(counts)
    data = split(images)
    train, calibration, validation = parts(data)
    assert sorted(train + calibration + validation) == list(range(len(images)))
    assert len(validation) == round(0.1 * len(images)) and len(calibration) == 30
    for part in (data.train, data.calibration, data.validation):
        share = torch.tensor(counts) * len(part) / len(images)
        assert (torch.bincount(part.labels, minlength=3) - share).abs().max() <= 1.5  # one at each end of the stretch


def test_labels_stay_with_their_images() -> None:
    images = numbered([40, 40, 40])
    data = split(images)
    for part in (data.train, data.calibration, data.validation):
        assert torch.equal(part.labels, images.labels[indices(part)])


def test_seed_decides() -> None:
    images = numbered([100, 100, 100])
    assert parts(split(images)) == parts(split(images))
    assert parts(split(images, seed=1)) != parts(split(images))


@pytest.mark.parametrize("limit", [3, 10, 60, 299], ids=str)
def test_limit_bounds_the_total_and_keeps_every_part(limit: int) -> None:
    data = split(numbered([100, 100, 100]), limit=limit, calibration=200)
    sizes = [len(part) for part in parts(data)]
    assert sum(sizes) == limit and min(sizes) >= 1
    assert sizes[1] <= max(1, limit // 5)
    counts = sum(torch.bincount(part.labels, minlength=3) for part in (data.train, data.calibration, data.validation))
    assert int(counts.max()) - int(counts.min()) <= 1


def test_limit_above_the_total_changes_nothing() -> None:
    images = numbered([50, 50, 50])
    assert parts(split(images, limit=1000)) == parts(split(images))


@pytest.mark.parametrize("calibration, limit", [(30, 2), (300, None), (0, None)], ids=["limit", "all", "zero"])
def test_too_few_images(calibration: int, limit: int | None) -> None:
    with pytest.raises(DataError, match=r"dataset\.calibration_images"):
        split(numbered([20, 20, 20]), limit=limit, calibration=calibration)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1], ids=str)
def test_validation_fraction_must_leave_something(fraction: float) -> None:
    with pytest.raises(DataError, match=r"dataset\.validation_fraction"):
        split_training(
            numbered([9, 9, 9]), NAMES, validation_fraction=fraction, calibration_images=1, limit=None, seed=0
        )


def test_a_label_without_a_name() -> None:
    with pytest.raises(DataError, match="label 3 has no name"):
        split(numbered([10, 10, 10, 10]))


def test_limit_images_is_balanced_and_exhausts_small_classes() -> None:
    taken = limit_images(numbered([100, 100, 4]), 54, seed=3)
    assert torch.bincount(taken.labels).tolist() == [25, 25, 4]
    images = numbered([5, 5, 5])
    assert limit_images(images, None, 0) is images and limit_images(images, 15, 0) is images
    with pytest.raises(DataError, match="at least 1"):
        limit_images(images, 0, 0)


def test_statistics_match_numpy_and_come_from_train_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    # More than one chunk; a bright, nearly constant channel would lose digits in float32 sums.
    images = torch.randint(0, 256, (5000, 2, 4, 4), dtype=torch.uint8, generator=generator)
    images[:, 1] = 250 + images[:, 1] % 4
    mean, std = channel_statistics(images)
    pixels = images.numpy().astype(np.float64) / 255
    # Both are correct to float64 rounding of a few hundred thousand terms.
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=(0, 2, 3)), rtol=1e-9)

    data = split(numbered([100, 100, 100]))
    assert (data.mean, data.std) == channel_statistics(data.train.images)


def test_a_constant_channel_gets_a_floor() -> None:
    mean, std = channel_statistics(torch.full((3, 1, 2, 2), 51, dtype=torch.uint8))
    assert mean == (0.2,) and std == (1 / 255,)


def test_fit_pads_symmetrically_and_repeats_grey() -> None:
    images = ImageSet(torch.full((2, 1, 5, 8), 9, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    fitted = fit_images(images, 3, 8)
    assert fitted.images.shape == (2, 3, 8, 8)
    # 3 extra rows: 1 on top, 2 below; no extra column
    expected = torch.zeros(8, 8, dtype=torch.uint8)
    expected[1:6] = 9
    assert torch.equal(fitted.images, expected.expand(2, 3, 8, 8))


def test_fit_never_shrinks_and_refuses_other_channels() -> None:
    images = ImageSet(torch.zeros(2, 3, 40, 40, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    assert fit_images(images, 3, 32) is images
    with pytest.raises(DataError, match=r"takes 1 channel\(s\) but the images have 3"):
        fit_images(images, 1, 32)
