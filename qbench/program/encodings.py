"""How a stored tensor is encoded. A compressed network is data: these classes are that data.

    Float(values)                                the numbers themselves, in fp32, fp16 or bf16
    Affine(codes, scale, zero_point, ...)        r = scale * (q - zero_point)
    Codebook(indices, centroids, channel_axis)   r = centroids[index]; k-means, weight sharing, binary, ternary
    Sparse(mask, inner)                          zeros where mask is False, the 1-D inner encoding elsewhere

``decode`` turns any of them into float32. An encoding says nothing about the file: packing bits and
entropy coding belong to :mod:`qbench.artifact`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_INT32 = torch.iinfo(torch.int32)
FLOAT_BITS = {torch.float32: 32, torch.float16: 16, torch.bfloat16: 16}


@dataclass(frozen=True, eq=False)
class Float:
    """Plain values, any shape; dtype float32, float16 or bfloat16."""

    values: Tensor

    def __post_init__(self) -> None:
        if self.values.dtype not in FLOAT_BITS:
            raise ValueError(f"Float holds float32, float16 or bfloat16, not {self.values.dtype}")

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    @property
    def bits(self) -> int:
        """Stored bits per value."""
        return FLOAT_BITS[self.values.dtype]

    def decode(self) -> Tensor:
        return self.values.to(torch.float32)


@dataclass(frozen=True, eq=False)
class Affine:
    """Uniform quantization, r = scale * (q - zero_point).

    Args:
        codes: Integer codes q in [qmin, qmax], int8 or int16 (int32 where 16 signed bits do not hold them), any shape.
        scale: Real step > 0, float32; shape [] (per tensor), [C] (per channel, ``axis`` is kept) or
            [C, G] (per group: each channel's values, flattened in order, in G runs of ``group_size``, the last one
            possibly shorter; ``axis`` is 0).
        zero_point: Code of real zero, int32 in [qmin, qmax], same shape as ``scale``.
        bits: Bits per code, 1..32; qmax - qmin < 2 ** bits. More than 16 are for biases of integer-only networks.
        qmin, qmax: The integer grid, inclusive, within int32.
        axis: The channel axis of ``codes`` that ``scale`` follows; None per tensor.
        group_size: Elements per group; None unless per group.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    bits: int
    qmin: int
    qmax: int
    axis: int | None = None
    group_size: int | None = None

    def __post_init__(self) -> None:
        if self.codes.dtype not in (torch.int8, torch.int16, torch.int32):
            raise ValueError(f"codes must be int8, int16 or int32, not {self.codes.dtype}")
        if self.scale.dtype != torch.float32 or self.zero_point.dtype != torch.int32:
            raise ValueError("scale must be float32 and zero_point int32")
        if self.scale.shape != self.zero_point.shape:
            raise ValueError(
                f"scale {tuple(self.scale.shape)} and zero_point {tuple(self.zero_point.shape)} differ in shape"
            )
        fits = 1 <= self.bits <= 32 and self.qmin <= self.qmax < self.qmin + (1 << self.bits)
        if not fits or self.qmin < _INT32.min or self.qmax > _INT32.max:
            raise ValueError(f"the grid [{self.qmin}, {self.qmax}] does not fit {self.bits} bits")
        expected: tuple[int, ...] = ()
        if self.axis is not None:
            if not 0 <= self.axis < self.codes.dim():
                raise ValueError(f"axis {self.axis} is outside a tensor of {self.codes.dim()} axes")
            expected = (self.codes.shape[self.axis],)
            if self.group_size is not None:
                if self.axis != 0 or self.group_size < 1:
                    raise ValueError("groups need axis 0 and a group_size of at least 1")
                expected = (*expected, -(-self.codes[0].numel() // self.group_size))
        elif self.group_size is not None:
            raise ValueError("groups need axis 0")
        if tuple(self.scale.shape) != expected:
            raise ValueError(f"scale has shape {tuple(self.scale.shape)}, expected {expected}")

    @property
    def shape(self) -> torch.Size:
        return self.codes.shape

    def broadcast(self, per_channel: Tensor) -> Tensor:
        """Expand a tensor shaped like ``scale`` so that it broadcasts against ``codes``."""
        if self.axis is None:
            return per_channel
        if self.group_size is None:
            return per_channel.reshape([-1 if i == self.axis else 1 for i in range(self.codes.dim())])
        per_element = per_channel.repeat_interleave(self.group_size, dim=1)[:, : self.codes[0].numel()]
        return per_element.reshape(self.codes.shape)

    def decode(self) -> Tensor:
        wide = torch.int32 if self.bits <= 16 else torch.int64  # the difference of two 32-bit codes has 33
        centred = self.codes.to(wide) - self.broadcast(self.zero_point)
        return self.broadcast(self.scale) * centred.to(torch.float32)


@dataclass(frozen=True, eq=False)
class Codebook:
    """Shared values: each element is one of K centroids.

    Args:
        indices: uint8, any shape; index of each element's centroid, < K.
        centroids: Encoding of shape [K] (one codebook) or [C, K] (one per channel along ``axis``).
        bits: Bits per index, 1..8; K <= 2 ** bits.
        axis: The channel axis whose slices have their own codebook; None for one codebook. Always 0 or None.
    """

    indices: Tensor
    centroids: Float | Affine
    bits: int
    axis: int | None = None

    def __post_init__(self) -> None:
        if self.indices.dtype != torch.uint8:
            raise ValueError(f"indices must be uint8, not {self.indices.dtype}")
        dims = 1 if self.axis is None else 2
        if self.axis not in (None, 0) or len(self.centroids.shape) != dims:
            raise ValueError(f"axis {self.axis} does not fit centroids of shape {tuple(self.centroids.shape)}")
        if not 1 <= self.bits <= 8 or not 1 <= self.centroids.shape[-1] <= 1 << self.bits:
            raise ValueError(f"{self.centroids.shape[-1]} centroids do not fit {self.bits}-bit indices")
        if self.axis == 0 and (self.indices.dim() < 1 or self.centroids.shape[0] != self.indices.shape[0]):
            raise ValueError("one codebook per channel needs as many codebooks as channels")

    @property
    def shape(self) -> torch.Size:
        return self.indices.shape

    def decode(self) -> Tensor:
        table = self.centroids.decode()
        if self.axis is None:
            return table[self.indices.long()]
        rows = self.indices.reshape(self.indices.shape[0], -1).long()
        return table.gather(1, rows).reshape(self.indices.shape)


@dataclass(frozen=True, eq=False)
class Sparse:
    """Zero where ``mask`` is False; ``inner`` encodes the kept values, 1-D, in row-major order of the mask."""

    mask: Tensor
    inner: Float | Affine | Codebook

    def __post_init__(self) -> None:
        if self.mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool, not {self.mask.dtype}")
        if tuple(self.inner.shape) != (int(self.mask.sum()),):
            raise ValueError(f"mask keeps {int(self.mask.sum())} values, inner encodes {tuple(self.inner.shape)}")

    @property
    def shape(self) -> torch.Size:
        return self.mask.shape

    @property
    def bits(self) -> int:
        return self.inner.bits

    def decode(self) -> Tensor:
        dense = torch.zeros(self.mask.shape, dtype=torch.float32)
        dense[self.mask] = self.inner.decode()
        return dense


Encoding = Float | Affine | Codebook | Sparse
