"""Magnitude pruning: which weights stay, and how sparsity rises while a network is fine-tuned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def keep_largest(values: Tensor, count: int) -> Tensor:
    """Mark the ``count`` values of largest magnitude; of equal ones the first in row-major order.

    Args:
        values: Any shape, float32, no NaN.
        count: How many stay; 0 or fewer keeps none, more than there are keeps all.

    Returns:
        bool, shaped like ``values``, with exactly min(max(count, 0), n) ones.

    Raises:
        ValueError: A value is NaN.

    Example:
        >>> keep_largest(torch.tensor([1.0, -3.0, 2.0, -2.0]), 2).tolist()
        [False, True, True, False]
    """
    flat = values.detach().abs().reshape(-1)
    if flat.numel() and bool(torch.isnan(flat.max())):
        raise ValueError("a value is NaN, which has no magnitude")
    if count <= 0 or count >= flat.numel():
        return torch.full(values.shape, count > 0, dtype=torch.bool, device=values.device)
    threshold = torch.kthvalue(flat, flat.numel() - count + 1).values  # the smallest that stays
    kept = flat > threshold
    ties = torch.nonzero(flat == threshold).reshape(-1)
    kept[ties[: count - int(kept.sum())]] = True
    return kept.reshape(values.shape)


def sparse_masks(weights: Sequence[Tensor], sparsity: float) -> list[Tensor]:
    """Prune several tensors together, so that the share ``sparsity`` of all their weights goes, the smallest ones.

    round((1 - sparsity) n) of all n weights stay. A tensor that would be left with none keeps its largest weight
    (the first, if all are zero) beyond that number.

    Args:
        weights: Float32, any shapes, not empty, no NaN, on one device.
        sparsity: 0 (nothing goes) to 1.

    Returns:
        A bool mask for each, True where a weight stays.

    Raises:
        ValueError: A weight is NaN.

    Source: Han, Pool, Tran & Dally, "Learning both Weights and Connections for Efficient Neural Networks",
        arXiv:1506.02626. Deviation: one threshold for all tensors, by count, instead of one per layer by deviation.
    """
    flat = torch.cat([weight.detach().reshape(-1) for weight in weights])
    kept = keep_largest(flat, round((1.0 - sparsity) * flat.numel()))
    masks = torch.split(kept, [weight.numel() for weight in weights])
    return [
        mask.reshape(weight.shape) if bool(mask.any()) else keep_largest(weight, 1)
        for mask, weight in zip(masks, weights)
    ]


def group_mask(weight: Tensor, keep: int, group: int) -> Tensor:
    """N:M sparsity: of every ``group`` consecutive weights of a row, the ``keep`` of largest magnitude stay.

    A row is what belongs to one output channel (axis 0), flattened in row-major order. Where ``group`` does not divide
    its length, the last, shorter group keeps up to ``keep`` weights as well.

    Args:
        weight: Float32 [C, ...], no NaN.
        keep: N, at least 1.
        group: M, above N.

    Returns:
        bool, shaped like ``weight``.

    Raises:
        ValueError: A weight is NaN, or N and M are not as said.

    Source: Mishra et al., "Accelerating Sparse Deep Neural Networks", arXiv:2104.08378 (2:4).

    Example:
        >>> group_mask(torch.tensor([[4.0, 1.0, -3.0, 2.0, 5.0]]), 2, 4).tolist()
        [[True, False, True, False, True]]
    """
    if not 1 <= keep < group:
        raise ValueError(f"{keep}:{group} keeps {keep} of {group}; the first must be at least 1 and below the second")
    rows = weight.detach().abs().reshape(weight.shape[0], -1)
    if bool(torch.isnan(rows).any()):
        raise ValueError("a value is NaN, which has no magnitude")
    length = rows.shape[1]
    padded = torch.nn.functional.pad(rows, (0, -length % group), value=-1.0).reshape(rows.shape[0], -1, group)
    order = torch.sort(padded, dim=-1, descending=True, stable=True).indices
    mask = torch.zeros(padded.shape, dtype=torch.bool, device=weight.device)
    mask.scatter_(-1, order[..., :keep], True)
    return mask.reshape(rows.shape[0], -1)[:, :length].reshape(weight.shape)


def cubic_share(step: int, ramp_steps: int) -> float:
    """How much of the final sparsity is due at a step: 1 - (1 - step / ramp_steps)^3, and 1 from the ramp's end on.

    Source: Zhu & Gupta, "To prune, or not to prune", arXiv:1710.01878, sec. 3, with s_i = 0 and t_0 = 0.
    """
    return 1.0 if step >= ramp_steps else 1.0 - (1.0 - step / ramp_steps) ** 3
