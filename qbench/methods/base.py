"""What a method is: a frozen dataclass of flat parameters whose ``compress`` turns a float program into another.

Adding one is one file and one YAML whose ``_target_`` names it. Methods never see configs, paths, test images, scores.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from qbench.errors import MethodError
from qbench.program.encodings import Encoding
from qbench.program.graph import Program
from qbench.progress import Progress, SilentProgress


@dataclass(frozen=True)
class Needs:
    """What a method asks of its context: unlabelled calibration images, or labels and gradients."""

    calibration: bool = False
    training: bool = False


@dataclass(frozen=True, eq=False)
class Context:
    """What a method may use.

    Args:
        seed: Seeds whatever the method draws.
        device: Where heavy work may run.
        calibration: Normalised batches [B, C, H, W] float32 of training images; empty unless the method needs them.
        progress: Told of long work.
    """

    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    calibration: Sequence[Tensor] = ()
    progress: Progress = field(default_factory=SilentProgress)


@dataclass(frozen=True)
class External:
    """An artefact another library made: its file and the runtime that loads it."""

    file: Path
    runtime: str


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
