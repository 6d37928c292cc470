"""Cross-layer equalization: move scale between neighbouring layers so that their channels span alike ranges."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qbench.program.encodings import Encoding, Float
from qbench.program.graph import WEIGHTED, Node, Program

_COMMUTE = ("relu", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "flatten", "identity")
"""Ops f with f(s x) = s f(x) for s > 0 per channel."""


@dataclass(frozen=True)
class Pair:
    """Two layers between which nothing but such ops lies. ``clamps`` are the ReLU6 among them."""

    first: Node
    second: Node
    clamps: tuple[str, ...] = ()


def equalizable_pairs(program: Program) -> tuple[Pair, ...]:
    """Neighbouring layers whose scales can be traded, in execution order.

    The first layer's output must be read by one chain of ops alone, and that chain end in the second layer. Groups of
    a convolution are all (depthwise) or one.
    """
    by_name = {node.name: node for node in program.nodes}
    pairs = []
    for first in program.layers():
        clamps: list[str] = []
        readers = program.consumers(first.name)
        while len(readers) == 1 and (readers[0].op in _COMMUTE or readers[0].op == "relu6"):
            if readers[0].op == "relu6":
                clamps.append(readers[0].name)
            readers = program.consumers(readers[0].name)
        if len(readers) == 1 and readers[0].op in WEIGHTED:
            pair = Pair(first, by_name[readers[0].name], tuple(clamps))
            if _groups_are_simple(program, pair.first) and _groups_are_simple(program, pair.second):
                pairs.append(pair)
    return tuple(pairs)


def equalize(program: Program, *, iterations: int = 40, tolerance: float = 1e-3) -> Program:
    """Rescale channels until the output channels of each layer and the inputs of the next have equal ranges.

    With r1, r2 the largest magnitudes of channel i in the first and the second layer, the channel's weights and bias
    are divided by s = r1 / sqrt(r1 r2) and the next layer's are multiplied by it. Computed in float64.

    A ReLU6 between two layers is replaced by a ReLU, without which its channels could not be scaled: the function
    changes where a value exceeds 6. Elsewhere it stays the same up to float rounding.

    Args:
        program: Batch norms folded; float weights.
        iterations: Passes over all pairs at most.
        tolerance: Stop when no factor of a pass is further from 1.

    Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv:1906.04721,
        sec. 4.1. Deviations: several passes as in the authors' code; high biases are not absorbed.
    """
    pairs = equalizable_pairs(program)
    tensors = {key: encoding.decode().double() for key, encoding in program.tensors.items()}
    for _ in range(iterations):
        worst = max((_equalize_pair(tensors, pair) for pair in pairs), default=0.0)
        if worst < tolerance:
            break
    clamps = {name for pair in pairs for name in pair.clamps}
    nodes = tuple(replace(node, op="relu") if node.name in clamps else node for node in program.nodes)
    touched = {f"{node.name}.{role}" for pair in pairs for node in (pair.first, pair.second) for role in _ROLES}
    changed: dict[str, Encoding] = {key: Float(tensors[key].float()) for key in touched if key in tensors}
    return replace(program, nodes=nodes, tensors={**program.tensors, **changed})


_ROLES = ("weight", "bias")


def _equalize_pair(tensors: dict[str, Tensor], pair: Pair) -> float:
    """Scale one pair in place; returns how far the factors are from 1, at most."""
    first, second = tensors[f"{pair.first.name}.weight"], tensors[f"{pair.second.name}.weight"]
    channels = len(first)
    r1 = first.reshape(channels, -1).abs().amax(1)
    by_input = _by_input_channel(second, pair.second, channels)
    r2 = by_input.abs().amax((0, 2))
    usable = (r1 > 0) & (r2 > 0)  # a dead channel keeps its scale
    s = torch.where(usable, (r1 / r2.where(usable, torch.ones_like(r2))).sqrt(), torch.ones_like(r1))
    tensors[f"{pair.first.name}.weight"] = first / s.view([-1] + [1] * (first.dim() - 1))
    if (bias := tensors.get(f"{pair.first.name}.bias")) is not None:
        tensors[f"{pair.first.name}.bias"] = bias / s
    if by_input.shape[0] == 1 and _is_depthwise(second, pair.second):
        tensors[f"{pair.second.name}.weight"] = second * s.view(-1, 1, 1, 1)
    else:
        tensors[f"{pair.second.name}.weight"] = (by_input * s.view(1, -1, 1)).reshape(second.shape)
    return float((s - 1).abs().max())


def _by_input_channel(weight: Tensor, node: Node, channels: int) -> Tensor:
    """The weight as [outputs, input channels, values]; a depthwise one as [1, channels, values].

    A linear layer behind a flattening has as many columns per channel as the map has pixels.
    """
    if _is_depthwise(weight, node):
        return weight.reshape(1, channels, -1)
    return weight.reshape(weight.shape[0], channels, -1)


def _is_depthwise(weight: Tensor, node: Node) -> bool:
    groups = node.attrs.get("groups", 1)
    return groups != 1 and groups == weight.shape[0]


def _groups_are_simple(program: Program, node: Node) -> bool:
    weight = program.tensors[f"{node.name}.weight"]
    groups = node.attrs.get("groups", 1)
    return groups == 1 or (groups == weight.shape[0] and weight.shape[1] == 1)
