"""The messages that the page of troubles explains are those that qbench has."""

from __future__ import annotations

import re

import pytest
from calling import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
ROWS = [line.split(" | ")[0] for line in PAGE.partition("## Messages")[2].splitlines() if line.startswith("| `")]
MESSAGES = [message for row in ROWS for message in re.findall(r"`([^`]+)`", row)]
# What stands for a value: a capital letter or word, an ellipsis, a size.
_VALUE = re.compile(r"for method=[A-Z]|\bfrom\b|\b[A-Z]+\b|\.\.\.|\b\d+x\d+\b|\b\d+\b|\bnan\b|\bkey\b|\bverb\b")


def fixed_parts(message: str) -> list[str]:
    return [part.strip(" :") for part in _VALUE.split(message) if len(part.strip(" :=[]\"'")) > 2]


@pytest.fixture(scope="module")
def source() -> str:
    """All code, strings that go on in the next line joined."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "qbench").rglob("*.py")))
    return re.sub(r"[\"']\s*\n\s*f?[\"']", "", text)


def test_there_are_messages() -> None:
    assert len(MESSAGES) > 15 and all(fixed_parts(message) for message in MESSAGES)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_one_of_qbench(source: str, message: str) -> None:
    assert [part for part in fixed_parts(message) if part not in source] == []
