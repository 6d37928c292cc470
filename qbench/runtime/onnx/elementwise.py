"""Activation functions, sums and products of two values, concatenation, batch norms that no layer took in."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from qbench.program.graph import Node
from qbench.runtime.onnx.graph import MICROSOFT, Graph
from qbench.runtime.onnx.grids import Landing
from qbench.runtime.onnx.values import Values
from qbench.runtime.onnx.weights import decoded

_PAIRS = {"add": "Add", "mul": "Mul"}


def _relu6(graph: Graph, x: str, name: str) -> str:
    return graph.node("Clip", (x, graph.scalar(0.0, np.float32), graph.scalar(6.0, np.float32)), name)


def _silu(graph: Graph, x: str, name: str) -> str:
    return graph.node("Mul", (x, graph.node("Sigmoid", (x,), name, suffix=".sigmoid")), name)


def _gelu(graph: Graph, x: str, name: str) -> str:
    """Half of x * (1 + erf(x / sqrt(2))), in the order that engines know as GELU."""
    scaled = graph.node("Div", (x, graph.scalar(math.sqrt(2.0), np.float32)), name, suffix=".scaled")
    share = graph.node("Erf", (scaled,), name, suffix=".erf")
    above = graph.node("Add", (share, graph.scalar(1.0, np.float32)), name, suffix=".above")
    doubled = graph.node("Mul", (x, above), name, suffix=".doubled")
    return graph.node("Mul", (doubled, graph.scalar(0.5, np.float32)), name)


CURVES: dict[str, Callable[[Graph, str, str], str]] = {
    "relu": lambda graph, x, name: graph.node("Relu", (x,), name),
    "relu6": _relu6,
    "hard_swish": lambda graph, x, name: graph.node("HardSwish", (x,), name),
    "hard_sigmoid": lambda graph, x, name: graph.node("HardSigmoid", (x,), name, alpha=1 / 6, beta=0.5),
    "sigmoid": lambda graph, x, name: graph.node("Sigmoid", (x,), name),
    "silu": _silu,
    "gelu": _gelu,
}


def write_curve(values: Values, node: Node) -> None:
    """An activation function, in float."""
    values.finish(node, CURVES[node.op](values.graph, values.real(node.inputs[0]), node.name))


def write_pair(values: Values, node: Node) -> None:
    """A sum or product of two values."""
    landing, op = values.landing(node), _PAIRS[node.op]
    if _on_codes(values, node, landing):
        assert landing is not None
        graph = values.graph
        inputs = [part for name in node.inputs for part in (values.codes(name), *graph.grid(values.grids[name]))]
        inputs += graph.grid(landing.stored)
        values.land(landing, graph.node(f"QLinear{op}", inputs, node.name, domain=MICROSOFT))
    else:
        values.finish(node, values.graph.node(op, [values.real(name) for name in node.inputs], node.name))


def write_concat(values: Values, node: Node) -> None:
    """Values side by side."""
    landing, dim = values.landing(node), node.attrs["dim"]
    if _on_codes(values, node, landing):
        assert landing is not None
        graph = values.graph
        inputs = list(graph.grid(landing.stored))
        inputs += [part for name in node.inputs for part in (values.codes(name), *graph.grid(values.grids[name]))]
        values.land(landing, graph.node("QLinearConcat", inputs, node.name, domain=MICROSOFT, axis=dim))
    else:
        tensors = [values.real(name) for name in node.inputs]
        values.finish(node, values.graph.node("Concat", tensors, node.name, axis=dim))


def write_batch_norm(values: Values, node: Node) -> None:
    """A batch norm, in float."""
    inputs = [values.real(node.inputs[0])]
    for role in ("weight", "bias", "running_mean", "running_var"):
        array = decoded(values.program, node, role)
        assert array is not None  # all four are required
        inputs.append(values.graph.constant(f"{node.name}.{role}", array))
    tensor = values.graph.node("BatchNormalization", inputs, node.name, epsilon=node.attrs["eps"])
    values.finish(node, tensor)


def _on_codes(values: Values, node: Node, landing: Landing | None) -> bool:
    """Whether the operator form has integers for a node: everything it reads and makes is on a grid."""
    return values.options.qoperator and landing is not None and all(name in values.grids for name in node.inputs)
