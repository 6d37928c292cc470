"""Operations on codes against NumPy's int64 and PyTorch's float64, exact here; at the ends of the grids too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qbench.program.integer import matmul
from qbench.program.integer.ops import Concat, Conv2d, Floor, Grid, Linear, Lookup, MaxPool, Multiply, Requantizer
from qbench.quant.requantize import quantize_multiplier

FILLS = ["random", "lowest", "highest", "opposite"]


def filled(shape: tuple[int, ...], lowest: int, highest: int, fill: str, seed: int = 0) -> Tensor:
    """int16 [shape]; "opposite" alternates the ends, so that products differ in sign."""
    if fill == "random":
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(lowest, highest + 1, shape, generator=generator).to(torch.int16)
    if fill == "opposite":
        ends = torch.tensor([lowest, highest], dtype=torch.int16)
        return ends[torch.arange(int(np.prod(shape))) % 2].reshape(shape)
    return torch.full(shape, lowest if fill == "lowest" else highest, dtype=torch.int16)


def images_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 27, 8), (64, 576, 33), (3, 4608, 16)], ids=str)
def test_products_are_exact(shape: tuple[int, int, int], fill: str) -> None:
    rows, inner, columns = shape
    for weight_fill in FILLS:
        a = filled((rows, inner), -128, 127, fill).to(torch.int8)
        b = filled((inner, columns), -128, 127, weight_fill, seed=1).to(torch.int8)
        product = matmul.int8_matmul(a, b)
        assert product.dtype == torch.int32
        np.testing.assert_array_equal(product.numpy(), a.numpy().astype(np.int64) @ b.numpy().astype(np.int64))


def test_a_kernel_that_saturates_is_noticed_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on x86 without VNNI: pairs of products are added in 16 bits."""

    def saturating(a: Tensor, b: Tensor) -> Tensor:
        products = a.to(torch.int32)[:, :, None] * b.to(torch.int32)
        padded = F.pad(products, (0, 0, 0, products.shape[1] % 2))
        pairs = (padded[:, ::2] + padded[:, 1::2]).clamp(-(1 << 15), (1 << 15) - 1)
        return pairs.sum(1, dtype=torch.int32)

    monkeypatch.setattr(torch, "_int_mm", saturating)
    matmul._kernel_is_exact.cache_clear()
    try:
        a = torch.full((2, 6), -128, dtype=torch.int8)
        assert int(saturating(a, a.t())[0, 0]) != 6 * 128 * 128
        assert matmul.int8_matmul(a, a.t()).tolist() == [[6 * 128 * 128] * 2] * 2
        assert not matmul._kernel_is_exact()
    finally:
        matmul._kernel_is_exact.cache_clear()


@pytest.mark.parametrize("ends", [(-127, 127), (-128, 127), (0, 255), (-255, 0), (-7, 7)], ids=str)
def test_weights_are_split_into_int8(ends: tuple[int, int]) -> None:
    weight = filled((40, 30), *ends, "random")
    parts = matmul.int8_parts(weight)
    assert len(parts) == (1 if min(ends) >= -128 and max(ends) <= 127 else 3 if 255 in ends else 2)
    assert all(part.dtype == torch.int8 for part in parts)
    assert torch.equal(sum(part.to(torch.int16) for part in parts), weight)  # type: ignore[arg-type]
    assert len(matmul.int8_parts(torch.zeros(2, 2, dtype=torch.int16))) == 1


CONVOLUTIONS = {
    "plain": (6, 5, 1, (3, 3), {}),
    "one by one": (6, 5, 1, (1, 1), {}),
    "one by one, strided": (6, 5, 1, (1, 1), {"stride": (2, 2)}),
    "padded": (6, 5, 1, (3, 3), {"padding": (1, 1)}),
    "all different": (6, 4, 1, (3, 2), {"stride": (2, 1), "padding": (2, 1), "dilation": (1, 2)}),
    "grey image": (1, 5, 1, (5, 5), {"padding": (2, 2)}),
    "groups": (6, 4, 2, (3, 3), {"padding": (1, 1)}),
    "depthwise": (6, 6, 6, (3, 3), {"padding": (1, 1), "stride": (2, 2)}),
    "depthwise, two outputs each, dilated": (3, 6, 3, (3, 2), {"padding": (1, 1), "dilation": (2, 1)}),
    "many channels": (300, 3, 1, (3, 3), {"padding": (1, 1)}),
}


