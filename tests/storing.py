"""An entry to put into a store."""

from __future__ import annotations

from pathlib import Path

KEY = "0123456789abcdef"


def fill(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"weights" * 1000)
    (folder / "facts.json").write_text('{"seconds": 1}')


def never(folder: Path) -> None:
    raise AssertionError(f"{folder} is made although it is there")
