"""Linear (uniform) quantization of weights and, where asked, activations, without training.

Paper: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
arXiv:1712.05877; range search after Nagel et al., arXiv:2106.08295.
Idea: r = S (q - Z). Each weight tensor, channel or group gets a scale (and a zero point) covering its range;
activations get one scale and zero point per edge from the range they show on calibration images.
Assumptions: activations on the calibration images span what they will span later; biases and batch norm stay float.
Cost: weights only: no data. With activations: one pass over the calibration images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from qbench.errors import MethodError
from qbench.methods.affine_weights import AffineWeights
from qbench.methods.base import Context, Needs, check_effect, check_finite, require_within
from qbench.methods.layer_bits import bits_by_layer
from qbench.methods.static_edges import with_static_edges
from qbench.program.graph import Program
from qbench.program.transform import fold_batch_norm


@dataclass(frozen=True)
class Linear:
    """Uniform quantization.

    Args:
        weight_bits: Bits per weight, 1..16. At 1 bit the grid {-1, 0} holds zero and one sign only.
        act_bits: Bits per activation, 2..16; None keeps activations float.
        scheme: symmetric (zero_point 0, narrow range) or affine.
        granularity: per_tensor, per_channel (axis 0) or per_group (``group_size`` weights in a row).
        group_size: Weights per group, at most: a channel with fewer weights is one group.
        range: minmax, percentile or mse.
        percentile: Share of the weights inside the range, in percent, for range=percentile.
        rounding: nearest (ties to even) or truncate (towards zero).
        fold_batch_norm: Merge batch norms into the layers before.
        first_last_bits: Weight bits of the first and last layer; None treats them like the others.
        overrides: Layer name pattern -> weight bits (0: float).
    """

    weight_bits: int = 8
    act_bits: int | None = None
    scheme: str = "symmetric"
    granularity: str = "per_channel"
    group_size: int = 64
    range: str = "minmax"
    percentile: float = 99.9
    rounding: str = "nearest"
    fold_batch_norm: bool = True
    first_last_bits: int | None = None
    overrides: Mapping[str, int] = field(default_factory=dict)
    largest_bits: ClassVar[int] = 16

    def __post_init__(self) -> None:
        require_within("weight_bits", self.weight_bits, 1, self.largest_bits)
        require_within("act_bits", self.act_bits, 2, 16)
        require_within("first_last_bits", self.first_last_bits, 1, self.largest_bits)
        _ = self.weights  # checks its own parameters

    @property
    def weights(self) -> AffineWeights:
        """How one weight tensor is encoded."""
        return AffineWeights(self.scheme, self.granularity, self.group_size, self.range, self.percentile, self.rounding)

    @property
    def needs(self) -> Needs:
        return Needs(calibration=self.act_bits is not None)

    def compress(self, baseline: Program, context: Context) -> Program:
        """Quantize weights, then activations on the network with quantized weights.

        Raises:
            MethodError: Nothing to quantize, a weight that is not finite or too large, an override that matches no
                layer, activations asked for without calibration images, or an activation that is not finite.
        """
        check_finite(baseline)
        if self.act_bits is not None and not context.calibration:
            raise MethodError(f"act_bits={self.act_bits}", "quantizing activations needs calibration images")
        program = fold_batch_norm(baseline) if self.fold_batch_norm else baseline
        layers = bits_by_layer(program, self.weight_bits, self.overrides, self.first_last_bits, self.largest_bits)
        compressed = self.weights.encode_layers(program, layers)
        if self.act_bits is not None:
            compressed = with_static_edges(compressed, context, self.act_bits)
        check_effect(program, compressed)
        return compressed
