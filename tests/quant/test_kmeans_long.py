"""Near-optimal k-means of long rows against the exact solver."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from qbench.quant import kmeans, kmeans_grid
from qbench.quant.kmeans import kmeans_1d, kmeans_rows


def samples(name: str, count: int) -> Tensor:
    random = np.random.default_rng(5)
    normal = random.standard_normal(count)
    return torch.from_numpy(
        {
            "gaussian": normal,
            "heavy tail": random.standard_t(2, count),
            "bimodal": normal + random.choice([-50.0, 50.0], count, p=[0.3, 0.7]),
            "outlier": np.append(normal[1:], 1000.0),
            "five outliers": np.append(normal[5:], [-1e3, 900.0, 1100.0, 2000.0, 1e6]),
            "lumps": random.choice(random.standard_normal(9), count) + 1e-3 * normal,
        }[name]
    ).float()


NAMES = ["gaussian", "heavy tail", "bimodal", "outlier", "five outliers", "lumps"]


def error_of_near_optimal(values: Tensor, num_clusters: int, weights: Tensor | None = None) -> float:
    """Squared error of the solver for long rows, whatever the length."""
    ordered, order = values.sort()
    mass = torch.ones(1, len(values)).double() if weights is None else weights[order][None].double()
    given = None if weights is None else mass.numpy()
    centroids = kmeans_grid.near_optimal_centroids(ordered[None].numpy(), given, num_clusters)[0]
    table = torch.from_numpy(centroids).float().double()
    assert (table.diff() >= 0).all()
    nearest = table[torch.bucketize(ordered.double(), (table[1:] + table[:-1]) / 2)]
    return float((mass[0] * (ordered.double() - nearest).square()).sum())


@pytest.mark.parametrize(("num_clusters", "count"), [(2, 2000), (16, 2000), (16, 20_000), (256, 500)])
@pytest.mark.parametrize("name", NAMES)
def test_near_optimal_solver_against_the_exact_one(
    name: str, num_clusters: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kmeans, "EXACT_POINTS", count)
    values = samples(name, count)
    assert error_of_near_optimal(values, num_clusters) <= kmeans_1d(values, num_clusters).sse * 1.001


def error_of(centroids: Tensor, values: Tensor) -> float:
    table = centroids.double()
    nearest = table[torch.bucketize(values.double(), (table[1:] + table[:-1]) / 2)]
    return float((values.double() - nearest).square().sum())


@pytest.mark.parametrize("num_clusters", [4, 8, 16, 256])
@pytest.mark.parametrize("name", ["gaussian", "heavy tail", "bimodal", "outlier"])
def test_many_values(name: str, num_clusters: int) -> None:
    """200 000 values against the exact optimum of at most 3000 weighted atoms, cells of nearby values at their mean.

    A boundary is off by at most half an atom, which with n atoms per cluster costs about 1 / n^2 of the error:
    0.003 % for K = 16 and 0.7 % for 256, where the tests of short rows are the sharper ones.
    """
    values = samples(name, 200_000)
    scaled = torch.asinh((values.double() - values.double().median()) * 10)  # fine where the values lie dense
    cells = ((scaled - scaled.min()) / (scaled.max() - scaled.min()) * 2999).long()
    mass = torch.bincount(cells, minlength=3000).double()
    means = torch.bincount(cells, values.double(), minlength=3000) / mass.clamp(min=1)
    exact = kmeans_1d(means[mass > 0], num_clusters, mass[mass > 0])
    result = kmeans_1d(values, num_clusters)
    assert result.sse == pytest.approx(error_of(result.centroids, values), rel=1e-9)
    assert result.sse <= error_of(exact.centroids, values) * 1.001


@pytest.mark.parametrize("num_clusters", [4, 256])
def test_long_tensors_of_few_distinct_values(num_clusters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of float16 weights: equal values are merged before the search."""
    values = samples("gaussian", 20_000).mul(150).round()
    exact = kmeans_1d(values, num_clusters)
    monkeypatch.setattr(kmeans, "EXACT_POINTS", 0)
    result = kmeans_1d(values, num_clusters)
    assert result.sse == pytest.approx(error_of(result.centroids, values), rel=1e-9)
    assert exact.sse <= result.sse * (1 + 1e-9) <= exact.sse * 1.001


def test_a_long_tensor_takes_the_fast_path_and_stays_consistent() -> None:
    values = samples("heavy tail", 20_000)
    result = kmeans_1d(values.reshape(100, 200), 16)
    distances = (values.reshape(100, 200, 1) - result.centroids).abs()
    assert torch.equal(result.indices.long(), distances.argmin(dim=2))
    assert result.sse == pytest.approx(error_of_near_optimal(values, 16), rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_weighted_long_rows(name: str) -> None:
    values = samples(name, 3000)
    weights = torch.from_numpy(np.random.default_rng(3).lognormal(0, 3, 3000)) * (torch.arange(3000) % 3 > 0)
    assert error_of_near_optimal(values, 8, weights) <= kmeans_1d(values, 8, weights).sse * 1.001


def test_the_same_input_gives_the_same_bytes() -> None:
    values = samples("gaussian", 30_000)
    first, second = kmeans_1d(values, 16), kmeans_1d(values.clone(), 16)
    assert torch.equal(first.centroids, second.centroids) and torch.equal(first.indices, second.indices)
    assert first.sse == second.sse


def test_many_long_rows() -> None:
    """Rows of both solvers, more of them than are solved at once; a row does not depend on its neighbours."""
    values = torch.randn(kmeans.ROWS_AT_ONCE + 2, 700, generator=torch.Generator().manual_seed(0))
    values[1] = values[1].mul(8).round()
    result = kmeans_rows(values, 16)
    for row in (0, 1, kmeans.ROWS_AT_ONCE, kmeans.ROWS_AT_ONCE + 1):
        alone = kmeans_rows(values[row : row + 1], 16)
        assert torch.equal(alone.centroids[0], result.centroids[row])
        assert torch.equal(alone.indices[0], result.indices[row])
        assert alone.sse <= kmeans_1d(values[row], 16).sse * 1.001
    errors = [error_of(table, row) for table, row in zip(result.centroids, values, strict=True)]
    assert result.sse == pytest.approx(sum(errors), rel=1e-9)


def test_rows_too_long_to_consider_every_position(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans_grid, "SAMPLE", 512)
    values = torch.randn(3, 3000, generator=torch.Generator().manual_seed(1))
    result = kmeans_rows(values, 8)
    assert result.sse <= sum(kmeans_1d(row, 8).sse for row in values) * 1.001
