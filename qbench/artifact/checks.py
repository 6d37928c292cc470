"""What a program must satisfy to be written, and what a file must have satisfied to be believed.

The writer and the reader call the same functions, so that no file is written which cannot be read back. The
constructors of :mod:`qbench.program` check structure; these functions add values, shapes and ranges.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from qbench.artifact import attrs, fields
from qbench.program.encodings import Affine, Codebook, Encoding, Float, Sparse
from qbench.program.graph import EdgeSpec, Node, Program

GRID_LIMIT = 1 << 16  # of |qmin| and |qmax| up to sixteen bits, signed or not; more are signed int32
MOST_BITS, MOST_EDGE_BITS = 32, 16
LARGEST_INPUT = 1 << 16
GROUP_SLACK = 1 << 22  # elements; see _check_groups
# Range of normal float32 numbers: an edge's scale is a Python float, and runtimes compute in float32.
SMALLEST_SCALE, LARGEST_SCALE = float(torch.finfo(torch.float32).tiny), float(torch.finfo(torch.float32).max)


def check_program(program: Program) -> None:
    """Raise ValueError unless every name, attribute, shape, code, scale and edge is valid."""
    for size in fields.array(list(program.input_shape), "the input shape", 3, 3):
        fields.integer(size, "the input shape", 1, LARGEST_INPUT)
    for node in program.nodes:
        if not node.name:
            raise ValueError("a node has an empty name")
        attrs.check(node)
        _check_shapes(node, program)
    for name, encoding in program.tensors.items():
        check_encoding(encoding, f"tensor {name!r}")
    for name, edge in program.edges.items():
        check_edge(edge, f"edge {name!r}")


def check_edge(edge: EdgeSpec, where: str) -> None:
    """Raise ValueError unless the grid fits its bits and scale and zero point are both there or both absent."""
    fields.integer(edge.bits, f"bits of {where}", 1, MOST_EDGE_BITS)
    check_grid(edge.bits, edge.qmin, edge.qmax, where)
    if edge.levels is not None:
        _check_levels(edge, where)
    if (edge.scale is None) != (edge.zero_point is None):
        raise ValueError(f"{where} has only one of scale and zero point")
    if edge.scale is not None:
        scale = edge.scale
        if isinstance(scale, bool) or not isinstance(scale, float | int) or not math.isfinite(scale):
            raise ValueError(f"scale of {where} must be a finite number")
        if not SMALLEST_SCALE <= scale <= LARGEST_SCALE:
            raise ValueError(f"scale of {where} is {scale}, outside the normal float32 range above 0")
        fields.integer(edge.zero_point, f"zero point of {where}", edge.qmin, edge.qmax)


def _check_levels(edge: EdgeSpec, where: str) -> None:
    """Raise ValueError unless the levels are ascending float32 numbers, as many as the grid, which is theirs alone."""
    levels = torch.tensor(edge.levels, dtype=torch.float64)
    if edge.bits > 8 or (edge.qmin, edge.qmax) != (0, len(levels) - 1):
        raise ValueError(f"{where} has {len(levels)} levels, which its grid must number from 0 within 8 bits")
    if edge.scale is not None or edge.zero_point is not None:
        raise ValueError(f"{where} has levels as well as a scale or zero point")
    if not bool(torch.isfinite(levels).all()) or not torch.equal(levels.float().double(), levels):
        raise ValueError(f"a level of {where} is no finite float32 number")
    if bool((levels.diff() <= 0).any()):
        raise ValueError(f"levels of {where} must ascend")


def check_encoding(encoding: Encoding, where: str) -> None:
    """Raise ValueError unless codes lie on their grid, indices below K, scales are finite and > 0, centroids finite."""
    if isinstance(encoding, Affine):
        _check_affine(encoding, where)
    elif isinstance(encoding, Codebook):
        table = encoding.centroids
        if 0 in table.shape:
            raise ValueError(f"{where} has no centroids")
        if isinstance(table, Float) and not bool(torch.isfinite(table.values).all()):
            raise ValueError(f"a centroid of {where} is not finite")
        check_encoding(table, f"the centroids of {where}")
        _check_within(encoding.indices, 0, table.shape[-1] - 1, f"indices of {where}")
    elif isinstance(encoding, Sparse):
        check_encoding(encoding.inner, where)
    elif not isinstance(encoding, Float):
        raise ValueError(f"{where} is a {type(encoding).__name__}, which this format cannot hold")


def _check_affine(encoding: Affine, where: str) -> None:
    check_grid(encoding.bits, encoding.qmin, encoding.qmax, where)
    _check_within(encoding.codes, encoding.qmin, encoding.qmax, f"codes of {where}")
    _check_within(encoding.zero_point, encoding.qmin, encoding.qmax, f"zero points of {where}")
    if not bool((torch.isfinite(encoding.scale) & (encoding.scale > 0)).all()):
        raise ValueError(f"a scale of {where} is not a finite number above 0")
    if encoding.group_size is not None:
        _check_groups(encoding, encoding.group_size, where)


def _check_groups(encoding: Affine, group_size: int, where: str) -> None:
    """Bound what decoding allocates: it expands C x G scales to ``group_size`` elements each, the last group too.

    Groups longer than a row are legitimate (one group size for a whole network), hence the slack.
    """
    if not encoding.codes.numel():
        raise ValueError(f"{where} has groups but no elements")
    if encoding.scale.numel() * group_size > 16 * encoding.codes.numel() + GROUP_SLACK:
        raise ValueError(
            f"group_size {group_size} of {where} is out of proportion to {encoding.codes.numel()} elements"
        )


def check_grid(bits: Any, qmin: Any, qmax: Any, where: str) -> tuple[int, int, int]:
    """Return bits, qmin and qmax; raise ValueError unless the grid fits the bits, and its packed codes int32."""
    bits = fields.integer(bits, f"bits of {where}", 1, MOST_BITS)
    lowest, highest = -GRID_LIMIT, GRID_LIMIT
    if bits > 16:
        lowest, highest = -(1 << 31), (1 << 31) - (1 << bits)
    qmin = fields.integer(qmin, f"qmin of {where}", lowest, highest)
    largest = qmin + (1 << bits) - 1
    return bits, qmin, fields.integer(qmax, f"qmax of {where}", qmin, largest if bits > 16 else min(highest, largest))


def _check_within(values: Tensor, lowest: int, highest: int, what: str) -> None:
    of_type = torch.iinfo(values.dtype)
    if not values.numel() or (lowest <= of_type.min and of_type.max <= highest):
        return  # whatever the type holds is within
    least, most = (int(end) for end in torch.aminmax(values))
    if least < lowest or most > highest:
        raise ValueError(f"{what} span [{least}, {most}], outside [{lowest}, {highest}]")


def _check_shapes(node: Node, program: Program) -> None:
    shapes = {
        role: tuple(program.tensors[f"{node.name}.{role}"].shape)
        for role in ("weight", "bias", "running_mean", "running_var")
        if f"{node.name}.{role}" in program.tensors
    }
    if "weight" not in shapes:
        return
    axes = {"conv2d": 4, "linear": 2, "batch_norm": 1}[node.op]
    weight = shapes["weight"]
    if len(weight) != axes or 0 in weight:
        raise ValueError(f"{node.op} weight of node {node.name!r} has shape {weight}, expected {axes} axes, none empty")
    for role, shape in shapes.items():
        if role != "weight" and shape != weight[:1]:
            raise ValueError(f"{role} of node {node.name!r} has shape {shape}, expected {weight[:1]}")
    groups = node.attrs.get("groups", 1)
    if isinstance(groups, int) and weight[0] % groups:
        raise ValueError(f"groups {groups} of node {node.name!r} do not divide {weight[0]} channels")
