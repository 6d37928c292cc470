"""Weights of one magnitude: -a and a (binary), or -a, 0 and a (ternary), with the a of least squared error.

All functions work on rows: values [R, M] float32 that share a magnitude per row, giving magnitudes [R] float32.
"""

from __future__ import annotations

import torch
from torch import Tensor


def binary_magnitude(rows: Tensor) -> Tensor:
    """The a that minimises sum (w - a sign(w))^2 of each row: the mean of |w|.

    Source: Rastegari et al., "XNOR-Net", arXiv:1603.05279, sec. 3.1, eq. 6.
    """
    return rows.abs().double().mean(1).float()


def binary_indices(rows: Tensor) -> Tensor:
    """0 where a value becomes -a, 1 where it becomes a; zero counts as positive. uint8, shaped like ``rows``."""
    return (rows >= 0).to(torch.uint8)


def ternary_magnitude(rows: Tensor) -> Tensor:
    """The a that minimises the squared error of each row when every value takes the nearest of -a, 0 and a.

    With the k largest |w| kept, the best a is their mean and the error falls by (their sum)^2 / k; sorting tries
    every k, so the optimum is exact.

    Source: Li et al., "Ternary Weight Networks", arXiv:1605.04711, sec. 2.2, eq. 5. Deviation: they solve for the
        threshold by the approximation 0.7 E|w|.

    Returns:
        Magnitudes [R], 0 for a row of zeros.

    Example:
        >>> ternary_magnitude(torch.tensor([[1.0, -3.0, 0.5, 2.0]])).tolist()
        [2.5]
    """
    sums = rows.abs().sort(dim=1, descending=True).values.double().cumsum(1)
    counts = torch.arange(1, rows.shape[1] + 1, dtype=torch.float64, device=rows.device)
    best = (sums.square() / counts).argmax(1, keepdim=True)
    return (sums.gather(1, best) / (best + 1)).squeeze(1).float()


def ternary_indices(rows: Tensor, magnitude: Tensor) -> Tensor:
    """0, 1 or 2 where a value is nearest to -a, 0 or a (a tie goes to 0). uint8, shaped like ``rows``."""
    kept = rows.abs() > magnitude[:, None] / 2
    return (1 + torch.sign(rows) * kept).to(torch.uint8)


def ternary_step(rows: Tensor, magnitude: Tensor) -> Tensor:
    """One Lloyd step from ``magnitude``: the mean |w| of what is nearer to -a or a than to 0.

    The squared error never rises. Cheap where sorting is not, e.g. in every step of a training. A row of which
    nothing is kept keeps its magnitude.
    """
    size = rows.abs().double()
    kept = size > magnitude[:, None].double() / 2
    count = kept.sum(1)
    mean = (size * kept).sum(1) / count.clamp(min=1)
    return torch.where(count > 0, mean.float(), magnitude)
