"""What an artefact's header says about its use: normalisation, classes, and images made to fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from qbench.data.base import ImageSet
from qbench.data.splits import fit_images
from qbench.errors import ArtifactError, DataError
from qbench.program.graph import Program
from qbench.program.materialize import materialize


def normalisation(program: Program, path: Path) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of the pixels (0 to 1) the network was trained on.

    Raises:
        ArtifactError: The header does not have them, one of each per channel; files written by ``qbench run`` do.
    """
    found = []
    for key in ("mean", "std"):
        values = program.provenance.get(key)
        values = values if isinstance(values, list | tuple) else []
        if len(values) != program.input_shape[0] or not all(isinstance(value, int | float) for value in values):
            raise ArtifactError(f"{path}: its header has no {key} per channel; qbench run writes files that have")
        found.append([float(value) for value in values])
    return found[0], found[1]


def num_logits(program: Program) -> int:
    """How many classes the network tells apart."""
    with torch.inference_mode():
        logits: torch.Tensor = materialize(program)(torch.zeros(1, *program.input_shape))
    return int(logits.shape[1])


def class_names(program: Program) -> list[str]:
    """The names in the header; ``class 0`` and so on where it has none, or another number of them."""
    count = num_logits(program)
    names = program.provenance.get("classes") or []
    return [str(name) for name in names] if len(names) == count else [f"class {index}" for index in range(count)]


def fitted(images: ImageSet, program: Program, path: Path, source: str) -> ImageSet:
    """Images as the network takes them: padded, or a grey channel repeated, as when it was trained.

    Raises:
        DataError: They are of another shape all the same.
    """
    wanted = program.input_shape
    shape = tuple(images.images.shape[1:])
    if shape[0] in (1, wanted[0]):
        images = fit_images(images, wanted[0], min(wanted[1:]))
    if tuple(images.images.shape[1:]) != wanted:
        raise DataError(f"{source} has images of {_by(shape)}, {path} takes {_by(wanted)}")
    return images


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
