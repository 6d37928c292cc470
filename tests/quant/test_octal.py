"""Codes without a scale: worked examples, the formula in exact arithmetic, what does not fit."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qbench.quant.octal import magnitude_bits, octal, unit_codes

EXAMPLE = [0.03279644, 0.37225065, 0.03883055, 0.32002673, 0.37683514]
UNIT = st.floats(-1.0, 1.0, width=32)


def test_the_worked_example() -> None:
    weights = torch.tensor(EXAMPLE)
    rounded, cut = unit_codes(weights, 8), unit_codes(weights, 8, rounding="truncate")
    assert rounded.tolist() == [8, 95, 10, 82, 96]  # 8.4, 94.9, 9.9, 81.6, 96.1
    assert [octal(code) for code in cut.tolist()] == ["0o10", "0o136", "0o11", "0o121", "0o140"]
    assert rounded.dtype == cut.dtype == torch.int32


@pytest.mark.parametrize("rounding", ["nearest", "truncate"])
def test_three_quarters_at_eight_bits(rounding: str) -> None:
    code = int(unit_codes(torch.tensor([0.75]), 8, rounding=rounding))
    assert (code, octal(code), octal(-code)) == (191, "0o277", "-0o277")  # 191.25


@given(st.lists(UNIT, min_size=1, max_size=8), st.integers(1, 15))
def test_codes_are_the_formula_in_exact_arithmetic(values: list[float], bits: int) -> None:
    weights = torch.tensor(values)
    exact = [Fraction(float(value)) * (2**bits - 1) for value in weights]
    assert unit_codes(weights, bits, rounding="truncate").tolist() == [int(step) for step in exact]
    assert unit_codes(weights, bits).tolist() == [round(step) for step in exact]  # ties to even, both
    assert magnitude_bits(unit_codes(weights, bits)) <= bits


@pytest.mark.parametrize("bits", range(1, 16))
def test_one_is_the_largest_code_at_every_width(bits: int) -> None:
    """By division through a float32 step, 1.0 would truncate to 254 at 8 bits."""
    for rounding in ("nearest", "truncate"):
        assert unit_codes(torch.tensor([1.0, -1.0]), bits, rounding=rounding).tolist() == [2**bits - 1, 1 - 2**bits]


def test_values_beyond_one_need_more_bits() -> None:
    assert magnitude_bits(unit_codes(torch.tensor([1.0039]), 8)) == 9  # 255.99 rounds to 256
    assert magnitude_bits(unit_codes(torch.tensor([-3.0]), 8)) == 10  # 765
    assert magnitude_bits(unit_codes(torch.zeros(2), 8)) == magnitude_bits(torch.zeros(0, dtype=torch.int32)) == 0
    assert unit_codes(torch.zeros(0, 3), 8).shape == (0, 3)


@pytest.mark.parametrize("value", [1.01, -2.0, 3e38])
def test_a_value_that_sixteen_bits_do_not_hold_is_named(value: float) -> None:
    with pytest.raises(ValueError, match=r"a weight of .* at 15 bits needs more than 15 magnitude bits") as caught:
        unit_codes(torch.tensor([[0.5], [value]]), 15)
    assert f"{value:.4g}" in str(caught.value)


def test_arguments_outside_their_domain_are_refused() -> None:
    for bits in (0, 16):
        with pytest.raises(ValueError, match=f"bits={bits} is outside 1..15"):
            unit_codes(torch.zeros(1), bits)
    with pytest.raises(ValueError, match="rounding='up': allowed are nearest, truncate"):
        unit_codes(torch.zeros(1), 8, rounding="up")
