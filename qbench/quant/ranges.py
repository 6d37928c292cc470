"""Choosing the real range a uniform quantizer covers: all values, a percentile of them, or the range of least error.

All functions work on rows: values [R, M] that share a scale per row, giving bounds [R].
"""

from __future__ import annotations

import torch
from torch import Tensor

from qbench.quant.affine import choose_qparams, fake_quantize

RANGES = ("minmax", "percentile", "mse")
_SHRINKS = 80  # candidate ranges of the MSE search, from 1.0 down to 0.2 of min-max
_CHUNK = 1 << 24  # elements of one candidate evaluation: bounds memory on large layers


def choose_range(
    rows: Tensor, qmin: int, qmax: int, *, kind: str, symmetric: bool, percentile: float = 99.9
) -> tuple[Tensor, Tensor]:
    """Bounds (range_min, range_max), each [R], of values [R, M].

    Raises:
        ValueError: Empty rows, a non-finite value (its first row is named), an unknown kind, a percentile outside
            50..100, or (for mse) values beyond +-1.7e38.
    """
    if rows.numel() == 0:
        raise ValueError("there are no values to choose a range from")
    bad = ~torch.isfinite(rows)
    if bad.any():
        raise ValueError(f"a value is {rows[bad][0].item()} (row {int(bad.any(1).nonzero()[0])})")
    if kind == "minmax":
        return rows.amin(1), rows.amax(1)
    if kind == "percentile":
        return percentile_range(rows, percentile)
    if kind == "mse":
        return mse_range(rows, qmin, qmax, symmetric=symmetric)
    raise ValueError(f"range={kind!r}: allowed are {', '.join(RANGES)}")


def percentile_range(rows: Tensor, percentile: float) -> tuple[Tensor, Tensor]:
    """The two-sided range that holds ``percentile`` % of each row's values (linear between order statistics).

    Raises:
        ValueError: ``percentile`` is outside 50..100.
    """
    if not 50.0 <= percentile <= 100.0:
        raise ValueError(f"percentile={percentile} is outside 50..100")
    tail = (1.0 - percentile / 100.0) / 2.0
    ordered = rows.sort(dim=1).values
    return _quantile(ordered, tail), _quantile(ordered, 1.0 - tail)


def _quantile(ordered: Tensor, share: float) -> Tensor:
    """`torch.quantile` refuses rows of more than 16 M values."""
    position = share * (ordered.shape[1] - 1)
    below = int(position)
    above = min(below + 1, ordered.shape[1] - 1)
    return torch.lerp(ordered[:, below], ordered[:, above], position - below)


def mse_range(rows: Tensor, qmin: int, qmax: int, *, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The range, among min-max and ranges shrunk from it, whose quantization has the least squared error per row.

    Never worse than min-max, which is a candidate. Source: the grid search of Nagel et al., "A White Paper on Neural
    Network Quantization", arXiv:2106.08295, sec. 3.1.
    """
    low, high = rows.amin(1), rows.amax(1)
    best_low, best_high = low.clone(), high.clone()
    best_error = torch.full_like(low, torch.inf, dtype=torch.float64)
    for step in range(_SHRINKS + 1):
        factor = 1.0 - 0.8 * step / _SHRINKS
        qparams = choose_qparams(low * factor, high * factor, qmin, qmax, symmetric=symmetric)
        error = _squared_error(rows, qparams.scale, qparams.zero_point, qmin, qmax)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_low, best_high = torch.where(better, low * factor, best_low), torch.where(better, high * factor, best_high)
    return best_low, best_high


def _squared_error(rows: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int) -> Tensor:
    width = max(1, _CHUNK // rows.shape[0])
    total = torch.zeros(rows.shape[0], dtype=torch.float64, device=rows.device)
    for start in range(0, rows.shape[1], width):
        part = rows[:, start : start + width]
        error = part - fake_quantize(part, scale[:, None], zero_point[:, None], qmin, qmax)
        total += error.double().square_().sum(1)  # in float32 the squares of tiny and huge errors would be 0 and inf
    return total
