"""Integer kernels that add the products of two neighbours in 16 bits, and which layers that can make wrong.

x86 processors without VNNI or AMX multiply uint8 by int8 with one instruction (``pmaddubsw``), which adds two products
and saturates at 16 bits: 255 * 127 twice is twice too large. oneDNN, and so OpenVINO and PyTorch, uses it there as it
is; ONNX Runtime does too unless it is asked not to. Weights of 7 bits, or activations of 7, never get that far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qbench.machine import sums_in_32_bits

_INT16 = np.iinfo(np.int16)
_UINT8_TOP = 255
_NAMED = 4  # layers that a warning lists


def fits_int16_pairs(codes: NDArray[Any], top: int = _UINT8_TOP) -> bool:
    """Whether the sum of any two products of one output channel stays within 16 bits.

    Which weights an engine pairs is its own affair, so the two largest and the two smallest of a channel count.

    Args:
        codes: int8 weights, [O, ...].
        top: Highest code of the input, which is uint8.
    """
    if not codes.size:
        return True
    flat = codes.reshape(len(codes), -1)
    if flat.shape[1] > 2:
        flat = np.partition(flat, (1, -2), axis=1)[:, [0, 1, -2, -1]]
    wide = flat.astype(np.int64)
    low, high = np.minimum(wide[:, :2], 0).sum(1), np.maximum(wide[:, -2:], 0).sum(1)
    return bool((top * low >= _INT16.min).all() and (top * high <= _INT16.max).all())


def tensor_fits(codes: NDArray[Any], top: int = _UINT8_TOP) -> bool:
    """As :func:`fits_int16_pairs`, of weights whose output axis is not known: any two of the tensor count."""
    return fits_int16_pairs(codes.reshape(1, -1), top)


def overflowing(probe: Callable[[], bool]) -> bool:
    """Whether an engine's sums overflow on this machine: tried, unless the processor says that it has what it takes.

    Args:
        probe: Tries it; told once for each probe and process.
    """
    return not sums_in_32_bits() and _tried(probe)


@cache
def _tried(probe: Callable[[], bool]) -> bool:
    return probe()


def as_floats(layers: Sequence[str]) -> str:
    """The warning about layers that were computed with floats instead."""
    return f"no VNNI: {_listed(layers)} computed with floats, because their integer sums could overflow (7 bits fit)"


def may_be_wrong(layers: Sequence[str]) -> str:
    """The warning about layers whose kernels overflow."""
    return f"no VNNI: integer sums of {_listed(layers)} may overflow on this processor"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
