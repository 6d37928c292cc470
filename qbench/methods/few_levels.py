"""What binary and ternary weights share: parameters, layers of other widths, fine-tuning, activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from qbench.errors import MethodError
from qbench.methods.affine_weights import AffineWeights
from qbench.methods.base import (
    Context,
    Needs,
    Tuning,
    check_effect,
    check_finite,
    require_one_of,
    require_within,
)
from qbench.methods.in_loop import StraightThrough, fine_tuned
from qbench.methods.layer_bits import bits_by_layer
from qbench.methods.static_edges import with_static_edges
from qbench.program.encodings import Codebook, Encoding, Float
from qbench.program.graph import Program
from qbench.program.transform import fold_batch_norm
from qbench.training.trainable import WeightQuantizer

GRANULARITIES = ("per_layer", "per_channel")


@dataclass(frozen=True)
class FewLevels:
    """Weights that are one magnitude per output channel or layer, with a sign.

    Args:
        act_bits: Bits per activation, 2..16; None keeps activations float.
        granularity: per_channel (a magnitude per output channel) or per_layer.
        fold_batch_norm: Merge batch norms into the layers before.
        first_last_bits: Bits of the first and last layer; None treats them like the others.
        overrides: Layer name pattern -> bits (0: float). A layer of more bits than the method has is put on a uniform
            symmetric grid with a scale of the same granularity.
        epochs: Passes over the training images with the few levels in the forward pass; 0 does not train.
        lr: Peak learning rate.
        batch_size: Images per step.
    """

    act_bits: int | None = None
    granularity: str = "per_channel"
    fold_batch_norm: bool = False
    first_last_bits: int | None = None
    overrides: Mapping[str, int] = field(default_factory=dict)
    epochs: int = 0
    lr: float = 0.01
    batch_size: int = 128
    own_bits: ClassVar[int]
    largest_bits: ClassVar[int] = 16

    def __post_init__(self) -> None:
        require_one_of("granularity", self.granularity, GRANULARITIES)
        require_within("act_bits", self.act_bits, 2, 16)
        require_within("first_last_bits", self.first_last_bits, self.own_bits + 1, self.largest_bits)
        require_within("epochs", self.epochs, 0, 10000)

    @property
    def needs(self) -> Needs:
        return Needs(calibration=self.act_bits is not None, training=self.epochs > 0)

    def compress(self, baseline: Program, context: Context) -> Program:
        """Reduce the weights of every layer, with training where asked, then quantize activations.

        Raises:
            MethodError: Nothing to quantize, a weight that is not finite, an override that matches no layer, or
                images that are needed and not there.
        """
        check_finite(baseline)
        if self.act_bits is not None and not context.calibration:
            raise MethodError(f"act_bits={self.act_bits}", "quantizing activations needs calibration images")
        program = fold_batch_norm(baseline) if self.fold_batch_norm else baseline
        chosen = bits_by_layer(program, self.own_bits, self.overrides, self.first_last_bits, self.largest_bits)
        layers = {layer: bits for layer, bits in chosen.items() if bits}
        if self.epochs:
            quantizers = {layer: self.quantizer(program.weight(layer), bits) for layer, bits in layers.items()}
            tuning = Tuning(self.epochs, self.lr, self.batch_size)
            compressed = fine_tuned(
                baseline, quantizers, context, tuning, fold=self.fold_batch_norm, parameter=f"epochs={self.epochs}"
            )
        else:
            encoded = {f"{layer}.weight": self.encode(program.weight(layer), bits) for layer, bits in layers.items()}
            compressed = program.with_tensors(encoded)
        if self.act_bits is not None:
            compressed = with_static_edges(compressed, context, self.act_bits)
        check_effect(program, compressed)
        if self.own_bits in layers.values():
            return compressed
        warning = f"no layer is {type(self).__name__.lower()}: first_last_bits and overrides cover all of them"
        return replace(compressed, provenance={**compressed.provenance, "warnings": [warning]})

    def encode(self, weight: Tensor, bits: int) -> Encoding:
        """One weight tensor, float32 [C, ...]: few levels at ``own_bits``, a uniform grid at any other width."""
        if bits != self.own_bits:
            granularity = "per_tensor" if self.granularity == "per_layer" else self.granularity
            return AffineWeights(granularity=granularity).encode(weight, bits)
        return self.encode_levels(weight, self.magnitude(self.rows(weight)))

    def quantizer(self, weight: Tensor, bits: int) -> WeightQuantizer:
        """What a layer's weight passes through while training; ``weight`` is its float value before."""
        return StraightThrough(partial(self.encode, bits=bits))

    def magnitude(self, rows: Tensor) -> Tensor:
        """The best magnitude of each row: values [R, M] -> [R]."""
        raise NotImplementedError

    def levels(self, rows: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """(indices [R, M] uint8, ascending levels [R, K]) of rows, given their magnitudes [R]."""
        raise NotImplementedError

    def encode_levels(self, weight: Tensor, magnitude: Tensor) -> Codebook:
        """The levels of a weight with given magnitudes, [C] or [1]."""
        indices, levels = self.levels(self.rows(weight), magnitude)
        if self.granularity == "per_channel":
            return Codebook(indices.reshape(weight.shape), Float(levels), self.own_bits, axis=0)
        return Codebook(indices.reshape(weight.shape), Float(levels[0]), self.own_bits)

    def rows(self, weight: Tensor) -> Tensor:
        """A weight as rows that share a magnitude."""
        return weight.reshape(weight.shape[0] if self.granularity == "per_channel" else 1, -1)

    def on_weight(self, magnitude: Tensor, weight: Tensor) -> Tensor:
        """Magnitudes, [C] or [1], shaped so that they broadcast against a weight."""
        return magnitude.view([-1] + [1] * (weight.dim() - 1))


def symmetric(magnitude: Tensor, *, zero: bool) -> Tensor:
    """Levels [R, 2] or [R, 3]: -a, (0,) a."""
    middle = [torch.zeros_like(magnitude)] if zero else []
    return torch.stack([-magnitude, *middle, magnitude], dim=1)
