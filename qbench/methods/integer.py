"""Integer-only inference: post-training quantization whose file holds nothing that needs a float in between.

Paper: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
arXiv:1712.05877, without the training.
Idea: batch norms folded, symmetric weights, affine activations with static ranges, biases as int32 in the unit of the
sums. Everything between the first quantizer and the last dequantizer is then integer products, sums and shifts
(:mod:`qbench.program.lower`, runtime=integer); on runtime=torch the same file is simulated in float.
Assumptions: activations on the calibration images span what they will span later; every batch norm follows a layer.
Cost: one pass over the calibration images, two where the activation range is searched.
Deviations: weights are symmetric, by default per channel; the paper's are affine per tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qbench.errors import MethodError
from qbench.methods.affine_weights import AffineWeights
from qbench.methods.base import Context, Needs, check_effect, check_finite, require_one_of, require_within
from qbench.methods.integer_biases import with_integer_biases
from qbench.methods.layer_bits import bits_by_layer
from qbench.methods.static_edges import ActivationRange, with_static_edges
from qbench.program.graph import Program
from qbench.program.lower import lower
from qbench.program.transform import fold_batch_norm

GRANULARITIES = ("per_tensor", "per_channel")
ACT_RANGES = ("minmax", "percentile", "mse", "entropy")


@dataclass(frozen=True)
class Integer:
    """Integer-only quantization.

    Args:
        weight_bits: Bits per weight, 1..8.
        act_bits: Bits per activation, 2..8.
        granularity: Of weights: per_tensor or per_channel (axis 0).
        range: Of weights: minmax, percentile or mse.
        percentile: Share of the weights inside the range, in percent, for range=percentile.
        act_range: Of activations: minmax, percentile, mse or entropy.
        act_percentile: Share of the activations inside, in percent, for act_range=percentile.
        first_last_bits: Weight bits of the first and last layer; None treats them like the others.
    """

    weight_bits: int = 8
    act_bits: int = 8
    granularity: str = "per_channel"
    range: str = "minmax"
    percentile: float = 99.9
    act_range: str = "minmax"
    act_percentile: float = 99.99
    first_last_bits: int | None = None
    largest_bits: ClassVar[int] = 8

    def __post_init__(self) -> None:
        require_within("weight_bits", self.weight_bits, 1, self.largest_bits)
        require_within("act_bits", self.act_bits, 2, self.largest_bits)
        require_within("first_last_bits", self.first_last_bits, 1, self.largest_bits)
        require_one_of("granularity", self.granularity, GRANULARITIES)
        require_one_of("act_range", self.act_range, ACT_RANGES)
        _ = self.weights, self.ranges  # check their own parameters

    @property
    def weights(self) -> AffineWeights:
        """How one weight tensor is encoded."""
        return AffineWeights("symmetric", self.granularity, range=self.range, percentile=self.percentile)

    @property
    def ranges(self) -> ActivationRange:
        """How the range of an activation is chosen."""
        return ActivationRange(self.act_range, self.act_percentile)

    @property
    def needs(self) -> Needs:
        return Needs(calibration=True)

    def compress(self, baseline: Program, context: Context) -> Program:
        """Quantize weights, activations and biases, and prove that integers alone can compute the result.

        Raises:
            MethodError: Nothing to quantize, a tensor or an activation that is not finite or too large, no calibration
                images, or a node that has no integer form.
        """
        check_finite(baseline)
        if not context.calibration:
            raise MethodError(f"act_bits={self.act_bits}", "quantizing activations needs calibration images")
        program = fold_batch_norm(baseline)
        layers = bits_by_layer(program, self.weight_bits, {}, self.first_last_bits, self.largest_bits)
        coded = self.weights.encode_layers(program, layers)
        check_effect(program, coded)
        result = with_integer_biases(with_static_edges(coded, context, self.act_bits, self.ranges))
        lower(result)
        return result
