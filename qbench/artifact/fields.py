"""Typed access to parsed JSON: each function returns the value or raises ValueError saying what is wrong where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LARGEST_AXIS = (1 << 31) - 1
MOST_AXES = 8


def object_of(value: Any, where: str, required: Sequence[str] = (), optional: Sequence[str] = ()) -> dict[str, Any]:
    """Return a JSON object with all the ``required`` keys and no keys beyond those and the ``optional`` ones."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object, not {_shown(value)}")
    missing = [key for key in required if key not in value]
    if missing:
        raise ValueError(f"{where} lacks {missing[0]!r}")
    unknown = set(value).difference(required, optional)
    if unknown:
        raise ValueError(f"{where} has the unknown key {min(unknown)!r}")
    return value


def mapping(value: Any, where: str) -> dict[str, Any]:
    """Return a JSON object with any keys."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object, not {_shown(value)}")
    return value


def array(value: Any, where: str, shortest: int = 0, longest: int | None = None) -> list[Any]:
    """Return a JSON array of a given length."""
    if not isinstance(value, list) or len(value) < shortest or (longest is not None and len(value) > longest):
        size = (
            f"{shortest}" if shortest == longest else f"{shortest} to {'any number of' if longest is None else longest}"
        )
        raise ValueError(f"{where} must be an array of {size} items, not {_shown(value)}")
    return value


def integer(value: Any, where: str, lowest: int, highest: int) -> int:
    """Return a whole number in [lowest, highest]; true and 1.0 are none."""
    if type(value) is not int or not lowest <= value <= highest:
        raise ValueError(f"{where} must be an integer in [{lowest}, {highest}], not {_shown(value)}")
    return value


def text(value: Any, where: str) -> str:
    """Return a string."""
    if not isinstance(value, str):
        raise ValueError(f"{where} must be a string, not {_shown(value)}")
    return value


def shape(value: Any, where: str) -> tuple[int, ...]:
    """Return the axes of a tensor: 1 to 8 lengths of at least 1."""
    axes = array(value, where, 1, MOST_AXES)
    return tuple(integer(axis, where, 1, LARGEST_AXIS) for axis in axes)


def _shown(value: Any) -> str:
    written = repr(value)
    return written if len(written) <= 60 else f"{written[:57]}..."
