"""The energy model against sums done by hand from the published table."""

from dataclasses import replace

import pytest
import torch

from measure.programs import affine_tensor, edge, float_tensor, tiny
from qbench.measure.energy import NodeEnergy, energy_modelled_uJ, energy_table, node_energies, operand_bits
from qbench.program.encodings import Affine, Codebook, Encoding, Float, Sparse
from qbench.program.graph import Node, Program

TABLE = energy_table()


def test_the_constants_are_those_of_the_table() -> None:
    assert (TABLE.add_pJ(8), TABLE.add_pJ(32)) == (0.03, 0.1)
    assert (TABLE.multiply_pJ(8, 8), TABLE.multiply_pJ(32, 32)) == (0.2, 3.1)
    assert (TABLE.float32_add, TABLE.float32_multiply) == (0.9, 3.7)
    assert [64 * memory.pJ_per_bit for memory in TABLE.memories] == [10, 20, 100, 1300]  # per 64-bit access
    assert [memory.bytes for memory in TABLE.memories] == [8 << 10, 32 << 10, 1 << 20, None]
    assert TABLE.main_memory.name == "DRAM" and TABLE.name == "45nm-v1"


@pytest.mark.parametrize(
    ("bits", "pJ"),
    [((4, 8), 0.1), ((1, 8), 0.025), ((2, 2), 0.0125), ((16, 16), 0.2 + 2.9 * (256 - 64) / (1024 - 64))],
    ids=str,
)
def test_a_multiplication_follows_the_product_of_the_widths(bits: tuple[int, int], pJ: float) -> None:
    assert TABLE.multiply_pJ(*bits) == TABLE.multiply_pJ(*reversed(bits)) == pytest.approx(pJ, rel=1e-12)


def test_an_addition_follows_the_width() -> None:
    assert TABLE.add_pJ(4) == pytest.approx(0.015)
    assert TABLE.add_pJ(20) == pytest.approx((0.03 + 0.1) / 2)  # halfway between 8 and 32
    assert TABLE.add_pJ(56) == pytest.approx(0.17)  # the last piece goes on


def test_one_float_operand_makes_it_a_float_operation() -> None:
    assert TABLE.mac_pJ(8, 8) == pytest.approx(0.2 + 0.1)  # products of 8 x 8 bits, sums of 32
    for operands in ((None, None), (4, None), (None, 8)):
        assert TABLE.mac_pJ(*operands) == pytest.approx(4.6)


@pytest.mark.parametrize(
    ("num_bytes", "pJ"), [(1, 10), (8192, 10), (8193, 20), (32768, 20), (1 << 20, 100), ((1 << 20) + 1, 1300)]
)
def test_the_smallest_memory_that_holds_it(num_bytes: int, pJ: float) -> None:
    assert 64 * TABLE.memory_for(num_bytes).pJ_per_bit == pJ


def test_two_layers_by_hand() -> None:
    """conv 3->4@3x3 - relu - max pool 2 - flatten - linear 64->10 on 3x8x8; weights of 4 bits, activations of 8.

    Multiply-accumulates of the convolution: 4 x 8 x 8 outputs of 3 x 9 products = 6912, each of 4 x 8 bits and summed
    in 32: 0.2 x 32/64 + 0.1 = 0.2 pJ, so 1382.4 pJ. Of the linear layer 640 x 0.2 = 128 pJ.
    Weights from DRAM, 1300 pJ per 64 bits: 54 bytes of codes and 16 of biases are 560 bits, 11375 pJ; the linear
    layer's 320 bytes are 2560 bits, 52000 pJ.
    Activations: at most 192 + 256 bytes at once, which 8 KiB hold at 10 pJ per 64 bits. The convolution reads 192 and
    writes 256 bytes (the relu works in place), 3584 bits, 560 pJ. The pool reads 256 and writes 64, 2560 bits, 400 pJ.
    The linear layer reads 64 bytes and writes 10 floats, 832 bits, 130 pJ.
    Together 13317.4 + 400 + 52258 = 65975.4 pJ.
    """
    program = tiny(4, {"input": edge(8), "relu": edge(8)})
    stored = {"conv.weight": 54, "conv.bias": 16, "fc.weight": 320}
    found = node_energies(program, stored)
    expected = {
        "conv": NodeEnergy(1382.4, 11375.0, 560.0),
        "relu": NodeEnergy(0.0, 0.0, 0.0),
        "pool": NodeEnergy(0.0, 0.0, 400.0),
        "flatten": NodeEnergy(0.0, 0.0, 0.0),
        "fc": NodeEnergy(128.0, 52000.0, 130.0),
    }
    assert list(found) == list(expected)
    for name, energy in expected.items():
        assert vars(found[name]) == pytest.approx(vars(energy), rel=1e-12)
    assert energy_modelled_uJ(program, stored) == pytest.approx(0.0659754, rel=1e-12)


def test_float_edges_are_float_operations_and_float_traffic() -> None:
    """The same network, weights alone quantized: 4.6 pJ for each of 6912 products, 32 bits for every activation."""
    found = node_energies(tiny(4), {"conv.weight": 54, "conv.bias": 16, "fc.weight": 320})
    assert vars(found["conv"]) == pytest.approx(vars(NodeEnergy(6912 * 4.6, 11375.0, 4 * 560.0)), rel=1e-12)
    assert found["fc"].compute_pJ == pytest.approx(640 * 4.6)
    assert found["fc"].activations_pJ == pytest.approx((64 + 10) * 32 * 10 / 64)


def test_fewer_stored_bytes_save_weight_traffic_alone() -> None:
    program = tiny(4, {"input": edge(8), "relu": edge(8)})
    more, less = ({"conv.weight": size, "conv.bias": 16, "fc.weight": 320} for size in (54, 30))
    saved = energy_modelled_uJ(program, more) - energy_modelled_uJ(program, less)
    assert saved == pytest.approx(24 * 8 * 1300 / 64 / 1e6)


def test_activations_that_do_not_fit_move_to_a_larger_memory() -> None:
    nodes = (Node("pool", "max_pool2d", ("input",), {"kernel_size": (1, 1), "stride": (1, 1), "padding": (0, 0)}),)
    for side, pJ in ((32, 10), (33, 20), (400, 1300)):  # two values of side x side floats
        program = Program((1, side, side), nodes, {})
        assert node_energies(program, {})["pool"].activations_pJ == pytest.approx(2 * side * side * 32 * pJ / 64)


def test_operands_are_codes_or_centroids() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    int8_centroids = affine_tensor(8, 4)
    indices = torch.zeros(2, 2, dtype=torch.uint8)
    cases: dict[str, tuple[Encoding, int | None]] = {
        "float": (float_tensor(2, 2), None),
        "half": (Float(torch.zeros(2, 2, dtype=torch.float16)), None),
        "affine": (affine_tensor(3, 2, 2), 3),
        "codebook": (Codebook(indices, Float(torch.zeros(4)), bits=2), None),
        "snapped": (Codebook(indices, int8_centroids, bits=2), 8),
        "sparse": (Sparse(mask, affine_tensor(5, 3)), 5),
        "sparse float": (Sparse(mask, float_tensor(3)), None),
    }
    assert {name: operand_bits(encoding) for name, (encoding, _) in cases.items()} == {
        name: bits for name, (_, bits) in cases.items()
    }


def test_energy_does_not_depend_on_weight_values() -> None:
    program = tiny()
    weight = program.tensors["fc.weight"]
    assert isinstance(weight, Affine)
    other = program.with_tensors({"fc.weight": replace(weight, codes=weight.codes + 1)})
    assert node_energies(program, {}) == node_energies(other, {})
