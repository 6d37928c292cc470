"""Entropy coding of packed integers: a static model of whole numbers and a stack of 32-bit words (rANS).

    byte 0        t, bits per weight of the table, 1..16
    bytes 1-2     the lowest symbol of the table
    bytes 3-4     K - 1: the table speaks of K symbols, 2..65536
    then          K weights, packed with t bits
    then          32-bit words, two or more

Everything is little endian. With cumulated weights W(0) = 0 ... W(K), symbol i gets the slots F(i) to F(i + 1) - 1 of
2^24, F(i) = i + floor(W(i) (2^24 - K) / W(K)): integers alone, so that no machine's rounding can shift a symbol. The
words are those of the ``AnsCoder`` of the library constriction, begun at the state 2^32; docs/format.md spells out how
to read them.

Source: Duda, "Asymmetric numeral systems", arXiv:1311.2540; Bamler, "Understanding Entropy Coding With Asymmetric
Numeral Systems (ANS)", arXiv:2201.01741.
"""

from __future__ import annotations

import constriction
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qbench.quant import packing

Ints = NDArray[np.int64]

PRECISION = 24  # bits of a frequency: that of constriction's default coder
PREFIX_BYTES = 5
TABLE_BITS = range(4, 17)  # what the writer tries
LARGEST_SHARE = 255
"""No weight is more than so many times the others together: a symbol then takes at least 0.0056 bits, and what a file
can make its reader allocate is bounded by the file's own length."""
SYMBOLS_PER_BIT = 180  # above 1 / log2(256 / 255) = 177.1
BEGINNING = np.array([0, 1], dtype=np.uint32)
"""The words of the state 2^32. From the state 0, where the library begins by itself, a run of the first symbol would
leave no trace, and its length could not be checked."""
WORTH_IT = 16  # bytes a coded array must save; what its longer name can add to the header is less


def encode(values: Tensor, bits: int, offset: int = 0) -> Tensor | None:
    """Code integers with a model of how often each occurs.

    Args:
        values: Integers in [offset, offset + 2 ** bits - 1], any shape, in row-major order.
        bits: Bits per value of the fixed-width form, 1..16.
        offset: As for :func:`qbench.quant.packing.pack`.

    Returns:
        uint8 [n], or None where fixed width is as good.
    """
    fixed = packing.packed_size(values.numel(), bits)
    if fixed <= WORTH_IT + PREFIX_BYTES:
        return None
    symbols = (values.reshape(-1).to(torch.int32) - offset).numpy()
    lowest = min(int(symbols.min()), (1 << bits) - 2)  # leaves room for two
    counts = np.bincount(symbols - lowest, minlength=2)
    bits_of_table, weights, expected = min(
        ((t, weights, _size(counts, weights, t)) for t in TABLE_BITS for weights in (_weights(counts, t),)),
        key=lambda choice: choice[2],
    )
    if expected + WORTH_IT > fixed:
        return None
    coder = constriction.stream.stack.AnsCoder(BEGINNING)
    coder.encode_reverse(symbols - np.int32(lowest), _model(_slots(weights)))
    prefix = [bits_of_table, lowest & 255, lowest >> 8, (len(weights) - 1) & 255, (len(weights) - 1) >> 8]
    table = packing.pack(torch.from_numpy(weights), bits_of_table).numpy().tobytes()
    content = bytes(prefix) + table + coder.get_compressed().astype("<u4").tobytes()
    stored = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return stored if stored.numel() + WORTH_IT <= fixed else None


