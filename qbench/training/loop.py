"""The training loop: float baselines here, fine-tuning of quantized networks on the same code.

Kill it at any instant and run it again: it goes on after the last finished epoch with the same random streams, because
each epoch's streams depend on (seed, epoch) alone and the schedule on the step alone.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from qbench.config import AugmentConfig, TrainConfig, TrainerConfig
from qbench.data.augment import eval_batches, train_batches
from qbench.data.base import ImageSet, TrainingData
from qbench.errors import TrainingError
from qbench.progress import Progress
from qbench.training.distributed import Ranks
from qbench.training.memory import memory_errors
from qbench.training.objective import Batch, Guidance, blended, objective
from qbench.training.recipe import (
    ExponentialAverage,
    autocast_dtype,
    make_optimizer,
    one_cycle_lr,
)
from qbench.training.resuming import EpochStats, Progressed, resume, save_progress
from qbench.training.small_maps import fast_small_maps
from qbench.training.step import accumulate_gradients

EVAL_BATCH = 500
CUDA_CHECK_EVERY = 25  # reading a loss back stalls a GPU; a CPU reads it for nothing


@dataclass(frozen=True)
class TrainOutcome:
    """A trained network: the state of the best validation epoch and how it came about."""

    state: dict[str, Tensor]
    history: tuple[EpochStats, ...]
    best_epoch: int
    precision: str
    seconds: float


@dataclass(frozen=True, eq=False)
class _Job:
    """What stays the same from the first step to the last."""

    data: TrainingData
    recipe: TrainConfig
    augment: AugmentConfig
    seed: int
    device: torch.device
    progress: Progress
    label: str
    guidance: Guidance
    trainer: TrainerConfig
    ranks: Ranks

    @property
    def dtype(self) -> torch.dtype | None:
        return autocast_dtype(self.recipe.precision, self.device)


def fit(
    module: nn.Module,
    data: TrainingData,
    recipe: TrainConfig,
    augment: AugmentConfig,
    *,
    seed: int,
    device: torch.device,
    checkpoint: Path | None,
    progress: Progress,
    label: str = "train",
    guidance: Guidance | None = None,
    trainer: TrainerConfig | None = None,
    ranks: Ranks | None = None,
) -> TrainOutcome:
    """Train ``module`` in place and return the state of its best validation epoch (on the CPU).

    Of several processes that train together, each calls this with the same arguments; the outcome is rank 0's, which
    alone validates and writes the checkpoint.

    Args:
        module: Takes float [N, C, H, W], gives logits [N, K].
        data: Disjoint training and validation images; the calibration part is not used.
        recipe: Optimizer, schedule, precision.
        augment: Random changes of the training images.
        seed: Seeds shuffling, augmentation, dropout and mixup.
        device: Where to train.
        checkpoint: File to resume from and to replace after every epoch; None keeps none.
        progress: Told of every step.
        label: How progress calls this training.
        guidance: What fine-tuning adds; None for plain training.
        trainer: Into how many parts a batch is divided, and whether batch norms are synchronized; None divides nothing.
        ranks: This process among those that train together; None is alone.

    Raises:
        TrainingError: The loss is NaN or infinite (names step and learning rate), there are fewer training images
            than one batch, or memory ran out.
    """
    if recipe.epochs and len(data.train) < recipe.batch_size:
        raise TrainingError(
            f"{len(data.train)} training images are fewer than one batch: lower train.batch_size={recipe.batch_size}"
        )
    guidance, trainer, ranks = guidance or Guidance(), trainer or TrainerConfig(), ranks or Ranks()
    job = _Job(data, recipe, augment, seed, device, progress, label, guidance, trainer, ranks)
    began = time.monotonic()
    with memory_errors():
        module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        done = _train(module, job, checkpoint)
    seconds = sum(stats.seconds for stats in done.history) if done.history else time.monotonic() - began
    state = done.best or _snapshot(module)
    precision = "float32" if job.dtype is None else str(job.dtype).removeprefix("torch.")
    return TrainOutcome(state, tuple(done.history), done.best_epoch, precision, seconds)


def validate(
    module: nn.Module, data: TrainingData, device: torch.device, dtype: torch.dtype | None
) -> tuple[float, float]:
    """Mean cross-entropy and top-1 percent on the validation images."""
    total = correct = 0.0
    was_training = module.training
    module.eval()
    with torch.no_grad():
        for images, labels in _eval_batches(data.validation, data, device):
            with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
                logits = module(images)
            total += float(cross_entropy(logits.float(), labels, reduction="sum"))
            correct += float((logits.argmax(1) == labels).sum())
    module.train(was_training)
    return total / len(data.validation), 100.0 * correct / len(data.validation)


def _train(module: nn.Module, job: _Job, checkpoint: Path | None) -> Progressed:
    """All epochs that the checkpoint does not have yet."""
    if job.trainer.sync_batch_norm:
        nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    optimizer = make_optimizer(module, job.recipe)
    averages = job.recipe.ema_decay > 0 and job.ranks.leads
    average = ExponentialAverage(module, job.recipe.ema_decay) if averages else None
    done = resume(checkpoint, module, optimizer, average, job.device)
    with fast_small_maps(module, enabled=job.device.type == "cpu" and job.dtype is torch.bfloat16):
        remaining = range(done.next_epoch, job.recipe.epochs)
        net = job.ranks.shared(module, job.device) if remaining else module
        for epoch in remaining:
            started = time.monotonic()
            loss = _train_epoch(module, net, optimizer, average, job, epoch)
            if not job.ranks.leads:
                continue
            judged = module if average is None else _with_state(module, average.state)
            val_loss, top1 = validate(judged, job.data, job.device, job.dtype)
            lr = optimizer.param_groups[0]["lr"]
            stats = EpochStats(epoch, lr, loss, val_loss, top1, time.monotonic() - started)
            if top1 > done.best_top1 or job.guidance.keep == "last":
                done.best, done.best_epoch = _snapshot(judged), epoch
            done.history.append(stats)
            done.next_epoch = epoch + 1
            if checkpoint is not None:
                save_progress(checkpoint, module, optimizer, average, done)
            job.progress.line(
                f"{job.label} epoch {epoch + 1}/{job.recipe.epochs}: loss {loss:.4f}, validation loss {val_loss:.4f}, "
                f"validation top-1 {top1:.2f} %, {stats.seconds:.0f} s"
            )
    return done


def _train_epoch(
    module: nn.Module,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: ExponentialAverage | None,
    job: _Job,
    epoch: int,
) -> float:
    """One pass over the training images; returns the mean loss. ``net`` is ``module``, shared by the processes."""
    torch.manual_seed(job.seed * 100_003 + epoch)  # dropout and mixup; the batches have their own generator
    recipe, device, dtype, ranks = job.recipe, job.device, job.dtype, job.ranks
    accumulate = min(job.trainer.accumulate, recipe.batch_size // ranks.count)

    def loss_of(part: Batch) -> Tensor:
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            return objective(net, part, recipe, job.guidance)

    steps = len(job.data.train) // recipe.batch_size
    module.train()
    total = torch.zeros((), device=device)
    job.progress.begin(f"{job.label} epoch {epoch + 1}/{recipe.epochs}", steps)
    try:
        for index, (images, labels) in enumerate(_train_batches(job, epoch)):
            step = epoch * steps + index
            lr = one_cycle_lr(step, recipe.epochs * steps, recipe.lr, recipe.warmup_fraction)
            for group in optimizer.param_groups:
                group["lr"] = lr
            if job.guidance.before_step is not None:
                job.guidance.before_step(step, recipe.epochs * steps)
            batch = blended(images, labels, recipe)
            optimizer.zero_grad(set_to_none=True)
            with ranks.own_randomness(job.seed, step, device):
                total += accumulate_gradients(net, batch, loss_of, accumulate, ranks)
            if recipe.grad_clip > 0:
                nn.utils.clip_grad_norm_(module.parameters(), recipe.grad_clip)
            optimizer.step()
            if average is not None:
                average.update(module)
            note = ""
            if device.type == "cpu" or index % CUDA_CHECK_EVERY == 0:
                note = _check_finite(ranks.count * float(total), index + 1, step, lr)
            job.progress.advance(1, note)
    finally:
        job.progress.end()
    total = ranks.total(total)
    _check_finite(float(total), steps, (epoch + 1) * steps - 1, optimizer.param_groups[0]["lr"])
    return float(total) / steps


def _check_finite(total: float, count: int, step: int, lr: float) -> str:
    if not math.isfinite(total):
        raise TrainingError(
            f"the loss is {total} at step {step}, learning rate {lr:.4g}: lower train.lr or set train.grad_clip=1.0"
        )
    return f"loss {total / count:.4f}"


def _train_batches(job: _Job, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    data, size = job.data, job.recipe.batch_size
    return train_batches(
        data.train, size, job.augment, data.mean, data.std, job.seed, epoch, job.device, channels_last=True
    )


def _eval_batches(images: ImageSet, data: TrainingData, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    return eval_batches(images, EVAL_BATCH, data.mean, data.std, device, channels_last=True)


def _snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in module.state_dict().items()}


def _with_state(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    twin = copy.deepcopy(module)
    twin.load_state_dict(state)
    return twin
