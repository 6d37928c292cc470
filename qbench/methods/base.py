"""What a method is: a frozen dataclass of flat parameters whose ``compress`` turns a float program into another.

Adding one is one file and one YAML whose ``_target_`` names it. Methods never see configs, paths, test images, scores.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from qbench.errors import MethodError
from qbench.program.encodings import Encoding
from qbench.program.graph import Program
from qbench.progress import Progress, SilentProgress


@dataclass(frozen=True)
class Needs:
    """What a method asks of its context: unlabelled calibration images, or labels and gradients."""

    calibration: bool = False
    training: bool = False


@dataclass(frozen=True)
class Tuning:
    """How a network is fine-tuned: a method's own parameters, as the training loop takes them.

    Args:
        epochs: Passes over the training images.
        lr: Peak learning rate of the one-cycle schedule.
        batch_size: Images per step.
        optimizer: sgd (Nesterov) or adamw.
        weight_decay: Of tensors with two axes or more; scales, centroids and biases of one axis are spared.
        warmup_fraction: Share of the steps that warm up.
        label_smoothing: 0 is off.
        grad_clip: Largest gradient norm; 0 is off.
        keep: best (validation epoch) or last: which state the network has afterwards.
        distillation: Share of the loss that is the divergence from the teacher's predictions, 0..1.
        temperature: Divides the logits of both before they are compared.
    """

    epochs: int
    lr: float
    batch_size: int = 128
    optimizer: str = "sgd"
    weight_decay: float = 5e-4
    warmup_fraction: float = 0.1
    label_smoothing: float = 0.0
    grad_clip: float = 0.0
    keep: str = "best"
    distillation: float = 0.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        require_one_of("keep", self.keep, ("best", "last"))


class FineTune(Protocol):
    """Trains a module in place on the training split, with the data set's augmentation and validation images."""

    def __call__(
        self,
        module: nn.Module,
        tuning: Tuning,
        *,
        teacher: nn.Module | None = None,
        before_step: Callable[[int, int], None] | None = None,
    ) -> None:
        """Train, and leave the module in evaluation mode on the CPU.

        Args:
            module: Takes float [N, C, H, W], gives logits [N, K]; all that it learns is in its parameters and buffers.
            tuning: The recipe.
            teacher: The network whose predictions are distilled; needed where ``tuning.distillation`` > 0.
            before_step: Called as ``before_step(step, total_steps)`` before each step, e.g. to freeze statistics or
                to prune further. A resumed training calls it for the remaining steps only, so what it does must
                follow from the step alone.

        Raises:
            TrainingError: The loss is not finite, or there are fewer training images than one batch.
        """


@dataclass(frozen=True, eq=False)
class Context:
    """What a method may use.

    Args:
        seed: Seeds whatever the method draws.
        device: Where heavy work may run.
        calibration: Normalised batches [B, C, H, W] float32 of training images; empty unless the method needs them.
        progress: Told of long work.
        fine_tune: Trains a network on labelled training images; None unless the method needs training.
        scratch: An empty folder, gone when the method is done, for the files that another library writes; None unless
            the method's YAML says ``peer:``.
    """

    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    calibration: Sequence[Tensor] = ()
    progress: Progress = field(default_factory=SilentProgress)
    fine_tune: FineTune | None = None
    scratch: Path | None = None

    def tuner(self, parameter: str) -> FineTune:
        """``fine_tune``; MethodError naming the parameter that asks for it where there is none."""
        if self.fine_tune is None:
            raise MethodError(parameter, "needs labelled training images, which this context does not have")
        return self.fine_tune


@dataclass(frozen=True)
class External:
    """An artefact another library made.

    Args:
        file: What its runtime loads. It is kept as ``model`` and its suffix.
        runtime: Name of that runtime; the method's YAML says the same (``peer.runtime``).
        beside: Further files it needs, whose names begin with that of ``file`` without its suffix: ``model.bin`` beside
            ``model.xml``. That beginning becomes ``model``, so a file that names another one must be called that.
    """

    file: Path
    runtime: str
    beside: tuple[Path, ...] = ()


class Method(Protocol):
    """Compress a float program. The input stays untouched; the same seed gives the same result."""

    @property
    def needs(self) -> Needs: ...

    def compress(self, baseline: Program, context: Context) -> Program | External: ...


def check_finite(program: Program) -> None:
    """Raise MethodError naming the first tensor that holds NaN or infinity."""
    for name, encoding in program.tensors.items():
        values = encoding.decode()
        if not bool(torch.isfinite(values).all()):
            raise MethodError(name, "holds NaN or infinite values; train the baseline again or check model.weights")


def check_effect(before: Program, after: Program) -> None:
    """Raise MethodError if a method changed nothing: no quantized edge is new, every tensor is stored as it was.

    Args:
        before: What the method was applied to, with batch norms folded if the method folds them.
        after: What came out.
    """
    if not before.layers():
        raise MethodError("the network", "has no convolution and no linear layer to quantize")
    if after.edges == before.edges and all(_same(before.tensors[name], e) for name, e in after.tensors.items()):
        raise MethodError("the network", "the method changed nothing; check overrides and bits")


def _same(one: Encoding, other: Encoding) -> bool:
    if one is other:
        return True
    return type(one) is type(other) and one.bits == other.bits and torch.equal(one.decode(), other.decode())


def require_one_of(parameter: str, value: str, allowed: Collection[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{parameter}={value!r}: allowed are {', '.join(allowed)}")


def require_within(parameter: str, value: float | None, low: float, high: float) -> None:
    """Raise ValueError unless ``value`` is None (the parameter is off) or lies between the bounds, inclusive."""
    if value is not None and not low <= value <= high:
        raise ValueError(f"{parameter}={value}: allowed are {low} to {high}")
