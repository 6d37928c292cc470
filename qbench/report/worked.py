"""Worked examples of texts on quantization, computed by the functions that the methods call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from qbench.errors import ConfigError
from qbench.quant.affine import choose_qparams, dequantize, integer_grid, quantize
from qbench.quant.fixed_point import FixedPoint, holding, with_integer_bits
from qbench.quant.kmeans import kmeans_1d
from qbench.quant.octal import octal, unit_codes
from qbench.quant.packing import pack
from qbench.report.study import Example

FLOAT_BITS = 32
TOLERANCE = 1e-6  # relative: of float32 results against decimals


@dataclass(frozen=True)
class Worked:
    """An example beside what qbench computes."""

    example: Example
    found: Any

    @property
    def agrees(self) -> bool:
        """Whether ours is what is expected of it."""
        return _same(self.found, self.example.expected)

    @property
    def answer(self) -> str:
        if not self.agrees:
            return f"MISMATCH: expected {self.example.expected}"
        if self.example.source is None:
            return "; ".join(filter(None, ["as expected", self.example.note]))
        same = _same(self.example.expected, self.example.source)
        return "; ".join(filter(None, ["same" if same else "differs", self.example.note]))


def work(example: Example) -> Worked:
    """Compute one example.

    Raises:
        ConfigError: There is no such computation, or it does not take what is given.
    """
    compute = COMPUTE.get(example.compute)
    if compute is None:
        raise ConfigError(f"{example.what}: no computation {example.compute!r}; known are {', '.join(COMPUTE)}.")
    try:
        return Worked(example, compute(**example.given))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{example.what}: {example.compute} cannot be computed ({error}).") from error


def fixed_point(values: Sequence[float], bits: int, integer_bits: int) -> dict[str, Any]:
    """Codes and values of Qm.n: a sign bit, ``integer_bits`` and the rest behind the point."""
    return _in_format(values, with_integer_bits(bits, integer_bits))


def dynamic_fixed_point(values: Sequence[float], bits: int) -> dict[str, Any]:
    """The same in the finest format that holds these values."""
    return _in_format(values, holding(max(map(abs, values)), bits))


def _in_format(values: Sequence[float], form: FixedPoint) -> dict[str, Any]:
    x = torch.tensor(list(values), dtype=torch.float32)
    codes = quantize(x, torch.tensor(form.scale), torch.tensor(0), form.qmin, form.qmax)
    return {"format": str(form), "codes": codes.tolist(), "values": form.simulate(x).tolist()}


def kmeans(values: Sequence[float], num_clusters: int) -> dict[str, Any]:
    """Centroids, each value's index, the values they stand for, and the squared error."""
    found = kmeans_1d(torch.tensor(list(values), dtype=torch.float32), num_clusters)
    shared = found.centroids[found.indices.long()]
    return {
        "centroids": found.centroids.tolist(), "indices": found.indices.tolist(), "values": shared.tolist(),
        "SSE": found.sse,
    }  # fmt: skip


def weight_sharing(values: Sequence[Sequence[float]], bits: int) -> dict[str, Any]:
    """A matrix as packed indices and a float codebook: centroids and how many times smaller it is."""
    x = torch.tensor([list(row) for row in values], dtype=torch.float32)
    found = kmeans_1d(x, 1 << bits)
    indices_bits = 8 * len(pack(found.indices.flatten().to(torch.int32), bits))
    codebook_bits = FLOAT_BITS * len(found.centroids)
    return {
        "centroids": [round(one, 4) + 0.0 for one in found.centroids.tolist()],
        "bits": [x.numel() * FLOAT_BITS, indices_bits + codebook_bits],
        "ratio": x.numel() * FLOAT_BITS / (indices_bits + codebook_bits),
    }


def linear(values: Sequence[float], bits: int) -> dict[str, Any]:
    """R = S(q - Z) as qbench has it: the range is widened to contain 0 first."""
    x = torch.tensor(list(values), dtype=torch.float32)
    qmin, qmax = integer_grid(bits)
    chosen = choose_qparams(x.min(), x.max(), qmin, qmax, symmetric=False)
    codes = quantize(x, chosen.scale, chosen.zero_point, qmin, qmax)
    back = dequantize(codes, chosen.scale, chosen.zero_point)
    return {"S": float(chosen.scale), "Z": int(chosen.zero_point), "codes": codes.tolist(), "values": back.tolist()}


def linear_as_written(values: Sequence[float], bits: int) -> dict[str, Any]:
    """The same by the formulas as they stand, Z clamped, in double precision: where 0 is outside the range it fails."""
    qmin, qmax = integer_grid(bits)
    scale = (max(values) - min(values)) / (qmax - qmin)
    if scale == 0:
        return {"fails": "r_max = r_min, S = 0 divides"}
    zero_point = min(max(round(qmin - min(values) / scale), qmin), qmax)
    codes = [min(max(round(value / scale) + zero_point, qmin), qmax) for value in values]
    return {"S": scale, "Z": zero_point, "codes": codes, "values": [scale * (code - zero_point) for code in codes]}


def unit(values: Sequence[float], bits: int, rounding: str) -> list[int]:
    """Codes of weights in [-1, 1] without a scale."""
    return unit_codes(torch.tensor(list(values)), bits, rounding=rounding).tolist()


def unit_octal(values: Sequence[float], bits: int, rounding: str) -> list[str]:
    """The same codes, written in octal."""
    return [octal(code) for code in unit(values, bits, rounding)]


def _same(found: Any, wanted: Any) -> bool:
    """Whether everything wanted is found; numbers may differ by rounding to float32."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        return all(key in found and _same(found[key], value) for key, value in wanted.items())
    if isinstance(found, list | tuple) and isinstance(wanted, list | tuple):
        return len(found) == len(wanted) and all(map(_same, found, wanted))
    if isinstance(found, int | float) and isinstance(wanted, int | float):
        return math.isclose(found, wanted, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(found == wanted)


COMPUTE: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        one.__name__: one
        for one in (
            fixed_point, dynamic_fixed_point, kmeans, weight_sharing, linear, linear_as_written, unit, unit_octal,
        )
    }
)  # fmt: skip
