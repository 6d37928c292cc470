"""Shape of every value in a program, from the graph alone: no weights decoded, nothing run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from qbench.program.graph import Attr, Node, Program

Shape = tuple[int, ...]


def shapes(program: Program) -> dict[str, Shape]:
    """Infer the output shape of every node, without the batch axis.

    Args:
        program: Any program.

    Returns:
        Node name -> shape; "input" -> program.input_shape.

    Raises:
        ValueError: a node cannot take what it is given; the message names the node.
    """
    found: dict[str, Shape] = {Program.INPUT: tuple(program.input_shape)}
    for node in program.nodes:
        infer = _RULES.get(node.op, _same)
        try:
            shape = infer(program, node, [found[name] for name in node.inputs])
        except ValueError as error:
            raise ValueError(f"node {node.name!r} ({node.op}): {error}") from error
        if any(size < 1 for size in shape):
            raise ValueError(f"node {node.name!r} ({node.op}): nothing is left of its input, shape {shape}")
        found[node.name] = shape
    return found


def pair(value: Attr) -> tuple[int, int]:
    """Read an attribute that is a pair of ints (height, width); one int stands for both."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value, value
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        return int(value[0]), int(value[1])
    raise ValueError(f"expected a pair of ints, got {value!r}")


def _same(program: Program, node: Node, inputs: list[Shape]) -> Shape:
    return inputs[0]


def _conv2d(program: Program, node: Node, inputs: list[Shape]) -> Shape:
    channels, *spatial = _image(inputs[0])
    out_channels, in_per_group, *kernel = program.tensors[f"{node.name}.weight"].shape
    groups = node.attrs.get("groups", 1)
    if not isinstance(groups, int) or in_per_group * groups != channels:
        raise ValueError(f"weight takes {in_per_group} channels x {groups} groups, the input has {channels}")
    dilation = pair(node.attrs.get("dilation", 1))
    covered = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    return (out_channels, *_windows(spatial, covered, node))


def _linear(program: Program, node: Node, inputs: list[Shape]) -> Shape:
    out_features, in_features = program.tensors[f"{node.name}.weight"].shape
    if inputs[0][-1] != in_features:
        raise ValueError(f"weight takes {in_features} features, the input has {inputs[0][-1]}")
    return (*inputs[0][:-1], out_features)


def _batch_norm(program: Program, node: Node, inputs: list[Shape]) -> Shape:
    channels = program.tensors[f"{node.name}.running_mean"].shape[0]
    if inputs[0][0] != channels:
        raise ValueError(f"{channels} channels are normalised, the input has {inputs[0][0]}")
    return inputs[0]


def _pool(program: Program, node: Node, inputs: list[Shape]) -> Shape:
    channels, *spatial = _image(inputs[0])
    return (channels, *_windows(spatial, pair(node.attrs["kernel_size"]), node))


def _adaptive_pool(program: Program, node: Node, inputs: list[Shape]) -> Shape:
    return (_image(inputs[0])[0], *pair(node.attrs["output_size"]))


def _flatten(program: Program, node: Node, inputs: list[Shape]) -> Shape:
    return (math.prod(inputs[0]),)


def _broadcast(program: Program, node: Node, inputs: list[Shape]) -> Shape:
    if len({len(shape) for shape in inputs}) != 1:  # the batch axis would line up with another one
        raise ValueError(f"inputs {inputs} differ in their number of axes")
    if any(len({*sizes} - {1}) > 1 for sizes in zip(*inputs)):
        raise ValueError(f"inputs {inputs} do not broadcast")
    return tuple(max(sizes) for sizes in zip(*inputs))


def _concat(program: Program, node: Node, inputs: list[Shape]) -> Shape:
    dim = node.attrs.get("dim", 1)
    rank = len(inputs[0]) + 1  # ``dim`` counts the batch axis
    if not isinstance(dim, int) or not -rank <= dim < rank or dim % rank == 0:
        raise ValueError(f"cannot concatenate along axis {dim} of {rank}")
    axis = dim % rank - 1
    rest = {shape[:axis] + shape[axis + 1 :] for shape in inputs}
    if len(rest) != 1 or len({len(shape) for shape in inputs}) != 1:
        raise ValueError(f"inputs {inputs} differ outside axis {dim}")
    return (*inputs[0][:axis], sum(shape[axis] for shape in inputs), *inputs[0][axis + 1 :])


def _image(shape: Shape) -> Shape:
    if len(shape) != 3:
        raise ValueError(f"expected an input [C, H, W], got {shape}")
    return shape


def _windows(spatial: Sequence[int], kernel: Sequence[int], node: Node) -> tuple[int, ...]:
    """Count window positions along each axis, by PyTorch's rule for Conv2d, MaxPool2d and AvgPool2d."""
    # pooling steps by its kernel unless told otherwise, convolution by one
    stride = pair(node.attrs.get("stride", 1 if node.op == "conv2d" else node.attrs.get("kernel_size", 1)))
    padding = pair(node.attrs.get("padding", 0))
    counts = []
    for size, k, s, p in zip(spatial, kernel, stride, padding):
        span = size + 2 * p - k
        count = span // s + 1
        if node.attrs.get("ceil_mode", False):
            count = -(-span // s) + 1
            if (count - 1) * s >= size + p:  # the last window must start inside the image or its left padding
                count -= 1
        counts.append(count)
    return tuple(counts)


_RULES: dict[str, Callable[[Program, Node, list[Shape]], Shape]] = {  # every other op keeps its input's shape
    "conv2d": _conv2d,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "add": _broadcast,
    "mul": _broadcast,
    "concat": _concat,
    "max_pool2d": _pool,
    "avg_pool2d": _pool,
    "adaptive_avg_pool2d": _adaptive_pool,
    "flatten": _flatten,
}
