"""One option per layer with the least total loss a budget allows: the multiple-choice knapsack, solved exactly.

minimise sum loss[layer][option]   subject to   sum cost[layer][option] <= budget, one option of every layer
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

Floats = NDArray[np.float64]
_SCALE = 1e6
"""Losses are scaled to this: the solver stops within an absolute gap of 1e-6."""


def allocate(costs: Sequence[Sequence[int]], losses: Sequence[Sequence[float]], budget: int) -> list[int]:
    """The index of each layer's option.

    Args:
        costs: Whole costs >= 0 of every layer's options, in any unit.
        losses: Finite losses >= 0 of the same options.
        budget: Largest total cost, in that unit.

    Returns:
        One index per layer. Among options of a layer with equal loss the cheapest is taken.

    Raises:
        ValueError: The cheapest options together exceed the budget, a layer has no options, or a loss is not finite
            or negative.

    Source: an integer linear program solved by branch and cut, as in Hubara et al., "Accurate Post Training
        Quantization With Small Calibration Sets", arXiv:2006.10518, sec. 4.3. What the solver's tolerance lets pass
        is checked in whole numbers and cut off.

    Example:
        >>> allocate([[2, 4, 8], [20, 40, 80]], [[0.9, 0.4, 0.0], [0.5, 0.2, 0.1]], budget=48)
        [2, 1]
    """
    _check(costs, losses, budget)
    useful = [_undominated(cost, loss) for cost, loss in zip(costs, losses)]
    cost = np.array([costs[layer][option] for layer, kept in enumerate(useful) for option in kept], dtype=float)
    loss = np.array([losses[layer][option] for layer, kept in enumerate(useful) for option in kept], dtype=float)
    starts = np.cumsum([0, *(len(kept) for kept in useful)])
    picks = _solve(cost, loss, starts, budget)
    return [kept[pick] for kept, pick in zip(useful, picks)]


def cheapest_total(costs: Sequence[Sequence[int]]) -> int:
    """The smallest budget there is a solution for."""
    return sum(min(options) for options in costs)


def _check(costs: Sequence[Sequence[int]], losses: Sequence[Sequence[float]], budget: int) -> None:
    if [len(options) for options in costs] != [len(options) for options in losses] or not all(costs):
        raise ValueError("every layer needs options, each with a cost and a loss")
    if any(not math.isfinite(loss) or loss < 0 for options in losses for loss in options):
        raise ValueError("losses must be finite and not negative")
    if cheapest_total(costs) > budget:
        raise ValueError(f"a budget of {budget} is below {cheapest_total(costs)}, the sum of the cheapest options")


def _undominated(costs: Sequence[int], losses: Sequence[float]) -> list[int]:
    """The options no other one beats in both cost and loss, cheapest first."""
    kept: list[int] = []
    for option in sorted(range(len(costs)), key=lambda one: (costs[one], losses[one])):
        if not kept or losses[option] < losses[kept[-1]]:
            kept.append(option)
    return kept


def _solve(cost: Floats, loss: Floats, starts: NDArray[np.int64], budget: int) -> list[int]:
    """Indices within the layers' options, which lie one layer after the other from ``starts`` on."""
    if len(starts) == 1:
        return []
    layers = len(starts) - 1
    largest = float(loss.max())
    one_each = np.zeros((layers, len(cost)))
    for layer in range(layers):
        one_each[layer, starts[layer] : starts[layer + 1]] = 1.0
    unit = max(budget, 1)
    constraints = [LinearConstraint(one_each, 1.0, 1.0), LinearConstraint(cost[None] / unit, -np.inf, budget / unit)]
    while True:
        result = milp(
            loss * (_SCALE / largest if largest > 0 else 1.0),
            constraints=constraints,
            integrality=np.ones(len(cost)),
            bounds=Bounds(0.0, 1.0),
            options={"mip_rel_gap": 0.0},
        )
        if result.x is None:
            raise ValueError(f"the integer program was not solved: {result.message}")
        picks = [int(np.argmax(result.x[starts[i] : starts[i + 1]])) for i in range(layers)]
        chosen = [int(starts[i]) + pick for i, pick in enumerate(picks)]
        if sum(int(cost[index]) for index in chosen) <= budget:
            return picks
        cut = np.zeros((1, len(cost)))  # over the budget by less than the solver's tolerance: anything but this
        cut[0, chosen] = 1.0
        constraints.append(LinearConstraint(cut, -np.inf, layers - 1.0))
