"""What a program costs to run, counted on its graph: multiply-accumulates, bit operations, parameters, activations."""

from __future__ import annotations

import math

from qbench.program.graph import Node, Program
from qbench.program.shapes import Shape, shapes

FLOAT32_BITS = 32
FLOAT32_BYTES = 4
# Ops whose outputs all occur among their inputs' values (relu6 adds its bound): the grid of the input still holds.
_VALUE_PRESERVING = ("max_pool2d", "flatten", "relu", "relu6", "identity")
_VIEWS = ("flatten", "identity")  # ops that need no memory of their own
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
    source = nodes[layer].inputs[0]
    while source not in program.edges:
        if source == Program.INPUT or nodes[source].op not in _VALUE_PRESERVING:
            return FLOAT32_BITS
        source = nodes[source].inputs[0]
    return program.edges[source].bits


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


def activation_high_water_bytes(program: Program, batch_size: int) -> int:
    """Most bytes of float32 activations alive at once when nodes run one by one, in order, each into fresh memory.

    A value lives from the node that makes it (the input: from the start) to its last reader; while a node runs its
    inputs and its output are both alive. flatten and identity are views. Scratch memory of kernels is not counted.

    Raises:
        ValueError: batch_size < 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    owner = {Program.INPUT: Program.INPUT}  # value -> the value whose memory it lives in
    last_use = {Program.INPUT: 0}
    for step, node in enumerate(program.nodes):
        owner[node.name] = owner[node.inputs[0]] if node.op in _VIEWS else node.name
        for name in (*node.inputs, node.name):
            last_use[owner[name]] = step
    last_use[owner[program.nodes[-1].name]] = len(program.nodes)  # the caller keeps the output

    found = shapes(program)
    alive = high_water = math.prod(found[Program.INPUT])
    for step, node in enumerate(program.nodes):
        if owner[node.name] == node.name:
            alive += math.prod(found[node.name])
            high_water = max(high_water, alive)
        alive -= sum(math.prod(found[name]) for name, last in last_use.items() if last == step)
    return high_water * FLOAT32_BYTES * batch_size


def _macs(program: Program, node: Node, found: dict[str, Shape]) -> int:
    weight = program.tensors[f"{node.name}.weight"].shape
    # every output element sums over all axes of the weight but the first
    return math.prod(found[node.name]) * math.prod(weight[1:])