def decode(stored: Tensor, bits: int, count: int, offset: int = 0) -> Tensor:
    """Undo :func:`encode`, trusting nothing.

    Args:
        stored: uint8 with one axis.
        bits: Bits per value, 1..16.
        count: Number of values, >= 0.
        offset: The value coded as symbol 0.

    Returns:
        int32 [count].

    Raises:
        ValueError: Not uint8 with one axis; a table that is cut off, sums to nothing or has a symbol beyond ``bits``
            bits or too certain; more values than its bytes can hold; words that do not end with the last value.
    """
    if stored.dtype is not torch.uint8 or stored.dim() != 1 or stored.numel() < PREFIX_BYTES:
        raise ValueError(f"coded values must be uint8 with one axis and a prefix, not {_shown(stored)}")
    prefix = [int(byte) for byte in stored[:PREFIX_BYTES]]
    lowest, num_symbols = prefix[1] | prefix[2] << 8, 1 + (prefix[3] | prefix[4] << 8)
    if num_symbols < 2 or lowest + num_symbols > 1 << bits:
        raise ValueError(f"the table has the symbols {lowest} to {lowest + num_symbols - 1}; {bits} bits hold no such")
    if not 1 <= prefix[0] <= 16:
        raise ValueError(f"weights of {prefix[0]} bits in the table, expected 1 to 16")
    end = PREFIX_BYTES + packing.packed_size(num_symbols, prefix[0])
    if end > stored.numel() or (stored.numel() - end) % 4:
        raise ValueError(f"{stored.numel()} bytes do not hold {num_symbols} weights and whole words")
    weights = packing.unpack(stored[PREFIX_BYTES:end], prefix[0], num_symbols).numpy().astype(np.int64)
    if int(weights.sum()) < 1 or _too_certain(weights):
        raise ValueError("the weights of the table are all zero, or one is beyond its share")
    if count > (8 * stored.numel() + 64) * SYMBOLS_PER_BIT:
        raise ValueError(f"{stored.numel()} coded bytes cannot hold {count} values")
    words = np.frombuffer(stored[end:].numpy().tobytes(), dtype="<u4").astype(np.uint32)
    coder = constriction.stream.stack.AnsCoder(words)  # a ValueError if the last word is zero
    symbols = coder.decode(_model(_slots(weights)), count)
    if not np.array_equal(coder.get_compressed(), BEGINNING):
        raise ValueError(f"the coded words do not end with value {count}")
    return torch.from_numpy(symbols.astype(np.int32, copy=False)) + (lowest + offset)


def _slots(weights: Ints) -> Ints:
    """F(0) = 0 ... F(K) = 2^24, int64 [K + 1]. The largest product is below 2^57."""
    num_symbols = len(weights)
    cumulated = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(weights)])
    return np.asarray(cumulated * ((1 << PRECISION) - num_symbols) // cumulated[-1] + np.arange(num_symbols + 1))


def _model(slots: Ints) -> constriction.stream.model.Categorical:
    """The library's model with exactly these slots.

    It gives each symbol one slot and spreads the other 2^24 - K in proportion to the "probabilities". Here these are
    whole numbers that sum to 2^24 - K, so that its factor is 1.0 and nothing is rounded.
    """
    return constriction.stream.model.Categorical((np.diff(slots) - 1).astype(np.float64), perfect=False)


def _weights(counts: Ints, bits: int) -> Ints:
    """Counts scaled to ``bits`` bits: 0 only for what never occurs, none beyond its share."""
    top = int(counts.argmax())
    scaled = np.rint(counts * (((1 << bits) - 1) / counts[top])).astype(np.int64)
    weights = np.where(counts > 0, np.maximum(scaled, 1), 0)
    if np.count_nonzero(weights) == 1:
        weights[top - 1] = 1  # the one before, or the last: all values are the same
    weights[top] = min(weights[top], LARGEST_SHARE * (weights.sum() - weights[top]))
    return weights


def _too_certain(weights: Ints) -> bool:
    top = int(weights.max())
    return top > LARGEST_SHARE * (int(weights.sum()) - top)


def _size(counts: Ints, weights: Ints, bits: int) -> float:
    """Bytes to expect: the prefix, the table, the ideal code length, and the state's 32 bits and half a word more."""
    ideal = float((counts * (PRECISION - np.log2(np.diff(_slots(weights))))).sum()) / 8
    return PREFIX_BYTES + packing.packed_size(len(weights), bits) + ideal + 6


def _shown(stored: Tensor) -> str:
    return f"{stored.dtype} {tuple(stored.shape)}"
