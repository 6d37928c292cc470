"""Activations: which values get memory, at how many bits, how much of it at once. All numbers by hand."""

import pytest

from measure.programs import conv, edge, float_tensor, tiny
from qbench.measure.activations import (
    activation_bytes_peak,
    activation_high_water_bytes,
    grid_bits,
    storage,
    stored_bits,
)
from qbench.program.graph import Node, Program

# --- as eager PyTorch holds them: float32, every op its own output


def test_high_water_of_a_chain_is_its_fullest_pair() -> None:
    # conv: 192 in + 256 out = 448; relu: 256 + 256 = 512; pool: 256 + 64; fc: 64 + 10 (flatten is a view)
    assert activation_high_water_bytes(tiny(), 1) == 512 * 4
    assert activation_high_water_bytes(tiny(), 16) == 512 * 4 * 16


def test_high_water_keeps_a_shortcut_alive() -> None:
    chain = (Node("a", "relu", ("input",)), Node("b", "relu", ("a",)), Node("c", "relu", ("b",)))
    residual = (*chain, Node("sum", "add", ("c", "input")))
    assert activation_high_water_bytes(Program((1, 2, 2), chain, {}), 1) == 2 * 4 * 4
    # while b or c runs: its input, its output and the network's input
    assert activation_high_water_bytes(Program((1, 2, 2), residual, {}), 1) == 3 * 4 * 4


def test_high_water_follows_views() -> None:
    nodes = (
        Node("a", "relu", ("input",)),
        Node("view", "flatten", ("a",)),
        Node("b", "relu", ("view",)),
        Node("c", "relu", ("b",)),
        Node("sum", "add", ("c", "view")),  # keeps a's memory alive through its view
    )
    assert activation_high_water_bytes(Program((1, 2, 2), nodes, {}), 1) == 3 * 4 * 4


def test_a_view_needs_no_memory_of_its_own() -> None:
    nodes = (
        conv("c", "input", padding=(0, 0)),
        Node("view", "flatten", ("c",)),
        Node("fc", "linear", ("view",)),
    )
    tensors = {"c.weight": float_tensor(8, 1, 1, 1), "fc.weight": float_tensor(2, 8)}
    assert activation_high_water_bytes(Program((1, 1, 1), nodes, tensors), 1) == (8 + 2) * 4


def test_high_water_frees_an_output_nobody_reads() -> None:
    nodes = (Node("dead", "relu", ("input",)), Node("a", "relu", ("input",)), Node("b", "relu", ("a",)))
    assert activation_high_water_bytes(Program((1, 2, 2), nodes, {}), 1) == 2 * 4 * 4


def test_high_water_refuses_an_empty_batch() -> None:
    with pytest.raises(ValueError, match="batch_size"):
        activation_high_water_bytes(tiny(), 0)


# --- deployed: elementwise ops in place, edges at their bits


def test_an_activation_works_in_the_memory_of_its_layer() -> None:
    assert storage(tiny()) == {
        **{"input": "input", "conv": "conv", "relu": "conv", "pool": "pool", "flatten": "pool", "fc": "fc"}
    }
    # elements: 192 in, 256 conv + relu, 64 pool + flatten, 10 fc
    assert stored_bits(tiny(), storage(tiny())) == {
        **{"input": 192 * 32, "conv": 256 * 32, "pool": 64 * 32, "fc": 10 * 32}
    }
    assert activation_bytes_peak(tiny()) == (192 + 256) * 4


def test_edges_count_at_their_bits() -> None:
    program = tiny(8, {"input": edge(8), "relu": edge(4)})
    assert [grid_bits(program, name) for name in ("input", "conv", "relu", "pool", "flatten", "fc")] == [
        *(8, None, 4, 4, 4, None)
    ]
    assert stored_bits(program, storage(program)) == {"input": 192 * 8, "conv": 256 * 4, "pool": 64 * 4, "fc": 10 * 32}
    assert activation_bytes_peak(program) == 192 + 128  # 192 bytes of images, 256 values of half a byte


def test_a_part_of_a_byte_is_a_byte() -> None:
    nodes = (Node("pool", "max_pool2d", ("input",), {"kernel_size": (1, 1), "stride": (1, 1), "padding": (0, 0)}),)
    assert activation_bytes_peak(Program((1, 1, 3), nodes, {}, {"input": edge(3)})) == 2 + 2  # 9 bits each


def test_nothing_overwrites_what_is_read_elsewhere() -> None:
    nodes = (
        conv("c", "input"),
        Node("a", "relu", ("c",)),  # the sum reads c too
        Node("sum", "add", ("a", "c")),
        Node("last", "relu", ("sum",)),
    )
    program = Program((4, 2, 2), nodes, {"c.weight": float_tensor(4, 4, 3, 3)})
    assert storage(program) == {"input": "input", "c": "c", "a": "a", "sum": "sum", "last": "sum"}
    assert activation_bytes_peak(program) == 3 * 16 * 4  # c, a and the sum


def test_nothing_overwrites_the_images() -> None:
    nodes = (Node("flat", "flatten", ("input",)), Node("a", "relu", ("flat",)), Node("b", "relu", ("a",)))
    assert storage(Program((1, 2, 2), nodes, {})) == {"input": "input", "flat": "input", "a": "a", "b": "a"}


def test_nothing_overwrites_what_a_view_of_it_shares_with_others() -> None:
    nodes = (
        conv("c", "input"),
        Node("view", "identity", ("c",)),
        Node("a", "relu", ("view",)),
        Node("sum", "add", ("a", "c")),
    )
    program = Program((1, 2, 2), nodes, {"c.weight": float_tensor(1, 1, 3, 3)})
    assert storage(program) == {"input": "input", "c": "c", "view": "c", "a": "a", "sum": "sum"}
