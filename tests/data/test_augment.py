from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from qbench.config import AugmentConfig
from qbench.data.augment import augment, eval_batches, normalise, num_batches, train_batches
from qbench.data.base import ImageSet

MEAN, STD = (0.5, 0.25, 0.1), (0.25, 0.5, 0.2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(count: int = 200, height: int = 9, width: int = 12) -> Tensor:
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=seeded(1))


def test_flip_mirrors_some_images_and_nothing_else() -> None:
    batch = pixels()
    flipped = augment(batch, AugmentConfig(flip=True), seeded())
    kept = (flipped == batch).flatten(1).all(1)
    mirrored = (flipped == batch.flip(3)).flatten(1).all(1)
    assert bool((kept | mirrored).all())
    assert 60 < int(mirrored.sum()) < 140  # 200 fair coins: 100 +- 5.7 standard deviations
    # The same draw applied twice undoes itself.
    assert torch.equal(augment(flipped, AugmentConfig(flip=True), seeded()), batch)


def test_crop_is_a_window_of_the_reflected_image_and_covers_the_range() -> None:
    batch, padding = pixels(), 3
    cropped = augment(batch, AugmentConfig(crop_padding=padding), seeded())
    padded = pad(batch.to(torch.float32), (padding,) * 4, mode="reflect").to(torch.uint8)
    seen = set()
    for image in range(len(batch)):
        found = [
            (top, left)
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
            if torch.equal(padded[image, :, top : top + 9, left : left + 12], cropped[image])
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert {top for top, _ in seen} == {left for _, left in seen} == set(range(2 * padding + 1))
    assert len(seen) > 30  # of 49: rows and columns move independently


def test_cutout_fills_one_square_with_the_mean() -> None:
    batch = torch.full((300, 3, 9, 12), 200, dtype=torch.uint8)
    cut = augment(batch, AugmentConfig(cutout=4), seeded(), fill=MEAN)
    hole = (cut != 200).any(1)
    area = hole.sum((1, 2))
    assert int(area.max()) == 16 and int(area.min()) == 4  # whole, and a corner where the centre is a corner pixel
    rows, columns = hole.any(2).sum(1), hole.any(1).sum(1)
    assert torch.equal(rows * columns, area)  # a filled rectangle
    colour = torch.tensor([round(255 * m) for m in MEAN], dtype=torch.uint8).view(3, 1, 1)
    assert torch.equal(cut, torch.where(hole[:, None], colour, batch))


def test_cutout_is_black_without_a_fill() -> None:
    cut = augment(torch.full((5, 2, 8, 8), 7, dtype=torch.uint8), AugmentConfig(cutout=3), seeded())
    assert set(cut.unique().tolist()) == {0, 7}


def test_augment_is_deterministic_keeps_its_input_and_dtype() -> None:
    batch, spec = pixels(), AugmentConfig(flip=True, crop_padding=2, cutout=3)
    before = batch.clone()
    first, again, other = (augment(batch, spec, seeded(seed), fill=MEAN) for seed in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(batch, before)
    assert first.dtype == torch.uint8 and first.shape == batch.shape
    assert torch.equal(augment(batch, AugmentConfig(), seeded()), batch)


def test_augment_does_not_depend_on_memory_layout() -> None:
    batch, spec = pixels(20), AugmentConfig(flip=True, crop_padding=2, cutout=3)
    strided = batch.contiguous(memory_format=torch.channels_last)
    assert torch.equal(augment(batch, spec, seeded()), augment(strided, spec, seeded()))


def test_augment_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="uint8"):
        augment(torch.zeros(1, 1, 4, 4), AugmentConfig(), seeded())
    with pytest.raises(ValueError, match="smaller than the image"):
        augment(torch.zeros(1, 1, 4, 8, dtype=torch.uint8), AugmentConfig(crop_padding=4), seeded())
    with pytest.raises(ValueError, match="not be negative"):
        AugmentConfig(cutout=-1)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
def test_normalise(channels_last: bool) -> None:
    batch = pixels(4)
    values = normalise(batch, MEAN, STD, channels_last=channels_last)
    mean, std = torch.tensor(MEAN).double().view(3, 1, 1), torch.tensor(STD).double().view(3, 1, 1)
    expected = (batch.double() / 255 - mean) / std
    # Three float32 roundings of numbers up to 1 / 0.2 = 5: 3 * 5 * 2**-24 is 9e-7.
    torch.testing.assert_close(values.double(), expected, rtol=0, atol=1e-6)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert values.is_contiguous(memory_format=layout)
    assert normalise(batch, MEAN, STD, dtype=torch.bfloat16).dtype == torch.bfloat16


def numbered(count: int) -> ImageSet:
    images = torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1).expand(count, 1, 4, 4).contiguous()
    return ImageSet(images, torch.arange(count))


def epoch(
    images: ImageSet, seed: int, number: int, spec: AugmentConfig, **options: bool
) -> list[tuple[Tensor, Tensor]]:
    return list(train_batches(images, 8, spec, (0.0,), (1.0,), seed, number, "cpu", **options))


def test_train_batches_see_each_image_once_with_its_own_label() -> None:
    batches = epoch(numbered(30), 0, 0, AugmentConfig(flip=True, crop_padding=1), drop_last=False)
    labels = torch.cat([label for _, label in batches])
    assert sorted(labels.tolist()) == list(range(30)) and labels.tolist() != list(range(30))
    values = torch.cat([batch for batch, _ in batches])
    # Every pixel of image i is i, which flips and crops cannot change.
    assert torch.equal((values * 255).round().long(), labels.view(-1, 1, 1, 1).expand(30, 1, 4, 4))


def test_train_batches_depend_on_seed_and_epoch_alone() -> None:
    images, spec = ImageSet(pixels(32)[:, :1].contiguous(), torch.arange(32)), AugmentConfig(True, 2, 2)
    first = epoch(images, 1, 2, spec)
    torch.manual_seed(99)
    for (left, _), (right, _) in zip(first, epoch(images, 1, 2, spec), strict=True):
        assert torch.equal(left, right)
    for seed, number in ((1, 3), (2, 2), (2, 1)):
        assert not torch.equal(first[0][0], epoch(images, seed, number, spec)[0][0])


@pytest.mark.parametrize(
    "count, drop_last, sizes", [(20, True, [8, 8]), (20, False, [8, 8, 4]), (5, True, [5])], ids=str
)
def test_batch_sizes(count: int, drop_last: bool, sizes: list[int]) -> None:
    batches = epoch(numbered(count), 0, 0, AugmentConfig(), drop_last=drop_last)
    assert [len(label) for _, label in batches] == sizes
    assert num_batches(count, 8, drop_last=drop_last) == len(sizes)


def test_no_images_no_batches() -> None:
    assert epoch(numbered(0), 0, 0, AugmentConfig()) == [] and num_batches(0, 8) == 0


def test_eval_batches_keep_order_and_all_images() -> None:
    batches = list(eval_batches(numbered(20), 8, (0.0,), (1.0,), "cpu"))
    assert [len(label) for _, label in batches] == [8, 8, 4]
    assert torch.cat([label for _, label in batches]).tolist() == list(range(20))
    assert (torch.cat([batch for batch, _ in batches])[:, 0, 0, 0] * 255).round().tolist() == list(range(20))
    assert batches[0][0].dtype == torch.float32
