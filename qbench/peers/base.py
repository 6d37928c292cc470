"""What every quantizer of another library is given, and how it is called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qbench.errors import MethodError, QBenchError
from qbench.methods.base import Context, check_finite
from qbench.program.graph import Program
from qbench.runtime.extras import quietly


def workplace(baseline: Program, context: Context) -> Path:
    """The folder to work in, once everything is there that a quantizer needs.

    Raises:
        MethodError: There is nothing to quantize, a weight is not finite, or images or the folder are missing.
    """
    if not baseline.layers():
        raise MethodError("the network", "has no convolution and no linear layer to quantize")
    check_finite(baseline)
    if not context.calibration:
        raise MethodError("activations", "quantizing them needs calibration images; set dataset.calibration_images")
    if context.scratch is None:
        raise MethodError("the context", "has no folder to write to; the method's YAML must say peer: {runtime: NAME}")
    return context.scratch


@contextmanager
def calling(library: str) -> Iterator[None]:
    """Call another library: what it says is dropped, what it raises becomes one line.

    Raises:
        MethodError: It raised something; the cause is kept.
    """
    try:
        with quietly():
            yield
    except QBenchError:
        raise
    except Exception as error:  # libraries raise classes of their own, without a common base
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        raise MethodError(library, f"its quantizer failed: {type(error).__name__}: {lines[0][:300]}") from error


def arrays(batches: Sequence[Tensor], *, size: int | None = None) -> Iterator[NDArray[np.float32]]:
    """Calibration images as arrays [B, C, H, W]: the batches as they are, or parts of ``size`` images each."""
    for batch in batches:
        for part in torch.split(batch, size or len(batch)):
            yield np.ascontiguousarray(part.numpy(), dtype=np.float32)
