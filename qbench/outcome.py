"""What becomes of a sweep: its runs, their records, and the lines it ends with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from qbench.compose import Cell
from qbench.config import RunConfig
from qbench.plan import Plan
from qbench.record import Record
from qbench.rerun import Command


@dataclass(frozen=True)
class Run:
    """A distinct run of a sweep, and the first of the cells that mean it."""

    cell: Cell
    config: RunConfig
    plan: Plan

    @property
    def key(self) -> str:
        return self.plan.run_id


@dataclass
class Outcome:
    """What became of a sweep so far: the failed runs, all rows, and whether it ended before its last run."""

    failed: list[tuple[Run, Record]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    interrupted: bool = False
    not_started: int = 0

    def add(self, run: Run, record: Record) -> None:
        """A run that came to its end."""
        self.records.append(record)
        if record.status == "failed":
            self.failed.append((run, record))


def show_failure(console: Console, run: Run, record: Record) -> None:
    """The error of a failed run, and its traceback where that was asked for."""
    console.print(f"  failed: {record.error}", style="red", markup=False, highlight=False, soft_wrap=True)
    if run.config.traceback and record.traceback is not None:
        console.print(Path(record.traceback).read_text(), markup=False, highlight=False)


def last_lines(outcome: Outcome, runs: Sequence[Run], command: Command) -> list[str]:
    """What went wrong, and the commands that put it right."""
    lines = []
    if outcome.failed:
        traces = [record.traceback for _, record in outcome.failed if record.traceback]
        where = f"; tracebacks: {', '.join(traces)}" if traces else ""
        lines.append(f"{len(outcome.failed)} of {len(runs)} runs failed{where}")
    if outcome.interrupted:
        done = sum(record.status == "ok" for record in outcome.records)
        lines.append(
            f"interrupted; finished stages are kept: {done} of {len(runs)} runs are rows of the tables, and "
            f"{runs[0].config.store_dir} has what others had finished (of a training, its last whole epoch)"
        )
    if outcome.not_started:
        lines.append(f"stopped: {outcome.not_started} further runs were not started, their results could not be kept")
    if outcome.interrupted or outcome.not_started:
        lines += ["go on with:", f"  {command}"]
    elif outcome.failed:
        lines.append("run just those again with:")
        lines += [f"  {line}" for line in command.only([run.cell.overrides for run, _ in outcome.failed])]
    return lines


def exit_code(failed: Sequence[Record]) -> int:
    """0 if nothing failed, 2 if all that failed was bad input, else 1."""
    if not failed:
        return 0
    return 2 if all(record.error_kind == "config" for record in failed) else 1
