"""Allowed values, read from the ``limits:`` of a YAML, so that refusing a value needs no torch.

    bits: {min: 1, max: 8}            whole numbers (both bounds whole), else numbers; one bound may be left out
    range: [minmax, percentile]       one of these
    device: {pattern: ..., example:}  text that matches

The limits of a list are those of each of its elements, of which there must be one. A key whose default is null may
stay null, unless its limits say ``required: true``. A key without limits must keep the type of its default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from qbench.catalog import DESCRIPTIVE, nearest

MISSING = "???"  # OmegaConf's mark of a value the user must give
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
    if not isinstance(limit, Mapping):
        return ", ".join(_text(value) for value in limit)
    if "pattern" in limit:
        return str(limit.get("example", limit["pattern"]))
    kind = "whole numbers" if _whole_bounds(limit) else "numbers"
    if "min" in limit and "max" in limit:
        return f"{kind} from {limit['min']} to {limit['max']}"
    return f"{kind} from {limit['min']} up" if "min" in limit else f"{kind} up to {limit['max']}"


def problem_with(key: str, value: Any, default: Any, limit: Any, of: str = "") -> str | None:
    """What is wrong with ``key=value``, as one line; None if it is allowed.

    Args:
        key: As the user writes it.
        value: What was given.
        default: What the option has; its type counts where there is no limit.
        limit: The key's entry in ``limits:``, None if it has none.
        of: Whose limit it is, e.g. ``method=kmeans``.
    """
    needed = isinstance(limit, Mapping) and bool(limit.get("required"))
    allowed = f"{key}={_text(value)}: {_allowed(limit, default, of, nullable=default is None and not needed)}"
    if value in (None, MISSING):
        if value == default is None and not needed:
            return None
        if limit is not None:
            return f"{key}: a value is needed; {_allowed(limit, default, of)}"
        return f"{key}: a value is needed." if default == MISSING else allowed
    if limit is None:
        return None if _same_type(value, default) else allowed
    if isinstance(default, list):
        fits = isinstance(value, list) and bool(value) and all(_fits(one, limit) for one in value)
        return None if fits else allowed
    if _fits(value, limit):
        return None
    return allowed if isinstance(limit, Mapping) else allowed + nearest(_text(value), [_text(one) for one in limit])


def problems_in(
    prefix: str,
    values: Mapping[str, Any],
    defaults: Mapping[str, Any],
    limits: Mapping[str, Any] | None = None,
    of: str = "",
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
            found += problems_in(f"{prefix}{key}.", value, default, inner, of) if default else []
        elif (problem := problem_with(f"{prefix}{key}", value, default, limits.get(key), of)) is not None:
            found.append(problem)
    return found


def _allowed(limit: Any, default: Any, of: str, *, nullable: bool = False) -> str:
    whose = f" for {of}" if of else ""
    if limit is None:
        example = "" if isinstance(default, dict) and default else f", like {_text(default)}"
        return f"{_NAMES.get(type(default), 'another type')} is needed{whose}{example}."
    many = "a list of " if isinstance(default, list) else ""
    return f"allowed{whose}: {many}{describe(limit)}" + (", or null" if nullable else "") + "."


def _fits(value: Any, limit: Any) -> bool:
    if not isinstance(limit, Mapping):
        return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in limit)
    if "pattern" in limit:
        return isinstance(value, str) and re.fullmatch(limit["pattern"], value) is not None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    if _whole_bounds(limit) and not _whole(value):
        return False
    return bool(limit.get("min", -math.inf) <= value <= limit.get("max", math.inf))


def _whole_bounds(limit: Mapping[str, Any]) -> bool:
    return all(_whole(limit[bound]) for bound in ("min", "max") if bound in limit)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _same_type(value: Any, default: Any) -> bool:
    if default in (None, MISSING) or type(value) is type(default):
        return True
    return isinstance(default, float) and _whole(value)


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
