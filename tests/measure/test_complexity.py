from dataclasses import replace

import pytest
import torch

from measure.programs import affine_tensor, conv, edge, float_tensor, tiny, vgg16
from qbench.measure.complexity import (
    bops,
    effective_parameters,
    input_bits,
    layer_bops,
    layer_macs,
    macs,
    num_parameters,
)
from qbench.program.encodings import Codebook, Float, Sparse
from qbench.program.graph import Node, Program

CONV_MACS = 4 * 8 * 8 * 3 * 9
FC_MACS = 10 * 64


def test_macs_by_hand() -> None:
    assert layer_macs(tiny()) == {"conv": CONV_MACS, "fc": FC_MACS}
    assert macs(tiny()) == CONV_MACS + FC_MACS


def test_vgg16_on_32x32_images_has_313_million_macs() -> None:
    assert macs(vgg16([10])) == 313_201_664
    assert macs(vgg16([128, 10])) == 313_196_544 + 512 * 128 + 128 * 10


def test_vgg16_parameters_are_the_reported_count() -> None:
    assert num_parameters(vgg16([128, 10])) == 14_781_642


def test_groups_divide_macs() -> None:
    dense = Program((4, 8, 8), (conv("c", "input"),), {"c.weight": float_tensor(4, 4, 3, 3)})
    depthwise = Program((4, 8, 8), (conv("c", "input", groups=4),), {"c.weight": float_tensor(4, 1, 3, 3)})
    assert macs(dense) == 4 * macs(depthwise) == 4 * (4 * 64 * 9)


def test_linear_on_a_grid_of_positions_counts_every_position() -> None:
    program = Program((2, 5, 3), (Node("l", "linear", ("input",)),), {"l.weight": float_tensor(7, 3)})
    assert macs(program) == 2 * 5 * 7 * 3


def test_bops_multiply_both_widths() -> None:
    program = tiny(4, {"input": edge(8), "relu": edge(2)})
    assert layer_bops(program) == {"conv": CONV_MACS * 4 * 8, "fc": FC_MACS * 4 * 2}


def test_doubling_bits_doubles_bops() -> None:
    edges = {"input": edge(4), "relu": edge(4)}
    wide_edges = {"input": edge(8), "relu": edge(8)}
    assert bops(tiny(8, edges)) == 2 * bops(tiny(4, edges))
    assert bops(tiny(4, wide_edges)) == 2 * bops(tiny(4, edges))


def test_unquantized_activations_count_32_bits() -> None:
    assert bops(tiny(8)) == 8 * 32 * (CONV_MACS + FC_MACS)


@pytest.mark.parametrize("quantized", ["conv", "relu", "pool", "flatten"])
def test_value_preserving_ops_are_looked_through(quantized: str) -> None:
    assert input_bits(tiny(8, {quantized: edge(5)}), "fc") == 5


def test_the_nearest_quantized_edge_counts() -> None:
    assert input_bits(tiny(8, {"conv": edge(8), "pool": edge(3)}), "fc") == 3


def test_ops_that_make_new_values_are_not_looked_through() -> None:
    nodes = (
        Node("pool", "avg_pool2d", ("input",), {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0)}),
        conv("c", "pool"),
    )
    program = Program((4, 8, 8), nodes, {"c.weight": float_tensor(4, 4, 3, 3)}, {"input": edge(8)})
    assert input_bits(program, "c") == 32


def test_input_bits_of_an_unknown_layer_are_refused() -> None:
    with pytest.raises(ValueError, match="no node 'conv9'"):
        input_bits(tiny(), "conv9")


def test_weight_bits_are_those_of_the_encoding() -> None:
    nodes = (Node("f", "flatten", ("input",)), Node("l", "linear", ("f",)))
    program = Program((1, 1, 4), nodes, {"l.weight": float_tensor(2, 4)}, {"input": edge(1)})
    mask = torch.tensor([[True, False, False, False], [True, True, False, False]])
    codebook = Codebook(torch.zeros(2, 4, dtype=torch.uint8), Float(torch.zeros(3)), bits=2)
    cases = {
        32: float_tensor(2, 4),
        16: Float(torch.zeros(2, 4, dtype=torch.bfloat16)),
        2: codebook,
        5: Sparse(mask, affine_tensor(5, 3)),  # zeros are not skipped: all 8 products count
    }
    for bits, encoding in cases.items():
        assert bops(program.with_tensors({"l.weight": encoding})) == 8 * bits


def test_parameters_leave_out_running_statistics() -> None:
    tensors = {f"bn.{role}": float_tensor(4) for role in ("weight", "bias", "running_mean", "running_var")}
    assert num_parameters(Program((4, 2, 2), (Node("bn", "batch_norm", ("input",)),), tensors)) == 8


def test_effective_parameters_are_32_bit_equivalents() -> None:
    assert effective_parameters(400) == 100.0
    assert effective_parameters(2) == 0.5


def test_counts_do_not_depend_on_weight_values() -> None:
    program = tiny()
    ones = replace(program, tensors={**program.tensors, "fc.weight": Float(torch.ones(10, 64))})
    assert macs(ones) == macs(program)
