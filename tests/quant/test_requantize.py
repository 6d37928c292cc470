"""Integer rescaling against Python's own integers and fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qbench.quant.requantize import (
    INT32_MAX,
    INT32_MIN,
    bias_scale,
    encode_bias,
    quantize_multiplier,
    quantize_multipliers,
    requantize,
)

HALF = 1 << 30  # the multiplier of a power of two


def int32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def rescaled(acc: int, multiplier: int, right_shift: int) -> int:
    """Round half up of the exact product."""
    return math.floor(Fraction(acc) * multiplier / Fraction(2) ** (31 + right_shift) + Fraction(1, 2))


def requantized(acc: list[int], multiplier: int, right_shift: int, **more: int) -> list[int]:
    return requantize(int32(*acc), int32(multiplier)[0], int32(right_shift)[0], **more).tolist()


@pytest.mark.parametrize(
    "real, multiplier, right_shift",
    [
        (0.5, HALF, 0),
        (0.75, 3 << 29, 0),
        (1.0, HALF, -1),
        (3.0, 3 << 29, -2),
        (2.0**-40, HALF, 39),
        (1 / 3, 1431655765, 1),  # 2/3 of 2^31 is 1431655765.33
        (0.1, 1717986918, 3),  # 0.8 of 2^31 is 1717986918.4
        (1 - 2.0**-33, HALF, -1),  # rounds up to 2^31, which is renormalised
        (1 - 2.0**-31, INT32_MAX, 0),  # the largest multiplier
        (1 - 2.0**-32, HALF, -1),  # a tie between the two, up
        (2.0**31 * (1 - 2.0**-20), (1 << 31) - (1 << 11), -31),
        (5e-324, HALF, 1073),  # the smallest double
    ],
    ids=repr,
)
def test_multipliers_by_hand(real: float, multiplier: int, right_shift: int) -> None:
    assert quantize_multiplier(real) == (multiplier, right_shift)


@given(st.floats(1e-30, 2.0**30))
def test_a_multiplier_is_as_near_as_31_bits_come(real: float) -> None:
    multiplier, right_shift = quantize_multiplier(real)
    assert HALF <= multiplier <= INT32_MAX
    error = abs(Fraction(multiplier) / Fraction(2) ** (31 + right_shift) - Fraction(real))
    assert error <= Fraction(real) / 2**31


@pytest.mark.parametrize("real", [0.0, -1.0, math.inf, math.nan, 2.0**31, 2.0**31 * (1 - 2.0**-33)], ids=repr)
def test_factors_without_a_multiplier_are_refused(real: float) -> None:
    with pytest.raises(ValueError, match="the factor between two grids is"):
        quantize_multiplier(real)


def test_multipliers_of_a_tensor_keep_its_shape() -> None:
    multiplier, right_shift = quantize_multipliers(torch.tensor([[0.5, 0.75], [1.0, 0.1]], dtype=torch.float64))
    assert multiplier.tolist() == [[HALF, 3 << 29], [HALF, 1717986918]]
    assert right_shift.tolist() == [[0, 0], [-1, 3]]
    assert quantize_multipliers(torch.tensor(0.5, dtype=torch.float64))[0].shape == ()


@pytest.mark.parametrize(
    "acc, multiplier, right_shift, expected",
    [
        ([3, 1, -1, -3, 0, 2, -2], HALF, 0, [2, 1, 0, -1, 0, 1, -1]),  # halves go up: 1.5, 0.5, -0.5, -1.5
        ([2, -2, 6, -6], HALF, 1, [1, 0, 2, -1]),  # quarters: 0.5, -0.5, 1.5, -1.5
        ([1, -1, 5], HALF, -1, [1, -1, 5]),  # a factor of one
        ([1, -1, 5], HALF, -3, [4, -4, 20]),
        ([INT32_MAX, INT32_MIN], HALF, 0, [1 << 30, -(1 << 30)]),
        ([INT32_MAX, INT32_MIN], INT32_MAX, 0, [INT32_MAX - 1, INT32_MIN + 1]),
        ([INT32_MAX, INT32_MIN], HALF, -2, [INT32_MAX, INT32_MIN]),  # saturates
        ([INT32_MAX, INT32_MIN], INT32_MAX, 31, [1, -1]),  # products of 62 bits, by 2^62
    ],
    ids=["ties", "ties of quarters", "one", "four", "half the ends", "the ends", "saturation", "62 bits"],
)
def test_requantized_by_hand(acc: list[int], multiplier: int, right_shift: int, expected: list[int]) -> None:
    assert requantized(acc, multiplier, right_shift) == expected


@settings(deadline=None)  # the first call warms torch up
@given(
    st.lists(st.integers(INT32_MIN, INT32_MAX), min_size=1, max_size=8),
    st.integers(HALF, INT32_MAX),
    st.integers(-31, 1100),
)
def test_requantization_is_exact(acc: list[int], multiplier: int, right_shift: int) -> None:
    expected = [min(max(rescaled(one, multiplier, right_shift), INT32_MIN), INT32_MAX) for one in acc]
    assert requantized(acc, multiplier, right_shift) == expected


@pytest.mark.parametrize("right_shift", [30, 31, 32, 33, 100, 1100])
def test_large_shifts_leave_nothing_but_the_rounding(right_shift: int) -> None:
    acc = [INT32_MIN, INT32_MIN + 1, -1, 0, 1, INT32_MAX]
    for multiplier in (HALF, INT32_MAX):
        assert requantized(acc, multiplier, right_shift) == [rescaled(a, multiplier, right_shift) for a in acc]


def test_codes_saturate_at_the_grid_around_their_zero_point() -> None:
    acc = [-1000, -277, -275, 0, 230, 231, 1000]
    assert requantized(acc, HALF, 0, zero_point=10, qmin=-128, qmax=127) == [-128, -128, -127, 10, 125, 126, 127]
    assert requantized(acc, HALF, 0, zero_point=10, qmin=10, qmax=127) == [10, 10, 10, 10, 125, 126, 127]  # a ReLU


def test_each_channel_has_its_own_multiplier() -> None:
    multiplier, right_shift = quantize_multipliers(torch.tensor([0.5, 0.25, 4.0], dtype=torch.float64))
    acc = int32(*range(8), *range(-8, 8)).reshape(8, 3)
    expected = [[rescaled(a, HALF, s) for a, s in zip(row, (0, 1, -3))] for row in acc.tolist()]
    result = requantize(acc, multiplier, right_shift)
    assert result.tolist() == expected and result.dtype == torch.int32


def test_requantize_leaves_its_argument_alone_and_takes_sums_only() -> None:
    acc = int32(5, -5)
    requantize(acc, int32(HALF)[0], int32(0)[0])
    assert acc.tolist() == [5, -5]
    with pytest.raises(ValueError, match=r"sums must be int32, not torch\.int64"):
        requantize(torch.tensor([5]), int32(HALF)[0], int32(0)[0])


def test_a_bias_is_counted_in_the_unit_of_the_sums() -> None:
    codes = torch.tensor([[1, -2], [3, 4]], dtype=torch.int8)
    scale = torch.tensor([0.5, 0.25])
    bias, same, unit = encode_bias(torch.tensor([1.0, -0.3]), 0.125, codes, scale)
    assert bias.tolist() == [16, -10] and bias.dtype == torch.int32  # 1 / 0.0625; -0.3 / 0.03125 = -9.6
    assert torch.equal(same, codes) and same.dtype == torch.int8
    assert torch.equal(unit, scale)
    assert bias_scale(0.125, scale).tolist() == [0.0625, 0.03125]


@pytest.mark.parametrize("per_tensor", [True, False], ids=["per tensor", "per channel"])
def test_a_bias_that_would_not_fit_makes_its_channel_coarser(per_tensor: bool) -> None:
    codes = torch.tensor([[100, -127], [100, 64]], dtype=torch.int8)
    scale = torch.tensor(2.0**-40) if per_tensor else torch.tensor([2.0**-40, 0.25])
    bias, coarser, unit = encode_bias(torch.tensor([1.0, 0.5]), 0.5, codes, scale)
    factor = float(unit.flatten()[0]) / 2.0**-40
    assert factor == 2.0**11 and int(bias[0]) == 1 << 30  # 2^41 units, 2^30 of the coarser ones
    assert coarser[0].tolist() == [0, 0]
    assert coarser[1].tolist() == ([0, 0] if per_tensor else [100, 64])
    torch.testing.assert_close(bias.double() * unit.double() * 0.5, torch.tensor([1.0, 0.5], dtype=torch.float64))


def test_units_stay_normal_numbers() -> None:
    assert bias_scale(1e-30, torch.tensor(1e-30)).item() == torch.finfo(torch.float32).tiny
