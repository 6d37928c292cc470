"""The attributes of each op: their types, ranges and defaults. One table drives writing, reading and checking."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from qbench.artifact import fields
from qbench.program.graph import Attr, Node

LARGEST = 1 << 16  # of any stride, padding, kernel or group count: far above use, far below overflow


@dataclass(frozen=True)
class Rule:
    """What one attribute may be.

    Args:
        kind: ``int``; ``pair``, an (h, w) tuple of ints; ``float``, finite and not negative; ``bool``.
        lowest: Least value of an int, or of each part of a pair.
        highest: Greatest value of the same.
        default: The value that the file omits; the name of another attribute stands for that attribute's value;
            None if the file always has it.
    """

    kind: Literal["int", "pair", "float", "bool"]
    lowest: int = 0
    highest: int = LARGEST
    default: Attr | None = None


_POOL = {
    "kernel_size": Rule("pair", 1),
    "stride": Rule("pair", 1, default="kernel_size"),
    "padding": Rule("pair", default=(0, 0)),
    "ceil_mode": Rule("bool", default=False),
}
RULES: Mapping[str, Mapping[str, Rule]] = {
    "conv2d": {
        "stride": Rule("pair", 1, default=(1, 1)),
        "padding": Rule("pair", default=(0, 0)),
        "dilation": Rule("pair", 1, default=(1, 1)),
        "groups": Rule("int", 1, default=1),
    },
    "batch_norm": {"eps": Rule("float", default=1e-5)},
    "max_pool2d": _POOL,
    "avg_pool2d": {**_POOL, "count_include_pad": Rule("bool", default=True)},
    "adaptive_avg_pool2d": {"output_size": Rule("pair", 1, default=(1, 1))},
    "concat": {"dim": Rule("int", -3, 3, default=1)},
}


def check(node: Node) -> None:
    """Raise ValueError unless the node has exactly its op's attributes, each of its type and in its range."""
    rules = RULES.get(node.op, {})
    if set(node.attrs) != set(rules):
        raise ValueError(
            f"{node.op} in node {node.name!r} has attributes {sorted(node.attrs)}, expected {sorted(rules)}"
        )
    for name, rule in rules.items():
        _check_value(node.attrs[name], rule, f"{name} of node {node.name!r}")
    if "kernel_size" in rules:
        kernel, padding = node.attrs["kernel_size"], node.attrs["padding"]
        if isinstance(kernel, tuple) and isinstance(padding, tuple) and any(2 * p > k for k, p in zip(kernel, padding)):
            raise ValueError(f"padding {padding} of node {node.name!r} exceeds half the kernel {kernel}")


def encode(node: Node) -> dict[str, Any]:
    """Return the attributes that differ from their defaults, as JSON."""
    return {
        name: node.attrs[name]
        for name, rule in RULES.get(node.op, {}).items()
        if node.attrs[name] != _default(rule, node.attrs)
    }


def decode(op: str, written: Mapping[str, Any], where: str) -> dict[str, Attr]:
    """Return all attributes of an op from the written ones; :func:`check` on the node then judges types and ranges."""
    rules = RULES.get(op, {})
    fields.object_of(dict(written), f"the attributes of {where}", optional=list(rules))
    attrs: dict[str, Attr] = {}
    for name, rule in rules.items():  # "kernel_size" precedes "stride", whose default it is
        if name in written:
            value = written[name]
            attrs[name] = tuple(value) if isinstance(value, list) else value
        else:
            default = _default(rule, attrs)
            if default is None:
                raise ValueError(f"{op} in {where} lacks the attribute {name!r}")
            attrs[name] = default
    return attrs


def _default(rule: Rule, attrs: Mapping[str, Attr]) -> Attr | None:
    return attrs[rule.default] if isinstance(rule.default, str) else rule.default


def _check_value(value: Any, rule: Rule, where: str) -> None:
    if rule.kind == "int":
        fields.integer(value, where, rule.lowest, rule.highest)
    elif rule.kind == "pair":
        if not isinstance(value, tuple) or len(value) != 2:
            raise ValueError(f"{where} must be a pair of integers, not {value!r}")
        for part in value:
            fields.integer(part, where, rule.lowest, rule.highest)
    elif rule.kind == "float":
        if not isinstance(value, float) or not math.isfinite(value) or value < 0:
            raise ValueError(f"{where} must be a finite float of at least 0, not {value!r}")
    elif not isinstance(value, bool):
        raise ValueError(f"{where} must be true or false, not {value!r}")
