"""Biases as the integers an integer-only network adds: int32 codes in the unit of the sums, S_in * S_w."""

from __future__ import annotations

from dataclasses import replace

import torch

from qbench.errors import MethodError
from qbench.program.encodings import Affine, Encoding
from qbench.program.graph import EdgeSpec, Program
from qbench.quant.requantize import INT32_MAX, INT32_MIN, bias_scale, encode_bias

_PASSING_ON = ("max_pool2d", "flatten", "relu", "identity")  # what keeps the grid of what it reads


def with_integer_biases(program: Program) -> Program:
    """The program with every bias stored as int32.

    Args:
        program: Its weights are symmetric codes, one scale per tensor or channel; static edges where layers read. Where
            a bias would not fit, the weights of its channel get coarser, see
            :func:`qbench.quant.requantize.encode_bias`.

    Raises:
        MethodError: A layer reads a value without a static edge; names it.
    """
    changed: dict[str, Encoding] = {}
    for layer in program.layers():
        weight, bias = program.tensors[f"{layer.name}.weight"], program.tensors.get(f"{layer.name}.bias")
        edge = edge_read_by(program, layer.name)
        if edge is None or edge.scale is None:
            raise MethodError(layer.name, "reads a value that has no static grid")
        if not isinstance(weight, Affine) or weight.group_size is not None or bool(weight.zero_point.any()):
            raise MethodError(f"{layer.name}.weight", "is not on a symmetric grid with one scale per tensor or channel")
        if bias is None:
            continue
        codes, smaller, scale = encode_bias(bias.decode(), edge.scale, weight.codes, weight.scale)
        changed[f"{layer.name}.weight"] = replace(weight, codes=smaller, scale=scale)
        unit = bias_scale(edge.scale, scale)
        zero_point = torch.zeros_like(unit, dtype=torch.int32)
        changed[f"{layer.name}.bias"] = Affine(codes, unit, zero_point, 32, INT32_MIN, INT32_MAX, weight.axis)
    return program.with_tensors(changed)


def edge_read_by(program: Program, layer: str) -> EdgeSpec | None:
    """The edge whose grid the codes are on that a layer reads; None where it reads floats."""
    nodes = {node.name: node for node in program.nodes}
    source = nodes[layer].inputs[0]
    while source not in program.edges:
        if source == Program.INPUT or nodes[source].op not in _PASSING_ON:
            return None
        source = nodes[source].inputs[0]
    return program.edges[source]
