"""Weight sharing by optimal one-dimensional k-means: each value is replaced by the nearest of K centroids.

A row of few distinct values is solved exactly (:mod:`qbench.quant.kmeans_dp`), a longer one to within 0.1 % of the
least squared error (:mod:`qbench.quant.kmeans_grid`; far closer in practice). There is no random start: the same input
gives the same centroids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qbench.quant.kmeans_dp import Floats, Ints, all_boundaries, optimal_boundaries, prefix_sums, run_means
from qbench.quant.kmeans_grid import near_optimal_centroids

Singles = NDArray[np.float32]

EXACT_POINTS = 4096
"""Most distinct values of a single problem that is solved exactly."""
EXACT_ROW_WORK = 8192
"""Most distinct values times clusters of a row that is solved exactly when many rows are."""
ROWS_AT_ONCE = 128
ASSIGN_BLOCK = 1 << 16
"""Values assigned at a time, so that they stay in the cache while every threshold passes over them."""


@dataclass(frozen=True, eq=False)
class KMeansResult:
    """Centroids and the centroid of each value.

    Args:
        centroids: Ascending, float32, [K], or [C, K] for one codebook per row.
        indices: Number of each value's nearest centroid (the lower of two equally near ones), uint8, shaped like the
            values.
        sse: Weighted sum of squared errors of the float32 centroids, computed in float64; over all rows.
    """

    centroids: Tensor
    indices: Tensor
    sse: float


def kmeans_1d(values: Tensor, num_clusters: int, weights: Tensor | None = None) -> KMeansResult:
    """Share ``num_clusters`` centroids among all values of a tensor with the least squared error.

    Exact for up to 4096 distinct values, where of several optima the lexicographically smallest ascending centroids
    win; within 0.1 % of the least error beyond. With no more distinct values than clusters, they are the centroids.

    Args:
        values: Values of any shape and real dtype, taken as float32; finite, not empty.
        num_clusters: Most centroids, 1..256.
        weights: Weight >= 0 of each value's squared error, shaped like ``values``; None for ones. A value of weight 0
            does not count but gets its nearest centroid. Weights that are all 0 are taken as ones.

    Returns:
        K = min(num_clusters, number of distinct values) centroids; if the values are more than ``num_clusters``, those
        of weight 0 are not counted.

    Raises:
        ValueError: ``values`` is empty or has a non-finite value, ``weights`` does not fit or has a negative or
            non-finite one (the message names the first bad index), or ``num_clusters`` is outside 1..256.

    Example:
        >>> kmeans_1d(torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0]), 2).centroids.tolist()
        [2.0, 7.0]
    """
    _check(values, num_clusters, weights)
    rows = None if weights is None else weights.reshape(1, -1)
    result = _solve(values.reshape(1, -1), rows, num_clusters, EXACT_POINTS)
    return KMeansResult(result.centroids[0], result.indices.reshape(values.shape), result.sse)


def kmeans_rows(values: Tensor, num_clusters: int, weights: Tensor | None = None) -> KMeansResult:
    """Give every row its own codebook: :func:`kmeans_1d` of each row, many rows at once.

    Exact for rows of up to 8192 / num_clusters distinct values (4096 at most), within 0.1 % of the least error beyond.

    Args:
        values: Values [C, M] of any real dtype, taken as float32; finite, not empty.
        num_clusters: Most centroids per row, 1..256.
        weights: Weights >= 0, [C, M]; None for ones. A row whose weights are all 0 counts as one of ones.

    Returns:
        Centroids [C, K] with K that of the row that needs most; other rows repeat their last centroid.

    Raises:
        ValueError: As for :func:`kmeans_1d`, or ``values`` does not have two axes.
    """
    if values.dim() != 2:
        raise ValueError(f"values must have two axes, [C, M], not shape {tuple(values.shape)}")
    _check(values, num_clusters, weights)
    return _solve(values, weights, num_clusters, min(EXACT_POINTS, EXACT_ROW_WORK // num_clusters))


def _check(values: Tensor, num_clusters: int, weights: Tensor | None) -> None:
    if not 1 <= num_clusters <= 256:
        raise ValueError(f"num_clusters is {num_clusters}, not in 1..256: indices are uint8")
    if values.numel() == 0:
        raise ValueError(f"there is nothing to cluster: values has shape {tuple(values.shape)}")
    if values.is_complex():
        raise ValueError("values must be real")
    low, high = torch.aminmax(values.detach().to(torch.float32))  # NaN propagates, infinities are the extremes
    if not (torch.isfinite(low) and torch.isfinite(high)):
        _refuse(values, ~torch.isfinite(values.to(torch.float32)), "values", "finite as float32")
    if weights is None:
        return
    if weights.shape != values.shape:
        raise ValueError(f"weights have shape {tuple(weights.shape)}, values {tuple(values.shape)}")
    bad = ~(torch.isfinite(weights) & (weights >= 0))
    if bad.any():
        _refuse(weights, bad, "weights", "finite and >= 0")


def _refuse(tensor: Tensor, bad: Tensor, name: str, wanted: str) -> None:
    index = [int(i) for i in torch.nonzero(bad)[0]]
    raise ValueError(f"{name}{index} is {float(tensor[tuple(index)])}, not {wanted}")


def _solve(values: Tensor, weights: Tensor | None, num_clusters: int, exact_points: int) -> KMeansResult:
    rows = values.detach().to("cpu", torch.float32).contiguous().numpy()
    mass = None if weights is None else weights.detach().to("cpu", torch.float64).numpy()
    if mass is not None:
        mass = np.where(mass.any(axis=1, keepdims=True), mass, 1.0)

    parts = []
    for start in range(0, rows.shape[0], ROWS_AT_ONCE):
        pick = slice(start, start + ROWS_AT_ONCE)
        parts.append(_solve_chunk(rows[pick], None if mass is None else mass[pick], num_clusters, exact_points))
    used = max(int(part[1].max()) for part in parts)
    centroids = torch.from_numpy(np.concatenate([part[0][:, :used] for part in parts]))
    indices = torch.from_numpy(np.concatenate([part[2] for part in parts]))
    return KMeansResult(centroids.to(values.device), indices.to(values.device), sum(part[3] for part in parts))


def _solve_chunk(
    values: Singles, weights: Floats | None, num_clusters: int, exact_points: int
) -> tuple[Singles, Ints, NDArray[np.uint8], float]:
    """Centroids [C, num_clusters], how many of them a row needs [C], indices [C, M] and the squared error."""
    ordered, mass = _sort(values, weights)
    distinct = _count_distinct(ordered)
    counted, counts = ordered, distinct
    if mass is not None and not mass.all():
        counted = _hide_weightless(ordered, mass, distinct <= num_clusters)
        counts = _count_distinct(counted)
    centroids = np.empty((values.shape[0], num_clusters), dtype=np.float32)
    few, long = counts <= num_clusters, counts > exact_points
    for rows, solve in ((few, _all_points), (~few & ~long, _exact_centroids), (~few & long, _long_centroids)):
        if rows.any():
            picked = counted[rows] if not rows.all() else counted
            centroids[rows] = solve(picked, None if mass is None else mass[rows], num_clusters)
    thresholds = _thresholds(centroids)
    used = np.minimum(counts, num_clusters)
    # A value of weight 0 beyond the last centroid would be given one of the copies that pad the row.
    indices = np.minimum(_assign(values, thresholds), (used - 1).astype(np.uint8)[:, None])
    return (
        centroids,
        used,
        indices,
        _squared_error(ordered, mass, centroids, thresholds),
    )


def _sort(values: Singles, weights: Floats | None) -> tuple[Singles, Floats | None]:
    if weights is None:
        return np.sort(values, axis=1), None
    order = np.argsort(values, axis=1)
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(weights, order, axis=1)


def _count_distinct(ordered: Singles) -> Ints:
    return np.asarray(1 + np.count_nonzero(ordered[:, 1:] != ordered[:, :-1], axis=1))


def _hide_weightless(ordered: Singles, weights: Floats, keep: NDArray[np.bool_]) -> Singles:
    """Move each value of weight 0 onto the weighted one before it (or the first), where it changes nothing."""
    column = np.arange(ordered.shape[1])
    before = np.maximum.accumulate(np.where(weights > 0, column, 0), axis=1)
    source = np.maximum(before, (weights > 0).argmax(axis=1)[:, None])
    return np.where(keep[:, None], ordered, np.take_along_axis(ordered, source, axis=1))


def _merge_equal(ordered: Singles, weights: Floats | None) -> tuple[Singles, Floats, Ints]:
    """Distinct values [C, n] with their weights, and how many of them a row has; what follows weighs nothing."""
    rows = ordered.shape[0]
    place = np.zeros(ordered.shape, dtype=np.int64)
    np.cumsum(ordered[:, 1:] != ordered[:, :-1], axis=1, out=place[:, 1:])
    counts = place[:, -1] + 1
    width = int(counts.max())
    flat = (place + width * np.arange(rows)[:, None]).ravel()
    points = np.zeros(rows * width, dtype=np.float32)
    points[flat] = ordered.ravel()
    mass = np.bincount(flat, None if weights is None else weights.ravel(), minlength=rows * width).astype(np.float64)
    return points.reshape(rows, width), mass.reshape(rows, width), counts


def _all_points(ordered: Singles, weights: Floats | None, num_clusters: int) -> Singles:
    points, _, counts = _merge_equal(ordered, weights)
    return np.take_along_axis(points, np.minimum(np.arange(num_clusters), counts[:, None] - 1), axis=1)


def _exact_centroids(ordered: Singles, weights: Floats | None, num_clusters: int) -> Floats:
    points, mass, counts = _merge_equal(ordered, weights)
    origin = np.take_along_axis(points, counts[:, None] // 2, axis=1).astype(np.float64)
    centred = points - origin
    sums = prefix_sums(centred, mass)
    bounds = optimal_boundaries(sums, all_boundaries(counts, num_clusters))
    return run_means(centred, sums.weight, sums.first, bounds) + origin


def _long_centroids(ordered: Singles, weights: Floats | None, num_clusters: int) -> Floats:
    """Near-optimal centroids; rows that repeat their values, as float16 weights do, are solved with these merged."""
    repeating = _count_distinct(ordered) * 4 < ordered.shape[1]
    centroids = np.empty((ordered.shape[0], num_clusters))
    for row in np.flatnonzero(repeating):
        points, mass, _ = _merge_equal(ordered[row, None], None if weights is None else weights[row, None])
        centroids[row] = near_optimal_centroids(points, mass, num_clusters)
    if not repeating.all():
        rest = slice(None) if not repeating.any() else ~repeating
        mass_of_rest = None if weights is None else weights[rest]
        centroids[rest] = near_optimal_centroids(ordered[rest], mass_of_rest, num_clusters)
    return centroids


def _thresholds(centroids: Singles) -> Singles:
    """The largest float32 that is no nearer to centroid k + 1 than to centroid k, [C, K - 1]."""
    middle = (centroids[:, :-1].astype(np.float64) + centroids[:, 1:]) / 2
    rounded = middle.astype(np.float32)
    return np.where(rounded > middle, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def _assign(values: Singles, thresholds: Singles) -> NDArray[np.uint8]:
    """Number of thresholds below each value; K comparisons in cache beat a binary search per value."""
    rows, columns = values.shape
    indices = np.zeros(values.shape, dtype=np.uint8)
    height, width = max(1, ASSIGN_BLOCK // columns), min(columns, ASSIGN_BLOCK)
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            block = (slice(top, top + height), slice(left, left + width))
            part, counts = values[block], indices[block]
            for threshold in thresholds[block[0]].T:
                counts += part > threshold[:, None]
    return indices


def _squared_error(ordered: Singles, weights: Floats | None, centroids: Singles, thresholds: Singles) -> float:
    rows, columns = ordered.shape
    cuts = np.zeros((rows, centroids.shape[1] + 1), dtype=np.int64)
    cuts[:, 1:-1] = torch.searchsorted(torch.from_numpy(ordered), torch.from_numpy(thresholds), right=True).numpy()
    cuts[:, -1] = columns
    error = np.repeat(centroids.ravel().astype(np.float64), np.diff(cuts).ravel()).reshape(rows, columns)
    error -= ordered
    return float(
        np.einsum("cn,cn->", error, error) if weights is None else np.einsum("cn,cn,cn->", error, error, weights)
    )
