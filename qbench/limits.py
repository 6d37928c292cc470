"""Allowed values, read from the ``limits:`` of a YAML, so that refusing a value needs no torch.

    bits: {min: 1, max: 8}            whole numbers (both bounds whole), else numbers
    range: [minmax, percentile]       one of these
    device: {pattern: ..., example:}  text that matches

A key whose default is null may stay null. A key without limits must keep the type of its default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from qbench.catalog import DESCRIPTIVE, nearest

_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
}


def describe(limit: Any) -> str:
    """The allowed values in words."""
    if isinstance(limit, Mapping):
        if "pattern" in limit:
            return str(limit.get("example", limit["pattern"]))
        kind = "whole numbers" if _whole(limit["min"]) and _whole(limit["max"]) else "numbers"
        return f"{kind} from {limit['min']} to {limit['max']}"
    return ", ".join(_text(value) for value in limit)


def problem_with(key: str, value: Any, default: Any, limit: Any) -> str | None:
    """What is wrong with ``key=value``, as one line; None if it is allowed."""
    shown = f"{key}={_text(value)}"
    if value is None:
        return None if default is None else f"{shown}: a value is needed; {_allowed(limit, default)}"
    if limit is None:
        return None if _same_type(value, default) else f"{shown}: {_allowed(limit, default)}"
    if isinstance(limit, Mapping):
        if "pattern" in limit:
            fits = isinstance(value, str) and re.fullmatch(limit["pattern"], value) is not None
        else:
            fits = _in_range(value, limit)
        return None if fits else f"{shown}: {_allowed(limit, default)}"
    if any(value == allowed and isinstance(value, bool) == isinstance(allowed, bool) for allowed in limit):
        return None
    return f"{shown}: {_allowed(limit, default)}{nearest(_text(value), [_text(a) for a in limit])}"


def problems_in(
    prefix: str, values: Mapping[str, Any], defaults: Mapping[str, Any], limits: Mapping[str, Any] | None = None
) -> list[str]:
    """Every value of a group against its ``limits:``.

    A step nested in the group brings its own limits; a plain mapping (``augment``) is limited by dotted names
    (``augment.flip``) in the group's. A mapping that is empty by default is open: the method judges its content.
    """
    limits = (defaults.get("limits") or {}) if limits is None else limits
    found: list[str] = []
    for key, value in values.items():
        if key in DESCRIPTIVE:
            continue
        default = defaults.get(key)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            own = "limits" in default or "_target_" in default
            inner = None if own else {k[len(key) + 1 :]: v for k, v in limits.items() if k.startswith(f"{key}.")}
            found += problems_in(f"{prefix}{key}.", value, default, inner) if default else []
        elif (problem := problem_with(f"{prefix}{key}", value, default, limits.get(key))) is not None:
            found.append(problem)
    return found


def _allowed(limit: Any, default: Any) -> str:
    if limit is not None:
        return f"allowed: {describe(limit)}" + (", or null" if default is None else "") + "."
    return f"{_NAMES.get(type(default), 'another type')} is needed, like {_text(default)}."


def _in_range(value: Any, limit: Mapping[str, Any]) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    if _whole(limit["min"]) and _whole(limit["max"]) and not _whole(value):
        return False
    return bool(limit["min"] <= value <= limit["max"])


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _same_type(value: Any, default: Any) -> bool:
    if default is None or type(value) is type(default):
        return True
    return isinstance(default, float) and _whole(value)


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
