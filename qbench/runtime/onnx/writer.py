"""From a program to an ONNX model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.files import write_atomic
from qbench.program.graph import Node, Program
from qbench.program.shapes import shapes
from qbench.runtime.extras import import_extra
from qbench.runtime.onnx.elementwise import CURVES, write_batch_norm, write_concat, write_curve, write_pair
from qbench.runtime.onnx.layers import write_layer
from qbench.runtime.onnx.options import OnnxOptions
from qbench.runtime.onnx.parts import EXTRA, Parts
from qbench.runtime.onnx.pooling import write_adaptive_pool, write_average_pool, write_max_pool
from qbench.runtime.onnx.values import Values

if TYPE_CHECKING:
    import onnx


def to_onnx(program: Program, options: OnnxOptions | None = None) -> onnx.ModelProto:
    """Write a program as an ONNX graph from "input" [N, C, H, W] to "logits" [N, K], both float32.

    A layer with uniform weights of at most 8 bits behind a static edge of at most 8 bits becomes integer arithmetic:
    int8 weights, int32 biases in the unit of the sums, 8-bit activations. Every other layer computes with its decoded
    weights, in float32. Edges of more than 8 bits are simulated.

    Args:
        program: What to write.
        options: How; the QDQ form for ONNX Runtime by default.

    Raises:
        ValueError: The program has no ONNX form, see :func:`why_not`.
        RuntimeUnavailable: The package ``onnx`` is not installed.
    """
    model: onnx.ModelProto = to_parts(program, options).whole()
    return model


def to_parts(program: Program, options: OnnxOptions | None = None) -> Parts:
    """As :func:`to_onnx`, the large constants apart.

    Raises:
        ValueError, RuntimeUnavailable: As :func:`to_onnx`.
    """
    reason = why_not(program)
    if reason is not None:
        raise ValueError(reason)
    chosen = options or OnnxOptions()
    values = Values(program, chosen)
    for node in program.nodes:
        if node.name not in values:
            _WRITERS[node.op](values, node)
    found = shapes(program)
    last = program.nodes[-1].name
    ends = {"input": program.input_shape, "logits": found[last]}
    metadata = {"producer": "qbench", "form": chosen.form, "signedness": chosen.signedness, "engine": chosen.engine}
    parts = values.graph.model(ends, values.real(last), chosen.batch, metadata)
    return replace(parts, overflowing=tuple(values.overflowing))


def save_onnx(program: Program, path: Path, options: OnnxOptions | None = None) -> None:
    """Write a program to a file, atomically, after ``onnx.checker`` has found nothing wrong with it.

    Raises:
        ValueError: The program has no ONNX form.
        RuntimeUnavailable: The package ``onnx`` is not installed.
    """
    model = to_onnx(program, options)
    import_extra("onnx", EXTRA).checker.check_model(model, full_check=True)
    write_atomic(path, model.SerializeToString())


def why_not(program: Program) -> str | None:
    """Why a program has no ONNX form, naming the node; None if it has one."""
    ops = {node.name: node.op for node in program.nodes}
    for name, spec in program.edges.items():
        where = f"{name} ({ops.get(name, 'images')})"
        if spec.levels is not None:
            return f"{where}: it takes shared values of any spacing, which ONNX has no quantizer for"
        if spec.dynamic:
            reason = "its range is that of each image, found while running; ONNX has one for a whole batch"
            return f"{where}: {reason}; quantize activations statically"
    return None


def _write_relu(values: Values, node: Node) -> None:
    """A ReLU that is no bound of what makes its input: of codes, or of a float that others read too."""
    source = node.inputs[0]
    grid = values.grids.get(source)
    if grid is None or node.name in values.program.edges:
        write_curve(values, node)
    elif grid.zero_point == grid.bottom:
        values.alias(node.name, source)
    elif values.options.for_openvino:
        tensor = values.graph.node("Relu", (values.real(source),), node.name)  # a Clip of codes would end its pattern
        values.keep_codes(node.name, values.graph.quantize(tensor, grid, node.name), grid)
    else:
        zero = values.graph.scalar(grid.zero_point, grid.dtype)
        values.keep_codes(node.name, values.graph.node("Clip", (values.codes(source), zero), node.name), grid)


def _write_flatten(values: Values, node: Node) -> None:
    values.passing(node, "Flatten", axis=1)


def _write_identity(values: Values, node: Node) -> None:
    if node.name in values.program.edges:
        values.finish(node, values.real(node.inputs[0]))
    else:
        values.alias(node.name, node.inputs[0])


_WRITERS: dict[str, Callable[[Values, Node], None]] = {
    "conv2d": write_layer,
    "linear": write_layer,
    "batch_norm": write_batch_norm,
    **dict.fromkeys(CURVES, write_curve),
    "relu": _write_relu,
    "add": write_pair,
    "mul": write_pair,
    "concat": write_concat,
    "max_pool2d": write_max_pool,
    "avg_pool2d": write_average_pool,
    "adaptive_avg_pool2d": write_adaptive_pool,
    "flatten": _write_flatten,
    "identity": _write_identity,
}
