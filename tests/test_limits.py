"""Allowed values: what fits, and how a refusal reads."""

from __future__ import annotations

import math
from typing import Any

import pytest

from qbench.limits import describe, problem_with, problems_in

BITS = {"min": 1, "max": 8}
SHARE = {"min": 0.0, "max": 1.0}
NAMES = ["minmax", "percentile"]
DEVICE = {"pattern": "cpu|cuda(:[0-9]+)?", "example": "cpu, cuda, cuda:1"}


@pytest.mark.parametrize(
    "limit, words",
    [
        (BITS, "whole numbers from 1 to 8"),
        (SHARE, "numbers from 0.0 to 1.0"),
        ({"min": 0, "max": 1.0}, "numbers from 0 to 1.0"),
        ({"min": 1}, "whole numbers from 1 up"),
        ({"max": 0.5}, "numbers up to 0.5"),
        (NAMES, "minmax, percentile"),
        ([True, False], "true, false"),
        ([8, None], "8, null"),
        (DEVICE, "cpu, cuda, cuda:1"),
        ({"pattern": "a+"}, "a+"),
    ],
    ids=str,
)
def test_describe(limit: Any, words: str) -> None:
    assert describe(limit) == words


@pytest.mark.parametrize(
    "value, default, limit",
    [
        (1, 4, BITS),
        (8, 4, BITS),
        (None, None, BITS),
        (0, 0.5, SHARE),  # a whole number is a number
        (1.0, 0.5, SHARE),
        (10**9, 1, {"min": 1}),
        (-3.5, 0.0, {"max": 0.5}),
        ("minmax", "minmax", NAMES),
        (True, False, [True, False]),
        ("cuda:3", "cpu", DEVICE),
        ([1, 8], [1], BITS),
        (2, 1.5, None),
        ("any", None, None),
        ([], [1], None),
        ("given", "???", None),
    ],
    ids=str,
)
def test_allowed(value: Any, default: Any, limit: Any) -> None:
    assert problem_with("key", value, default, limit) is None


@pytest.mark.parametrize(
    "value, default, limit, problem",
    [
        (0, 4, BITS, "key=0: allowed: whole numbers from 1 to 8."),
        (9, None, BITS, "key=9: allowed: whole numbers from 1 to 8, or null."),
        (4.0, 4, BITS, "key=4.0: allowed: whole numbers from 1 to 8."),
        (True, 4, BITS, "key=true: allowed: whole numbers from 1 to 8."),
        ("4", 4, BITS, "key=4: allowed: whole numbers from 1 to 8."),
        (math.nan, 0.5, SHARE, "key=nan: allowed: numbers from 0.0 to 1.0."),
        (math.inf, 1.0, {"min": 0.0}, "key=inf: allowed: numbers from 0.0 up."),
        (None, 4, BITS, "key: a value is needed; allowed: whole numbers from 1 to 8."),
        ("minmx", "minmax", NAMES, "key=minmx: allowed: minmax, percentile. Did you mean minmax?"),
        (1, False, [True, False], "key=1: allowed: true, false."),
        ("tpu", "cpu", DEVICE, "key=tpu: allowed: cpu, cuda, cuda:1."),
        ("xcpux", "cpu", DEVICE, "key=xcpux: allowed: cpu, cuda, cuda:1."),
        (3, "cpu", DEVICE, "key=3: allowed: cpu, cuda, cuda:1."),
        ([1, 9], [1], BITS, "key=[1, 9]: allowed: a list of whole numbers from 1 to 8."),
        ([], [1], BITS, "key=[]: allowed: a list of whole numbers from 1 to 8."),
        (1, [1], BITS, "key=1: allowed: a list of whole numbers from 1 to 8."),
        ("a", 3, None, "key=a: a whole number is needed, like 3."),
        (1.5, 3, None, "key=1.5: a whole number is needed, like 3."),
        (True, 3, None, "key=true: a whole number is needed, like 3."),
        (3, "a", None, "key=3: text is needed, like a."),
        (1, True, None, "key=1: true or false is needed, like true."),
        (None, "a", None, "key=null: text is needed, like a."),
        ("???", "???", None, "key: a value is needed."),
        ("???", "???", {"pattern": "a", "example": "an a"}, "key: a value is needed; allowed: an a."),
        (None, None, {"pattern": "a", "required": True}, "key: a value is needed; allowed: a."),
    ],
    ids=str,
)
def test_refused(value: Any, default: Any, limit: Any, problem: str) -> None:
    assert problem_with("key", value, default, limit) == problem


def test_whose_limit_it_is() -> None:
    assert problem_with("bits", 9, 4, BITS, "method=x") == "bits=9: allowed for method=x: whole numbers from 1 to 8."
    assert problem_with("n", "a", 4, None, "model=y") == "n=a: a whole number is needed for model=y, like 4."


def test_a_group_is_checked_key_by_key_and_its_description_is_not() -> None:
    defaults = {"_target_": "a.B", "summary": "x", "limits": {"bits": BITS}, "bits": 4, "name": "a"}
    values = {**defaults, "summary": 3, "bits": 0, "name": 1}
    assert problems_in("method.", values, defaults) == [
        "method.bits=0: allowed: whole numbers from 1 to 8.",
        "method.name=1: text is needed, like a.",
    ]


def test_nested_steps_bring_their_own_limits_and_plain_mappings_take_dotted_ones() -> None:
    defaults = {
        "prune": {"_target_": "a.Prune", "share": 0.5, "limits": {"share": SHARE}},
        "augment": {"flip": True, "cutout": 0},
        "open": {},
        "limits": {"augment.cutout": BITS, "share": {"min": 5, "max": 6}},
    }
    values = {"prune": {"share": 2.0}, "augment": {"flip": 1, "cutout": 9}, "open": {"layer": "anything"}}
    assert problems_in("method.", values, defaults) == [
        "method.prune.share=2.0: allowed: numbers from 0.0 to 1.0.",
        "method.augment.flip=1: true or false is needed, like true.",
        "method.augment.cutout=9: allowed: whole numbers from 1 to 8.",
    ]
