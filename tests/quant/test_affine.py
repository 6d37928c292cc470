"""Uniform quantization against hand-checked goldens, its laws, a float64 NumPy oracle and PyTorch's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from qbench.quant.affine import (
    QParams,
    choose_qparams,
    code_dtype,
    dequantize,
    fake_quantize,
    integer_grid,
    quantize,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "linear_formulas.json").read_text())
TINY = float(torch.finfo(torch.float32).tiny)
LARGEST = float(torch.finfo(torch.float32).max)

laws = settings(deadline=None, derandomize=True, max_examples=150)
# no subnormals below: x / scale would be compared with an oracle that has no smallest scale
ordinary = st.floats(-1e6, 1e6, width=32, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 1e-6)
wild = st.floats(-(2.0**126), 2.0**126, width=32)


@st.composite
def grids(draw: st.DrawFn) -> tuple[int, int, bool]:
    """(qmin, qmax, symmetric): all widths, both schemes, narrow where symmetric or not."""
    symmetric = draw(st.booleans())
    return (*integer_grid(draw(st.integers(1, 16)), narrow_range=symmetric and draw(st.booleans())), symmetric)


def values_of(elements: st.SearchStrategy[float]) -> st.SearchStrategy[Tensor]:
    return st.lists(elements, min_size=1, max_size=20).map(lambda xs: torch.tensor(xs, dtype=torch.float32))


def fitted(x: Tensor, qmin: int, qmax: int, symmetric: bool) -> QParams:
    return choose_qparams(x.amin(), x.amax(), qmin, qmax, symmetric=symmetric)


def uncoverable(x: Tensor, qmax: int, symmetric: bool) -> bool:
    """Positive values on the symmetric 1-bit grid {-1, 0}."""
    return symmetric and qmax == 0 and bool((x > 0).any())


def oracle(x: NDArray[np.float64], low: float, high: float, qmin: int, qmax: int, symmetric: bool) -> Any:
    """Codes in float64 from the plain formulas, and how far each was from a tie (zero point included)."""
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        scale = max(high / qmax if qmax else 0.0, low / qmin)
        zero, zero_margin = 0.0, 0.5
    else:
        scale = (high - low) / (qmax - qmin)
        exact = qmin - low / scale if scale else float(qmin)
        zero = float(np.clip(np.rint(exact), qmin, qmax))
        zero_margin = 0.5 - abs(exact - np.rint(exact))
    scale = scale or 1.0
    codes = np.clip(np.rint(x / scale) + zero, qmin, qmax)
    margin = np.minimum(0.5 - np.abs(x / scale - np.rint(x / scale)), zero_margin)
    return scale, zero, codes, margin


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_golden(case: dict[str, Any]) -> None:
    low, high = (torch.tensor(end) for end in case["range"])
    qmin, qmax = case["qmin"], case["qmax"]
    qparams = choose_qparams(low, high, qmin, qmax, symmetric=case["scheme"] == "symmetric")
    assert qparams.scale.dtype == torch.float32 and qparams.zero_point.dtype == torch.int32
    # the ends are given in decimal, so their float32 differs by up to 2^-24, and the scale with them
    assert float(qparams.scale) == pytest.approx(case["scale"], rel=2**-22)
    assert int(qparams.zero_point) == case["zero_point"]
    x, codes = (torch.tensor(column) for column in zip(*case["codes"]))
    assert quantize(x, qparams.scale, qparams.zero_point, qmin, qmax).tolist() == codes.tolist()


def test_golden_covers_the_formulas() -> None:
    widths = {(case["qmax"] - case["qmin"]).bit_length() for case in GOLDEN["cases"]}
    assert len(GOLDEN["cases"]) >= 18 and widths >= {1, 2, 4, 8, 16}


@pytest.mark.parametrize("rounding", ["nearest", "truncate"])
def test_levels_of_a_fixed_scale(rounding: str) -> None:
    levels = GOLDEN["levels"]
    step = torch.tensor(1 / 255)
    codes = quantize(torch.tensor(levels["weights"]), step, torch.tensor(0), 0, 255, rounding=rounding)
    assert codes.tolist() == levels[rounding]
    if rounding == "truncate":
        assert [oct(code) for code in codes.tolist()] == levels["octal"]


def test_truncation_goes_towards_zero() -> None:
    x = torch.tensor([-1.9, -0.9, 0.9, 1.9])
    assert quantize(x, torch.tensor(1.0), torch.tensor(0), -8, 7, rounding="truncate").tolist() == [-1, 0, 0, 1]


@pytest.mark.parametrize("bits", range(1, 17))
def test_grid_has_as_many_codes_as_bits_allow(bits: int) -> None:
    low, high = integer_grid(bits)
    assert (low, high) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    narrow = integer_grid(bits, narrow_range=True)
    assert narrow == ((low, high) if bits == 1 else (-high, high))


@pytest.mark.parametrize("bits", [0, 17, -1])
def test_grid_refuses_other_widths(bits: int) -> None:
    with pytest.raises(ValueError, match=f"bits={bits} is outside 1..16"):
        integer_grid(bits)


def test_code_dtype_is_the_smallest_that_holds_the_grid() -> None:
    grids = {(-128, 127): torch.int8, (0, 255): torch.int16, (-32768, 32767): torch.int16, (0, 65535): torch.int32}
    assert {grid: code_dtype(*grid) for grid in grids} == grids


@given(values_of(wild), grids())
@laws
def test_codes_lie_on_the_grid_in_its_dtype(x: Tensor, grid: tuple[int, int, bool]) -> None:
    qmin, qmax, symmetric = grid
    qparams = fitted(x, *grid)
    assert bool(torch.isfinite(qparams.scale)) and float(qparams.scale) >= TINY
    assert qmin <= int(qparams.zero_point) <= qmax
    assert not symmetric or int(qparams.zero_point) == 0
    codes = quantize(x, qparams.scale, qparams.zero_point, qmin, qmax)
    assert codes.dtype == code_dtype(qmin, qmax)
    assert qmin <= int(codes.min()) and int(codes.max()) <= qmax
    assert bool(torch.isfinite(dequantize(codes, qparams.scale, qparams.zero_point)).all())


@given(values_of(wild), grids())
@laws
def test_error_is_at_most_half_a_step(x: Tensor, grid: tuple[int, int, bool]) -> None:
    qmin, qmax, symmetric = grid
    assume(not uncoverable(x, qmax, symmetric))
    qparams = fitted(x, *grid)
    error = (fake_quantize(x, qparams.scale, qparams.zero_point, qmin, qmax).double() - x.double()).abs()
    # the scale, the quotient and the product are each rounded to 2^-24 of up to qmax - qmin + 1 steps
    steps = 0.5 + 3 * (qmax - qmin + 1) * 2**-24
    assert float(error.max()) <= steps * float(qparams.scale)


@given(values_of(wild), grids())
@laws
def test_fake_quantize_is_quantize_then_dequantize(x: Tensor, grid: tuple[int, int, bool]) -> None:
    qmin, qmax, _ = grid
    scale, zero_point = fitted(x, *grid).scale, fitted(x, *grid).zero_point
    detour = dequantize(quantize(x, scale, zero_point, qmin, qmax), scale, zero_point)
    direct = fake_quantize(x, scale, zero_point, qmin, qmax)
    assert direct.dtype == detour.dtype == torch.float32
    assert torch.equal(direct, detour)


@given(values_of(wild), grids())
@laws
def test_idempotent_monotone_and_exact_at_zero(x: Tensor, grid: tuple[int, int, bool]) -> None:
    qmin, qmax, _ = grid
    qparams = fitted(x, *grid)

    def apply(values: Tensor) -> Tensor:
        return fake_quantize(values, qparams.scale, qparams.zero_point, qmin, qmax)

    once = apply(x.sort().values)
    assert torch.equal(apply(once), once)
    assert bool((once[1:] >= once[:-1]).all())
    assert float(apply(torch.zeros(()))) == 0.0


@given(values_of(ordinary), grids(), st.integers(-30, 30))
@laws
def test_powers_of_two_scale_the_scale_alone(x: Tensor, grid: tuple[int, int, bool], power: int) -> None:
    qmin, qmax, _ = grid
    assume(bool((x != 0).any()))
    assume(not uncoverable(x, qmax, grid[2]))
    one, other = fitted(x, *grid), fitted(x * 2.0**power, *grid)
    assert float(other.scale) == float(one.scale) * 2.0**power
    assert int(other.zero_point) == int(one.zero_point)
    codes = quantize(x, one.scale, one.zero_point, qmin, qmax)
    assert torch.equal(codes, quantize(x * 2.0**power, other.scale, other.zero_point, qmin, qmax))


@given(st.permutations(range(5)), grids())
@laws
def test_permuting_channels_permutes_their_parameters(order: list[int], grid: tuple[int, int, bool]) -> None:
    qmin, qmax, symmetric = grid
    rows = (
        torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
        * torch.tensor([1e-3, 1.0, 7.0, 1e4, 0.0])[:, None]
    )

    def of(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        qparams = choose_qparams(x.amin(1), x.amax(1), qmin, qmax, symmetric=symmetric)
        codes = quantize(x, qparams.scale[:, None], qparams.zero_point[:, None], qmin, qmax)
        return qparams.scale, qparams.zero_point, codes

    assert all(torch.equal(a[order], b) for a, b in zip(of(rows), of(rows[order])))


@given(values_of(ordinary), st.integers(2, 16))
@laws
def test_narrow_symmetric_quantization_is_odd(x: Tensor, bits: int) -> None:
    qmin, qmax = integer_grid(bits, narrow_range=True)
    qparams = fitted(x, qmin, qmax, True)
    codes = quantize(x, qparams.scale, qparams.zero_point, qmin, qmax)
    assert torch.equal(quantize(-x, qparams.scale, qparams.zero_point, qmin, qmax), -codes)


@given(values_of(ordinary), grids())
@laws
def test_agrees_with_the_float64_oracle(x: Tensor, grid: tuple[int, int, bool]) -> None:
    qmin, qmax, symmetric = grid
    assume(not uncoverable(x, qmax, symmetric))
    scale, zero, codes, margin = oracle(x.double().numpy(), float(x.min()), float(x.max()), *grid)
    qparams = fitted(x, *grid)
    assert float(qparams.scale) == pytest.approx(scale, rel=2**-23)
    # scale and quotient are rounded to 2^-24 of up to qmax - qmin + 1 steps: nearer to a tie either code is right
    slack = (qmax - qmin + 1) * 2.0**-22
    got = quantize(x, qparams.scale, qparams.zero_point, qmin, qmax).numpy()
    clear = margin > slack
    assert np.array_equal(got[clear], codes[clear])
    assert np.abs(got - codes).max() <= 2  # a tie of the zero point and one of the value
    assert abs(int(qparams.zero_point) - zero) <= 1


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
@pytest.mark.parametrize("per_channel", [True, False], ids=["per_channel", "per_tensor"])
def test_agrees_with_pytorch(bits: int, symmetric: bool, per_channel: bool) -> None:
    qmin, qmax = integer_grid(bits)
    generator = torch.Generator().manual_seed(bits)
    x = torch.randn(4, 500, generator=generator) * torch.tensor([0.1, 1.0, 3.0, 50.0])[:, None] + 0.3
    if per_channel:
        qparams = choose_qparams(x.amin(1), x.amax(1), qmin, qmax, symmetric=symmetric)
        scale, zero_point = qparams.scale[:, None], qparams.zero_point[:, None]
        theirs = torch.fake_quantize_per_channel_affine(x, qparams.scale, qparams.zero_point, 0, qmin, qmax)
    else:
        qparams = choose_qparams(x.amin(), x.amax(), qmin, qmax, symmetric=symmetric)
        scale, zero_point = qparams.scale, qparams.zero_point
        theirs = torch.fake_quantize_per_tensor_affine(x, float(scale), int(zero_point), qmin, qmax)
    ours = fake_quantize(x, scale, zero_point, qmin, qmax)
    steps = x.double() / scale.double()
    # they multiply by a rounded 1 / scale and round after adding the zero point: other codes near ties only
    clear = (0.5 - (steps - steps.round()).abs()) > (qmax - qmin + 1) * 2.0**-22
    assert float(clear.double().mean()) > 0.9
    assert torch.equal(ours[clear], theirs[clear])
    assert bool(((ours - theirs).abs() <= scale * (1 + 2**-7)).all())


@pytest.mark.parametrize("value", [1e-45, 1e-40, TINY / 3, -1e-42], ids=str)
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
def test_denormal_ranges_get_the_smallest_normal_scale(value: float, symmetric: bool) -> None:
    x = torch.tensor([value, 0.0])
    qparams = fitted(x, -128, 127, symmetric)
    assert float(qparams.scale) == TINY
    got = fake_quantize(x, qparams.scale, qparams.zero_point, -128, 127)
    assert float((got - x).abs().max()) <= TINY / 2


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
def test_the_widest_ranges_stay_finite(bits: int, symmetric: bool) -> None:
    qmin, qmax = integer_grid(bits)
    x = torch.tensor([-LARGEST / 2, -1.0, 0.0, 1.0, LARGEST / 2])
    qparams = fitted(x, qmin, qmax, symmetric)
    every_code = torch.arange(qmin, qmax + 1, dtype=torch.int32)
    assert bool(torch.isfinite(dequantize(every_code, qparams.scale, qparams.zero_point)).all())


@pytest.mark.parametrize("low, high", [(-LARGEST, 0.0), (0.0, LARGEST), (-2e38, 2e38)], ids=["low", "high", "both"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
def test_ranges_that_leave_float32_are_refused(low: float, high: float, symmetric: bool) -> None:
    with pytest.raises(ValueError, match=r"the range to quantize, .* is too wide"):
        choose_qparams(torch.tensor([0.0, low]), torch.tensor([0.0, high]), -8, 7, symmetric=symmetric)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")], ids=str)
@pytest.mark.parametrize("end", ["range_min", "range_max"])
def test_non_finite_bounds_are_refused(bad: float, end: str) -> None:
    bounds = {"range_min": torch.tensor([0.0, 0.0]), "range_max": torch.tensor([1.0, 1.0])}
    bounds[end] = torch.tensor([0.0, bad])
    with pytest.raises(ValueError, match="the range to quantize is not finite"):
        choose_qparams(**bounds, qmin=-8, qmax=7, symmetric=False)


def test_an_unknown_rounding_is_refused() -> None:
    with pytest.raises(ValueError, match="rounding='up': allowed are nearest, truncate"):
        quantize(torch.ones(1), torch.tensor(1.0), torch.tensor(0), -8, 7, rounding="up")
