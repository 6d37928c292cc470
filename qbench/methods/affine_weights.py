"""How weights are put on a uniform grid: what linear, static and trained quantization share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qbench.errors import MethodError
from qbench.methods.base import require_one_of, require_within
from qbench.methods.sparse import kept_values, with_kept
from qbench.program.encodings import Affine, Encoding
from qbench.program.graph import Program
from qbench.quant.affine import ROUNDINGS, QParams, choose_qparams, integer_grid, quantize
from qbench.quant.ranges import RANGES, choose_range

GRANULARITIES = ("per_tensor", "per_channel", "per_group")
SCHEMES = ("symmetric", "affine")


@dataclass(frozen=True)
class AffineWeights:
    """The choices a uniform weight quantizer has.

    Args:
        scheme: symmetric (zero_point 0) or affine.
        granularity: per_tensor, per_channel (axis 0) or per_group (``group_size`` weights in a row).
        group_size: Weights per group, at most: a channel with fewer weights is one group.
        range: minmax, percentile or mse.
        percentile: Share of the weights inside the range, in percent, for range=percentile.
        rounding: nearest (ties to even) or truncate (towards zero).
        narrow_range: Whether a symmetric grid leaves out its lowest code, so that it has as many codes on either side.
    """

    scheme: str = "symmetric"
    granularity: str = "per_channel"
    group_size: int = 64
    range: str = "minmax"
    percentile: float = 99.9
    rounding: str = "nearest"
    narrow_range: bool = True

    def __post_init__(self) -> None:
        require_one_of("scheme", self.scheme, SCHEMES)
        require_one_of("granularity", self.granularity, GRANULARITIES)
        require_one_of("range", self.range, RANGES)
        require_one_of("rounding", self.rounding, ROUNDINGS)
        require_within("group_size", self.group_size, 1, 65536)
        require_within("percentile", self.percentile, 50.0, 100.0)

    def encode_layers(self, program: Program, layers: Mapping[str, int]) -> Program:
        """The program with the weights of ``layers`` (name -> bits; 0 stays float) encoded.

        Raises:
            MethodError: A weight so large that its scale leaves float32; names it.
        """
        changed: dict[str, Encoding] = {}
        for layer, bits in layers.items():
            if bits:
                key = f"{layer}.weight"
                before = program.tensors[key]  # of a pruned layer, what is kept is quantized
                try:
                    changed[key] = with_kept(before, self.encode(kept_values(before), bits), key)
                except ValueError as error:
                    raise MethodError(key, str(error)) from error
        return program.with_tensors(changed)

    def encode(self, weight: Tensor, bits: int) -> Affine:
        """Quantize one weight tensor, float32 [C, ...]."""
        symmetric = self.scheme == "symmetric"
        qmin, qmax = integer_grid(bits, narrow_range=symmetric and self.narrow_range)
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
