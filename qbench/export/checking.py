"""Images to check an exported file on, and the comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from qbench.catalog import options
from qbench.data.augment import normalise
from qbench.deployed import normalisation
from qbench.errors import ArtifactError, ExportError, QBenchError
from qbench.evaluate import configure, scored_images
from qbench.measure.accuracy import agreement_percent
from qbench.program.graph import Program

_BATCH = 64
_FEWEST = 10  # of limit_test


@dataclass(frozen=True)
class Comparison:
    """How a re-loaded file compares with its artefact on ``images`` images of ``source``."""

    images: int
    source: str
    agreement_percent: float
    identical_percent: float
    largest_difference: float


def check_images(program: Program, path: Path, count: int) -> tuple[Tensor, str]:
    """Normalised images [N, C, H, W] and what they are: test images of the artefact's data set where that is at hand.

    Otherwise generated ones: half of them noise of single pixels, half smooth.
    """
    try:
        mean, std = normalisation(program, path)
    except ArtifactError:
        channels = program.input_shape[0]
        mean, std = [0.5] * channels, [0.25] * channels
    found = _test_pixels(program, path, count)
    pixels, source = found if found is not None else (_generated(program.input_shape, count), "generated")
    return normalise(pixels, mean, std), source


def compare(expected: Callable[[Tensor], Tensor], found: Callable[[Tensor], Tensor], images: Tensor) -> Comparison:
    """Run both on the same images: the first alone, the others in batches."""
    parts = [images[:1], *torch.split(images[1:], _BATCH)] if len(images) > 1 else [images]
    before, after = (torch.cat([run(part) for part in parts]).float() for run in (expected, found))
    if before.shape != after.shape:
        raise ExportError(f"the exported file makes {tuple(after.shape)} of {len(images)} images, not {before.shape}")
    same = (before == after).all(dim=1)
    return Comparison(
        len(images),
        "",
        agreement_percent(before, after),
        100.0 * int(same.sum()) / len(same),
        float((before - after).abs().max()),
    )


def _test_pixels(program: Program, path: Path, count: int) -> tuple[Tensor, str] | None:
    """Test images of the data set that the header names; None where it cannot be read as it was then."""
    name = program.provenance.get("dataset")
    known = options("dataset").get(name) if isinstance(name, str) else None
    if known is None:
        return None
    words = [f"dataset={name}", f"limit_test={max(count, _FEWEST)}"]
    words += ["dataset.download=false"] if "download" in known.parameters() else []
    try:
        images, _ = scored_images(configure("export", words, None), program, path)
    except QBenchError:  # not here, or of other settings than then
        return None
    return images.images[:count], f"test images of {name}"


def _generated(shape: tuple[int, int, int], count: int) -> Tensor:
    channels, height, width = shape
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(count, channels, height, width, generator=generator)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    smooth = interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    pixels[::2] = smooth[::2]
    return (255 * pixels).round().to(torch.uint8)
