"""Calling qbench from tests: in this process, or as a process of its own; never in the user's folders."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from qbench.cli import main

ROOT = Path(__file__).parents[1]
# Seconds per run: generated images, one thread, nothing measured that depends on the machine.
QUICK = ("dataset=synthetic", "model=small_cnn", "tiny=true", "measure=none", "threads=1")


@dataclass(frozen=True)
class Finished:
    """What a call printed and returned."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Bench:
    """The command line with a store and an output folder of its own."""

    home: Path
    capture: pytest.CaptureFixture[str]

    @property
    def outputs(self) -> Path:
        return self.home / "outputs"

    @property
    def store(self) -> Path:
        return self.home / "store"

    def __call__(self, *words: str) -> Finished:
        """``qbench WORDS`` in this process."""
        self.capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(words)
        printed = self.capture.readouterr()
        assert isinstance(ended.value.code, int)
        return Finished(ended.value.code, printed.out, printed.err)

    def environment(self) -> dict[str, str]:
        """Of a process of its own, which runs this checkout from any folder."""
        return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def process(self, *words: str, cwd: Path | None = None) -> Finished:
        """``python -m qbench WORDS`` in a process of its own."""
        return self.python("-m", "qbench", *words, cwd=cwd)

    def python(self, *arguments: str, cwd: Path | None = None) -> Finished:
        command: Sequence[str] = [sys.executable, *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=cwd or self.home, env=self.environment(), check=False
        )
        return Finished(done.returncode, done.stdout, done.stderr)
