"""What a training step minimises: cross-entropy, on blended images where asked, and what fine-tuning adds to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from qbench.config import TrainConfig


@dataclass(frozen=True, eq=False)
class Guidance:
    """What fine-tuning adds to the loop.

    Args:
        before_step: Called as ``before_step(step, total_steps)`` before each step.
        keep: best (validation epoch) or last.
        teacher: The network whose predictions are distilled; in evaluation mode.
        distillation: Share of the loss that is the divergence from the teacher, 0..1.
        temperature: Divides the logits of both before they are compared.
    """

    before_step: Callable[[int, int], None] | None = None
    keep: str = "best"
    teacher: nn.Module | None = None
    distillation: float = 0.0
    temperature: float = 2.0


@dataclass(frozen=True, eq=False)
class Batch:
    """Images float [N, C, H, W] and labels int64 [N].

    Of blended images, ``others`` int64 [N] are the labels of what was blended in, ``share`` the weight of ``labels``.
    """

    images: Tensor
    labels: Tensor
    others: Tensor | None = None
    share: float = 1.0

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, which: slice) -> Batch:
        """Some of its images."""
        others = None if self.others is None else self.others[which]
        return Batch(self.images[which], self.labels[which], others, self.share)


def blended(images: Tensor, labels: Tensor, recipe: TrainConfig) -> Batch:
    """A whole batch, its images blended with one another where the recipe asks for it."""
    if recipe.mixup_alpha <= 0:
        return Batch(images, labels)
    mixed, others, share = mixup(images, labels, recipe.mixup_alpha)
    return Batch(mixed, labels, others, share)


def objective(module: nn.Module, batch: Batch, recipe: TrainConfig, guidance: Guidance) -> Tensor:
    """The mean loss of a batch, or of a part of one: a scalar, float32."""
    images, labels, others, share = batch.images, batch.labels, batch.others, batch.share
    logits = module(images).float()
    loss = cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    if others is not None:
        loss = share * loss + (1 - share) * cross_entropy(logits, others, label_smoothing=recipe.label_smoothing)
    if guidance.teacher is None or guidance.distillation <= 0:
        return loss
    with torch.no_grad():
        wanted = guidance.teacher(images).float()
    distance = distillation_loss(logits, wanted, guidance.temperature)
    return (1 - guidance.distillation) * loss + guidance.distillation * distance


def mixup(images: Tensor, labels: Tensor, alpha: float) -> tuple[Tensor, Tensor, float]:
    """Blend each image with another of the batch; returns (images, the other labels, weight of the first labels).

    Source: Zhang et al., arXiv:1710.09412. One weight per batch, drawn from torch's global generator.
    """
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    order = torch.randperm(len(images), device=images.device)
    return share * images + (1.0 - share) * images[order], labels[order], share


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over the batch; logits [N, K].

    Source: Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, sec. 2.
    """
    student = torch.log_softmax(logits / temperature, dim=1)
    teacher = torch.log_softmax(teacher_logits / temperature, dim=1)
    divergence = kl_div(student, teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence
