"""Progress of long work: a live bar with an ETA on a terminal, plain lines elsewhere, silence in tests."""

from __future__ import annotations

import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress(Protocol):
    """What long work tells its caller. ``begin`` opens a task of ``total`` steps, ``end`` closes it."""

    def begin(self, label: str, total: int) -> None: ...

    def advance(self, steps: int = 1, note: str = "") -> None: ...

    def line(self, text: str) -> None: ...

    def end(self) -> None: ...


class SilentProgress:
    """Says nothing."""

    def begin(self, label: str, total: int) -> None:
        pass

    def advance(self, steps: int = 1, note: str = "") -> None:
        pass

    def line(self, text: str) -> None:
        pass

    def end(self) -> None:
        pass


class ConsoleProgress:
    """A bar on a terminal; elsewhere a plain line at most every ``interval_s`` seconds, so that logs stay short."""

    def __init__(self, console: Console, interval_s: float = 30.0) -> None:
        self.console = console
        self.interval_s = interval_s
        self._bar: RichProgress | None = None
        self._task: int | None = None
        self._label = ""
        self._total = self._done = 0
        self._began = self._spoke = 0.0

    def begin(self, label: str, total: int) -> None:
        self._label, self._total, self._done = label, total, 0
        self._began = self._spoke = time.monotonic()
        if self.console.is_terminal:
            columns = (
                TextColumn("  {task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = RichProgress(*columns, TimeRemainingColumn(), console=self.console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(label, total=total, note="")

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        now = time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._bar.task_ids[self._task], advance=steps, note=note)
        elif now - self._spoke >= self.interval_s:
            self._spoke = now
            eta = (now - self._began) / max(self._done, 1) * (self._total - self._done)
            self.line(f"{self._label} {self._done}/{self._total} {note} ETA {eta:.0f} s")

    def line(self, text: str) -> None:
        self.console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
