"""Where the bytes of an artefact go."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from qbench.artifact.files import open_up, read, to_bytes
from qbench.artifact.tensors import parts
from qbench.program.encodings import Encoding, Float, Sparse
from qbench.program.graph import Program


@dataclass(frozen=True)
class TensorSize:
    """The size of one stored tensor.

    Args:
        name: "NODE.ROLE".
        shape: Of the decoded tensor.
        encoding: float, affine, codebook, or sparse-float, sparse-affine, sparse-codebook.
        bits: Per code, index or float value.
        elements: Of the decoded tensor.
        bytes: Of all its arrays in the file: codes, scales, zero points, centroids, mask.
    """

    name: str
    shape: tuple[int, ...]
    encoding: str
    bits: int
    elements: int
    bytes: int


@dataclass(frozen=True)
class SizeReport:
    """The size of an artefact. The six parts in bytes sum to ``size_bytes``.

    Args:
        size_bytes: Length of the file.
        codes_bytes: Affine codes and codebook indices, packed or entropy-coded.
        codebooks_bytes: Centroids, with their scales where they are quantized themselves.
        scales_bytes: Scales and zero points of affine tensors.
        floats_bytes: Float tensors: biases, batch norm, weights left alone.
        masks_bytes: Masks of sparse tensors, one bit per element or entropy-coded.
        container_bytes: The header and the checksum.
        theoretical_bits: Bits of all values above at their own width (coded ones at their coded size), without
            padding and without container.
        tensors: One entry per stored tensor, in execution order.
        fixed_width_bytes: Length the file would have without entropy coding; no part of the sum.
        pruned_bytes: Length it would have if what is kept of pruned tensors were stored in float32, and masks at one
            bit per element: what pruning alone buys. None where nothing is pruned.
    """

    size_bytes: int
    codes_bytes: int
    codebooks_bytes: int
    scales_bytes: int
    floats_bytes: int
    masks_bytes: int
    container_bytes: int
    theoretical_bits: int
    tensors: tuple[TensorSize, ...]
    fixed_width_bytes: int
    pruned_bytes: int | None


def size_report(source: Path | bytes) -> SizeReport:
    """Split the size of an artefact, a file or its content, into its parts; the file is verified first.

    Raises:
        ArtifactError: as :func:`qbench.artifact.load`.
    """
    data = source if isinstance(source, bytes) else read(source)
    program, lengths = open_up(data, "the artefact" if isinstance(source, bytes) else str(source))
    by_category: Counter[str] = Counter()
    tensors: list[TensorSize] = []
    exact_bits = 0
    for name, encoding in program.tensors.items():
        size = 0
        for part in parts(name, encoding):
            coded = lengths.get(part.coded_name)
            stored = part.size_bytes if coded is None else coded
            by_category[part.category] += stored
            size += stored
            exact_bits += part.exact_bits if coded is None else 8 * coded
        shape = tuple(encoding.shape)
        tensors.append(TensorSize(name, shape, _kind(encoding), encoding.bits, math.prod(shape), size))
    fixed = to_bytes(replace(program, entropy_coding=False)) if program.entropy_coding else data
    return SizeReport(
        size_bytes=len(data),
        codes_bytes=by_category["codes"],
        codebooks_bytes=by_category["codebooks"],
        scales_bytes=by_category["scales"],
        floats_bytes=by_category["floats"],
        masks_bytes=by_category["masks"],
        container_bytes=len(data) - by_category.total(),
        theoretical_bits=exact_bits,
        tensors=tuple(tensors),
        fixed_width_bytes=len(fixed),
        pruned_bytes=_pruned_bytes(program),
    )


def _pruned_bytes(program: Program) -> int | None:
    pruned = {name: Sparse(sparse.mask, Float(sparse.inner.decode()))
              for name, sparse in program.tensors.items() if isinstance(sparse, Sparse)}  # fmt: skip
    return len(to_bytes(replace(program.with_tensors(pruned), entropy_coding=False))) if pruned else None


def _kind(encoding: Encoding) -> str:
    kind = type(encoding).__name__.lower()
    return f"{kind}-{type(encoding.inner).__name__.lower()}" if isinstance(encoding, Sparse) else kind
