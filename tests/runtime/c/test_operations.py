"""Every operation in C against the reference executor: bit for bit, at the ends of the grids too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from program.test_lower import BODIES, Network, body_of, quantized
from torch import Tensor

from qbench.program.integer import ops
from qbench.program.integer.network import IntegerNode, IntegerProgram
from qbench.program.lower import lower
from qbench.quant.requantize import requantize
from qbench.runtime.c import to_c

from .building import assert_same, built, chain, factors, random_codes


def integers(*shape: int, reach: int = 127, seed: int = 1, dtype: torch.dtype = torch.int16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-reach, reach + 1, shape, generator=generator).to(dtype)


def conv(
    weight: Tensor,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    pad_value: int = 3,
    out: ops.Requantizer | None = None,
) -> ops.Conv2d:
    bias = integers(len(weight), reach=2000, dtype=torch.int32)
    return ops.Conv2d(weight, bias, pad_value, stride, padding, dilation, groups, out)


def linear(inputs: int, outputs: int = 3) -> ops.Linear:
    return ops.Linear(integers(outputs, inputs), integers(outputs, reach=2000, dtype=torch.int32), None)


@pytest.mark.parametrize("name", BODIES)
def test_networks_of_every_operation(name: str, tmp_path: Path) -> None:
    program = lower(quantized(Network(body_of(name))))
    weights = "blob" if sum(map(ord, name)) % 2 else "arrays"
    assert_same(program, random_codes(program, 40), tmp_path, weights=weights)


CONVOLUTIONS = {
    "one by one": conv(integers(70, 6, 1, 1), padding=(0, 0)),
    "uneven window and stride": conv(integers(8, 6, 3, 2), stride=(2, 3), padding=(2, 1)),
    "padding wider than the image": conv(integers(4, 6, 3, 3), padding=(9, 8), stride=(3, 2)),
    "dilated": conv(integers(4, 6, 3, 3), dilation=(2, 3), padding=(2, 3)),
    "groups": conv(integers(8, 3, 3, 3), groups=2),
    "several outputs per channel": conv(integers(12, 1, 3, 3), groups=6),
    "depthwise": conv(integers(6, 1, 3, 3), groups=6, stride=(2, 1)),
    "depthwise, dilated, no zero point": conv(integers(6, 1, 3, 2), groups=6, dilation=(2, 2), pad_value=0),
    "nine-bit weights": conv(integers(5, 6, 3, 3, reach=255)),
    "nine-bit weights, depthwise": conv(integers(6, 1, 3, 3, reach=255), groups=6),
    "no zero point": conv(integers(5, 6, 3, 3), pad_value=0),
    "lowest pad value": conv(integers(5, 6, 3, 3), pad_value=-128),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("per_channel", [True, False], ids=["per channel", "per tensor"])
def test_convolutions(name: str, per_channel: bool, tmp_path: Path) -> None:
    op = CONVOLUTIONS[name]
    outputs = len(op.weight)
    out = factors(outputs) if per_channel else factors()
    whole = chain((6, 7, 9), replace(op, out=out), ops.Flatten())
    assert_same(whole, random_codes(whole, 24), tmp_path)


def test_a_wide_depthwise_convolution_goes_through_its_channels_in_pieces(tmp_path: Path) -> None:
    """150 channels are two full pieces of 64 and one of 22."""
    op = conv(integers(150, 1, 3, 3), groups=150, out=factors(150, shift=7))
    pool = ops.AveragePool(3, ((0, 2), (1, 4)), ((0, 4),), factors(shift=1))
    program = chain((150, 4, 4), op, pool, ops.Flatten(), linear(300))
    assert_same(program, random_codes(program, 12), tmp_path)


@pytest.mark.parametrize("channels, positions", [(1, 12), (12, 1), (3, 4)], ids=str)
def test_flattening(channels: int, positions: int, tmp_path: Path) -> None:
    """With one channel, or one position, nothing is moved."""
    program = chain((channels, positions, 1), ops.Flatten(), linear(12))
    source = assert_same(program, random_codes(program, 8), tmp_path)
    assert ("qb_flatten" in source.source) == (channels == 3)
    assert source.arena_bytes == (12 if channels == 3 else 0)


SHIFTS = (-31, -30, -8, -1, 0, 1, 12, 31, 32, 63, 100)


@pytest.mark.parametrize("multiplier", [1 << 30, (1 << 31) - 1, 1518500250], ids=str)
def test_requantization_of_any_factor(multiplier: int, tmp_path: Path) -> None:
    """Sums over all of int32, among them its ends and ties; oracle: Python's unbounded integers."""
    count = len(SHIFTS)
    sums = torch.cat([integers(300, reach=1 << 30, dtype=torch.int32) * 2, integers(300, reach=40, dtype=torch.int32)])
    sums = torch.cat([sums, torch.tensor([-(1 << 31), (1 << 31) - 1, 0, 1, -1], dtype=torch.int32)])
    shifts = torch.tensor(SHIFTS, dtype=torch.int32)
    bias = sums.repeat_interleave(count)
    all_shifts = shifts.repeat(len(sums))
    out = ops.Requantizer(torch.full_like(all_shifts, multiplier), all_shifts, -7, -128, 127)
    program = chain((1, 1, 1), ops.Flatten(), ops.Linear(torch.zeros(len(bias), 1, dtype=torch.int16), bias, out))
    found = built(to_c(program, name="net"), tmp_path, len(bias))(torch.ones(1, 1, 1, 1).char())
    expected = [_exact(int(total), multiplier, int(shift)) for total, shift in zip(bias, all_shifts)]
    assert found[0].tolist() == expected
    codes = requantize(bias, out.multiplier, all_shifts, zero_point=-7, qmin=-128, qmax=127)
    assert codes.tolist() == expected


