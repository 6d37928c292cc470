"""The multiple-choice knapsack against trying everything."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbench.quant.allocate import allocate, cheapest_total

Problem = tuple[list[list[int]], list[list[float]], int]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Up to five layers of up to five options; costs and losses over many orders of magnitude, repeats included."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    largest = draw(st.sampled_from([4, 1000, 10**9]))
    loss = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(-6.0, 2.0).map(lambda exponent: 10.0**exponent))
    costs = [draw(st.lists(st.integers(0, largest), min_size=size, max_size=size)) for size in shape]
    losses = [draw(st.lists(loss, min_size=size, max_size=size)) for size in shape]
    return costs, losses, draw(st.integers(cheapest_total(costs), sum(map(max, costs))))


@settings(max_examples=60, deadline=None)
@given(problems())
def test_no_choice_within_the_budget_is_better(problem: Problem) -> None:
    costs, losses, budget = problem
    picks = allocate(costs, losses, budget)
    within = (
        sum(own[pick] for own, pick in zip(losses, tried))
        for tried in itertools.product(*(range(len(own)) for own in costs))
        if sum(own[pick] for own, pick in zip(costs, tried)) <= budget
    )
    best = min(within)
    assert sum(own[pick] for own, pick in zip(costs, picks)) <= budget
    # the solver closes its gap to 1e-6 of losses scaled to at most 1e6
    assert sum(own[pick] for own, pick in zip(losses, picks)) <= best + 1e-11 * max(map(max, losses)) + 1e-15


def test_a_solution_one_unit_over_a_huge_budget_is_not_taken() -> None:
    """A part in 10^9 is below the solver's tolerance, not below ours."""
    half = 500_000_000
    costs, losses = [[half, half + 1], [half, half + 2]], [[1.0, 0.0], [1.0, 0.5]]
    assert allocate(costs, losses, 2 * half) == [0, 0]
    assert allocate(costs, losses, 2 * half + 1) == [1, 0]
    assert allocate(costs, losses, 2 * half + 2) == [1, 0]
    assert allocate(costs, losses, 2 * half + 3) == [1, 1]


def test_equal_losses_take_the_cheapest() -> None:
    assert allocate([[5, 3, 4]], [[1.0, 1.0, 1.0]], 100) == [1]
    assert allocate([[5, 3], [0, 9]], [[0.0, 0.0], [0.0, 0.0]], 100) == [1, 0]
    assert allocate([], [], 0) == []


def test_many_layers_are_solved_to_the_bound() -> None:
    """120 layers of ten options: the loss lies between the relaxed optimum and that plus one layer's step."""
    sizes = [64 * 3 ** (layer % 7) for layer in range(120)]
    costs = [[bits * size for bits in range(1, 11)] for size in sizes]
    losses = [[(1 + layer % 11) * 4.0**-bits for bits in range(1, 11)] for layer in range(120)]
    budget = 4 * sum(sizes)
    picks = allocate(costs, losses, budget)
    assert sum(own[pick] for own, pick in zip(costs, picks)) <= budget
    total = sum(own[pick] for own, pick in zip(losses, picks))
    relaxed = max(_lagrangian(costs, losses, budget, 10.0 ** (exponent / 20)) for exponent in range(-200, 0))
    assert relaxed <= total <= 1.01 * relaxed


def _lagrangian(costs: list[list[int]], losses: list[list[float]], budget: int, price: float) -> float:
    """A lower bound of the least loss, at any price of a unit of cost."""
    options = (min(loss + price * cost for cost, loss in zip(*own)) for own in zip(costs, losses))
    return math.fsum(options) - price * budget


@pytest.mark.parametrize(
    "costs, losses, budget, message",
    [
        ([[3, 4], [2]], [[1.0, 0.0], [0.0]], 4, "a budget of 4 is below 5"),
        ([[3]], [[1.0, 0.0]], 9, "every layer needs options"),
        ([[]], [[]], 9, "every layer needs options"),
        ([[3]], [[math.nan]], 9, "losses must be finite and not negative"),
        ([[3]], [[-0.1]], 9, "losses must be finite and not negative"),
    ],
)
def test_what_cannot_be_solved_is_refused(
    costs: list[list[int]], losses: list[list[float]], budget: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        allocate(costs, losses, budget)
