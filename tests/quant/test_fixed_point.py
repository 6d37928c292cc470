"""Fixed-point formats: by hand, and their choice against an exhaustive search."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qbench.quant.fixed_point import FixedPoint, finer, holding, least_error, signal_to_noise_db, with_integer_bits


def test_the_parts_of_a_format() -> None:
    one = FixedPoint(8, 1)  # a sign, six bits before the point and one behind it
    assert (str(one), one.integer_bits, one.scale, one.qmin, one.qmax) == ("Q6.1", 6, 0.5, -128, 127)
    assert with_integer_bits(8, 6) == one
    assert str(FixedPoint(8, 10)) == "Q-3.10"
    assert FixedPoint(4, -2).scale == 4.0


def test_values_are_rounded_and_saturate() -> None:
    x = torch.tensor([0.2, 0.3, -0.3, 63.4, 63.6, 100.0, -64.0, -90.0])
    assert FixedPoint(8, 1).simulate(x).tolist() == [0.0, 0.5, -0.5, 63.5, 63.5, 63.5, -64.0, -64.0]
    assert FixedPoint(8, 1).squared_error(torch.tensor([0.25, 64.5])) == 0.0625 + 1.0


@pytest.mark.parametrize(
    "largest, bits, expected",
    [
        (63.5, 8, "Q6.1"),
        (63.6, 8, "Q7.0"),
        (1.0, 8, "Q1.6"),
        (127 / 128, 8, "Q0.7"),
        (0.01, 8, "Q-6.13"),
        (1000.0, 8, "Q10.-3"),
        (0.0, 8, "Q0.7"),
        (1.0, 1, "Q0.0"),
        (3.0, 2, "Q3.-2"),  # the codes are -2..1
        (1.0, 16, "Q1.14"),
    ],
    ids=repr,
)
def test_the_finest_format_that_holds_a_value(largest: float, bits: int, expected: str) -> None:
    assert str(holding(largest, bits)) == expected


@given(st.floats(1e-30, 1e30), st.integers(2, 16))
def test_nothing_finer_would_hold_it(largest: float, bits: int) -> None:
    found = holding(largest, bits)
    assert found.qmax * found.scale >= largest
    assert found.qmax * found.scale / 2 < largest


@pytest.mark.parametrize("largest", [math.inf, math.nan, -1.0, 1e300], ids=repr)
def test_what_no_format_holds_is_refused(largest: float) -> None:
    with pytest.raises(ValueError, match=r"largest value is|is too large for fixed point of 8 bits"):
        holding(largest, 8)


@pytest.mark.parametrize("bits, fraction_bits", [(0, 0), (17, 0), (8, 127), (8, -127)], ids=repr)
def test_formats_that_do_not_exist(bits: int, fraction_bits: int) -> None:
    with pytest.raises(ValueError, match=f"no fixed point of {bits} bits, {fraction_bits} of them"):
        FixedPoint(bits, fraction_bits)


def test_least_error_gives_up_an_outlier() -> None:
    x = torch.cat([torch.linspace(-1, 1, 2000), torch.tensor([8.0])])
    errors = {str(FixedPoint(3, n)): FixedPoint(3, n).squared_error(x) for n in range(-2, 5)}
    assert str(holding(8.0, 3)) == "Q4.-2"
    assert str(least_error(x, 3, steps=6)) == min(errors, key=lambda name: errors[name]) == "Q0.2"
    assert least_error(x, 3, steps=0) == holding(8.0, 3)


def test_finer_formats_end_where_units_do() -> None:
    assert [one.fraction_bits for one in finer(FixedPoint(8, 3), 2)] == [3, 4, 5]
    assert [one.fraction_bits for one in finer(FixedPoint(8, 125), 4)] == [125, 126]


def test_the_ratio_of_signal_and_noise() -> None:
    assert signal_to_noise_db(100.0, 1.0) == pytest.approx(20.0)
    assert signal_to_noise_db(1.0, 1.0) == 0.0
    assert signal_to_noise_db(1.0, 0.0) == pytest.approx(150.0)
