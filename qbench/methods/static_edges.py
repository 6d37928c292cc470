"""Quantizers of activations: the edges they sit on and the ranges they cover, from calibration images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qbench.errors import MethodError
from qbench.methods.base import Context, require_one_of, require_within
from qbench.program.graph import EdgeSpec, Program
from qbench.program.materialize import materialize
from qbench.program.transform import quantizable_edges
from qbench.quant import histogram
from qbench.quant.affine import choose_qparams, integer_grid
from qbench.quant.histogram import Histogram

ACT_RANGES = ("minmax", "moving_average", "percentile", "mse", "entropy")
IMAGE_BITS = 8
"""Images come as 8-bit numbers: fewer bits would save nothing there and cost accuracy from the first layer on."""
_FROM_EXTREMES = ("minmax", "moving_average")


@dataclass(frozen=True)
class ActivationRange:
    """How the range of an activation is chosen.

    Args:
        kind: minmax: the extremes of all batches. moving_average: those of each batch, averaged exponentially.
            percentile, mse, entropy: searched on a histogram, which takes a second pass over the images.
        percentile: Share of the values inside, in percent, for percentile.
        momentum: Weight of a new batch, for moving_average.
    """

    kind: str = "minmax"
    percentile: float = 99.99
    momentum: float = 0.1

    def __post_init__(self) -> None:
        require_one_of("act_range", self.kind, ACT_RANGES)
        require_within("act_percentile", self.percentile, 50.0, 100.0)
        require_within("act_momentum", self.momentum, 0.0, 1.0)

    def from_batches(self, ends: Tensor) -> tuple[float, float]:
        """(low, high) from the extremes of each batch, float32 [B, 2]."""
        if self.kind != "moving_average":
            return float(ends[:, 0].amin()), float(ends[:, 1].amax())
        average = ends[0].double()
        for batch in ends[1:].double():
            average = torch.lerp(average, batch, self.momentum)
        return float(average[0]), float(average[1])

    def from_histogram(self, seen: Histogram, qmin: int, qmax: int) -> tuple[float, float]:
        """(low, high) searched on a histogram."""
        if self.kind == "percentile":
            return histogram.percentile_range(seen, self.percentile)
        search = histogram.mse_range if self.kind == "mse" else histogram.entropy_range
        return search(seen, qmin, qmax)


def with_static_edges(
    program: Program, context: Context, bits: int, act_range: ActivationRange | None = None
) -> Program:
    """Put a static affine quantizer on every quantizable edge.

    Args:
        program: Usually with its weights quantized already, so that ranges are those the quantized network shows.
        context: Its calibration images are run through the program, once or twice.
        bits: Bits of every edge, 2..16; the images' own edge has ``IMAGE_BITS`` at least.
        act_range: How ranges are chosen; min-max by default.

    Raises:
        MethodError: There are no calibration images, or a value of an edge is not finite or too large (names it).
    """
    if not context.calibration:
        raise MethodError(f"act_bits={bits}", "quantizing activations needs calibration images")
    chosen = act_range or ActivationRange()
    edges = quantizable_edges(program)
    grids = {name: integer_grid(_bits_of(name, bits)) for name in edges}
    ends = _observed(program, context, edges, lambda name, value: torch.stack(torch.aminmax(value)).cpu())
    ranges = {name: chosen.from_batches(torch.stack(seen)) for name, seen in ends.items()}
    for name, (low, high) in ranges.items():
        _qparams(name, low, high, *grids[name])  # refuses what no histogram could hold
    if chosen.kind not in _FROM_EXTREMES:
        counts = _observed(program, context, edges, lambda name, value: histogram.count(value, *ranges[name]))
        for name, (low, high) in ranges.items():
            if high > low:
                seen = Histogram(torch.stack(counts[name]).sum(0), low, high)
                ranges[name] = chosen.from_histogram(seen, *grids[name])
    specs = {name: _qparams(name, low, high, *grids[name]) for name, (low, high) in ranges.items()}
    return replace(program, edges={**program.edges, **specs})


def with_shared_edges(program: Program, context: Context, bits: int) -> Program:
    """Put shared values on every quantizable edge, 2^bits at most: k-means of what the calibration images show there.

    The images' own edge stays uniform: they come as evenly spaced numbers of ``IMAGE_BITS`` bits.

    Args:
        program: Usually with its weights quantized already.
        context: Its calibration images are run through the program, twice.
        bits: Of the index of a value, 2..8.

    Raises:
        MethodError: There are no calibration images, ``bits`` is more than 8, or a value of an edge is not finite.
    """
    if bits > 8:
        raise MethodError(f"act_bits={bits}", "act_levels=kmeans has 256 levels at most: set act_bits to 8 or fewer")
    if not context.calibration:
        raise MethodError(f"act_bits={bits}", "quantizing activations needs calibration images")
    edges = quantizable_edges(program)
    ends = _observed(program, context, edges, lambda name, value: torch.stack(torch.aminmax(value)).cpu())
    ranges = {name: ActivationRange().from_batches(torch.stack(seen)) for name, seen in ends.items()}
    counts = _observed(program, context, edges, lambda name, value: histogram.count(value, *ranges[name]))
    specs = {}
    for name, (low, high) in ranges.items():
        specs[name] = _qparams(name, low, high, *integer_grid(_bits_of(name, bits)))  # refuses what is not finite
        if name != Program.INPUT:
            levels: tuple[float, ...] = (low,)  # what never changes is one value
            if high > low:
                levels = histogram.shared_levels(Histogram(torch.stack(counts[name]).sum(0), low, high), 1 << bits)
            specs[name] = EdgeSpec(bits, 0, len(levels) - 1, None, None, levels)
    return replace(program, edges={**program.edges, **specs})


def with_dynamic_edges(program: Program, bits: int) -> Program:
    """Put a quantizer on every quantizable edge whose range is each image's own, found while running."""
    wide = {name: _bits_of(name, bits) for name in quantizable_edges(program)}
    specs = {name: EdgeSpec(own, *integer_grid(own), None, None) for name, own in wide.items()}
    return replace(program, edges={**program.edges, **specs})


def _bits_of(name: str, bits: int) -> int:
    return max(bits, IMAGE_BITS) if name == Program.INPUT else bits


def _qparams(name: str, low: float, high: float, qmin: int, qmax: int) -> EdgeSpec:
    try:
        qparams = choose_qparams(torch.tensor(low), torch.tensor(high), qmin, qmax, symmetric=False)
    except ValueError as error:
        raise MethodError(name, f"on the calibration images, {error}") from error
    bits = (qmax - qmin).bit_length()
    return EdgeSpec(bits, qmin, qmax, float(qparams.scale), int(qparams.zero_point))


def _observed(
    program: Program, context: Context, edges: Sequence[str], measure: Callable[[str, Tensor], Tensor]
) -> dict[str, list[Tensor]]:
    """Edge -> what ``measure`` says of its value on each batch of calibration images."""
    seen: dict[str, list[Tensor]] = {name: [] for name in edges}

    def observe(name: str, value: Tensor) -> None:
        if name in seen:
            seen[name].append(measure(name, value))

    module = materialize(program).to(context.device)
    module.observe = observe
    with torch.no_grad():
        for batch in context.calibration:
            module(batch.to(context.device))
    return seen
