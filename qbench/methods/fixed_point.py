"""Fixed point: one format Qm.n for all weights and activations of the network.

Paper: Gupta et al., "Deep Learning with Limited Numerical Precision", arXiv:1502.02551.
Idea: every number is an integer times 2^-n, with a sign bit, m integer and n fraction bits. Products and sums need no
scales, and going from one layer to the next is a shift (:mod:`qbench.program.lower`), but for an average over a window
that is no power of two, which divides.
Assumptions: one m suits weights and activations alike. It seldom does: weights are small and activations large, which
is why deep networks need 16 bits this way, and why there is dynamic fixed point.
Cost: one pass over the calibration images, two for range=sqnr.
Deviations: rounding is to the nearest, not stochastic; batch norms are folded first; biases are stored as int32 in the
unit of the sums, 2^-(n_input + n_weight).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qbench.errors import MethodError
from qbench.methods.base import Context, Needs, check_effect, check_finite, require_one_of, require_within
from qbench.methods.fixed_point_edges import edge_errors, edge_extremes, format_holding, with_fixed_point
from qbench.program.graph import Program
from qbench.program.transform import fold_batch_norm, quantizable_edges
from qbench.quant.fixed_point import signal_to_noise_db, with_integer_bits

RANGES = ("minmax", "sqnr")


@dataclass(frozen=True)
class FixedPointNetwork:
    """One fixed-point format.

    Args:
        weight_bits: Bits per weight with the sign, 1..16.
        act_bits: Bits per activation with the sign, 2..16; None keeps activations float.
        integer_bits: m, 0..15; None lets ``range`` choose. Weights and activations share it where their bits differ.
        range: minmax (the smallest m that holds every value) or sqnr (the m of the highest mean signal-to-noise ratio,
            in dB, over the weights of all layers and all activations).
    """

    weight_bits: int = 8
    act_bits: int | None = 8
    integer_bits: int | None = None
    range: str = "sqnr"
    largest_bits: ClassVar[int] = 16

    def __post_init__(self) -> None:
        require_within("weight_bits", self.weight_bits, 1, self.largest_bits)
        require_within("act_bits", self.act_bits, 2, 16)
        require_within("integer_bits", self.integer_bits, 0, 15)
        require_one_of("range", self.range, RANGES)

    @property
    def needs(self) -> Needs:
        return Needs(calibration=self.act_bits is not None)

    def compress(self, baseline: Program, context: Context) -> Program:
        """Choose the format and round every weight, activation and bias to it.

        Raises:
            MethodError: Nothing to quantize, a tensor or an activation that is not finite or too large, or no
                calibration images.
        """
        check_finite(baseline)
        if self.act_bits is not None and not context.calibration:
            raise MethodError(f"act_bits={self.act_bits}", "quantizing activations needs calibration images")
        program = fold_batch_norm(baseline)
        m = self.integer_bits if self.integer_bits is not None else self._integer_bits(program, context)
        weights = {node.name: with_integer_bits(self.weight_bits, m) for node in program.layers()}
        edges = {}
        if self.act_bits is not None:
            edges = dict.fromkeys(quantizable_edges(program), with_integer_bits(self.act_bits, m))
        result = with_fixed_point(program, weights, edges)
        check_effect(program, result)
        return result

    def _integer_bits(self, program: Program, context: Context) -> int:
        """The m that ``range`` asks for."""
        names = [node.name for node in program.layers()]
        largest = {name: float(program.weight(name).abs().amax()) for name in names}
        needed = [format_holding(f"{n}.weight", v, self.weight_bits).integer_bits for n, v in largest.items()]
        if self.act_bits is not None:
            extremes = edge_extremes(program, context)
            needed += [format_holding(n, v, self.act_bits).integer_bits for n, v in extremes.items()]
        most = max(0, *needed)
        return most if self.range == "minmax" else self._best(program, context, most)

    def _best(self, program: Program, context: Context, most: int) -> int:
        """The m of 0..most with the highest mean ratio in dB; the larger one of equals."""
        candidates = range(most, -1, -1)
        sums: list[tuple[float, list[float]]] = []  # per tensor: of its squares, and of the error of each candidate
        for name in (node.name for node in program.layers()):
            weight = program.weight(name)
            noises = [with_integer_bits(self.weight_bits, m).squared_error(weight) for m in candidates]
            sums.append((float(weight.double().square().sum()), noises))
        if self.act_bits is not None:
            formats = [with_integer_bits(self.act_bits, m) for m in candidates]
            sums += edge_errors(program, context, dict.fromkeys(quantizable_edges(program), formats)).values()
        ratios = [[signal_to_noise_db(signal, noise) for noise in noises] for signal, noises in sums if signal]
        totals = [sum(column) for column in zip(*ratios)]
        return candidates[totals.index(max(totals))] if totals else most
