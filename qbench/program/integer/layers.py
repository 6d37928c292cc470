"""Integer weights and biases of convolutions and linear layers, and how far their sums can reach."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qbench.errors import MethodError
from qbench.program.encodings import Affine, Codebook, Encoding, Float, Sparse
from qbench.program.graph import Node, Program
from qbench.program.integer.ops import Grid
from qbench.quant.requantize import INT32_MAX, bias_scale, encode_bias

LARGEST_BITS = 8  # of weights and activations: what int8 products take


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """A layer in integers.

    Args:
        weight: Codes minus their zero point, int16 [O, ...].
        bias: int32 [O], less the input's zero point times the sum of the weights.
        unit: What 1 in a sum stands for, float64 [O].
    """

    weight: Tensor
    bias: Tensor
    unit: Tensor


def integer_layer(program: Program, node: Node, grid: Grid) -> IntegerLayer:
    """The integers of a layer that reads codes of ``grid``.

    Raises:
        MethodError: The weights are no uniform codes of at most 8 bits with one scale per channel, or a sum could leave
            int32; names the layer.
    """
    codes, scale, bias = unfolded_layer(program, node, grid)
    folded = bias.to(torch.int64) - grid.zero_point * codes.flatten(1).sum(1, dtype=torch.int64)
    return IntegerLayer(codes.to(torch.int16), folded.to(torch.int32), scale.double() * grid.scale)


def unfolded_layer(program: Program, node: Node, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """The integers of a layer that reads codes of ``grid``, the grid's zero point not yet in its bias.

    Returns:
        Weights as :func:`integer_weight` gives them, the scale of each channel (float32 [O]), the bias (int32 [O]).

    Raises:
        MethodError: As :func:`integer_layer`.
    """
    try:
        codes, scale = integer_weight(program.tensors[f"{node.name}.weight"])
    except ValueError as error:
        raise MethodError(node.name, f"{error}; method=integer stores what integers alone can compute") from error
    codes, scale, bias = _with_bias(program, node, grid, codes, scale)
    _check_reach(node, codes, bias, grid)
    return codes, scale, bias


def _check_reach(node: Node, codes: Tensor, bias: Tensor, grid: Grid) -> None:
    """Raise MethodError if a partial sum, in whatever order, could leave int32."""
    largest_code = max(abs(grid.qmin), abs(grid.qmax))
    largest_weight = 128 if codes.dtype is torch.int8 else 255  # of differences of two codes of 8 bits
    most = codes[0].numel() * largest_weight * (largest_code + abs(grid.zero_point)) + int(bias.long().abs().max())
    if most <= INT32_MAX:
        return  # were all of them as large as that: most layers are far from the limit
    flat = codes.flatten(1).to(torch.int64)
    folded = bias.to(torch.int64) - grid.zero_point * flat.sum(1)
    reach = int((flat.abs().sum(1) * largest_code + folded.abs()).max())
    if reach > INT32_MAX:
        raise MethodError(node.name, f"its sums could reach {reach}, beyond int32; use fewer weight_bits or act_bits")


def _with_bias(program: Program, node: Node, grid: Grid, codes: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weight codes and scale, and the bias in int32: as stored if it has the right unit, else rounded to it."""
    stored = program.tensors.get(f"{node.name}.bias")
    if stored is None:
        return codes, scale, torch.zeros(len(codes), dtype=torch.int32)
    ready = stored_bias(stored, grid.scale, scale)
    if ready is not None:
        return codes, scale, ready
    bias, codes, scale = encode_bias(stored.decode(), grid.scale, codes, scale)
    return codes, scale, bias


def stored_bias(stored: Encoding, step: float, scale: Tensor) -> Tensor | None:
    """The codes of a bias, int32 [O], if 1 in them stands for what 1 in the layer's sums does; else None.

    Args:
        stored: The encoded bias.
        step: Scale of the layer's input.
        scale: Scale of each channel's weights, float32 [O].
    """
    if not isinstance(stored, Affine) or stored.group_size is not None or bool(stored.zero_point.any()):
        return None
    fits = torch.equal(stored.scale.expand(len(scale)), bias_scale(step, scale))
    return stored.codes.to(torch.int32) if fits else None


def integer_weight(encoding: Encoding) -> tuple[Tensor, Tensor]:
    """Codes minus their zero point, int8 or, where there is one, int16 [C, ...]; scale of each channel, float32 [C].

    Raises:
        ValueError: The encoding is not a uniform grid of at most 8 bits with one scale per channel or tensor.
    """
    if isinstance(encoding, Float):
        raise ValueError("its weights are floats")
    if isinstance(encoding, Sparse):
        kept, scale = _centred(encoding.inner)
        if scale.dim():
            raise ValueError("its kept weights have a scale each")
        codes = torch.zeros(encoding.shape, dtype=kept.dtype)
        codes[encoding.mask] = kept
    else:
        codes, scale = _centred(encoding)
    return codes, scale.expand(len(codes)).clone()


def _centred(encoding: Float | Affine | Codebook) -> tuple[Tensor, Tensor]:
    """Codes minus zero point and scale, [] or [C]."""
    if isinstance(encoding, Float):
        raise ValueError("its weights are floats")
    if isinstance(encoding, Codebook):
        if isinstance(encoding.centroids, Float):
            raise ValueError("its centroids are floats")
        table, scale = _centred(encoding.centroids)
        if encoding.axis is None:
            if scale.dim():
                raise ValueError("its centroids have a scale each")
            return table[encoding.indices.long()], scale
        rows = encoding.indices.flatten(1).long()
        return table.gather(1, rows).reshape(encoding.shape), scale
    if encoding.bits > LARGEST_BITS:
        raise ValueError(f"its weights have {encoding.bits} bits, more than {LARGEST_BITS}")
    if encoding.group_size is not None or encoding.axis not in (None, 0):
        raise ValueError("its weights have several scales per channel")
    if encoding.codes.dtype is torch.int8 and not bool(encoding.zero_point.any()):
        return encoding.codes, encoding.scale
    # the difference of two codes of the same 8 bits at most, wherever on the axis those lie
    centred = encoding.codes.to(torch.int32) - encoding.broadcast(encoding.zero_point)
    return centred.to(torch.int16), encoding.scale
