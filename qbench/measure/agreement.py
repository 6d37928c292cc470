"""How far what a runtime computes is from the integer reference, image by image and logit by logit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qbench.measure.accuracy import agreement_percent


@dataclass(frozen=True)
class Agreement:
    """Logits of a runtime against those of the integer reference, for the same images.

    Args:
        top1_percent: Share of images on which both predict the same class.
        identical_logits_percent: Share of logits that are equal bit for bit, as float32.
        largest_difference: Largest absolute difference of two logits; None where one is NaN or infinite.
    """

    top1_percent: float
    identical_logits_percent: float
    largest_difference: float | None


def agreement(logits: Tensor, reference: Tensor) -> Agreement:
    """Compare logits with the reference's.

    Args:
        logits: float32 [N, K].
        reference: float32 [N, K], of the same images in the same order.

    Raises:
        ValueError: The shapes or dtypes differ, or there is no image.
    """
    if logits.dtype != torch.float32 or reference.dtype != torch.float32:
        raise ValueError(f"float32 logits are needed, not {logits.dtype} and {reference.dtype}")
    top1 = agreement_percent(logits, reference)
    same = logits.contiguous().view(torch.int32) == reference.contiguous().view(torch.int32)
    difference = float((logits.double() - reference.double()).abs().max())
    return Agreement(
        top1_percent=top1,
        identical_logits_percent=100.0 * int(same.sum()) / same.numel(),
        largest_difference=difference if math.isfinite(difference) else None,
    )
