"""Modelled energy of one inference: what its operations and its memory traffic would cost in a 45 nm process.

    energy = sum over layers  MACs * (multiply + add)       at the bits of weights and activations
           + sum over tensors  bytes in the file            read once from DRAM
           + sum over nodes    activations read + written   in the smallest memory that holds them all

It is a model, of no machine in particular: good for comparing networks, not for planning a battery. What it leaves
out is the same for all: requantization, biases, activation functions, pooling arithmetic, control, leakage; entropy
coding counts as the bytes it leaves. Every value is read and written once per node that uses it (kernels reuse what
they have read), elementwise ops are fused with what makes their input. Zeros of sparse weights are multiplied like any
other weight. For measured energy see :mod:`qbench.measure.rapl`; the two are never mixed.

Source: M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, Fig. 1.1.9; the numbers are
in ``energy_45nm.yaml`` beside this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import yaml

from qbench.measure.activations import activation_bytes_peak, grid_bits, storage, stored_bits
from qbench.measure.complexity import layer_macs
from qbench.program.encodings import Affine, Codebook, Encoding, Sparse
from qbench.program.graph import Node, Program

_CONSTANTS = Path(__file__).with_name("energy_45nm.yaml")
PICO_PER_MICRO = 1e6


@dataclass(frozen=True)
class Memory:
    """A memory of the table: capacity in bytes (None: unbounded) and pJ per bit moved."""

    name: str
    bytes: int | None
    pJ_per_bit: float


@dataclass(frozen=True)
class EnergyTable:
    """The constants, in pJ; see ``energy_45nm.yaml``.

    Args:
        version: Of the constants.
        integer_add: (bits of the operands, pJ), narrowest first.
        integer_multiply: The same.
        float32_add: pJ.
        float32_multiply: pJ.
        accumulator_bits: Width of integer sums.
        memories: Smallest first; the last one is unbounded.
    """

    version: int
    integer_add: tuple[tuple[int, float], ...]
    integer_multiply: tuple[tuple[int, float], ...]
    float32_add: float
    float32_multiply: float
    accumulator_bits: int
    memories: tuple[Memory, ...]

    @property
    def name(self) -> str:
        """How records call the model."""
        return f"45nm-v{self.version}"

    def add_pJ(self, bits: int) -> float:
        """An integer addition: linear in the width, through the table's points and zero."""
        return _interpolate(bits, self.integer_add)

    def multiply_pJ(self, weight_bits: int, act_bits: int) -> float:
        """An integer multiplication: linear in the product of the widths, through the table's points and zero.

        An array multiplier has one cell per pair of bits: 8 x 8 bits cost 0.2 pJ, so 4 x 8 cost 0.1 and 1 x 8 0.025.
        """
        return _interpolate(weight_bits * act_bits, tuple((bits * bits, pJ) for bits, pJ in self.integer_multiply))

    def mac_pJ(self, weight_bits: int | None, act_bits: int | None) -> float:
        """One multiply-accumulate; None stands for floats, and one float operand makes it a float32 operation."""
        if weight_bits is None or act_bits is None:
            return self.float32_multiply + self.float32_add
        return self.multiply_pJ(weight_bits, act_bits) + self.add_pJ(self.accumulator_bits)

    def memory_for(self, num_bytes: int) -> Memory:
        """The smallest memory that holds so many bytes."""
        return next(memory for memory in self.memories if memory.bytes is None or num_bytes <= memory.bytes)

    @property
    def main_memory(self) -> Memory:
        """Where weights are read from."""
        return self.memories[-1]


@dataclass(frozen=True)
class NodeEnergy:
    """Energy of one node for one image, in pJ: its multiply-accumulates, its tensors, its activations."""

    compute_pJ: float
    weights_pJ: float
    activations_pJ: float

    @property
    def total_pJ(self) -> float:
        return self.compute_pJ + self.weights_pJ + self.activations_pJ


@cache
def energy_table() -> EnergyTable:
    """The constants that come with qbench."""
    content = yaml.safe_load(_CONSTANTS.read_text(encoding="utf-8"))
    access_bits = content["access_bits"]
    return EnergyTable(
        version=content["version"],
        integer_add=tuple(sorted(content["integer_add"].items())),
        integer_multiply=tuple(sorted(content["integer_multiply"].items())),
        float32_add=content["float32_add"],
        float32_multiply=content["float32_multiply"],
        accumulator_bits=content["accumulator_bits"],
        memories=tuple(Memory(m["name"], m["bytes"], m["access_pJ"] / access_bits) for m in content["memories"]),
    )


def node_energies(program: Program, stored_bytes: Mapping[str, int]) -> dict[str, NodeEnergy]:
    """Modelled energy of every node for one image, in execution order. See the module for the model.

    Args:
        program: Any program.
        stored_bytes: Tensor name -> its bytes in the file (:func:`qbench.artifact.size_report`), all tensors.
    """
    table = energy_table()
    macs, owner = layer_macs(program), storage(program)
    sizes = stored_bits(program, owner)
    on_chip = table.memory_for(activation_bytes_peak(program))
    tensors: dict[str, int] = {}
    for key, num_bytes in stored_bytes.items():
        name = key.rpartition(".")[0]
        tensors[name] = tensors.get(name, 0) + 8 * num_bytes
    energies = {}
    for node in program.nodes:
        per_mac = 0.0
        if node.name in macs:
            weight = program.tensors[f"{node.name}.weight"]
            per_mac = table.mac_pJ(operand_bits(weight), grid_bits(program, node.inputs[0]))
        energies[node.name] = NodeEnergy(
            compute_pJ=macs.get(node.name, 0) * per_mac,
            weights_pJ=tensors.get(node.name, 0) * table.main_memory.pJ_per_bit,
            activations_pJ=_moved_bits(node, owner, sizes) * on_chip.pJ_per_bit,
        )
    return energies


def energy_modelled_uJ(program: Program, stored_bytes: Mapping[str, int]) -> float:
    """Modelled energy of one inference of one image, in microjoules: the sum of :func:`node_energies`."""
    return sum(energy.total_pJ for energy in node_energies(program, stored_bytes).values()) / PICO_PER_MICRO


def operand_bits(weight: Encoding) -> int | None:
    """Bits of the integers a weight is multiplied as; None where it is multiplied as floats.

    Uniform codes are multiplied as they are; of a codebook it is the centroids that are, not the indices.
    """
    if isinstance(weight, Sparse):
        return operand_bits(weight.inner)
    if isinstance(weight, Codebook):
        return operand_bits(weight.centroids)
    return weight.bits if isinstance(weight, Affine) else None


def _moved_bits(node: Node, owner: Mapping[str, str], sizes: Mapping[str, int]) -> int:
    """Bits a node reads and writes; those that work in place (views, fused ops) move nothing of their own."""
    if owner[node.name] != node.name:
        return 0
    return sizes[node.name] + sum(sizes[owner[name]] for name in node.inputs)


def _interpolate(x: float, points: tuple[tuple[int, float], ...]) -> float:
    """The piecewise linear function through zero and the points; beyond the last one its last piece goes on."""
    found = 0.0
    for (x0, y0), (x1, y1) in pairwise(((0, 0.0), *points)):
        found = y0 + (y1 - y0) * (x - x0) / (x1 - x0)
        if x <= x1:
            break
    return found
