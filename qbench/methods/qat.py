"""Quantization-aware training: fine-tuning with the quantizers of weights and activations in the loop.

Papers: Jacob et al., arXiv:1712.05877, sec. 3 (straight-through, batch norm folding); Krishnamoorthi, arXiv:1806.08342,
sec. 3.2 (freezing statistics); Esser et al., "Learned Step Size Quantization", arXiv:1902.08153; Hinton et al.,
arXiv:1503.02531 (distillation).
Idea: from the float checkpoint, train the network as it will be stored: quantized weights with batch norm folded into
them, quantized activations; gradients pass the rounding as if it were not there, or teach the step sizes.
Assumptions: labelled training images. Biases stay float.
Cost: a step takes 1.2 to 1.5 times a float one where layers compute much, 2.7 times in a small network; a few epochs.
Deviations: the calibrated zero points of activations stay while steps are learned; the best validation epoch is kept;
a channel's step is of its weight before batch norm is folded into it, so that moving statistics change no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

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
from qbench.methods.layer_bits import bits_by_layer
from qbench.methods.static_edges import ActivationRange, with_static_edges
from qbench.program.encodings import Affine
from qbench.program.graph import Program
from qbench.program.materialize import materialize
from qbench.program.transform import fold_batch_norm
from qbench.training.affine_quantizers import SteppedEdge, SteppedWeight
from qbench.training.trainable import TrainableProgram

STEPS = ("frozen", "moving", "learned")
GRANULARITIES = ("per_tensor", "per_channel")


@dataclass(frozen=True)
class QAT:
    """Fine-tuning on a uniform grid.

    Args:
        weight_bits: Bits per weight, 2..16.
        act_bits: Bits per activation, 2..16; None trains quantized weights only.
        steps: frozen (straight-through on calibrated ranges), moving (ranges follow the values) or learned (LSQ).
        granularity: Of weights: per_tensor or per_channel.
        narrow_range: Whether the weight grid leaves out its lowest code; at 2 bits that is one of four.
        act_range: How activation ranges are calibrated before training.
        epochs: Passes over the training images.
        lr: Peak learning rate: 0.0005 to 0.001 for 8 and 4 bits, 0.01 for 2.
        batch_size: Images per step.
        weight_decay: Of weights; steps and biases are spared.
        freeze_fraction: Share of the steps after which batch-norm statistics are frozen as they will be folded.
        distillation: Share of the loss that is the divergence from the float network, 0..1.
        first_last_bits: Weight bits of the first and last layer; None treats them like the others.
        overrides: Layer name pattern -> weight bits (0: float).
    """

    weight_bits: int = 8
    act_bits: int | None = 8
    steps: str = "learned"
    granularity: str = "per_channel"
    narrow_range: bool = False
    act_range: str = "mse"
    epochs: int = 3
    lr: float = 0.001
    batch_size: int = 128
    weight_decay: float = 1e-4
    freeze_fraction: float = 0.7
    distillation: float = 0.0
    first_last_bits: int | None = None
    overrides: Mapping[str, int] = field(default_factory=dict)
    largest_bits: ClassVar[int] = 16

    def __post_init__(self) -> None:
        require_one_of("steps", self.steps, STEPS)
        require_one_of("granularity", self.granularity, GRANULARITIES)
        require_within("weight_bits", self.weight_bits, 2, self.largest_bits)
        require_within("act_bits", self.act_bits, 2, 16)
        require_within("first_last_bits", self.first_last_bits, 2, self.largest_bits)
        require_within("epochs", self.epochs, 1, 10_000)
        require_within("freeze_fraction", self.freeze_fraction, 0.0, 1.0)
        require_within("distillation", self.distillation, 0.0, 1.0)
        _ = ActivationRange(self.act_range)

    @property
    def needs(self) -> Needs:
        return Needs(calibration=self.act_bits is not None, training=True)

    def compress(self, baseline: Program, context: Context) -> Program:
        """Calibrate, then train.

        Raises:
            MethodError: Nothing to quantize, a tensor that is not finite, an override that matches no layer, or no
                calibration or training images.
            TrainingError: The loss leaves the numbers.
        """
        check_finite(baseline)
        folded = fold_batch_norm(baseline)
        layers = bits_by_layer(folded, self.weight_bits, self.overrides, self.first_last_bits, self.largest_bits)
        start = self.calibrated(folded, layers, context)
        check_effect(folded, start)
        tune = context.tuner("method=qat")
        network = TrainableProgram(baseline, fold=True)
        for layer in layers:
            encoding = start.tensors[f"{layer}.weight"]
            if isinstance(encoding, Affine):
                factor = network.fold_factor(layer) if layer in network.folded_layers else None
                network.quantize_weight(layer, SteppedWeight(encoding, self.steps, factor))
        for name, spec in start.edges.items():
            network.quantize_edge(name, SteppedEdge(spec, self.steps))

        def freeze(step: int, total: int) -> None:
            network.frozen_statistics = step >= self.freeze_fraction * total

        teacher = materialize(baseline, channels_last=True) if self.distillation > 0 else None
        tune(network, self._tuning(), teacher=teacher, before_step=freeze)
        return network.program()

    def calibrated(self, folded: Program, layers: Mapping[str, int], context: Context) -> Program:
        """Where training starts: weights on the grid of least squared error, edges as calibrated."""
        weights = AffineWeights(granularity=self.granularity, range="mse", narrow_range=self.narrow_range)
        start = weights.encode_layers(folded, layers)
        if self.act_bits is None:
            return start
        return with_static_edges(start, context, self.act_bits, ActivationRange(self.act_range))

    def _tuning(self) -> Tuning:
        return Tuning(
            epochs=self.epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            weight_decay=self.weight_decay,
            distillation=self.distillation,
        )
