"""Rewrites of a program that keep its function: batch norm folding; and the choice of edges to quantize."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from qbench.program.encodings import Encoding, Float, Sparse
from qbench.program.graph import WEIGHTED, Node, Program

_CURVES = ("relu6", "hard_swish", "hard_sigmoid", "sigmoid", "silu", "gelu")
_MAKES_NEW_VALUES = (*WEIGHTED, *_CURVES, "batch_norm", "add", "mul", "concat", "avg_pool2d", "adaptive_avg_pool2d")
_FUSED = ("batch_norm", "relu", *_CURVES)  # merged into what makes their input


def fold_batch_norm(program: Program) -> Program:
    """Merge every batch norm that alone reads a convolution (or linear layer) into its weight and bias.

    w' = w * gamma / sqrt(var + eps);  b' = (b - mean) * gamma / sqrt(var + eps) + beta

    Computed in float64. A batch norm elsewhere stays, and so does one behind a weight that is quantized already (a
    pruned float one keeps its zeros) or behind a quantized edge. The result computes the same function up to float
    rounding.

    Source: Jacob et al., arXiv:1712.05877, sec. 3.2.
    """
    norms = foldable_norms(program)
    renamed = {norm.name: layer for layer, norm in norms.items()}
    tensors = dict(program.tensors)
    for layer, norm in norms.items():
        _fold(norm, layer, tensors)
    nodes = [
        replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
        for node in program.nodes
        if node.name not in renamed
    ]
    edges = {renamed.get(name, name): spec for name, spec in program.edges.items()}
    return replace(program, nodes=tuple(nodes), tensors=tensors, edges=edges)


def foldable_norms(program: Program) -> dict[str, Node]:
    """Layer name -> the batch norm that ``fold_batch_norm`` merges into it, in execution order."""
    by_name = {node.name: node for node in program.nodes}
    norms: dict[str, Node] = {}
    for node in program.nodes:
        source = by_name.get(node.inputs[0])
        if (
            node.op == "batch_norm"
            and source is not None
            and source.op in WEIGHTED
            and _is_float(program.tensors[f"{source.name}.weight"])
            and len(program.consumers(source.name)) == 1
            and source.name not in program.edges
        ):
            norms[source.name] = node
    return norms


def _fold(norm: Node, layer: str, tensors: dict[str, Encoding]) -> None:
    def value(role: str) -> Tensor:
        return tensors.pop(f"{norm.name}.{role}").decode().double()

    gamma, beta, mean, var = value("weight"), value("bias"), value("running_mean"), value("running_var")
    eps = norm.attrs["eps"]
    assert isinstance(eps, float)
    factor = gamma / torch.sqrt(var + eps)
    encoding = tensors[f"{layer}.weight"]
    weight = encoding.decode().double()
    bias = tensors.get(f"{layer}.bias")
    before = bias.decode().double() if bias is not None else torch.zeros_like(mean)
    merged = (weight * factor.view([-1] + [1] * (weight.dim() - 1))).float()
    tensors[f"{layer}.weight"] = (
        Sparse(encoding.mask, Float(merged[encoding.mask])) if isinstance(encoding, Sparse) else Float(merged)
    )
    tensors[f"{layer}.bias"] = Float(((before - mean) * factor + beta).float())


def _is_float(encoding: Encoding) -> bool:
    return isinstance(encoding.inner if isinstance(encoding, Sparse) else encoding, Float)


def quantizable_edges(program: Program) -> tuple[str, ...]:
    """The values an activation quantizer is put on: the input and every newly computed value that a later node reads.

    A value that only a following activation (or batch norm) reads is left to that one, as a fused kernel would. What
    only picks values (max pooling, flattening, a ReLU that is not fused) keeps the grid of what it reads. The logits
    stay float.
    """
    chosen = [Program.INPUT]
    for node in program.nodes:
        readers = program.consumers(node.name)
        if not readers:
            continue
        fused_into_next = len(readers) == 1 and readers[0].op in _FUSED
        fresh = node.op in _MAKES_NEW_VALUES or (node.op == "relu" and _reads_fresh(program, node))
        if fresh and not fused_into_next:
            chosen.append(node.name)
    return tuple(chosen)


def _reads_fresh(program: Program, activation: Node) -> bool:
    """Whether a ReLU is fused with what makes its input (rather than applied to an already quantized value)."""
    source = next((node for node in program.nodes if node.name == activation.inputs[0]), None)
    return source is not None and source.op in _MAKES_NEW_VALUES and len(program.consumers(source.name)) == 1
