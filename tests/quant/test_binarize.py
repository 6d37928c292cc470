"""Binary and ternary magnitudes against searches over everything they could be."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qbench.quant.binarize import (
    binary_indices,
    binary_magnitude,
    ternary_indices,
    ternary_magnitude,
    ternary_step,
)

ROWS = st.lists(st.floats(-4.0, 4.0, width=16), min_size=1, max_size=9).map(lambda row: torch.tensor([row]))


def ternary_error(row: Tensor, magnitude: Tensor) -> float:
    levels = magnitude.double() * torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    return float((row.double() - levels).square().amin(0).sum())


@given(ROWS)
def test_the_binary_magnitude_has_the_least_error(row: Tensor) -> None:
    best = binary_magnitude(row).double()
    signs = binary_indices(row).double() * 2 - 1

    def error(magnitude: Tensor) -> float:
        return float((row.double() - magnitude * signs).square().sum())

    assert torch.equal(signs < 0, row < 0)
    # a parabola in the magnitude: no neighbour, and nothing far off, is better than its vertex
    assert all(error(best) <= error(best + step) + 1e-12 for step in (-1.0, -0.01, 0.01, 1.0))


@given(ROWS)
def test_no_kept_set_gives_a_better_ternary_magnitude(row: Tensor) -> None:
    """For every number of kept values the mean of the largest is the best; brute force over that number."""
    size = row.abs().flatten().double().sort(descending=True).values
    every = [ternary_error(row, size[:count].mean()) for count in range(1, len(size) + 1)]
    found = ternary_magnitude(row)
    assert ternary_error(row, found) <= min(every) + 1e-5  # float32 magnitudes of values up to 4
    decoded = found[:, None] * (ternary_indices(row, found).double() - 1)
    error = float((row.double() - decoded).square().sum())
    assert abs(error - ternary_error(row, found)) <= 1e-5  # each value got its nearest level


@given(ROWS, st.floats(0.01, 4.0))
def test_a_step_never_raises_the_error_and_stays_at_an_optimum(row: Tensor, start: float) -> None:
    before = torch.tensor([start])
    assert ternary_error(row, ternary_step(row, before)) <= ternary_error(row, before) + 1e-5
    best = ternary_magnitude(row)
    assert abs(ternary_error(row, ternary_step(row, best)) - ternary_error(row, best)) <= 1e-5


def test_rows_are_independent_and_zeros_have_no_magnitude() -> None:
    rows = torch.tensor([[1.0, -3.0, 0.5, 2.0], [0.0, 0.0, 0.0, 0.0], [-0.25, 0.25, 0.25, 0.25]])
    assert ternary_magnitude(rows).tolist() == [2.5, 0.0, 0.25]
    assert ternary_indices(rows, ternary_magnitude(rows)).tolist() == [[1, 0, 1, 2], [1, 1, 1, 1], [0, 2, 2, 2]]
    assert binary_magnitude(rows).tolist() == [1.625, 0.0, 0.25]
    assert binary_indices(rows).tolist() == [[1, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]]
    assert ternary_step(rows, torch.tensor([9.0, 9.0, 0.1])).tolist() == [9.0, 9.0, 0.25]  # two rows keep nothing


def test_the_threshold_beats_the_paper_s_approximation() -> None:
    """0.7 E|w| is near the optimum for normal weights; here it is not."""
    row = torch.tensor([[0.0] * 10 + [1.0, -0.9, 0.2, 0.2]])
    threshold = 0.7 * row.abs().mean()
    theirs = row.abs()[row.abs() > threshold].mean()
    assert ternary_error(row, ternary_magnitude(row)) < ternary_error(row, theirs)
