"""Standard quantization as teaching texts write it: q = round(w * (2^n - 1)), with no scale.

Source: the study that sets it against octization; ``qbench study d`` repeats it.
Idea: weights are taken as lying in [-1, 1]; n bits hold the magnitude and one more the sign, r = q / (2^n - 1).
Assumptions: the weights do lie there and use the range; those of trained layers are often below 0.1, so that most
codes are never used. A layer with weights beyond 1 gets the bits its codes need, and the row says so.
Cost: no data with training=post; ``epochs`` over the training images with training=in_loop, which fine-tunes the
baseline with codes in the forward pass and gradients straight through. With train.epochs=0 the baseline is the initial
network, so that in_loop trains from scratch.
Deviations: none in the arithmetic (ties round to even, products in float64); the sign bit is counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from qbench.errors import MethodError
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
from qbench.program.encodings import Affine
from qbench.program.graph import Program
from qbench.program.transform import fold_batch_norm
from qbench.quant.affine import code_dtype
from qbench.quant.octal import LARGEST_BITS, magnitude_bits, unit_codes

TRAININGS = ("post", "in_loop")


@dataclass(frozen=True)
class Standard:
    """Codes of weights in [-1, 1] without a scale, rounded to nearest.

    Args:
        weight_bits: Magnitude bits per weight, 1..15; the sign takes one more.
        act_bits: Bits per activation (with a scale and a zero point), 2..16; None keeps activations float.
        training: post (quantize the trained network) or in_loop (train it with codes in the forward pass).
        epochs: Passes over the training images for training=in_loop.
        lr: Peak learning rate for training=in_loop.
        batch_size: Images per step for training=in_loop.
        fold_batch_norm: Merge batch norms into the layers before; folded weights often leave [-1, 1].
        first_last_bits: Magnitude bits of the first and last layer; None treats them like the others.
        overrides: Layer name pattern -> magnitude bits (0: float).
    """

    weight_bits: int = 8
    act_bits: int | None = None
    training: str = "post"
    epochs: int = 5
    lr: float = 0.01
    batch_size: int = 128
    fold_batch_norm: bool = False
    first_last_bits: int | None = None
    overrides: Mapping[str, int] = field(default_factory=dict)
    rounding: ClassVar[str] = "nearest"
    notation: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        require_one_of("training", self.training, TRAININGS)
        require_within("weight_bits", self.weight_bits, 1, LARGEST_BITS)
        require_within("act_bits", self.act_bits, 2, 16)
        require_within("first_last_bits", self.first_last_bits, 1, LARGEST_BITS)
        require_within("epochs", self.epochs, 1, 10000)

    @property
    def needs(self) -> Needs:
        return Needs(calibration=self.act_bits is not None, training=self.training == "in_loop")

    def compress(self, baseline: Program, context: Context) -> Program:
        """Quantize weights, in the training loop where asked, then activations on the network with quantized weights.

        Raises:
            MethodError: Nothing to quantize, a weight that is not finite or too large for 15 bits, an override that
                matches no layer, or images that are needed and not there.
        """
        check_finite(baseline)
        if self.act_bits is not None and not context.calibration:
            raise MethodError(f"act_bits={self.act_bits}", "quantizing activations needs calibration images")
        program = fold_batch_norm(baseline) if self.fold_batch_norm else baseline
        layers = bits_by_layer(program, self.weight_bits, self.overrides, self.first_last_bits, LARGEST_BITS)
        encoders = {layer: partial(self.encode, bits=bits, layer=layer) for layer, bits in layers.items() if bits}
        if self.training == "in_loop":
            tuning = Tuning(self.epochs, self.lr, self.batch_size)
            quantizers = {layer: StraightThrough(encode) for layer, encode in encoders.items()}
            compressed = fine_tuned(
                baseline, quantizers, context, tuning, fold=self.fold_batch_norm, parameter="training=in_loop"
            )
        else:
            compressed = program.with_tensors(
                {f"{layer}.weight": encode(program.weight(layer)) for layer, encode in encoders.items()}
            )
        if self.act_bits is not None:
            compressed = with_static_edges(compressed, context, self.act_bits)
        check_effect(program, compressed)
        return replace(compressed, provenance={**compressed.provenance, **self._facts(compressed, layers)})

    def encode(self, weight: Tensor, bits: int, layer: str = "the layer") -> Affine:
        """Codes of one weight tensor, float32 of any shape, on the grid they need.

        Raises:
            MethodError: A weight needs more than 15 magnitude bits.
        """
        try:
            codes = unit_codes(weight, bits, rounding=self.rounding)
        except ValueError as error:
            trained = f"; if training took it there, lower method.lr={self.lr:g}" if self.training == "in_loop" else ""
            raise MethodError(f"{layer}.weight", f"{error}{trained}") from error
        needed = max(bits, magnitude_bits(codes))
        end = (1 << needed) - 1
        scale = torch.tensor(1.0 / ((1 << bits) - 1), dtype=torch.float32)
        zero = torch.tensor(0, dtype=torch.int32)
        return Affine(codes.to(code_dtype(-end, end)), scale, zero, needed + 1, -end, end)

    def _facts(self, program: Program, layers: Mapping[str, int]) -> dict[str, Any]:
        """What a reader of the file must know: the notation, and the layers that have more bits than asked."""
        stored = {layer: program.tensors[f"{layer}.weight"].bits - 1 for layer, bits in layers.items() if bits}
        wider = [f"{layer} {bits}" for layer, bits in stored.items() if bits > layers[layer]]
        facts: dict[str, Any] = {"notation": self.notation} if self.notation is not None else {}
        if wider:
            facts["warnings"] = [f"weights beyond [-1, 1] take more magnitude bits than asked: {', '.join(wider)}"]
        return facts
