"""Exact k-means against exhaustive search and against itself on transformed input; refused input."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qbench.quant.kmeans import KMeansResult, kmeans_1d, kmeans_rows

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "kmeans_1d.json").read_text())
FLOAT32_EPS = 2.0**-24  # relative rounding error of one centroid

properties = settings(deadline=None, max_examples=60)  # on a busy machine a call may take any time
numbers = st.one_of(
    st.integers(-20, 20).map(float), st.floats(-1e6, 1e6, width=32), st.floats(-1, 1, width=32, allow_subnormal=False)
)
some_values = st.lists(numbers, min_size=1, max_size=9)
some_weights = st.sampled_from([0.0, 0.25, 1.0, 3.0, 100.0])


def least_error(values: list[float], weights: list[float], num_clusters: int) -> float:
    """The least squared error over all ways to cut the sorted values into at most ``num_clusters`` runs."""
    pairs = sorted(zip(values, weights, strict=True))
    best = math.inf
    for cuts in combinations(range(1, len(pairs)), min(num_clusters, len(pairs)) - 1):
        error = 0.0
        for start, stop in zip((0, *cuts), (*cuts, len(pairs)), strict=True):
            mass = math.fsum(w for _, w in pairs[start:stop])
            if mass > 0:
                mean = math.fsum(w * x for x, w in pairs[start:stop]) / mass
                error += math.fsum(w * (x - mean) ** 2 for x, w in pairs[start:stop])
        best = min(best, error)
    return best


def rounding(values: list[float], weights: list[float]) -> float:
    """How far float64 sums of squares over the range and float32 centroids may move the error of an optimum.

    Squares of at most r^2 (r the largest distance between values) and total weight W are summed with a relative
    error of a few 2^-53; a centroid of magnitude m is off by m 2^-24, which adds the square of that, times W.
    """
    span, size, mass = max(values) - min(values), max(map(abs, values)), sum(weights)
    return mass * (len(values) * 2.0**-49 * span**2 + (FLOAT32_EPS * size) ** 2)


def assert_consistent(values: Tensor, result: KMeansResult, weights: Tensor | None = None) -> None:
    """Ascending centroids, indices of the nearest one, and an error that is that of the indices."""
    assert result.centroids.dtype is torch.float32 and result.indices.dtype is torch.uint8
    assert result.indices.shape == values.shape
    table = result.centroids.double().reshape(-1, result.centroids.shape[-1])
    assert (table.diff() >= 0).all()
    rows = values.double().reshape(table.shape[0], -1)
    distances = (rows[:, :, None] - table[:, None, :]).abs()
    chosen = distances.gather(2, result.indices.reshape(rows.shape).long()[:, :, None])[:, :, 0]
    assert (chosen == distances.amin(dim=2)).all()
    mass = torch.ones_like(rows) if weights is None else weights.double().reshape(rows.shape)
    assert result.sse == pytest.approx(float((mass * chosen.square()).sum()), rel=1e-9)


@pytest.mark.parametrize("case", GOLDEN, ids=[case["name"] for case in GOLDEN])
def test_golden(case: dict[str, Any]) -> None:
    weights = torch.tensor(case["weights"]) if "weights" in case else None
    result = kmeans_1d(torch.tensor(case["values"]), case["num_clusters"], weights)
    assert result.centroids.tolist() == case["centroids"]
    assert result.indices.tolist() == case["indices"]
    # A float32 centroid is off by at most 2^-24 of its size, which is below 16 here.
    assert result.sse == pytest.approx(case["sse"], rel=1e-12, abs=1e-11)


@properties
@given(some_values, st.integers(1, 5))
def test_no_clustering_is_better(values: list[float], num_clusters: int) -> None:
    ones = [1.0] * len(values)
    result = kmeans_1d(torch.tensor(values), num_clusters)
    assert_consistent(torch.tensor(values), result)
    assert len(result.centroids) == min(num_clusters, len(set(values)))
    assert result.sse <= least_error(values, ones, num_clusters) * (1 + 1e-9) + rounding(values, ones)


@properties
@given(st.lists(st.tuples(numbers, some_weights), min_size=1, max_size=9), st.integers(1, 5))
def test_no_weighted_clustering_is_better(pairs: list[tuple[float, float]], num_clusters: int) -> None:
    values, weights = [x for x, _ in pairs], [w for _, w in pairs]
    result = kmeans_1d(torch.tensor(values), num_clusters, torch.tensor(weights))
    if not any(weights):
        weights = [1.0] * len(values)
    assert_consistent(torch.tensor(values), result, torch.tensor(weights))
    assert result.sse <= least_error(values, weights, num_clusters) * (1 + 1e-9) + rounding(values, weights)


@properties
@given(st.lists(st.integers(-30, 30), min_size=1, max_size=8), st.integers(1, 4))
def test_of_tied_optima_the_smallest_centroids_win(values: list[int], num_clusters: int) -> None:
    points = sorted(set(values))
    clusters = min(num_clusters, len(points))
    candidates = []
    for cuts in combinations(range(1, len(points)), clusters - 1):
        runs = [points[a:b] for a, b in zip((0, *cuts), (*cuts, len(points)), strict=True)]
        means = [sum(run) / len(run) for run in runs]
        error = sum((x - mean) ** 2 for run, mean in zip(runs, means, strict=True) for x in run)
        candidates.append((error, means))
    least = min(error for error, _ in candidates)
    # Distinct errors of such integers differ by at least 1 / (7 * 8 * 5 * 6), far more than the rounding.
    expected = min(means for error, means in candidates if error < least + 1e-9)
    result = kmeans_1d(torch.tensor(points), num_clusters)
    torch.testing.assert_close(result.centroids, torch.tensor(expected), rtol=2 * FLOAT32_EPS, atol=0)


@properties
@given(st.lists(numbers, min_size=1, max_size=60), st.integers(1, 8), st.randoms(use_true_random=False))
def test_permuting_the_values_permutes_the_indices(values: list[float], num_clusters: int, random: Any) -> None:
    order = random.sample(range(len(values)), len(values))
    result = kmeans_1d(torch.tensor(values), num_clusters)
    permuted = kmeans_1d(torch.tensor(values)[order], num_clusters)
    assert torch.equal(permuted.centroids, result.centroids)
    assert torch.equal(permuted.indices, result.indices[order])


@properties
@given(st.lists(st.floats(-1000, 1000, width=16), min_size=1, max_size=60), st.integers(1, 8), st.integers(-20, 20))
def test_scaling_by_a_power_of_two_scales_the_centroids(values: list[float], num_clusters: int, power: int) -> None:
    result = kmeans_1d(torch.tensor(values), num_clusters)
    scaled = kmeans_1d(torch.tensor(values) * 2.0**power, num_clusters)
    assert torch.equal(scaled.centroids, result.centroids * 2.0**power)
    assert torch.equal(scaled.indices, result.indices)


@properties
@given(some_values, st.integers(0, 5))
def test_enough_clusters_give_the_values_back(values: list[float], spare: int) -> None:
    tensor = torch.tensor(values)
    result = kmeans_1d(tensor, len(set(values)) + spare)
    assert result.sse == 0
    assert torch.equal(result.centroids[result.indices.long()], tensor)


def test_weightless_values_are_kept_when_all_fit_and_not_counted_when_not() -> None:
    values, weights = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert kmeans_1d(values, 4, weights).centroids.tolist() == [1, 2, 3, 4]
    assert kmeans_1d(values, 3, weights).centroids.tolist() == [1, 2]


def test_shape_and_device_are_kept_and_gradients_ignored() -> None:
    values = torch.arange(24.0).reshape(2, 3, 4).requires_grad_()
    result = kmeans_1d(values, 4)
    assert result.indices.shape == (2, 3, 4)
    assert result.indices.device == values.device and not result.centroids.requires_grad


@properties
@given(st.integers(1, 6), st.integers(1, 12), st.integers(1, 5), st.booleans(), st.integers(0, 1000))
def test_rows_are_problems_of_their_own(rows: int, columns: int, num_clusters: int, weighted: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=generator)
    values[0] = values[0].round()  # a row of few distinct values beside rows of many
    weights = torch.randint(0, 4, (rows, columns), generator=generator).float() if weighted else None
    result = kmeans_rows(values, num_clusters, weights)
    singles = [kmeans_1d(v, num_clusters, None if weights is None else weights[i]) for i, v in enumerate(values)]
    used = max(len(single.centroids) for single in singles)
    assert result.centroids.shape == (rows, used)
    for row, single in enumerate(singles):
        padding = single.centroids[-1:].expand(used - len(single.centroids))
        assert torch.equal(result.centroids[row], torch.cat([single.centroids, padding]))
        assert torch.equal(result.indices[row], single.indices)
    assert result.sse == pytest.approx(sum(single.sse for single in singles), rel=1e-12, abs=0)


def test_extreme_magnitudes() -> None:
    values = torch.tensor([-3e38, -1e-40, 0.0, 1e-40, 1.0, 2.0, 3e38])
    result = kmeans_1d(values, 4)
    assert result.centroids.tolist() == [values[0], pytest.approx(0, abs=1e-39), 1.5, values[6]]
    light = kmeans_1d(torch.tensor([1.0, 2.0, 3.0, 4.0]), 2, torch.tensor([1e30, 1e-30, 1e-30, 1e-30]))
    assert (light.centroids >= 1).all() and (light.centroids.diff() > 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("solve", [kmeans_1d, kmeans_rows], ids=["1d", "rows"])
def test_non_finite_values_are_refused(solve: Any, bad: float) -> None:
    values = torch.zeros(3, 4)
    values[1, 2] = values[2, 0] = bad
    with pytest.raises(ValueError, match=rf"values\[1, 2\] is {bad}, not finite"):
        solve(values, 4)


def test_values_beyond_float32_are_refused() -> None:
    with pytest.raises(ValueError, match=r"values\[1\] is 1e\+300, not finite as float32"):
        kmeans_1d(torch.tensor([0.0, 1e300], dtype=torch.float64), 2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_bad_weights_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=rf"weights\[1\] is {bad}, not finite and >= 0"):
        kmeans_1d(torch.zeros(3), 2, torch.tensor([1.0, bad, bad]))


def test_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weights have shape \(2,\), values \(3,\)"):
        kmeans_1d(torch.zeros(3), 2, torch.ones(2))


@pytest.mark.parametrize("num_clusters", [0, 257, -1])
def test_impossible_numbers_of_clusters_are_refused(num_clusters: int) -> None:
    with pytest.raises(ValueError, match=rf"num_clusters is {num_clusters}, not in 1..256"):
        kmeans_1d(torch.zeros(3), num_clusters)


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_nothing_to_cluster_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="nothing to cluster"):
        kmeans_1d(torch.zeros(shape), 2)


def test_complex_values_are_refused() -> None:
    with pytest.raises(ValueError, match="must be real"):
        kmeans_1d(torch.zeros(2, dtype=torch.complex64), 2)


def test_rows_need_two_axes() -> None:
    with pytest.raises(ValueError, match=r"two axes, \[C, M\], not shape \(4,\)"):
        kmeans_rows(torch.zeros(4), 2)


def test_weightless_value_beyond_the_only_centroid_gets_it() -> None:
    values, weights = torch.tensor([0.0, 1.0, -1.0]), torch.tensor([0.0, 0.0, 0.25])
    result = kmeans_1d(values, 2, weights)
    assert result.centroids.tolist() == [-1.0]
    assert result.indices.tolist() == [0, 0, 0]
    assert result.sse == 0.0
