"""Dynamic fixed point: a power-of-two unit for the weights of each layer, and for each activation.

Papers: Courbariaux, Bengio, David, "Training deep neural networks with low precision multiplications",
arXiv:1412.7024; Gysel, Motamedi, Ghiasi, "Hardware-oriented Approximation of Convolutional Neural Networks"
(Ristretto), arXiv:1604.03168.
Idea: fixed point whose fraction length is chosen per group of numbers. Layers still follow one another by shifts,
but for an average over a window that is no power of two, which divides.
Assumptions: the calibration images show the range that activations will have.
Cost: one pass over the calibration images, two for range=mse.
Deviations: fraction lengths are fixed after calibration (Courbariaux et al. adapt them while training); batch norms are
folded first; biases are int32 in the unit of the sums. Ristretto's choice is minmax.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from qbench.errors import MethodError
from qbench.methods.base import Context, Needs, check_effect, check_finite, require_one_of, require_within
from qbench.methods.fixed_point_edges import edge_errors, edge_extremes, format_holding, with_fixed_point
from qbench.methods.layer_bits import bits_by_layer
from qbench.program.graph import Program
from qbench.program.transform import fold_batch_norm
from qbench.quant.fixed_point import FixedPoint, finer, least_error

RANGES = ("minmax", "mse")
_STEPS = 4  # formats tried beside the one that holds every value, each with half the range of the one before


@dataclass(frozen=True)
class DynamicFixedPoint:
    """Fixed point with fraction lengths of their own.

    Args:
        weight_bits: Bits per weight with the sign, 1..16.
        act_bits: Bits per activation with the sign, 2..16; None keeps activations float.
        range: minmax (the finest unit that holds every value) or mse (the one of least squared error).
        first_last_bits: Weight bits of the first and last layer; None treats them like the others.
        overrides: Layer name pattern -> weight bits (0: float).
    """

    weight_bits: int = 8
    act_bits: int | None = 8
    range: str = "minmax"
    first_last_bits: int | None = None
    overrides: Mapping[str, int] = field(default_factory=dict)
    largest_bits: ClassVar[int] = 16

    def __post_init__(self) -> None:
        require_within("weight_bits", self.weight_bits, 1, self.largest_bits)
        require_within("act_bits", self.act_bits, 2, 16)
        require_within("first_last_bits", self.first_last_bits, 1, self.largest_bits)
        require_one_of("range", self.range, RANGES)

    @property
    def needs(self) -> Needs:
        return Needs(calibration=self.act_bits is not None)

    def compress(self, baseline: Program, context: Context) -> Program:
        """Choose a format per layer and edge, the latter on the network with quantized weights, and round to it.

        Raises:
            MethodError: Nothing to quantize, a tensor or an activation that is not finite or too large, an override
                that matches no layer, or no calibration images.
        """
        check_finite(baseline)
        if self.act_bits is not None and not context.calibration:
            raise MethodError(f"act_bits={self.act_bits}", "quantizing activations needs calibration images")
        program = fold_batch_norm(baseline)
        bits = bits_by_layer(program, self.weight_bits, self.overrides, self.first_last_bits, self.largest_bits)
        weights = {name: self._weight_format(program, name, of) for name, of in bits.items() if of}
        edges: dict[str, FixedPoint] = {}
        if self.act_bits is not None:
            edges = self._edge_formats(with_fixed_point(program, weights, {}), context, self.act_bits)
        result = with_fixed_point(program, weights, edges)
        check_effect(program, result)
        return result

    def _weight_format(self, program: Program, layer: str, bits: int) -> FixedPoint:
        weight = program.weight(layer)
        whole = format_holding(f"{layer}.weight", float(weight.abs().amax()), bits)
        return whole if self.range == "minmax" else least_error(weight, bits, _STEPS)

    def _edge_formats(self, program: Program, context: Context, bits: int) -> dict[str, FixedPoint]:
        extremes = edge_extremes(program, context)
        whole = {name: format_holding(name, largest, bits) for name, largest in extremes.items()}
        if self.range == "minmax":
            return whole
        candidates = {name: finer(one, _STEPS) for name, one in whole.items()}
        errors = edge_errors(program, context, candidates)
        return {name: candidates[name][noises.index(min(noises))] for name, (_, noises) in errors.items()}
