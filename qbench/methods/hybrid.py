"""Mixed precision: every layer its own bits and its own encoding, the best choice under a budget.

Papers: sensitivity per layer after Dong et al., "HAWQ-V2", arXiv:1911.03852, and Cai et al., "ZeroQ",
arXiv:2001.00281, sec. 3.2 (divergence, one layer quantized at a time); bits by an integer linear program after Hubara
et al., arXiv:2006.10518, sec. 4.3.
Idea: each layer is quantized alone in each way, the harm is measured, and the way of every layer is chosen so that the
summed harm is least within the budget, to the proven optimum.
Assumptions: harms add up (layers are quantized together in the end), and calibration images show them.
Cost: sensitivity=loss runs layers x options x images through the network from that layer on; fisher takes one gradient
per image; sqnr takes no data. Budgets of drop:P add about ten passes over the calibration images.
Deviations: encodings compete too (k-means codebooks, uniform grids, pruning with a codebook for what is kept); drop:P
is the smallest network, found by bisection over its size, whose predictions change on at most P % of the calibration
images, which bounds the accuracy it loses on them, corrections and activations included; no labels are used.
Activations, where asked, get the same bits everywhere. Corrections come after the choice: harms are those of before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from qbench.artifact.tensors import parts
from qbench.errors import MethodError
from qbench.methods import sensitivity
from qbench.methods.affine_weights import AffineWeights
from qbench.methods.base import Context, Needs, check_effect, check_finite, require_one_of, require_within
from qbench.methods.budget import Budget
from qbench.methods.corrections import correct_biases, match_statistics
from qbench.methods.kmeans import GRANULARITIES, KMeans
from qbench.methods.layer_bits import bits_by_layer
from qbench.methods.static_edges import with_static_edges
from qbench.program.encodings import Encoding, Float, Sparse
from qbench.program.graph import Program
from qbench.program.materialize import materialize
from qbench.program.transform import fold_batch_norm
from qbench.quant.allocate import allocate, cheapest_total
from qbench.quant.pruning import keep_largest

ENCODINGS = ("kmeans", "linear", "pruned")
RANGES = ("minmax", "mse")
CORRECTIONS = ("none", "bias", "statistics")
LARGEST_BITS = 8
ANY_BITS = -1  # of a layer no parameter fixes
CLOSE_ENOUGH = 0.01  # relative width at which the bisection over sizes ends


@dataclass(frozen=True, eq=False)
class Option:
    """A way to store one layer's weight.

    Args:
        kind: kmeans, linear, pruned or float.
        bits: Per code or index (of a kept weight, where pruned).
        encoding: The weight in it.
        bytes: With codebook, scales and mask.
        code_bits: Of codes, indices and mask alone: what avg_bits counts.
        harm: Its sensitivity.
    """

    kind: str
    bits: int
    encoding: Encoding
    bytes: int
    code_bits: int
    harm: float = 0.0


Table = dict[str, list[Option]]


@dataclass(frozen=True)
class Hybrid:
    """Bits and encoding per layer by measured sensitivity under a budget.

    Args:
        budget: avg_bits:N (mean bits of codes, indices and masks), size:N with B, KB or MB (weights with codebooks and
            scales) or drop:P (percent of predictions that may change on the calibration images).
        candidates: Bits a layer may get, each 1..8.
        encodings: Any of kmeans, linear and pruned (the smallest weights removed, one codebook for the others).
        sparsity: Share of a layer's weights that pruned removes, 0..1; one weight stays.
        sensitivity: loss, fisher or sqnr.
        sensitivity_images: Most calibration images for it.
        granularity: per_layer or per_channel: what shares a codebook. Linear grids have a scale per output channel.
        range: minmax or mse: how linear grids cover the weights.
        correction: none; bias: restore the channels' means behind the layers that were chosen for; statistics: their
            standard deviations too.
        act_bits: Bits per activation, 2..16; None keeps activations float.
        fold_batch_norm: Merge batch norms into the layers before.
        first_last_bits: Bits of the first and last layer, whatever their sensitivity; None lets the budget decide.
        overrides: Layer name pattern -> bits whatever its sensitivity (0: float).
    """

    budget: str = "avg_bits:4"
    candidates: list[int] = field(default_factory=lambda: [2, 3, 4, 6, 8])
    encodings: list[str] = field(default_factory=lambda: ["kmeans", "linear"])
    sparsity: float = 0.5
    sensitivity: str = "loss"
    sensitivity_images: int = 256
    granularity: str = "per_layer"
    range: str = "mse"
    correction: str = "none"
    act_bits: int | None = None
    fold_batch_norm: bool = False
    first_last_bits: int | None = None
    overrides: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        Budget.parse(self.budget)
        for bits in self.candidates:
            require_within("candidates", bits, 1, LARGEST_BITS)
        for encoding in self.encodings:
            require_one_of("encodings", encoding, ENCODINGS)
        if not self.candidates or not self.encodings:
            raise ValueError("candidates and encodings need at least one entry each")
        require_within("sparsity", self.sparsity, 0.0, 1.0)
        require_one_of("sensitivity", self.sensitivity, sensitivity.KINDS)
        require_within("sensitivity_images", self.sensitivity_images, 1, math.inf)
        require_one_of("granularity", self.granularity, GRANULARITIES)
        require_one_of("range", self.range, RANGES)
        require_one_of("correction", self.correction, CORRECTIONS)
        require_within("act_bits", self.act_bits, 2, 16)
        require_within("first_last_bits", self.first_last_bits, 1, LARGEST_BITS)

    @property
    def needs(self) -> Needs:
        on_images = self.sensitivity != "sqnr" or self.act_bits is not None or self.correction != "none"
        return Needs(calibration=on_images or Budget.parse(self.budget).kind == "drop")

    def compress(self, baseline: Program, context: Context) -> Program:
        """Measure every option of every layer, choose, encode, then quantize activations where asked.

        Raises:
            MethodError: The budget cannot be met (names the smallest that can), nothing to quantize, a weight that is
                not finite or too large, an override that matches no layer, or no calibration images.
        """
        check_finite(baseline)
        self._check_images(context)
        program = fold_batch_norm(baseline) if self.fold_batch_norm else baseline
        options = self._options(program)
        if all(own[0].kind == "float" for own in options.values()):
            check_effect(program, program)  # raises, saying what is missing
        table = self._measured(program, options, context)
        picks, extra = self._choose(program, table, context)
        compressed = self._shipped(program, table, picks, context)
        check_effect(program, compressed)
        facts = {"sensitivity": {"kind": self.sensitivity, **extra, "layers": _shown(table, picks)}}
        return replace(compressed, provenance={**compressed.provenance, **facts})

    def _check_images(self, context: Context) -> None:
        if not self.needs.calibration or context.calibration:
            return
        if self.act_bits is not None:
            raise MethodError(f"act_bits={self.act_bits}", "quantizing activations needs calibration images")
        asking = f"sensitivity={self.sensitivity}" if self.sensitivity != "sqnr" else f"budget={self.budget}"
        if self.sensitivity == "sqnr" and self.correction != "none":
            asking = f"correction={self.correction}"
        raise MethodError(asking, "needs calibration images")

    def _options(self, program: Program) -> Table:
        """Every way to store every layer, harm not measured yet."""
        fixed = bits_by_layer(program, ANY_BITS, self.overrides, self.first_last_bits, LARGEST_BITS)
        return {layer: self._options_of(program, layer, bits) for layer, bits in fixed.items()}

    def _options_of(self, program: Program, layer: str, fixed: int) -> list[Option]:
        weight, key = program.weight(layer), f"{layer}.weight"
        if fixed == 0:
            return [Option("float", 32, Float(weight), 4 * weight.numel(), 32 * weight.numel())]
        widths = sorted(set(self.candidates)) if fixed == ANY_BITS else [fixed]
        options = []
        for kind in self.encodings:
            for bits in widths:
                try:
                    encoding = self._encode(kind, weight, bits)
                except ValueError as error:
                    raise MethodError(key, str(error)) from error
                stored = list(parts(key, encoding))
                coded = sum(part.exact_bits for part in stored if part.category in ("codes", "masks"))
                options.append(Option(kind, bits, encoding, sum(part.size_bytes for part in stored), coded))
        return options

    def _encode(self, kind: str, weight: Tensor, bits: int) -> Encoding:
        if kind == "kmeans":
            return KMeans(granularity=self.granularity).encode(weight, bits)
        if kind == "pruned":
            mask = keep_largest(weight, max(1, round((1.0 - self.sparsity) * weight.numel())))
            inner = KMeans().encode(weight[mask][None], bits)
            return Sparse(mask, replace(inner, indices=inner.indices[0]))
        return AffineWeights(range=self.range).encode(weight, bits)

    def _measured(self, program: Program, table: Table, context: Context) -> Table:
        encodings = {layer: [option.encoding for option in options] for layer, options in table.items()}
        found = sensitivity.measure(self.sensitivity, program, encodings, context, self.sensitivity_images)
        for layer, harms in found.items():
            if not all(math.isfinite(harm) for harm in harms):
                raise MethodError(layer, "its sensitivity is not finite; the baseline's logits are too large")
        return {
            layer: [replace(option, harm=harm) for option, harm in zip(options, found[layer])]
            for layer, options in table.items()
        }

    def _choose(self, program: Program, table: Table, context: Context) -> tuple[list[int], dict[str, Any]]:
        """The option of every layer, in order, and what is to be told beside the table."""
        budget = Budget.parse(self.budget)
        if budget.kind == "drop":
            picks, changed = self._smallest_within(program, table, context, budget.amount)
            return picks, {"changed_percent": round(changed, 4)}
        if budget.kind == "size":
            costs, limit = _bytes(table), math.floor(budget.amount)
        else:
            elements = [program.weight(layer).numel() for layer in table]
            costs = [[option.code_bits for option in own] for own in table.values()]
            limit = math.floor(budget.amount * sum(elements) + 1e-6)  # 3.3 * 10 is 33, whatever floats make of it
        least = cheapest_total(costs)
        if least > limit:
            smallest = f"size:{least}B"
            if budget.kind == "avg_bits":
                smallest = f"avg_bits:{math.ceil(1e4 * least / sum(elements)) / 1e4:g}"
            raise MethodError(f"budget={self.budget}", f"the smallest that these candidates allow is {smallest}")
        return allocate(costs, _harms(table), limit), {}

    def _shipped(self, program: Program, table: Table, picks: list[int], context: Context) -> Program:
        """The network with these options, corrected and its activations quantized where that is asked."""
        chosen = _with_picks(program, table, picks)
        if self.correction != "none":
            correct = correct_biases if self.correction == "bias" else match_statistics
            chosen = correct(chosen, program, context)
        return chosen if self.act_bits is None else with_static_edges(chosen, context, self.act_bits)

    def _smallest_within(
        self, program: Program, table: Table, context: Context, percent: float
    ) -> tuple[list[int], float]:
        """The least bytes found whose predictions change on at most ``percent`` % of the calibration images."""
        wanted, costs, harms = _predicted(program, context), _bytes(table), _harms(table)

        def attempt(size: int) -> tuple[list[int], float]:
            picks = allocate(costs, harms, size)
            differs = _predicted(self._shipped(program, table, picks, context), context) != wanted
            return picks, 100.0 * float(differs.double().mean())

        low, high = cheapest_total(costs), sum(max(own) for own in costs)
        cheapest = attempt(low)
        if cheapest[1] <= percent:
            return cheapest
        best = attempt(high)
        if best[1] > percent:
            raise MethodError(f"budget={self.budget}", f"the smallest these candidates reach is drop:{best[1]:.4g}")
        while high - low > CLOSE_ENOUGH * high:
            middle = (low + high) // 2
            tried = attempt(middle)
            if tried[1] <= percent:
                best, high = tried, middle
            else:
                low = middle
        return best


def _with_picks(program: Program, table: Table, picks: list[int]) -> Program:
    chosen = {layer: options[pick] for (layer, options), pick in zip(table.items(), picks)}
    return program.with_tensors({f"{name}.weight": one.encoding for name, one in chosen.items() if one.kind != "float"})


@torch.no_grad()
def _predicted(program: Program, context: Context) -> Tensor:
    module = materialize(program).to(context.device)
    return torch.cat([module(batch.to(context.device)).argmax(1).cpu() for batch in context.calibration])


def _bytes(table: Table) -> list[list[int]]:
    return [[option.bytes for option in options] for options in table.values()]


def _harms(table: Table) -> list[list[float]]:
    return [[option.harm for option in options] for options in table.values()]


def _shown(table: Table, picks: list[int]) -> list[dict[str, Any]]:
    """The table as it travels in the file: per layer its options, [encoding, bits, bytes, harm], and the one chosen."""
    return [
        {
            "layer": layer,
            "chosen": pick,
            "options": [[one.kind, one.bits, one.bytes, float(f"{one.harm:.4g}")] for one in options],
        }
        for (layer, options), pick in zip(table.items(), picks)
    ]
