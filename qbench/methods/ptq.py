"""Post-training quantization of weights and activations, with what repairs it: all that needs no labels.

Papers: Jacob et al., arXiv:1712.05877 (the scheme); Nagel et al., arXiv:2106.08295 (the pipeline), arXiv:1906.04721
(equalization, bias correction), arXiv:2004.10568 (AdaRound); Li et al., arXiv:2102.05426 (block reconstruction).
Idea: fold batch norms, equalize channels, put weights on their grid, learn how to round them, put activations on the
grid of the range they show on calibration images, then correct what the errors did to the channels' statistics.
Assumptions: calibration images look like later ones. Biases stay float.
Cost: one or two passes over the calibration images; reconstruction takes minutes.
Deviations: see :mod:`qbench.methods.reconstruction` and :mod:`qbench.methods.corrections`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from qbench.errors import MethodError
from qbench.methods.affine_weights import AffineWeights
from qbench.methods.base import Context, Needs, check_effect, check_finite, require_one_of, require_within
from qbench.methods.corrections import correct_biases, match_statistics
from qbench.methods.layer_bits import bits_by_layer
from qbench.methods.reconstruction import Search, block_segments, layer_segments, reconstruct
from qbench.methods.static_edges import ActivationRange, with_dynamic_edges, with_static_edges
from qbench.program.equalize import equalize
from qbench.program.graph import Program
from qbench.program.transform import fold_batch_norm

ACTIVATIONS = ("static", "dynamic", "none")
ROUNDINGS = ("nearest", "adaround", "adaround_blocks")
CORRECTIONS = ("none", "bias", "statistics")


@dataclass(frozen=True)
class PTQ:
    """Static or dynamic quantization without training; batch norms are always folded.

    Args:
        weight_bits: Bits per weight, 1..16.
        act_bits: Bits per activation, 2..16.
        activations: static (ranges fixed at calibration), dynamic (each image's own) or none (weights only).
        scheme: Of weights: symmetric or affine.
        granularity: Of weights: per_tensor, per_channel or per_group.
        group_size: Weights per group for per_group.
        range: Of weights: minmax, percentile or mse.
        percentile: Share of the weights inside, in percent, for range=percentile.
        act_range: Of static activations: minmax, moving_average, percentile, mse or entropy.
        act_percentile: Share of the activations inside, in percent, for act_range=percentile.
        act_momentum: Weight of a new batch for act_range=moving_average.
        equalize: Equalize channels across layers first.
        rounding: nearest, adaround (learned, layer by layer) or adaround_blocks (block by block).
        iterations: Steps of learned rounding per layer or block.
        block_layers: Layers per block, at least, for adaround_blocks.
        correction: none; bias: restore the channels' means; statistics: their standard deviations too.
        first_last_bits: Weight bits of the first and last layer; None treats them like the others.
        overrides: Layer name pattern -> weight bits (0: float).
    """

    weight_bits: int = 8
    act_bits: int = 8
    activations: str = "static"
    scheme: str = "symmetric"
    granularity: str = "per_channel"
    group_size: int = 64
    range: str = "minmax"
    percentile: float = 99.9
    act_range: str = "minmax"
    act_percentile: float = 99.99
    act_momentum: float = 0.1
    equalize: bool = False
    rounding: str = "nearest"
    iterations: int = 1000
    block_layers: int = 2
    correction: str = "none"
    first_last_bits: int | None = None
    overrides: Mapping[str, int] = field(default_factory=dict)
    largest_bits: ClassVar[int] = 16

    def __post_init__(self) -> None:
        require_one_of("activations", self.activations, ACTIVATIONS)
        require_one_of("rounding", self.rounding, ROUNDINGS)
        require_one_of("correction", self.correction, CORRECTIONS)
        require_within("weight_bits", self.weight_bits, 1, self.largest_bits)
        require_within("act_bits", self.act_bits, 2, 16)
        require_within("first_last_bits", self.first_last_bits, 1, self.largest_bits)
        require_within("iterations", self.iterations, 1, 100_000)
        require_within("block_layers", self.block_layers, 1, 1000)
        _ = self.weights, self.ranges  # check their own parameters

    @property
    def weights(self) -> AffineWeights:
        """How one weight tensor is encoded."""
        return AffineWeights(self.scheme, self.granularity, self.group_size, self.range, self.percentile)

    @property
    def ranges(self) -> ActivationRange:
        """How the range of an activation is chosen."""
        return ActivationRange(self.act_range, self.act_percentile, self.act_momentum)

    @property
    def needs(self) -> Needs:
        repairs = self.rounding != "nearest" or self.correction != "none"
        return Needs(calibration=self.activations == "static" or repairs)

    def compress(self, baseline: Program, context: Context) -> Program:
        """Quantize without training.

        Raises:
            MethodError: Nothing to quantize, a tensor that is not finite or too large, an override that matches no
                layer, no calibration images where they are needed, or an activation that is not finite.
        """
        check_finite(baseline)
        if self.activations == "static" and not context.calibration:
            raise MethodError(f"act_bits={self.act_bits}", "quantizing activations needs calibration images")
        if self.needs.calibration and not context.calibration:
            raise MethodError("method=ptq", "learned rounding and corrections: needs calibration images")
        folded = fold_batch_norm(baseline)
        reference = equalize(folded) if self.equalize else folded
        layers = bits_by_layer(folded, self.weight_bits, self.overrides, self.first_last_bits, self.largest_bits)
        compressed = self._with_edges(self.weights.encode_layers(reference, layers), context)
        if self.rounding != "nearest":
            compressed = self._reconstructed(compressed, reference, context)
        if self.correction != "none":
            correct = correct_biases if self.correction == "bias" else match_statistics
            corrected = correct(compressed, reference, context)
            # channels are elsewhere now, by up to a factor of 16: activations are as they will be, ranges follow them
            compressed = self._with_edges(replace(corrected, edges={}), context)
        check_effect(folded, compressed)
        return compressed

    def _with_edges(self, program: Program, context: Context) -> Program:
        if self.activations == "none":
            return program
        if self.activations == "dynamic":
            return with_dynamic_edges(program, self.act_bits)
        return with_static_edges(program, context, self.act_bits, self.ranges)

    def _reconstructed(self, compressed: Program, reference: Program, context: Context) -> Program:
        """Learn the roundings; static ranges are then those of the network with the weights it will have."""
        by_layer = self.rounding == "adaround"
        segments = layer_segments(reference) if by_layer else block_segments(reference, self.block_layers)
        search = Search(iterations=self.iterations)
        learned = reconstruct(compressed, reference, segments, context, search)
        return self._with_edges(replace(learned, edges={}), context)