@pytest.mark.parametrize("reach", [127, 255], ids=["8-bit weights", "9-bit differences"])
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions_are_exact(case: str, fill: str, reach: int) -> None:
    """Sums of at most 2700 products below 2^15 are integers a float64 holds."""
    channels, outputs, groups, kernel, more = CONVOLUTIONS[case]
    attrs = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), **more}
    for weight_fill in FILLS:
        x = filled((2, channels, 7, 6), -128, 127, fill).to(torch.int8)
        weight = filled((outputs, channels // groups, *kernel), -reach, reach, weight_fill, seed=1)
        zero_point = 5
        bias = torch.arange(outputs, dtype=torch.int32) * 1000
        op = Conv2d(
            weight,
            bias,
            zero_point,
            attrs["stride"],
            attrs["padding"],
            attrs["dilation"],
            groups,
            None,
        )
        rows, columns = attrs["padding"]
        padded = F.pad(x.double(), (columns, columns, rows, rows), value=zero_point)
        expected = F.conv2d(padded, weight.double(), bias.double(), attrs["stride"], 0, attrs["dilation"], groups)
        got = op(images_last(x))
        assert got.dtype == torch.int32
        assert torch.equal(got.permute(0, 3, 1, 2).double(), expected)


@pytest.mark.parametrize("fill", FILLS)
def test_linear_layers_are_exact_at_the_end_of_int32(fill: str) -> None:
    """65 000 products of 128 and 255 come within 2 % of 2^31."""
    x, weight = filled((2, 65_000), -128, 127, fill).to(torch.int8), filled((3, 65_000), -255, 255, fill, seed=1)
    got = Linear(weight, torch.tensor([7, 0, -7], dtype=torch.int32), None)(x)
    expected = x.numpy().astype(np.int64) @ weight.numpy().astype(np.int64).T + [7, 0, -7]
    assert fill == "random" or np.abs(expected).max() > 2**30.9
    np.testing.assert_array_equal(got.numpy(), expected)


@pytest.mark.parametrize("ceil_mode", [False, True], ids=["floor", "ceil"])
@pytest.mark.parametrize(
    "kernel, stride, padding",
    [((2, 2), (2, 2), (0, 0)), ((3, 2), (2, 1), (1, 1)), ((3, 3), (3, 3), (1, 0))],
    ids=["halving", "overlapping", "padded"],
)
def test_max_pooling(kernel: tuple, stride: tuple, padding: tuple, ceil_mode: bool) -> None:
    x = filled((2, 3, 8, 7), -128, 127, "random").to(torch.int8)
    expected = F.max_pool2d(x.float(), kernel, stride, padding, ceil_mode=ceil_mode)
    got = MaxPool(kernel, stride, padding, tuple(expected.shape[2:]))(images_last(x))
    assert got.dtype == torch.int8
    assert torch.equal(got.permute(0, 3, 1, 2).float(), expected)


def requantizer(real: float, zero_point: int = 0, qmin: int = -128, qmax: int = 127) -> Requantizer:
    multiplier, right_shift = (torch.tensor(value, dtype=torch.int32) for value in quantize_multiplier(real))
    return Requantizer(multiplier, right_shift, zero_point, qmin, qmax)


def test_products_of_codes() -> None:
    op = Multiply((-128, 100), requantizer(1 / 256, zero_point=-3))
    x, y = torch.tensor([[-128, 127, 0]], dtype=torch.int8), torch.tensor([[-128, -28, 100]], dtype=torch.int8)
    # 0 * -228, 255 * -128 = -127.5 steps (half up: -127), 128 * 0
    assert op(x, y).tolist() == [[-3, -128, -3]]
    assert Multiply((-128, 100), None)(x, y).tolist() == [[0, -32640, 0]]


def test_inputs_of_concat_move_to_the_grid_of_the_output() -> None:
    op = Concat(1, (1, 0), (None, requantizer(0.5, zero_point=1)))
    got = op(torch.tensor([[5, -5]], dtype=torch.int8), torch.tensor([[7, -8]], dtype=torch.int8))
    assert got.tolist() == [[5, -5, 5, -3]] and got.dtype == torch.int8  # 3.5 and -4 steps from 1


def test_tables_and_floors() -> None:
    x = torch.tensor([[-2, 1], [0, -1]], dtype=torch.int8)
    table = torch.tensor([10, 20, 30, 40], dtype=torch.int8)
    assert Lookup(table, -2)(x).tolist() == [[10, 40], [30, 20]]
    assert Floor(-1)(x).tolist() == [[-1, 1], [0, -1]]


def test_a_wide_grid_has_wide_codes() -> None:
    assert requantizer(1.0, qmin=-32767, qmax=32767)(torch.tensor([40_000, 5], dtype=torch.int32)).tolist() == [
        32767,
        5,
    ]
    assert requantizer(1.0)(torch.tensor([5], dtype=torch.int32)).dtype == torch.int8
    assert Grid(1.0, 0, -128, 127) == Grid(1.0, 0, -128, 127)
