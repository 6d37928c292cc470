"""Progress: a bar on a terminal, few plain lines elsewhere."""

from __future__ import annotations

import io
import itertools

import pytest
from rich.console import Console

import qbench.progress
from qbench.progress import ConsoleProgress, SilentProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock takes ten seconds."""
    ticks = itertools.count(step=10)
    monkeypatch.setattr(qbench.progress.time, "monotonic", lambda: float(next(ticks)))


def test_a_log_gets_a_line_now_and_then_with_the_time_left(clock: None) -> None:
    stream = io.StringIO()
    progress = ConsoleProgress(Console(file=stream, width=40), interval_s=30)
    progress.begin("train [x] epoch 1/2", 8)
    for _ in range(8):
        progress.advance(1, "loss 0.5000")
    progress.end()
    progress.line("done with a very long line that no width breaks [really]")
    assert stream.getvalue().splitlines() == [
        "  train [x] epoch 1/2 3/8 loss 0.5000 ETA 50 s",
        "  train [x] epoch 1/2 6/8 loss 0.5000 ETA 20 s",
        "  done with a very long line that no width breaks [really]",
    ]


def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, color_system=None)
    progress = ConsoleProgress(console, interval_s=0)
    progress.begin("train", 4)
    progress.advance(4, "loss 0.5")
    progress.end()
    progress.advance(1)  # without a task: a plain line, and no error
    assert "train" in stream.getvalue() and "4/4" in stream.getvalue()
    assert "\x1b[2K" in stream.getvalue()  # the bar's line is erased


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    progress = SilentProgress()
    progress.begin("x", 1)
    progress.advance(1, "y")
    progress.line("z")
    progress.end()
    assert capsys.readouterr() == ("", "")
