"""Learned rounding: each weight goes up or down by a variable that training drives to 0 or 1.

Source: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", arXiv:2004.10568.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

STRETCH = (-0.1, 1.1)  # of the sigmoid, so that 0 and 1 are reached (sec. 3.2)
BETA = (20.0, 2.0)  # of the regularizer: loose first, then tight
WARMUP = 0.2  # share of the iterations before rounding is pushed to a side


def initial_logits(steps: Tensor) -> Tensor:
    """Variables V, float32, for which ``soft_rounding(V)`` is the fraction of ``steps`` = weight / scale."""
    low, high = STRETCH
    fraction = (steps - torch.floor(steps)).clamp(1e-4, 1 - 1e-4)
    return -torch.log((high - low) / (fraction - low) - 1)


def soft_rounding(logits: Tensor) -> Tensor:
    """h(V) in [0, 1]: how far each weight goes up from its floor. Eq. 23."""
    low, high = STRETCH
    return (torch.sigmoid(logits) * (high - low) + low).clamp(0.0, 1.0)


def rounding_penalty(logits: Tensor, progress: float) -> Tensor:
    """Sum of 1 - |2 h(V) - 1|^beta, the distance from a decision; 0 during warm-up. Eq. 24.

    Args:
        logits: V, any shape.
        progress: Share of the iterations that are done, 0..1.
    """
    if progress < WARMUP:
        return torch.zeros((), dtype=logits.dtype, device=logits.device)
    position = (progress - WARMUP) / (1 - WARMUP)
    beta = BETA[1] + (BETA[0] - BETA[1]) * 0.5 * (1 + math.cos(math.pi * position))
    return (1 - (2 * soft_rounding(logits) - 1).abs().pow(beta)).sum()
