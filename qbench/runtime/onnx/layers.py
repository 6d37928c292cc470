"""Convolutions and linear layers: with integers where weights and input allow, else with decoded weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from qbench.program.graph import Node
from qbench.runtime.onnx.graph import MICROSOFT
from qbench.runtime.onnx.grids import Landing
from qbench.runtime.onnx.values import Values
from qbench.runtime.onnx.weights import Array, LayerCodes, decoded, layer_codes


def write_layer(values: Values, node: Node) -> None:
    """Write a layer in the form the engine turns into its fastest exact kernel.

    | reads | result lands on a grid | written as |
    |---|---|---|
    | codes | yes | a float operator between quantizers, or QLinearConv, QGemm |
    | codes | no, linear | the same without a quantizer behind it: the sums times their unit |
    | codes | no, convolution | for ONNX Runtime ConvInteger, a scale and a bias, because it fuses no other form of it |
    | floats | either | a float operator with decoded weights |
    | codes whose pairs of products could leave 16 bits, where the engine adds those | either | the same |
    """
    found = _integers(values, node)
    landing = values.landing(node)
    if found is None:
        values.finish(node, _float_layer(values, node))
    elif values.options.for_openvino:
        values.finish(node, _between_quantizers(values, node, found))
    elif found.one_type() is None or (landing is None and node.op == "conv2d"):
        values.finish(node, _sums(values, node, found))
    elif not values.options.qoperator:
        values.finish(node, _between_quantizers(values, node, found))
    elif landing is not None:
        values.land(landing, _operator(values, node, found, landing))
    else:
        values.finish(node, _operator(values, node, found, None))


def _integers(values: Values, node: Node) -> LayerCodes | None:
    """The layer in integers, if that is how it is to be computed."""
    source = node.inputs[0]
    grid = values.grids.get(source)
    found = layer_codes(values.program, node, grid)
    if found is None or grid is None or (node.op == "linear" and len(values.shapes[source]) != 1):
        return None
    # engines add 128 to int8, and multiply uint8 either way
    if values.options.int16_pairs and not found.fits_int16_pairs(grid.top - grid.bottom):
        values.overflowing.append(node.name)
        if values.options.exact:
            return None
    return found


def _attributes(node: Node) -> dict[str, Any]:
    a: Any = node.attrs
    (top, left), stride, dilation = a["padding"], a["stride"], a["dilation"]
    return {
        "strides": list(stride),
        "pads": [top, left, top, left],
        "dilations": list(dilation),
        "group": a["groups"],
    }


def _float_layer(values: Values, node: Node) -> str:
    """A layer with decoded weights."""
    graph, x = values.graph, values.real(node.inputs[0])
    weight, bias = decoded(values.program, node, "weight"), decoded(values.program, node, "bias")
    assert weight is not None  # every layer has one
    biases = [graph.constant(f"{node.name}.bias", bias)] if bias is not None else []
    if node.op == "linear" and len(values.shapes[node.inputs[0]]) != 1:
        product = graph.node("MatMul", (x, graph.constant(f"{node.name}.weight", weight.T)), node.name)
        return graph.node("Add", (product, *biases), node.name, suffix=".sum") if biases else product
    inputs = (x, graph.constant(f"{node.name}.weight", weight), *biases)
    if node.op == "linear":
        return graph.node("Gemm", inputs, node.name, transB=1)
    return graph.node("Conv", inputs, node.name, kernel_shape=list(weight.shape[2:]), **_attributes(node))


def _between_quantizers(values: Values, node: Node, found: LayerCodes) -> str:
    """A float operator whose inputs are dequantized codes."""
    graph, x = values.graph, values.real(node.inputs[0])
    inputs = [x, _dequantized_weight(values, node, found)]
    if found.has_bias:
        bias = graph.constant(f"{node.name}.bias", found.bias)
        unit = graph.constant(f"{node.name}.bias.scale", found.unit)
        inputs.append(graph.node("DequantizeLinear", (bias, unit), node.name, suffix=".bias.dq", axis=0))
    if node.op == "linear":
        return graph.node("Gemm", inputs, node.name, transB=1)
    return graph.node("Conv", inputs, node.name, kernel_shape=list(found.weight.shape[2:]), **_attributes(node))


def _dequantized_weight(values: Values, node: Node, found: LayerCodes) -> str:
    one = found.one_type()
    codes, zero_points = found.per_channel() if one is None else (one[0], np.full(len(one[0]), one[1], np.int8))
    inputs = _weight_constants(values, node, found.scale, codes, zero_points)
    return values.graph.node("DequantizeLinear", inputs, node.name, suffix=".weight.dq", axis=0)


def _weight_constants(values: Values, node: Node, scale: Array, codes: Array, zero_points: Array) -> list[str]:
    """The constants codes, scale, zero point; of one number each where all channels share one scale."""
    shared = len(scale) > 1 and bool((scale == scale[0]).all()) and bool((zero_points == zero_points[0]).all())
    if shared:
        scale, zero_points = scale[0], zero_points[0]
    named = {"weight": codes, "weight.scale": scale, "weight.zero_point": zero_points}
    return [values.graph.constant(f"{node.name}.{role}", array) for role, array in named.items()]


def _operator(values: Values, node: Node, found: LayerCodes, landing: Landing | None) -> str:
    """QLinearConv, or QGemm of ONNX Runtime: QLinearMatMul takes no bias and always rounds its result to 8 bits."""
    one = found.one_type()
    assert one is not None  # otherwise the layer is written as sums
    graph, source = values.graph, node.inputs[0]
    weight = _weight_constants(values, node, found.scale, one[0], np.full(len(found.bias), one[1], np.int8))
    inputs = [values.codes(source), *graph.grid(values.grids[source]), *weight]
    bias = graph.constant(f"{node.name}.bias", found.bias) if found.has_bias else ""
    out = list(graph.grid(landing.stored)) if landing is not None else []
    if node.op == "linear":
        return graph.node("QGemm", [*inputs, bias, *out], node.name, domain=MICROSOFT, transB=1)
    inputs += [*out, bias] if bias else out
    return graph.node("QLinearConv", inputs, node.name, kernel_shape=list(found.weight.shape[2:]), **_attributes(node))


def _sums(values: Values, node: Node, found: LayerCodes) -> str:
    """The exact int32 sums of a layer, times their unit."""
    graph, source = values.graph, node.inputs[0]
    grid = values.grids[source]
    x, zero_point = values.codes(source), graph.scalar(grid.zero_point, grid.dtype)
    sums = []
    for number, part in enumerate(found.parts()):
        # one for each operator: ONNX Runtime makes uint8 of both where int8 would overflow, and not of the same twice
        zero = graph.constant(f"{node.name}.weight.zero_point.{number}", np.array(0, np.int8))
        if node.op == "linear":
            weight = graph.constant(f"{node.name}.weight", part.T)
            sums.append(graph.node("MatMulInteger", (x, weight, zero_point, zero), node.name))
        else:
            weight = graph.constant(f"{node.name}.weight", part)
            shape = {"kernel_shape": list(part.shape[2:]), **_attributes(node)}
            sums.append(graph.node("ConvInteger", (x, weight, zero_point, zero), node.name, **shape))
    channels = [1, -1] + [1] * (found.weight.ndim - 2)
    if found.has_bias:
        sums.append(graph.constant(f"{node.name}.bias", found.bias.reshape(channels)))
    total = sums[0]
    for term in sums[1:]:
        total = graph.node("Add", (total, term), node.name, suffix=".sum")
    real = graph.node("Cast", (total,), node.name, suffix=".float", to=1)
    unit = graph.constant(f"{node.name}.unit", found.unit.reshape(channels))
    return graph.node("Mul", (real, unit), node.name, suffix=".value")
