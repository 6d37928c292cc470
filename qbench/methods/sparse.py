"""Pruned weights in later steps: their zeros stay zeros, and only what is kept is encoded or trained."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from qbench.errors import MethodError
from qbench.program.encodings import Affine, Codebook, Encoding, Float, Sparse
from qbench.training.trainable import WeightQuantizer


def kept_values(encoding: Encoding, of: Tensor | None = None) -> Tensor:
    """What a step encodes of a weight: all of it, or the one row [1, n] of what pruning kept.

    Args:
        encoding: Of the weight.
        of: Take these values instead of the weight's, shaped like it (such as the importance of each weight).
    """
    values = encoding.decode() if of is None else of
    return values[encoding.mask.to(values.device)].reshape(1, -1) if isinstance(encoding, Sparse) else values


def with_kept(encoding: Encoding, made: Affine | Codebook, weight: str) -> Encoding:
    """Put what a step made of ``kept_values`` back in place.

    Args:
        encoding: Of the weight before the step.
        made: What became of ``kept_values(encoding)``, of its shape.
        weight: Name of the tensor, for the message.

    Raises:
        MethodError: The weight is pruned and ``made`` has parameters per channel or group, which the kept values, a
            single row, do not show.
    """
    if not isinstance(encoding, Sparse):
        return made
    if made.axis is not None:
        raise MethodError(
            weight, "is pruned; what is kept has one codebook or scale: set granularity to per_layer or per_tensor"
        )
    if isinstance(made, Affine):
        return replace(encoding, inner=replace(made, codes=made.codes.reshape(-1)))
    return replace(encoding, inner=replace(made, indices=made.indices.reshape(-1)))


class MaskedWeight(WeightQuantizer):
    """A float weight that is zero, and gets no gradient, where ``mask`` is False.

    Args:
        mask: bool, shaped like the weight.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.clone())

    def forward(self, latent: Tensor) -> Tensor:
        return torch.where(self.mask, latent, torch.zeros((), dtype=latent.dtype, device=latent.device))

    def encode(self, latent: Tensor) -> Encoding:
        return sparse_float(latent, self.mask)


class KeptWeight(WeightQuantizer):
    """A quantizer of what pruning kept, as one axis of values; the rest is zero.

    Args:
        mask: bool, shaped like the weight.
        inner: Quantizes float32 [n].
    """

    mask: Tensor

    def __init__(self, mask: Tensor, inner: WeightQuantizer) -> None:
        super().__init__()
        self.register_buffer("mask", mask.clone())
        self.inner = inner

    def forward(self, latent: Tensor) -> Tensor:
        kept: Tensor = self.inner(latent[self.mask])
        return torch.zeros_like(latent, requires_grad=False).masked_scatter(self.mask, kept)

    def encode(self, latent: Tensor) -> Encoding:
        inner = self.inner.encode(latent[self.mask])
        if isinstance(inner, Sparse):
            raise TypeError("what is kept of a pruned weight cannot be pruned once more inside")
        return Sparse(self.mask.cpu().contiguous(), inner)


def sparse_float(weight: Tensor, mask: Tensor) -> Sparse:
    """The float values of a weight where ``mask`` keeps them, on the CPU."""
    return Sparse(mask.cpu().contiguous(), Float(weight.detach()[mask].cpu().contiguous()))
