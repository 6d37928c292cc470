"""Random augmentation, normalisation and batching as tensor code: whole batches at once, no worker processes.

Shapes: B images, C channels, H x W pixels. All random numbers are drawn on the CPU, so a seed means the same
augmentation on every device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from qbench.config import AugmentConfig
from qbench.data.base import ImageSet


def augment(
    batch: Tensor, spec: AugmentConfig, generator: torch.Generator, *, fill: Sequence[float] | None = None
) -> Tensor:
    """Flip, shift and cut out at random; each image on its own.

    Args:
        batch: uint8 [B, C, H, W] on any device; left as it is.
        spec: What to vary.
        generator: A CPU generator; the same state gives the same result.
        fill: Per-channel colour of the cut-out square in [0, 1]; None is black.

    Returns:
        uint8 [B, C, H, W] on the same device.

    Raises:
        ValueError: The batch is not uint8, or ``crop_padding`` is not smaller than the image (nothing to reflect).
    """
    if batch.dtype != torch.uint8:
        raise ValueError(f"augmentation works on uint8 images, not {batch.dtype}")
    height, width = batch.shape[-2:]
    if spec.crop_padding >= min(height, width):
        raise ValueError(f"crop_padding={spec.crop_padding} must be smaller than the image, {height}x{width}")
    if spec.flip or spec.crop_padding:
        batch = _flip_and_shift(batch, spec, generator)
    if spec.cutout:
        batch = _cut_out(batch, spec.cutout, generator, fill)
    return batch


def _flip_and_shift(batch: Tensor, spec: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Both at once: an output pixel is the input pixel at (rows[b, h], columns[b, w])."""
    count, channels, height, width = batch.shape
    padding = spec.crop_padding
    shift = torch.randint(-padding, padding + 1, (2, count, 1), generator=generator)
    rows = _reflect(torch.arange(height) + shift[0], height)
    columns = _reflect(torch.arange(width) + shift[1], width)
    if spec.flip:
        mirrored = torch.randint(0, 2, (count, 1), generator=generator, dtype=torch.bool)
        columns = torch.where(mirrored, columns.flip(1), columns)
    # [B, H, 1] and [B, 1, W] -> [B, 1, H * W], shared by the channels
    pixel = (rows[:, :, None] * width + columns[:, None, :]).view(count, 1, height * width).to(batch.device)
    gathered = batch.reshape(count, channels, height * width).gather(2, pixel.expand(-1, channels, -1))
    return gathered.view(count, channels, height, width)


def _reflect(index: Tensor, size: int) -> Tensor:
    """Mirror positions outside [0, size) at the border pixel, which is not repeated: -1 -> 1, size -> size - 2."""
    index = index.abs()
    return torch.where(index < size, index, 2 * (size - 1) - index)


def _cut_out(batch: Tensor, side: int, generator: torch.Generator, fill: Sequence[float] | None) -> Tensor:
    count, channels, height, width = batch.shape
    top = torch.randint(0, height, (count, 1), generator=generator) - side // 2
    left = torch.randint(0, width, (count, 1), generator=generator) - side // 2
    row, column = torch.arange(height), torch.arange(width)
    in_rows, in_columns = (row >= top) & (row < top + side), (column >= left) & (column < left + side)
    # [B, H, 1] and [B, 1, W] -> [B, 1, H, W]
    inside = (in_rows[:, :, None] & in_columns[:, None, :])[:, None].to(batch.device)
    colour = torch.tensor([round(255 * value) for value in fill or [0.0] * channels], dtype=torch.uint8)
    return torch.where(inside, colour.to(batch.device).view(1, channels, 1, 1), batch)


def normalise(
    batch: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    channels_last: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """(x / 255 - mean) / std per channel.

    Args:
        batch: uint8 [B, C, H, W].
        mean: Per channel, of pixels in [0, 1].
        std: Per channel, > 0.
        channels_last: Memory format of the result; values and shape are the same.
        dtype: Of the result; the arithmetic is float32.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    scale = torch.tensor([1 / (255 * s) for s in std], device=batch.device).view(1, -1, 1, 1)
    offset = torch.tensor([-m / s for m, s in zip(mean, std)], device=batch.device).view(1, -1, 1, 1)
    # Reordering before the conversion moves one byte a pixel instead of four.
    values = batch.contiguous(memory_format=layout).to(torch.float32)
    return values.mul_(scale).add_(offset).to(dtype)


def num_batches(num_images: int, batch_size: int, *, drop_last: bool = True) -> int:
    """How many batches ``train_batches`` yields (at least one, for at least one image)."""
    size = min(batch_size, num_images)
    if size == 0:
        return 0
    return num_images // size if drop_last else -(-num_images // size)


def train_batches(
    images: ImageSet,
    batch_size: int,
    augmentation: AugmentConfig,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
    epoch: int,
    device: torch.device | str,
    drop_last: bool = True,
    *,
    channels_last: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch of shuffled, augmented, normalised batches: float [B, C, H, W] and int64 [B].

    Order and augmentation depend on (seed, epoch) alone, so an epoch can be repeated after a restart. A set smaller
    than ``batch_size`` makes one batch of all images. With ``drop_last`` an incomplete last batch is left out.
    """
    generator = torch.Generator().manual_seed(_stream_seed(seed, epoch))
    order = torch.randperm(len(images), generator=generator).to(images.images.device)
    size = min(batch_size, len(images))
    for index in range(num_batches(len(images), batch_size, drop_last=drop_last)):
        chosen = order[index * size : (index + 1) * size]
        pixels = images.images[chosen].to(device, non_blocking=True)
        pixels = augment(pixels, augmentation, generator, fill=mean)
        labels = images.labels[chosen].to(device, non_blocking=True)
        yield normalise(pixels, mean, std, channels_last=channels_last, dtype=dtype), labels


def eval_batches(
    images: ImageSet,
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str,
    *,
    channels_last: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all images in order, normalised float32 [B, C, H, W] with labels int64 [B]; the last batch may be short."""
    for pixels, labels in zip(torch.split(images.images, batch_size), torch.split(images.labels, batch_size)):
        yield (
            normalise(pixels.to(device, non_blocking=True), mean, std, channels_last=channels_last),
            labels.to(device, non_blocking=True),
        )


def _stream_seed(seed: int, epoch: int) -> int:
    """Derive a 63-bit seed from both numbers; adding them would make (0, 1) and (1, 0) the same stream."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:8], "big") >> 1