def _exact(total: int, multiplier: int, right_shift: int) -> int:
    shift = 31 + right_shift
    half = (1 << shift) >> 1
    return min(max(((total * multiplier + half) >> shift) - 7, -128), 127)


def joined(op: ops.IntegerOp, first: ops.IntegerOp, second: ops.IntegerOp, *after: ops.IntegerOp) -> IntegerProgram:
    """Two operations on the input, what joins them, and what follows."""
    nodes = [IntegerNode("a", "a", ("input",), first), IntegerNode("b", "b", ("input",), second)]
    nodes.append(IntegerNode("joined", "joined", ("a", "b"), op))
    for index, each in enumerate(after):
        nodes.append(IntegerNode(f"n{index}", f"n{index}", (nodes[-1].name,), each))
    return IntegerProgram((4, 5, 6), ops.Grid(0.05, -2, -128, 127), tuple(nodes), torch.tensor(1.0), 0)


TO_COMMON = (factors(zero_point=0, shift=1, low=-(1 << 31), high=(1 << 31) - 1, seed=2),) * 2
JOINING = {
    "add": ops.Add((4, -9), TO_COMMON, 20, factors(shift=19)),
    "add at the ends": ops.Add((-128, 127), TO_COMMON, 20, factors(shift=20)),
    "multiply": ops.Multiply((4, -9), factors(shift=7)),
}


@pytest.mark.parametrize("rows, columns", [(5, 6), (1, 1), (1, 6), (5, 1)], ids=str)
@pytest.mark.parametrize("name", JOINING)
def test_sums_and_products_of_images_repeat_what_is_one_wide(
    name: str, rows: int, columns: int, tmp_path: Path
) -> None:
    whole = conv(integers(4, 4, 1, 1), padding=(0, 0), out=factors(4, shift=7))
    every = {5: tuple((i, i + 1) for i in range(5)), 6: tuple((i, i + 1) for i in range(6))}
    pool = ops.AveragePool(-2, every.get(rows, ((0, 5),)), every.get(columns, ((0, 6),)), factors(shift=2))
    for index, (first, second) in enumerate(((whole, pool), (pool, whole))):
        program = joined(JOINING[name], first, second, ops.Flatten())
        assert_same(program, random_codes(program, 10), tmp_path / str(index))


