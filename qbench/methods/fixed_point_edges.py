"""Fixed-point weights and edges, and what they are chosen from: errors on the calibration images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from qbench.errors import MethodError
from qbench.methods.base import Context
from qbench.methods.integer_biases import with_integer_biases
from qbench.program.encodings import Affine, Encoding
from qbench.program.graph import EdgeSpec, Program
from qbench.program.integer.layers import LARGEST_BITS
from qbench.program.materialize import materialize
from qbench.program.transform import quantizable_edges
from qbench.quant.affine import code_dtype
from qbench.quant.fixed_point import FixedPoint, holding


def with_fixed_point(program: Program, weights: Mapping[str, FixedPoint], edges: Mapping[str, FixedPoint]) -> Program:
    """The program with its weights (layer name -> format) and edges on fixed-point grids.

    Where every layer and edge is, with at most 8 bits, biases become int32 in the unit of the sums.
    """
    coded: dict[str, Encoding] = {f"{name}.weight": encode(program.weight(name), to) for name, to in weights.items()}
    specs = {name: EdgeSpec(to.bits, to.qmin, to.qmax, to.scale, 0) for name, to in edges.items()}
    result = replace(program.with_tensors(coded), edges={**program.edges, **specs})
    whole = len(weights) == len(program.layers()) and bool(edges)
    # More bits have finer units, in which biases need more than 32 bits; and integers alone do not compute with them.
    fits = all(to.bits <= LARGEST_BITS for to in (*weights.values(), *edges.values()))
    return with_integer_biases(result) if whole and fits else result


def encode(weight: Tensor, to: FixedPoint) -> Affine:
    """One weight tensor in a format."""
    codes = torch.round(weight.double() / to.scale).clamp(to.qmin, to.qmax).to(code_dtype(to.qmin, to.qmax))
    zero_point = torch.tensor(0, dtype=torch.int32)
    return Affine(codes, torch.tensor(to.scale, dtype=torch.float32), zero_point, to.bits, to.qmin, to.qmax)


def edge_extremes(program: Program, context: Context) -> dict[str, float]:
    """Edge -> the largest magnitude it shows on the calibration images."""
    seen = _observed(program, context, lambda name, value: [float(value.abs().amax())])
    return {name: max(one[0] for one in batches) for name, batches in seen.items()}


def edge_errors(
    program: Program, context: Context, formats: Mapping[str, Sequence[FixedPoint]]
) -> dict[str, tuple[float, list[float]]]:
    """Edge -> its sum of squares, and the squared error of each of its formats, over the calibration images."""

    def measure(name: str, value: Tensor) -> list[float]:
        return [float(value.double().square().sum()), *(one.squared_error(value) for one in formats[name])]

    sums = {
        name: [sum(column) for column in zip(*batches)]
        for name, batches in _observed(program, context, measure).items()
    }
    return {name: (found[0], found[1:]) for name, found in sums.items()}


def format_holding(where: str, largest: float, bits: int) -> FixedPoint:
    """:func:`qbench.quant.fixed_point.holding`; MethodError naming the tensor or edge where there is none."""
    try:
        return holding(largest, bits)
    except ValueError as error:
        raise MethodError(where, str(error)) from error


def _observed(
    program: Program, context: Context, measure: Callable[[str, Tensor], list[float]]
) -> dict[str, list[list[float]]]:
    """Edge -> what ``measure`` says of its value on each batch."""
    seen: dict[str, list[list[float]]] = {name: [] for name in quantizable_edges(program)}

    def observe(name: str, value: Tensor) -> None:
        if name in seen:
            seen[name].append(measure(name, value))

    module = materialize(program).to(context.device)
    module.observe = observe
    with torch.no_grad():
        for batch in context.calibration:
            module(batch.to(context.device))
    return seen
