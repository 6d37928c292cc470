"""Parameters of a pipeline: those of its steps stand in mappings of their own, addressed by dotted keys.

    {"entropy_coding": true, "prune": {"_target_": ..., "sparsity": 0.9}}      prune.sparsity

A step is a mapping with a ``_target_``; any other mapping (``overrides``) is a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TARGET = "_target_"
# keys of a YAML that describe an option or a step; every other key is a parameter of what ``_target_`` names
DESCRIPTIVE = frozenset({TARGET, "summary", "limits", "peer"})


def is_step(value: Any) -> bool:
    """Whether a value among the parameters is a step."""
    return isinstance(value, Mapping) and TARGET in value


def steps(params: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The steps among the parameters by name, in order."""
    return {name: value for name, value in params.items() if is_step(value)}


def flat(params: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters by dotted key, those of steps in place of the steps; what only describes is left out."""
    found: dict[str, Any] = {}
    for name, value in params.items():
        if is_step(value):
            found.update({f"{name}.{key}": inner for key, inner in flat(value).items()})
        elif name not in DESCRIPTIVE:
            found[name] = value
    return found


def flat_limits(content: Mapping[str, Any]) -> dict[str, Any]:
    """The ``limits:`` of an option and of its steps, by dotted key."""
    found = dict(content.get("limits") or {})
    for name, step in steps(content).items():
        found.update({f"{name}.{key}": limit for key, limit in flat_limits(step).items()})
    return found


def find(params: Mapping[str, Any], name: str) -> str | None:
    """The dotted key of a parameter: its own name, or that in the last step which has it; None if there is none."""
    if name in params:
        return name
    found = [f"{step}.{inner}" for step, own in steps(params).items() if (inner := find(own, name)) is not None]
    return found[-1] if found else None


def with_value(params: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The parameters with the one at a dotted key set; the key exists."""
    name, _, rest = key.partition(".")
    return {**params, name: with_value(params[name], rest, value) if rest else value}


def undescribed(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters without what describes; steps keep their ``_target_``."""
    return {
        name: {TARGET: value[TARGET], **undescribed(value)} if is_step(value) else value
        for name, value in params.items()
        if name not in DESCRIPTIVE
    }
