"""Masks by magnitude: exact counts, ties, groups, and the schedule."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from qbench.quant.pruning import cubic_share, group_mask, keep_largest, sparse_masks


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", [-1, 0, 1, 7, 59, 60, 61])
def test_the_largest_stay(count: int) -> None:
    values = draw(3, 4, 5)
    mask = keep_largest(values, count)
    assert mask.shape == values.shape and mask.dtype is torch.bool
    expected = set(np.argsort(-values.abs().numpy().ravel(), kind="stable")[: max(count, 0)].tolist())
    assert set(torch.nonzero(mask.reshape(-1)).reshape(-1).tolist()) == expected


def test_of_equal_values_the_first_stay() -> None:
    values = torch.tensor([[1.0, -2.0, 1.0], [2.0, -1.0, 0.0]])
    assert keep_largest(values, 3).tolist() == [[True, True, False], [True, False, False]]
    assert keep_largest(torch.zeros(2, 2), 3).tolist() == [[True, True], [True, False]]
    assert keep_largest(torch.zeros(0), 3).tolist() == []


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.99, 1.0])
def test_tensors_pruned_together_share_a_threshold(sparsity: float) -> None:
    weights = [draw(8, 5, seed=1), 3 * draw(4, 3, 3, 3, seed=2), draw(6, seed=3)]
    masks = sparse_masks(weights, sparsity)
    assert [mask.shape for mask in masks] == [weight.shape for weight in weights]
    kept = torch.cat([weight[mask].abs() for weight, mask in zip(weights, masks)])
    total = sum(weight.numel() for weight in weights)
    rescued = sum(int(mask.sum()) == 1 for mask in masks)  # a tensor left with none keeps one more
    assert round((1 - sparsity) * total) <= len(kept) <= round((1 - sparsity) * total) + rescued
    if sparsity > 0 and not rescued:
        gone = torch.cat([weight[~mask].abs() for weight, mask in zip(weights, masks)])
        assert float(kept.min()) >= float(gone.max())


def test_no_tensor_is_left_with_nothing() -> None:
    masks = sparse_masks([draw(20) + 10, draw(20) / 100, torch.zeros(2, 2)], 0.6)
    assert [int(mask.sum()) for mask in masks] == [18, 1, 1]
    assert masks[2].tolist() == [[True, False], [False, False]]


def test_halves_by_hand() -> None:
    (one, other) = sparse_masks([torch.tensor([0.1, -0.4]), torch.tensor([[0.3], [0.2]])], 0.5)
    assert one.tolist() == [False, True] and other.tolist() == [[True], [False]]


@pytest.mark.parametrize("keep, group", [(1, 2), (2, 4), (1, 4), (3, 8), (1, 64)], ids=str)
def test_groups_keep_their_largest(keep: int, group: int) -> None:
    weight = draw(6, 4, 3, 3)
    mask = group_mask(weight, keep, group)
    rows, kept = weight.abs().reshape(6, -1), mask.reshape(6, -1)
    for start in range(0, rows.shape[1], group):
        part, chosen = rows[:, start : start + group], kept[:, start : start + group]
        assert bool((chosen.sum(1) == min(keep, part.shape[1])).all())
        for row, picked in zip(part, chosen):
            assert set(row[picked].tolist()) == set(row.sort(descending=True).values[:keep].tolist())


def test_a_shorter_last_group_keeps_as_many() -> None:
    weight = torch.tensor([[4.0, 1.0, -3.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0, 7.0]])
    assert group_mask(weight, 2, 4).tolist() == [[True, False, True, False, True], [True, True, False, False, True]]


@pytest.mark.parametrize("keep, group", [(0, 4), (4, 4), (5, 4), (-1, 2)], ids=str)
def test_groups_that_make_no_sense(keep: int, group: int) -> None:
    with pytest.raises(ValueError, match=rf"{keep}:{group} keeps {keep} of {group}; the first must be at least 1"):
        group_mask(draw(2, 8), keep, group)


def test_nan_has_no_magnitude() -> None:
    weight = draw(2, 8)
    weight[1, 3] = math.nan
    with pytest.raises(ValueError, match="a value is NaN"):
        sparse_masks([weight], 0.5)
    with pytest.raises(ValueError, match="a value is NaN"):
        group_mask(weight, 1, 2)


def test_the_schedule_is_cubic() -> None:
    assert [cubic_share(step, 4) for step in range(6)] == [0.0, 1 - 27 / 64, 1 - 8 / 64, 1 - 1 / 64, 1.0, 1.0]
    assert cubic_share(0, 0) == 1.0
    shares = [cubic_share(step, 1000) for step in range(1100)]
    assert shares == sorted(shares)
