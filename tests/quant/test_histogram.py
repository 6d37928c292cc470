"""Ranges of activations from histograms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qbench.quant.affine import choose_qparams, fake_quantize, integer_grid
from qbench.quant.histogram import BINS, Histogram, count, entropy_range, mse_range, percentile_range, shared_levels

GENERATOR = torch.Generator().manual_seed(0)
BELL = torch.randn(200_000, generator=GENERATOR)
RECTIFIED = BELL.clamp(min=0)
OUTLIER = torch.cat([RECTIFIED, torch.tensor([60.0])])


def histogram(values: Tensor) -> Histogram:
    low, high = float(values.min()), float(values.max())
    return Histogram(count(values, low, high), low, high)


def squared_error(values: Tensor, low: float, high: float, bits: int) -> float:
    qmin, qmax = integer_grid(bits)
    qparams = choose_qparams(torch.tensor(low), torch.tensor(high), qmin, qmax, symmetric=False)
    return float((values - fake_quantize(values, qparams.scale, qparams.zero_point, qmin, qmax)).square().sum())


def test_counts_are_those_of_the_values() -> None:
    assert float(count(BELL, -6, 6).sum()) == len(BELL)
    assert float(count(torch.tensor([0.0, 0.5, 1.0, 2.0]), 0.0, 1.0).sum()) == 3  # 2.0 lies outside
    assert count(torch.zeros(5), 0.0, 0.0).tolist() == [0.0] * BINS


def test_bin_centres_lie_between_the_edges() -> None:
    centres = Histogram(torch.ones(4), -1.0, 1.0).centres
    assert centres.tolist() == [-0.75, -0.25, 0.25, 0.75]


@pytest.mark.parametrize("percentile", [99.0, 99.9, 90.0])
def test_a_percentile_leaves_out_its_share_at_each_side(percentile: float) -> None:
    low, high = percentile_range(histogram(BELL), percentile)
    outside = 100 * float(((low > BELL) | (high < BELL)).double().mean())
    assert outside <= 100 - percentile + 1e-9
    assert outside >= 0.8 * (100 - percentile)  # as near as whole bins allow


def test_a_percentile_never_cuts_the_zero_side() -> None:
    low, high = percentile_range(histogram(RECTIFIED), 99.0)
    assert low == 0.0 and 2.0 < high < 3.0
    low, high = percentile_range(histogram(-RECTIFIED), 99.0)
    assert high == pytest.approx(0.0, abs=1e-9) and -3.0 < low < -2.0


def test_all_percent_are_the_extremes() -> None:
    seen = histogram(BELL)
    assert percentile_range(seen, 100.0) == pytest.approx((seen.low, seen.high))


@pytest.mark.parametrize("percentile", [49.9, 100.1, -1.0])
def test_a_percentile_outside_its_bounds_is_refused(percentile: float) -> None:
    with pytest.raises(ValueError, match=r"outside 50\.\.100"):
        percentile_range(histogram(BELL), percentile)


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("values", [BELL, RECTIFIED, OUTLIER], ids=["bell", "rectified", "outlier"])
def test_the_searched_range_has_no_more_error_than_the_extremes(values: Tensor, bits: int) -> None:
    found = mse_range(histogram(values), *integer_grid(bits))
    assert squared_error(values, *found, bits) <= 1.001 * squared_error(
        values, float(values.min()), float(values.max()), bits
    )


def test_the_search_is_as_good_as_trying_every_range() -> None:
    found = squared_error(OUTLIER, *mse_range(histogram(OUTLIER), *integer_grid(4)), 4)
    tried = [squared_error(OUTLIER, 0.0, 60.0 * step / 400, 4) for step in range(1, 401)]
    assert found <= 1.15 * min(tried)


@pytest.mark.parametrize("bits", [8, 4])
def test_entropy_drops_a_lone_outlier_and_keeps_the_bulk(bits: int) -> None:
    low, high = entropy_range(histogram(OUTLIER), *integer_grid(bits))
    assert low == 0.0 and high < 30.0
    assert float((high < RECTIFIED).double().mean()) < (0.01 if bits == 8 else 0.1)


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_entropy_does_not_mind_how_many_values_a_relu_cut_off(bits: int) -> None:
    """Zero is on every grid: a peak there says nothing about the range of the others."""
    tail = torch.empty(50_000).exponential_(generator=torch.Generator().manual_seed(1))
    ends = [
        entropy_range(histogram(torch.cat([torch.zeros(zeros), tail])), *integer_grid(bits))[1]
        for zeros in (1, 50_000, 500_000)
    ]
    assert ends[0] == ends[1] == ends[2]
    assert float((tail > ends[0]).double().mean()) < (0.001 if bits == 8 else 0.01)


def test_entropy_keeps_everything_where_nothing_is_lost() -> None:
    """Values on as many levels as the grid has: no range is better than all of it."""
    levels = torch.arange(16).repeat(1000).float()
    low, high = entropy_range(histogram(levels), *integer_grid(4))
    assert (low, high) == (0.0, 15.0)


def test_shared_levels_are_the_optimum_of_the_bins_with_zero_exact() -> None:
    # bins of [0, 8): 0.5, 1.5 ... 7.5; most values in the first, as behind a ReLU
    seen = Histogram(torch.tensor([90.0, 0, 0, 0, 10, 0, 0, 30], dtype=torch.float64), 0.0, 8.0)
    assert shared_levels(seen, 2) == (0.0, 6.75)  # (10 * 4.5 + 30 * 7.5) / 40; 0.5 gives way to zero
    assert shared_levels(seen, 3) == shared_levels(seen, 256) == (0.0, 4.5, 7.5)
    above = Histogram(seen.counts, 1.0, 9.0)
    assert shared_levels(above, 3) == (1.5, 5.5, 8.5)  # zero is outside: nothing has to be exact


def test_shared_levels_have_less_error_than_any_uniform_grid() -> None:
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(4)).relu()
    seen = Histogram(count(values, 0.0, float(values.max())), 0.0, float(values.max()))
    levels = torch.tensor(shared_levels(seen, 8))
    shared = (values[:, None] - levels).abs().amin(1).square().mean()
    low, high = mse_range(seen, 0, 7)
    grid = torch.linspace(low, high, 8)
    uniform = (values[:, None] - grid).abs().amin(1).square().mean()
    assert 0.0 in levels and shared < 0.9 * uniform
