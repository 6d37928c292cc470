"""Small programs built by hand: these tests depend on the graph alone, not on the tracer."""

from collections.abc import Iterable, Mapping

import torch

from qbench.program.encodings import Affine, Encoding, Float
from qbench.program.graph import EdgeSpec, Node, Program


def float_tensor(*shape: int) -> Float:
    return Float(torch.zeros(shape))


def affine_tensor(bits: int, *shape: int) -> Affine:
    zeros = torch.zeros(shape, dtype=torch.int8)
    return Affine(
        zeros, torch.tensor(0.5), torch.tensor(0, dtype=torch.int32), bits, -(1 << bits - 1), (1 << bits - 1) - 1
    )


def edge(bits: int) -> EdgeSpec:
    return EdgeSpec(bits=bits, qmin=0, qmax=(1 << bits) - 1, scale=0.1, zero_point=0)


def conv(name: str, source: str, **attrs: int | tuple[int, ...]) -> Node:
    return Node(
        name, "conv2d", (source,), {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1, **attrs}
    )


def tiny(weight_bits: int = 8, edges: Mapping[str, EdgeSpec] | None = None) -> Program:
    """conv 3->4@3x3 - relu - max pool - flatten - linear 64->10 on 3x8x8."""
    nodes = (
        conv("conv", "input"),
        Node("relu", "relu", ("conv",)),
        Node("pool", "max_pool2d", ("relu",), {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0)}),
        Node("flatten", "flatten", ("pool",)),
        Node("fc", "linear", ("flatten",)),
    )
    tensors: dict[str, Encoding] = {
        "conv.weight": affine_tensor(weight_bits, 4, 3, 3, 3),
        "conv.bias": float_tensor(4),
        "fc.weight": affine_tensor(weight_bits, 10, 64),
    }
    return Program((3, 8, 8), nodes, tensors, edges or {})


def vgg16(widths: Iterable[int]) -> Program:
    """VGG16 without batch norm on 3x32x32; ``widths`` are the outputs of its linear layers."""
    nodes: list[Node] = []
    tensors: dict[str, Encoding] = {}
    last, channels = "input", 3
    for step, out in enumerate([64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0]):
        name = f"features.{step}"
        if out == 0:
            pool = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0), "ceil_mode": False}
            nodes.append(Node(name, "max_pool2d", (last,), pool))
        else:
            nodes += [conv(name, last), Node(f"{name}.relu", "relu", (name,))]
            tensors |= {f"{name}.weight": float_tensor(out, channels, 3, 3), f"{name}.bias": float_tensor(out)}
            channels = out
        last = nodes[-1].name
    nodes.append(Node("flatten", "flatten", (last,)))
    last = "flatten"
    for step, out in enumerate(widths):
        name = f"classifier.{step}"
        nodes.append(Node(name, "linear", (last,)))
        tensors |= {f"{name}.weight": float_tensor(out, channels), f"{name}.bias": float_tensor(out)}
        last, channels = name, out
    return Program((3, 32, 32), tuple(nodes), tensors)
