"""What a program costs to run, counted on its graph: multiply-accumulates, bit operations, parameters."""

from __future__ import annotations

import math

from qbench.measure.activations import FLOAT32_BITS, FLOAT32_BYTES, grid_bits
from qbench.program.graph import Node, Program
from qbench.program.shapes import Shape, shapes

_STATISTICS = ("running_mean", "running_var")


def layer_macs(program: Program) -> dict[str, int]:
    """Multiply-accumulates per image of every convolution and linear layer, in execution order.

    Zeros of a sparse weight count: no runtime of ours skips them. Biases, batch norm and activations do not count.
    """
    found = shapes(program)
    return {node.name: _macs(program, node, found) for node in program.layers()}


def macs(program: Program) -> int:
    """Multiply-accumulates per image of the whole network: the sum of :func:`layer_macs`."""
    return sum(layer_macs(program).values())


def layer_bops(program: Program) -> dict[str, int]:
    """Bit operations per image of every layer: macs * weight_bits * act_bits.

    weight_bits are the bits per stored code (index, for a codebook) of the layer's weight, 16 or 32 for floats.
    act_bits are those of the quantized edge that the layer reads, seen through ops that only pass values on
    (max pooling, flatten, relu, relu6, identity); 32 where it reads floats.
    """
    return {
        name: count * program.tensors[f"{name}.weight"].bits * input_bits(program, name)
        for name, count in layer_macs(program).items()
    }


def bops(program: Program) -> int:
    """Bit operations per image of the whole network: the sum of :func:`layer_bops`."""
    return sum(layer_bops(program).values())


def input_bits(program: Program, layer: str) -> int:
    """Bits of the activations that ``layer`` reads; 32 where they are floats.

    Raises:
        ValueError: the program has no node of that name.
    """
    nodes = {node.name: node for node in program.nodes}
    if layer not in nodes:
        raise ValueError(f"the program has no node {layer!r}")
    return grid_bits(program, nodes[layer].inputs[0]) or FLOAT32_BITS


def num_parameters(program: Program) -> int:
    """Elements of all tensors but batch norm's running mean and variance, which are not learned by gradients."""
    return sum(
        math.prod(encoding.shape)
        for key, encoding in program.tensors.items()
        if key.rpartition(".")[2] not in _STATISTICS
    )


def effective_parameters(size_bytes: int) -> float:
    """How many 32-bit floats a file of ``size_bytes`` would hold."""
    return size_bytes / FLOAT32_BYTES


def _macs(program: Program, node: Node, found: dict[str, Shape]) -> int:
    weight = program.tensors[f"{node.name}.weight"].shape
    # every output element sums over all axes of the weight but the first
    return math.prod(found[node.name]) * math.prod(weight[1:])
