"""How the range of a uniform quantizer is chosen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qbench.quant import ranges
from qbench.quant.affine import choose_qparams, fake_quantize, integer_grid
from qbench.quant.ranges import RANGES, choose_range

laws = settings(deadline=None, derandomize=True, max_examples=40)


def rows_of(seed: int, count: int = 4, length: int = 50) -> Tensor:
    """Rows of very different widths, each with an outlier."""
    rows = torch.randn(count, length, generator=torch.Generator().manual_seed(seed))
    rows[:, 0] *= 8
    return rows * torch.logspace(-3, 3, count)[:, None]


def squared_error(rows: Tensor, low: Tensor, high: Tensor, bits: int, symmetric: bool) -> Tensor:
    """Per row, in float64."""
    qmin, qmax = integer_grid(bits)
    qparams = choose_qparams(low, high, qmin, qmax, symmetric=symmetric)
    got = fake_quantize(rows, qparams.scale[:, None], qparams.zero_point[:, None], qmin, qmax)
    return (got.double() - rows.double()).square().sum(1)


def choose(
    rows: Tensor, kind: str, bits: int = 4, symmetric: bool = True, percentile: float = 99.9
) -> tuple[Tensor, Tensor]:
    return choose_range(rows, *integer_grid(bits), kind=kind, symmetric=symmetric, percentile=percentile)


def test_minmax_is_the_least_and_the_greatest_value() -> None:
    low, high = choose(torch.tensor([[3.0, -1.0, 2.0], [5.0, 6.0, 7.0]]), "minmax")
    assert (low.tolist(), high.tolist()) == ([-1.0, 5.0], [3.0, 7.0])


@given(st.integers(0, 10_000), st.integers(1, 8), st.booleans(), st.sampled_from([1e-25, 1.0, 1e25]))
@laws
def test_mse_is_never_worse_than_minmax(seed: int, bits: int, symmetric: bool, size: float) -> None:
    rows = rows_of(seed) * size
    mse = squared_error(rows, *choose(rows, "mse", bits, symmetric), bits, symmetric)
    minmax = squared_error(rows, *choose(rows, "minmax"), bits, symmetric)
    # the search and this test add the same float64 terms, in another order at most: 50 terms of 2^-53
    assert bool((mse <= minmax * (1 + 2**-46)).all())


def test_mse_cuts_an_outlier_off() -> None:
    rows = torch.cat([torch.linspace(-1, 1, 200), torch.tensor([2.0])])[None]
    low, high = choose(rows, "mse", bits=3)
    assert 0.8 < float(high) < 1.9 and float(low) < 0
    assert bool((squared_error(rows, low, high, 3, True) < squared_error(rows, *choose(rows, "minmax"), 3, True)).all())


def test_mse_keeps_a_range_it_cannot_better() -> None:
    rows = torch.tensor([[-7.0, -3.0, 0.0, 1.0, 7.0], [0.0] * 5])
    low, high = choose(rows, "mse", bits=4)  # every value is on the min-max grid already
    assert (low.tolist(), high.tolist()) == ([-7.0, 0.0], [7.0, 0.0])


@pytest.mark.parametrize("percentile", [50.0, 75.0, 99.0, 99.9, 100.0])
def test_percentile_agrees_with_numpy(percentile: float) -> None:
    rows = rows_of(3, length=211)
    tail = (100 - percentile) / 2
    expected = np.percentile(rows.double().numpy(), [tail, 100 - tail], axis=1)
    low, high = choose(rows, "percentile", percentile=percentile)
    # interpolated in float32 between two values of the row
    tolerance = rows.abs().amax(1).double().numpy() * 2**-22
    assert (np.abs(low.numpy() - expected[0]) <= tolerance).all()
    assert (np.abs(high.numpy() - expected[1]) <= tolerance).all()


def test_all_percent_is_minmax() -> None:
    rows = rows_of(4)
    assert all(map(torch.equal, choose(rows, "percentile", percentile=100.0), choose(rows, "minmax")))


def test_one_value_is_its_own_range() -> None:
    for kind in RANGES:
        low, high = choose(torch.tensor([[2.5], [-1.0]]), kind)
        assert low.tolist() == high.tolist() == [2.5, -1.0] or kind == "mse"


@pytest.mark.parametrize("kind", RANGES)
def test_rows_do_not_see_each_other(kind: str) -> None:
    rows = rows_of(5)
    low, high = choose(rows, kind)
    alone = [choose(row[None], kind) for row in rows]
    assert torch.equal(low, torch.cat([one[0] for one in alone]))
    assert torch.equal(high, torch.cat([one[1] for one in alone]))


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_pieces_of_long_rows_add_up(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(6)
    whole = choose(rows, "mse")
    monkeypatch.setattr(ranges, "_CHUNK", chunk)
    assert all(map(torch.equal, choose(rows, "mse"), whole))


def test_percentile_takes_rows_longer_than_torch_quantile_does() -> None:
    length = (1 << 24) + 1
    low, high = choose(torch.linspace(-1, 1, length)[None], "percentile", percentile=50.0)
    # linspace and the interpolation round to float32
    assert float(low) == pytest.approx(-0.5, abs=1e-6) and float(high) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("kind", RANGES)
def test_no_values_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="there are no values to choose a range from"):
        choose(torch.zeros(0, 4), kind)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")], ids=str)
@pytest.mark.parametrize("kind", RANGES)
def test_a_value_that_is_not_finite_is_named_with_its_row(kind: str, bad: float) -> None:
    rows = torch.zeros(3, 4)
    rows[1, 2] = rows[2, 0] = bad
    with pytest.raises(ValueError, match=rf"a value is {bad} \(row 1\)"):
        choose(rows, kind)


def test_unknown_kinds_and_percentiles_are_refused() -> None:
    with pytest.raises(ValueError, match="range='best': allowed are minmax, percentile, mse"):
        choose(torch.ones(1, 1), "best")
    for percentile in (49.0, 100.1):
        with pytest.raises(ValueError, match=f"percentile={percentile} is outside 50..100"):
            choose(torch.ones(1, 1), "percentile", percentile=percentile)
