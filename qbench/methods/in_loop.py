"""Weight quantizers inside the training loop: quantized forwards, gradients straight through to the float weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from qbench.methods.base import Context, Tuning, check_effect
from qbench.program.encodings import Encoding
from qbench.program.graph import Program
from qbench.training.trainable import TrainableProgram, WeightQuantizer


class StraightThrough(WeightQuantizer):
    """Computes with what an encoding decodes to; the float weight gets that value's gradient unchanged.

    Source: Bengio, Leonard & Courville, "Estimating or Propagating Gradients Through Stochastic Neurons",
        arXiv:1308.3432.

    Args:
        encode_weight: How a float weight is stored. Pure: what it returns follows from the weight alone.
        limit: Gives the magnitude, broadcastable against the weight, beyond which a weight grows no further; None
            for no limit.
    """

    def __init__(
        self, encode_weight: Callable[[Tensor], Encoding], limit: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.encode_weight, self.limit = encode_weight, limit

    def forward(self, latent: Tensor) -> Tensor:
        value = self.encode(latent.detach()).decode()
        if self.limit is not None:
            latent = hold_inside(latent, self.limit(latent.detach()))
        return value + (latent - latent.detach())  # exactly the value, with the gradient of the latent weight

    def encode(self, latent: Tensor) -> Encoding:
        return self.encode_weight(latent)


def fine_tuned(
    baseline: Program,
    quantizers: Mapping[str, WeightQuantizer],
    context: Context,
    tuning: Tuning,
    *,
    fold: bool,
    parameter: str,
) -> Program:
    """Train the network with quantizers on some of its weights, and encode it.

    Args:
        baseline: A float program.
        quantizers: Layer name -> what its weight passes through.
        context: Its tuner trains.
        tuning: The recipe.
        fold: Merge batch norms into the layers before them.
        parameter: What asks for training, e.g. ``epochs=5``, for the message where there are no labelled images.

    Raises:
        MethodError: There is nothing to quantize, or no labelled training images.
        TrainingError: The loss is not finite.
    """
    if not quantizers:
        check_effect(baseline, baseline)  # raises, saying what is missing
    network = TrainableProgram(baseline, fold=fold)
    for layer, quantizer in quantizers.items():
        network.quantize_weight(layer, quantizer)
    context.tuner(parameter)(network, tuning)
    return network.program()


def hold_inside(latent: Tensor, limit: Tensor) -> Tensor:
    """``latent`` itself; its gradient is dropped where a descent step would push |latent| > limit further out.

    A latent weight only matters by its sign (or by what it is nearest to): without a bound it could drift so far out
    that it never comes back.

    Source: Courbariaux et al., "Binarized Neural Networks", arXiv:1602.02830, sec. 1.4 (weights are clipped to
        [-1, 1] after each step). Deviation: no weight is moved, steps outwards stop; the bound has the scale of the
        weights.
    """
    held: Tensor = _HoldInside.apply(latent, limit)  # type: ignore[no-untyped-call]
    return held


class _HoldInside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, limit: Tensor) -> Tensor:
        ctx.save_for_backward(latent, limit)
        return latent.view_as(latent)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        latent, limit = ctx.saved_tensors
        outwards = (latent.abs() > limit) & (gradient * latent < 0)
        return gradient.masked_fill(outwards, 0.0), None
