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
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from qbench.errors import MethodError
from qbench.methods.base import Context, Needs, check_effect, check_finite, require_one_of, require_within
from qbench.methods.layer_bits import bits_by_layer
from qbench.program.encodings import Affine, Encoding
from qbench.program.graph import EdgeSpec, Program
from qbench.program.materialize import materialize
from qbench.program.transform import fold_batch_norm, quantizable_edges
from qbench.quant.affine import ROUNDINGS, QParams, choose_qparams, integer_grid, quantize
from qbench.quant.ranges import RANGES, choose_range

GRANULARITIES = ("per_tensor", "per_channel", "per_group")
SCHEMES = ("symmetric", "affine")


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
        require_one_of("scheme", self.scheme, SCHEMES)
        require_one_of("granularity", self.granularity, GRANULARITIES)
        require_one_of("range", self.range, RANGES)
        require_one_of("rounding", self.rounding, ROUNDINGS)
        require_within("weight_bits", self.weight_bits, 1, self.largest_bits)
        require_within("act_bits", self.act_bits, 2, 16)
        require_within("first_last_bits", self.first_last_bits, 1, self.largest_bits)
        require_within("group_size", self.group_size, 1, 65536)
        require_within("percentile", self.percentile, 50.0, 100.0)

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
        changed: dict[str, Encoding] = {}
        for layer, bits in layers.items():
            if bits:
                changed[f"{layer}.weight"] = self._encode_layer(layer, program.weight(layer), bits)
        compressed = program.with_tensors(changed)
        if self.act_bits is not None:
            compressed = with_static_edges(compressed, context, self.act_bits)
        check_effect(program, compressed)
        return compressed

    def _encode_layer(self, layer: str, weight: Tensor, bits: int) -> Affine:
        try:
            return self.encode(weight, bits)
        except ValueError as error:  # weights so large that a scale leaves float32
            raise MethodError(f"{layer}.weight", str(error)) from error

    def encode(self, weight: Tensor, bits: int) -> Affine:
        """Quantize one weight tensor, float32 [C, ...]."""
        symmetric = self.scheme == "symmetric"
        qmin, qmax = integer_grid(bits, narrow_range=symmetric)
        flat = weight.reshape(weight.shape[0], -1)
        if self.granularity == "per_tensor":
            qparams = self._qparams(weight.reshape(1, -1), qmin, qmax, symmetric)
            scale, zero_point = qparams.scale.reshape(()), qparams.zero_point.reshape(())
            axis, group = None, None
        elif self.granularity == "per_channel":
            qparams = self._qparams(flat, qmin, qmax, symmetric)
            scale, zero_point, axis, group = qparams.scale, qparams.zero_point, 0, None
        else:
            axis, group = 0, min(self.group_size, flat.shape[1])
            scale, zero_point = self._group_qparams(flat, group, qmin, qmax, symmetric)
        placeholder = torch.zeros(weight.shape, dtype=torch.int32)
        encoding = Affine(placeholder, scale, zero_point, bits, qmin, qmax, axis, group)
        spread = encoding.broadcast
        codes = quantize(weight, spread(scale), spread(zero_point), qmin, qmax, rounding=self.rounding)
        return replace(encoding, codes=codes)

    def _qparams(self, rows: Tensor, qmin: int, qmax: int, symmetric: bool) -> QParams:
        low, high = choose_range(rows, qmin, qmax, kind=self.range, symmetric=symmetric, percentile=self.percentile)
        return choose_qparams(low, high, qmin, qmax, symmetric=symmetric)

    def _group_qparams(self, flat: Tensor, size: int, qmin: int, qmax: int, symmetric: bool) -> tuple[Tensor, Tensor]:
        """Scale and zero point [C, G] of rows [C, M] cut into groups; the last group may be shorter."""
        channels, length = flat.shape
        whole = length // size * size
        parts = [(flat[:, :whole].reshape(-1, size), whole // size)]
        if whole < length:
            parts.append((flat[:, whole:], 1))
        chosen = [(self._qparams(rows, qmin, qmax, symmetric), groups) for rows, groups in parts]
        scale = torch.cat([q.scale.reshape(channels, groups) for q, groups in chosen], dim=1)
        zero_point = torch.cat([q.zero_point.reshape(channels, groups) for q, groups in chosen], dim=1)
        return scale, zero_point


def with_static_edges(program: Program, context: Context, bits: int) -> Program:
    """Put a static affine quantizer on every quantizable edge, its range the min-max over the calibration images.

    Raises:
        MethodError: A value of an edge is not finite or too large; names the edge.
    """
    edges = quantizable_edges(program)
    seen: dict[str, list[Tensor]] = {name: [] for name in edges}

    def observe(name: str, value: Tensor) -> None:
        if name in seen:
            seen[name].append(torch.stack(torch.aminmax(value)).cpu())

    module = materialize(program).to(context.device)
    module.observe = observe
    with torch.no_grad():
        for batch in context.calibration:
            module(batch.to(context.device))
    qmin, qmax = integer_grid(bits)
    specs = {}
    for name in edges:
        ends = torch.stack(seen[name])
        try:
            qparams = choose_qparams(ends[:, 0].amin(), ends[:, 1].amax(), qmin, qmax, symmetric=False)
        except ValueError as error:
            raise MethodError(name, f"on the calibration images, {error}") from error
        specs[name] = EdgeSpec(bits, qmin, qmax, float(qparams.scale), int(qparams.zero_point))
    return replace(program, edges=specs)
