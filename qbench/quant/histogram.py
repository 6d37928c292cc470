"""Choosing the real range of an activation quantizer from a histogram of the values seen at calibration.

Activations of a calibration set are too many to keep; a histogram of ``BINS`` bins between their extremes stands for
them. All searches happen in float64 on the histogram.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qbench.quant.kmeans import kmeans_1d

BINS = 2048
_SHRINK, _CANDIDATES = 0.96, 120  # widths tried by the searches: all, 96 %, 92 %, ... 0.8 % of the extremes


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of values in equal bins.

    Args:
        counts: float64 [B], values per bin.
        low: Left edge of the first bin.
        high: Right edge of the last bin, > ``low``.
    """

    counts: Tensor
    low: float
    high: float

    @property
    def centres(self) -> Tensor:
        """The middle of each bin, float64 [B]."""
        width = (self.high - self.low) / len(self.counts)
        return self.low + width * (torch.arange(len(self.counts), dtype=torch.float64) + 0.5)


def count(value: Tensor, low: float, high: float) -> Tensor:
    """Counts of finite values in ``BINS`` equal bins of [low, high], float64 [BINS]; values outside are dropped."""
    counted = torch.histc(value.detach().float().flatten(), BINS, low, high) if high > low else torch.zeros(BINS)
    return counted.double().cpu()


def shared_levels(histogram: Histogram, num_levels: int) -> tuple[float, ...]:
    """The values, ascending, that stand for all others with the least squared error: k-means on the histogram.

    Where the range holds zero, the level nearest to it becomes exactly zero: padding, and what a ReLU cuts off, are
    zeros, and far more of them than of any other value.

    Args:
        histogram: With a count that is not 0.
        num_levels: Most levels, 1..256; fewer are found where fewer bins have counts.

    Source: Han et al., arXiv:1510.00149, sec. 3, applied to activations instead of weights.
    """
    seen = histogram.counts > 0
    found = kmeans_1d(histogram.centres[seen].float(), num_levels, histogram.counts[seen].float()).centroids
    if histogram.low <= 0.0 <= histogram.high:
        found[int(found.abs().argmin())] = 0.0
    return tuple(sorted(set(found.tolist())))


def percentile_range(histogram: Histogram, percentile: float) -> tuple[float, float]:
    """The range that leaves (100 - percentile) / 2 % of the values out at each side.

    A side on which nothing lies but zero (as below a ReLU) keeps its extreme: cutting there would cut real values.

    Raises:
        ValueError: ``percentile`` is outside 50..100.
    """
    if not 50.0 <= percentile <= 100.0:
        raise ValueError(f"percentile={percentile} is outside 50..100")
    tail = (1.0 - percentile / 100.0) / 2.0 * float(histogram.counts.sum())
    below, above = histogram.counts.cumsum(0), histogram.counts.flip(0).cumsum(0)
    width = (histogram.high - histogram.low) / len(histogram.counts)
    left = int((below > tail).nonzero()[0]) if histogram.low < 0 else 0
    right = int((above > tail).nonzero()[0]) if histogram.high > 0 else 0
    return histogram.low + left * width, histogram.high - right * width


def mse_range(histogram: Histogram, qmin: int, qmax: int) -> tuple[float, float]:
    """The range, shrunk from the extremes, whose quantization has the least squared error.

    Both ends shrink by one factor. Source: Nagel et al., arXiv:2106.08295, sec. 3.1.
    """
    centres, counts = histogram.centres, histogram.counts
    best, best_error = (histogram.low, histogram.high), float("inf")
    for low, high in _candidates(histogram):
        scale = (max(high, 0.0) - min(low, 0.0)) / (qmax - qmin)
        zero_point = round(qmin - min(low, 0.0) / scale)
        codes = (torch.round(centres / scale) + zero_point).clamp(qmin, qmax)
        error = float((counts * (centres - scale * (codes - zero_point)).square()).sum())
        if error < best_error:
            best, best_error = (low, high), error
    return best


def entropy_range(histogram: Histogram, qmin: int, qmax: int) -> tuple[float, float]:
    """The range whose quantized distribution diverges least (Kullback-Leibler) from the clipped one.

    For each candidate range, values outside are counted into its outermost bins; the bins inside are merged into
    qmax - qmin + 1 levels and spread evenly over the bins of each level that were not empty.

    Source: Migacz, "8-bit Inference with TensorRT", GTC 2017. Deviations: ranges of any sign, both ends of which
        shrink by one factor; the divergence is taken over the bins that hold values; the bin of zero counts what its
        neighbours do. What a ReLU cuts off is zero, which every grid holds exactly; such a peak merged with other
        values is all that the divergence would see, and with few levels the narrowest range the one with the least.
    """
    levels, counts = qmax - qmin + 1, _without_zeros(histogram)
    width = (histogram.high - histogram.low) / len(histogram.counts)
    best, best_divergence = (histogram.low, histogram.high), float("inf")
    for low, high in _candidates(histogram):
        first = min(int((low - histogram.low) / width), len(histogram.counts) - 1)
        last = max(first + 1, round((high - histogram.low) / width))
        if last - first < levels:
            continue  # fewer bins than levels: nothing would be lost, and nothing be known
        divergence = _divergence(counts, first, last, levels)
        if divergence < best_divergence:
            best, best_divergence = (low, high), divergence
    return best


def _without_zeros(histogram: Histogram) -> Tensor:
    """The counts with that of the bin of zero, if there is one, replaced by the mean of those beside it."""
    counts = histogram.counts.clone()
    zero = int(-histogram.low / (histogram.high - histogram.low) * len(counts)) if histogram.low <= 0.0 else -1
    if 0 <= zero < len(counts):
        beside = torch.cat([counts[max(zero - 1, 0) : zero], counts[zero + 1 : zero + 2]])
        counts[zero] = beside.mean()
    return counts


def _divergence(counts: Tensor, first: int, last: int, levels: int) -> float:
    """KL(clipped || quantized) of the bins [first, last)."""
    inside = counts[first:last]
    clipped = inside.clone()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[last:].sum()
    filled = inside > 0
    level = torch.arange(len(inside)) * levels // len(inside)
    mass = torch.zeros(levels, dtype=torch.float64).index_add_(0, level, inside)
    members = torch.zeros(levels, dtype=torch.float64).index_add_(0, level, filled.double())
    spread = (mass / members.clamp(min=1.0))[level] * filled
    p, q = clipped / clipped.sum(), spread / spread.sum().clamp(min=1e-300)
    meaning = p > 0
    return float((p[meaning] * (p[meaning] / q[meaning].clamp(min=1e-12)).log()).sum())


def _candidates(histogram: Histogram) -> list[tuple[float, float]]:
    """Ranges from the extremes inwards, the widest first so that ties keep it."""
    factors = [_SHRINK**step for step in range(_CANDIDATES)]
    return [(histogram.low * factor, histogram.high * factor) for factor in factors]
