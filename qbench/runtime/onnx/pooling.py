"""Pooling. Windows that ``ceil_mode`` lets reach beyond the padding are written as padding of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

from qbench.program.graph import Node
from qbench.runtime.onnx.graph import MICROSOFT
from qbench.runtime.onnx.parts import Array
from qbench.runtime.onnx.values import Values

Pair = tuple[int, int]


def write_max_pool(values: Values, node: Node) -> None:
    """Largest value of each window."""
    a: Any = node.attrs
    beyond = _beyond(values, node)
    pads = [*a["padding"], *(p + b for p, b in zip(a["padding"], beyond))]
    values.passing(node, "MaxPool", kernel_shape=list(a["kernel_size"]), strides=list(a["stride"]), pads=pads)


def write_average_pool(values: Values, node: Node) -> None:
    """Mean of each window.

    PyTorch divides by the part of a window that lies in the image or its padding; what ``ceil_mode`` adds behind that
    never counts. ONNX counts padding or does not. And OpenVINO pads codes with 0, whatever their zero point. In both
    cases the mean of what lies in the image is taken, times its share of the window.
    """
    a: Any = node.attrs
    beyond, padding = _beyond(values, node), tuple(a["padding"])
    counts = bool(a["count_include_pad"]) and any(padding)
    grid = values.grids.get(node.inputs[0])
    moved = values.options.for_openvino and grid is not None and grid.zero_point != 0
    window: dict[str, Any] = {
        "kernel_shape": list(a["kernel_size"]),
        "strides": list(a["stride"]),
        "pads": [*padding, *(p + b for p, b in zip(padding, beyond))],
    }
    if not counts or not (any(beyond) or moved):
        _write_mean(values, node, "AveragePool", count_include_pad=int(counts), **window)
        return
    graph = values.graph
    mean = graph.node("AveragePool", (values.real(node.inputs[0]),), node.name, suffix=".mean", **window)
    share = graph.constant(f"{node.name}.share", _shares(values, node))
    values.finish(node, graph.node("Mul", (mean, share), node.name))


def write_adaptive_pool(values: Values, node: Node) -> None:
    """Means of windows that share the image out evenly."""
    a: Any = node.attrs
    size, outputs = values.shapes[node.inputs[0]][1:], tuple(a["output_size"])
    if outputs == (1, 1):
        _write_mean(values, node, "GlobalAveragePool")
    elif all(extent % count == 0 for extent, count in zip(size, outputs)):
        window = [extent // count for extent, count in zip(size, outputs)]
        _write_mean(values, node, "AveragePool", kernel_shape=window, strides=window)
    else:
        values.finish(node, _uneven(values, node, size, outputs))


def _write_mean(values: Values, node: Node, op: str, **attributes: Any) -> None:
    landing, source = values.landing(node), node.inputs[0]
    if values.options.qoperator and landing is not None and source in values.grids:
        graph = values.graph
        inputs = (values.codes(source), *graph.grid(values.grids[source]), *graph.grid(landing.stored))
        values.land(landing, graph.node(f"QLinear{op}", inputs, node.name, domain=MICROSOFT, **attributes))
    else:
        values.finish(node, values.graph.node(op, (values.real(source),), node.name, **attributes))


def _uneven(values: Values, node: Node, size: tuple[int, ...], outputs: tuple[int, ...]) -> str:
    """Windows of different sizes: a mean over rows for each row of the result, then the same over columns."""
    graph, tensor = values.graph, values.real(node.inputs[0])
    for axis, extent, count in zip((2, 3), size, outputs):
        strips = []
        for index in range(count):
            span = (index * extent // count, -(-(index + 1) * extent // count))
            ends = [graph.constant(f"{node.name}.window", np.array([end], np.int64)) for end in (*span, axis)]
            strip = graph.node("Slice", (tensor, *ends), node.name, suffix=".slice")
            strips.append(graph.node("ReduceMean", (strip,), node.name, suffix=".mean", axes=[axis], keepdims=1))
        tensor = graph.node("Concat", strips, node.name, axis=axis)
    return tensor


def _beyond(values: Values, node: Node) -> Pair:
    """By how much the last windows reach beyond image and padding, in rows and columns."""
    a: Any = node.attrs
    size, outputs = values.shapes[node.inputs[0]][1:], values.shapes[node.name][1:]
    spans = zip(outputs, a["stride"], a["kernel_size"], size, a["padding"])
    rows, columns = (max(0, (count - 1) * s + k - extent - 2 * p) for count, s, k, extent, p in spans)
    return rows, columns


def _shares(values: Values, node: Node) -> Array:
    """Of each window the share that lies in the image, of what lies in the image or its padding, [1, 1, OH, OW]."""
    a: Any = node.attrs
    size, outputs = values.shapes[node.inputs[0]][1:], values.shapes[node.name][1:]
    shares = []
    for count, s, k, extent, p in zip(outputs, a["stride"], a["kernel_size"], size, a["padding"]):
        start = np.arange(count) * s - p
        end = np.minimum(start + k, extent + p)
        shares.append((np.minimum(end, extent) - np.maximum(start, 0)) / (end - start))
    rows, columns = shares
    return np.outer(rows, columns).astype(np.float32)[None, None]
