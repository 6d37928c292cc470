"""How often a network is right: top-k accuracy, cross-entropy, agreement of two networks.

Ties are broken by the lowest class index, so that a network whose logits are all equal predicts class 0 and scores
what always answering 0 scores. A row holding a NaN predicts nothing: it is never right and never agrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_NO_PREDICTION = -1


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network said about a labelled set.

    Args:
        logits: float32 [N, K], N >= 1, K >= 1.
        labels: int64 [N], each in [0, K).
    """

    logits: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        _check(self.logits, self.labels)

    @property
    def correct(self) -> Tensor:
        """Whether the top-1 prediction is right, bool [N]."""
        return correct(self.logits, self.labels)

    @property
    def top1_percent(self) -> float:
        return top_k_percent(self.logits, self.labels, 1)

    @property
    def top5_percent(self) -> float | None:
        """None for fewer than five classes, where it says nothing."""
        return top_k_percent(self.logits, self.labels, 5) if self.logits.shape[1] >= 5 else None

    @property
    def loss(self) -> float:
        return mean_cross_entropy(self.logits, self.labels)


def correct(logits: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """Whether the label is among the k largest logits, of equal logits those with the lowest class index.

    Args:
        logits: float32 [N, K].
        labels: int64 [N] in [0, K).
        k: 1..K.

    Returns:
        bool [N]; False where the row holds a NaN.

    Raises:
        ValueError: the shapes, dtypes or labels do not fit, or k is outside 1..K.
    """
    _check(logits, labels)
    if not 1 <= k <= logits.shape[1]:
        raise ValueError(f"top-{k} needs 1 <= k <= {logits.shape[1]} classes")
    of_label = logits.gather(1, labels[:, None])  # [N, 1]
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]  # [N, K]
    rank = ((logits > of_label) | ((logits == of_label) & earlier)).sum(dim=1)
    return (rank < k) & ~logits.isnan().any(dim=1)


def top_k_percent(logits: Tensor, labels: Tensor, k: int) -> float:
    """Share of images whose label is among the k largest logits, in percent. See :func:`correct`."""
    hits = correct(logits, labels, k)
    return 100.0 * int(hits.sum()) / len(hits)


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy in nats, summed in float64. NaN if a logit is NaN; inf if a label's probability is 0."""
    _check(logits, labels)
    return float(F.cross_entropy(logits.double(), labels))


def agreement_percent(a: Tensor, b: Tensor) -> float:
    """Share of images on which two networks predict the same class, in percent.

    Args:
        a: Logits of one network, float32 [N, K].
        b: Logits of the other for the same images, float32 [N, K].

    Raises:
        ValueError: the shapes differ, or there is no image.
    """
    if a.shape != b.shape or a.dim() != 2 or a.numel() == 0:
        raise ValueError(f"logits of one shape [N, K] are needed, not {tuple(a.shape)} and {tuple(b.shape)}")
    own = predicted(a)
    same = (own == predicted(b)) & (own != _NO_PREDICTION)
    return 100.0 * int(same.sum()) / len(same)


def predicted(logits: Tensor) -> Tensor:
    """Return the class of the largest logit, int64 [N]; -1 for a row with a NaN."""
    # torch.argmax leaves open which of several maxima it returns; of a 0/1 mask we pick the first ourselves.
    num_classes = logits.shape[1]
    index = torch.arange(num_classes, device=logits.device)
    is_max = logits == logits.amax(dim=1, keepdim=True)
    first = torch.where(is_max, index, num_classes).amin(dim=1)
    return torch.where(logits.isnan().any(dim=1), _NO_PREDICTION, first)


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.dim() != 2 or logits.numel() == 0 or logits.dtype != torch.float32:
        raise ValueError(f"logits must be float32 [N, K] and not empty, not {logits.dtype} {tuple(logits.shape)}")
    if labels.dtype != torch.int64 or labels.shape != logits.shape[:1]:
        raise ValueError(f"labels must be int64 [{len(logits)}], not {labels.dtype} {tuple(labels.shape)}")
    if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise ValueError(f"labels must lie in [0, {logits.shape[1]}), found {int(labels.min())}..{int(labels.max())}")
