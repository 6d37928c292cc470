"""Optimal one-dimensional k-means by dynamic programming, many rows at once.

Idea: in one dimension the clusters of an optimum are runs of the sorted values, so that

    D_k[i] = min over j of D_{k-1}[j] + cost(j, i)

with cost(j, i) the squared error of the points j..i-1 around their mean. That cost satisfies the quadrangle
inequality, hence the best j does not fall as i grows, and divide and conquer finds a layer D_k in O(n log n).
One level of the recursion is one array operation over all rows.

Cost: O(K n log n) time and K (n + 1) float64 values per row.

Source: Wang and Song, "Ckmeans.1d.dp: Optimal k-means Clustering in One Dimension by Dynamic Programming",
    The R Journal 3(2), 2011; Grønlund et al., "Fast Exact k-Means, k-Medians and Bregman Divergence Clustering
    in 1D", arXiv:1701.07204. Deviation: weights, and ties go to the smallest boundaries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TIE = 1e-12
"""Relative difference below which two clusterings count as equally good; float64 rounding is well below it."""


@dataclass(frozen=True, eq=False)
class PrefixSums:
    """Running sums of sorted, weighted rows; entry i covers the points before position i.

    Args:
        weight, first, second: Sums of w, w x and w x^2, [C, n + 1]. The origin of x and the position where the
            sums are zero are free, as only differences count.
    """

    weight: Floats
    first: Floats
    second: Floats


def running_sum(terms: Floats) -> Floats:
    """Prefix sums [C, n + 1] of [C, n] that are zero in the middle of the row.

    Summing outwards from the middle keeps the rounding errors of far outliers out of the sums of all other points.
    """
    middle = terms.shape[1] // 2
    sums = np.zeros((terms.shape[0], terms.shape[1] + 1))
    np.cumsum(terms[:, middle:], axis=1, out=sums[:, middle + 1 :])
    if middle:
        sums[:, :middle] = -np.cumsum(terms[:, :middle][:, ::-1], axis=1)[:, ::-1]
    return sums


def prefix_sums(points: Floats, weights: Floats) -> PrefixSums:
    """Running sums of sorted rows.

    Args:
        points: Ascending values [C, n], centred so that their squares keep their digits.
        weights: Weights >= 0, [C, n].
    """
    moments = weights * points
    return PrefixSums(running_sum(weights), running_sum(moments), running_sum(moments * points))


def spread(weight: Floats, first: Floats, second: Floats) -> Floats:
    """Squared error around the mean from the sums of w, w x and w x^2; 0 where the weight is 0."""
    empty = weight <= 0
    return np.asarray(second - first * first / np.where(empty, 1.0, weight)) * ~empty


def run_means(points: Floats, weight: Floats, first: Floats, bounds: Ints) -> Floats:
    """Weighted mean of each run ``bounds[k]..bounds[k + 1] - 1`` of sorted points [C, n], [C, K].

    Clipped to the run, so that rounding never puts means out of order; an empty run has the value it lies before.
    """
    low = np.take_along_axis(points, np.minimum(bounds[:, :-1], points.shape[1] - 1), axis=1)
    high = np.take_along_axis(points, np.maximum(bounds[:, 1:] - 1, 0), axis=1)
    mass, moment = (np.diff(np.take_along_axis(table, bounds, axis=1)) for table in (weight, first))
    means = np.where(mass > 0, moment / np.where(mass > 0, mass, 1.0), low)
    return np.asarray(np.clip(means, low, np.maximum(low, high)))


@dataclass(frozen=True, eq=False)
class Windows:
    """Where the boundaries of a clustering may lie: boundary k in ``first[:, k]..last[:, k]``, int64 [C, K + 1].

    Both rise strictly along a row; boundary 0 is fixed at 0 and boundary K at the number of points.
    """

    first: Ints
    last: Ints


def all_boundaries(lengths: Ints, num_clusters: int) -> Windows:
    """Windows that exclude only empty clusters, for rows of ``lengths`` [C] points, each >= num_clusters."""
    order = np.arange(num_clusters + 1)
    first = np.broadcast_to(order, (lengths.size, num_clusters + 1)).copy()
    last = lengths[:, None] - order[::-1]
    first[:, -1], last[:, 0] = lengths, 0
    return Windows(first, last)


def optimal_boundaries(sums: PrefixSums, windows: Windows) -> Ints:
    """Cut every row into K runs of least total squared error.

    Args:
        sums: Running sums of C rows of distinct ascending points; rows may end in padding.
        windows: Where the boundaries may lie.

    Returns:
        Run k of row c is ``[out[c, k], out[c, k + 1])``, int64 [C, K + 1]. Of several optima the one with the smallest
        boundaries, which is the one whose ascending centroids are lexicographically smallest: by the quadrangle
        inequality the element-wise smallest boundaries of two optima are an optimum too.
    """
    rows, num_clusters = windows.first.shape[0], windows.first.shape[1] - 1
    layers = [np.zeros((rows, 1))]
    for k in range(1, num_clusters + 1):
        layers.append(_next_layer(sums, layers[-1], windows, k))
    bounds = np.zeros((rows, num_clusters + 1), dtype=np.int64)
    bounds[:, -1] = windows.last[:, -1]
    every = np.arange(rows)[:, None]
    for k in range(num_clusters - 1, 0, -1):
        end = bounds[:, k + 1, None]
        starts = windows.first[:, k, None] + np.arange(layers[k].shape[1])
        allowed = starts <= np.minimum(windows.last[:, k, None], end - 1)
        starts = np.minimum(starts, end)
        parts = (table[every, end] - table[every, starts] for table in (sums.weight, sums.first, sums.second))
        total = np.where(allowed, layers[k] + spread(*parts), np.inf)
        best = total.min(axis=1, keepdims=True)
        bounds[:, k] = windows.first[:, k] + (total <= best + TIE * np.abs(best)).argmax(axis=1)
    return bounds


def _next_layer(sums: PrefixSums, previous: Floats, windows: Windows, k: int) -> Floats:
    """D_k over the window of boundary k from D_{k-1} over the window of boundary k - 1, [C, widest window]."""
    first, last = windows.first[:, k, None], windows.last[:, k, None]
    count = int((last - first).max()) + 1
    layer = np.full((first.size, count), np.inf)
    # Column t + 1 holds the best start of end first + t; the outer columns bound the search.
    starts = np.empty((first.size, count + 2), dtype=np.int64)
    starts[:, 0], starts[:, -1] = windows.first[:, k - 1], windows.last[:, k - 1]
    stride = 1 << count.bit_length() - 1
    while stride:
        nodes = np.arange(stride - 1, count, 2 * stride)
        ends = first + nodes
        inside = ends <= last
        # Beyond the window of a narrower row there is nothing to find: one start is looked at and dropped.
        high = np.where(inside, np.minimum(starts[:, np.minimum(nodes + stride, count) + 1], ends - 1), starts[:, -1:])
        low = np.where(inside, starts[:, nodes - stride + 1], high)
        best, at = _search(sums, previous, windows.first[:, k - 1, None], low, high, np.minimum(ends, last))
        layer[:, nodes] = np.where(inside, best, np.inf)
        starts[:, nodes + 1] = at
        stride //= 2
    return layer


def _search(sums: PrefixSums, previous: Floats, origin: Ints, low: Ints, high: Ints, ends: Ints) -> tuple[Floats, Ints]:
    """Best total and its first start for every end, searching the starts low..high, all [C, nodes].

    ``previous`` [C, window] begins at the starts ``origin`` [C, 1].
    """
    rows, width = sums.first.shape
    row = np.arange(rows)[:, None]
    sizes = (high - low + 1).ravel()
    begins = np.cumsum(sizes) - sizes
    steps = np.arange(int(sizes.sum()))
    start = steps + np.repeat((low + row * width).ravel() - begins, sizes)
    at_previous = steps + np.repeat((low - origin + row * previous.shape[1]).ravel() - begins, sizes)
    flat_end = (ends + row * width).ravel()
    parts = (
        np.repeat(table.ravel()[flat_end], sizes) - table.ravel()[start]
        for table in (sums.weight, sums.first, sums.second)
    )
    total = previous.ravel()[at_previous] + spread(*parts)
    best = np.minimum.reduceat(total, begins)
    hits = np.flatnonzero(total == np.repeat(best, sizes))
    at = start[hits[np.searchsorted(hits, begins)]]
    return best.reshape(low.shape), at.reshape(low.shape) - row * width