@pytest.mark.parametrize("dim", [1, 2, 3], ids=["rows", "columns", "channels"])
def test_images_side_by_side(dim: int, tmp_path: Path) -> None:
    one = conv(integers(4, 4, 1, 1), padding=(0, 0), out=factors(4, shift=7))
    sizes = {1: (1, 3, 1, 1), 2: (3, 1, 1, 1), 3: (3, 3, 1, 1)}[dim]  # what a window leaves along each axis
    window = conv(integers(4, 4, 3, 3), padding=(0, 0), out=factors(4, shift=9))
    second: ops.IntegerOp = replace(one, weight=integers(2, 4, 1, 1), bias=one.bias[:2], out=factors(2, shift=7))
    if dim != 3:
        second = replace(window, weight=integers(4, 4, 4 - sizes[0], 4 - sizes[1]))
    move = factors(shift=0)
    for index, moves in enumerate(((None, move), (move, None), (None, None))):
        program = joined(ops.Concat(dim, (3, -6), moves), one, second, ops.Flatten())
        assert_same(program, random_codes(program, 10), tmp_path / str(index))


@pytest.mark.parametrize("dim", [1, -1])
def test_vectors_side_by_side(dim: int, tmp_path: Path) -> None:
    nodes = [
        IntegerNode("flat", "flat", ("input",), ops.Flatten()),
        IntegerNode("a", "a", ("flat",), replace(linear(120, 5), out=factors(5, shift=8))),
        IntegerNode("both", "both", ("flat", "a"), ops.Concat(dim, (3, -6), (None, factors(shift=0)))),
        IntegerNode("last", "last", ("both",), linear(125)),
    ]
    program = IntegerProgram((4, 5, 6), ops.Grid(0.05, 3, -128, 127), tuple(nodes), torch.tensor(1.0), 0)
    assert_same(program, random_codes(program, 10), tmp_path)


def test_pooling_with_factors_of_each_position(tmp_path: Path) -> None:
    windows = ((0, 2), (1, 5)), ((0, 1), (1, 4), (3, 6))
    program = chain((5, 5, 6), ops.AveragePool(-100, *windows, factors(2, 3, 1, shift=2)), ops.Flatten())
    assert_same(program, random_codes(program, 10), tmp_path)


@pytest.mark.parametrize(
    "pool",
    [
        ops.MaxPool((2, 2), (2, 2), (0, 0), (2, 3)),
        ops.MaxPool((3, 2), (2, 1), (1, 1), (3, 7)),
        ops.MaxPool((3, 3), (2, 2), (0, 0), (3, 3)),
    ],
    ids=["plain", "padded", "beyond the edge"],
)
def test_max_pooling(pool: ops.MaxPool, tmp_path: Path) -> None:
    program = chain((3, 5, 6), pool, ops.Flatten())
    assert_same(program, random_codes(program, 10), tmp_path)


def test_an_output_of_codes_is_handed_out_less_its_zero_point(tmp_path: Path) -> None:
    program = replace(chain((2, 2, 3), ops.Flatten(), ops.Floor(-20)), output_zero_point=-20)
    source = assert_same(program, random_codes(program, 10), tmp_path)
    assert "qb_widen(12, -20," in source.source


def test_tables_of_codes(tmp_path: Path) -> None:
    """A 4-bit grid: the table has 16 entries, and codes beyond it never occur."""
    table = ops.Lookup(integers(16, dtype=torch.int8), -8)
    program = chain((2, 2, 3), table, ops.Flatten(), grid=ops.Grid(0.1, 1, -8, 7))
    assert_same(program, random_codes(program, 10), tmp_path)
