"""Expand, plan, print, run, tabulate: what ``qbench run`` does, for one cell or many."""

from __future__ import annotations

import logging
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from qbench.compose import Cell, baseline_method, compose_cells
from qbench.config import RunConfig
from qbench.console import make_console
from qbench.durations import estimate
from qbench.errors import NoRoomError
from qbench.plan import Plan, PlannedStage, make_plan
from qbench.record import Record, load_for_tables
from qbench.rerun import Command
from qbench.store import content_key

INTERRUPTED = 130
LONGEST_PLAN = 100  # stages shown one by one; of more, how many there are


# prints the row that each cell became, by the cell's overrides; cells that were not reached are not among them
Show = Callable[[Console, Mapping[tuple[str, ...], Record]], None]


@dataclass(frozen=True)
class _Run:
    """A distinct run of a sweep, and the first of the cells that mean it."""

    cell: Cell
    config: RunConfig
    plan: Plan


@dataclass
class _Outcome:
    """What became of a sweep so far: the failed runs, all rows, and whether it ended before its last run."""

    failed: list[tuple[_Run, Record]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    interrupted: bool = False
    not_started: int = 0


def run_sweep(overrides: Sequence[str], config_dir: str | None, multirun: bool) -> int:
    """Run what the overrides ask for; returns the exit code.

    Raises:
        ConfigError: The overrides are wrong; nothing ran.
        NoRoomError: Records or tables cannot be written; what is finished is kept.
    """
    command = Command(tuple(overrides), config_dir, multirun)
    import_beside(config_dir)
    cells = compose_cells(overrides, Path(config_dir) if config_dir else None, multirun)
    return run_cells(cells, command)


def import_beside(config_dir: str | None) -> None:
    """Let configs name the modules of a package beside the user's YAML folder."""
    if config_dir is not None:
        sys.path.insert(0, str(Path(config_dir).resolve().parent))


def run_cells(cells: Sequence[Cell], command: Command, show: Show | None = None) -> int:
    """Print the plan of cells, of one sweep or of several, run what it lacks and show what became of them.

    Args:
        cells: At least one of them has a config; cells that mean the same run are run once.
        command: What asked for them, for advice on how to go on.
        show: Prints the results once all runs ended or were stopped; None prints a table of them.

    Returns:
        The exit code.

    Raises:
        NoRoomError: Records or tables cannot be written; what is finished is kept.
    """
    console = make_console()
    baseline = baseline_method()
    runs: dict[str, _Run] = {}
    run_ids: dict[tuple[str, ...], str] = {}
    skipped: dict[str, Record] = {}
    for cell in cells:
        if cell.config is None:
            record = _skipped(cell)
            skipped[record.run_id] = record
            run_ids[cell.overrides] = record.run_id
        else:
            plan = make_plan(cell.config, baseline)
            runs.setdefault(plan.run_id, _Run(cell, cell.config, plan))
            run_ids[cell.overrides] = plan.run_id
    any_config = next(iter(runs.values())).config
    num_skipped = sum(cell.config is None for cell in cells)
    print_plan(console, [run.plan for run in runs.values()], len(cells), num_skipped, any_config.store_dir)
    for note in dict.fromkeys(note for cell in cells for note in cell.notes):
        console.print(f"note: {note}", markup=False, highlight=False)
    if any_config.dry:
        return 0
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    outcome = _Outcome(records=list(skipped.values()))
    with _stopped_by_sigterm():
        return _run_all(console, list(runs.values()), outcome, command, show or _show_table, run_ids)


def _show_table(console: Console, records: Mapping[tuple[str, ...], Record]) -> None:
    from qbench.report.tables import rich_table

    rows = {record.run_id: record for record in records.values()}
    if rows:
        console.print(rich_table(list(rows.values())))


def _run_all(
    console: Console,
    runs: Sequence[_Run],
    outcome: _Outcome,
    command: Command,
    show: Show,
    run_ids: Mapping[tuple[str, ...], str],
) -> int:
    from qbench.report.tables import write_tables

    output_dir = runs[0].config.output_dir
    try:
        _run_each(console, runs, outcome)
    except KeyboardInterrupt:
        outcome.interrupted = True
    rows = {record.run_id: record for record in outcome.records}
    show(console, {overrides: rows[run_id] for overrides, run_id in run_ids.items() if run_id in rows})
    everything, files, problems = load_for_tables(output_dir / "records")
    for problem in problems:
        console.print(f"note: {problem}", markup=False, highlight=False, soft_wrap=True)
    try:
        for path in write_tables(everything, output_dir / "tables", files=files):
            console.print(f"written: {path}", markup=False, highlight=False, soft_wrap=True)
    except OSError as error:
        raise NoRoomError(
            f"{output_dir / 'tables'} cannot be written ({error.strerror or error}); the records are kept, and "
            f"`qbench report {output_dir}` makes the tables once there is room"
        ) from error
    for line in _last_lines(outcome, runs, command):
        console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    return INTERRUPTED if outcome.interrupted else exit_code([record for _, record in outcome.failed])


def _run_each(console: Console, runs: Sequence[_Run], outcome: _Outcome) -> None:
    """Every run, until one finds that nothing can be kept any more; rows go to ``outcome`` as they come."""
    from qbench.progress import ConsoleProgress
    from qbench.rows import STORAGE
    from qbench.runner import run_cell

    for record in outcome.records:  # the skipped
        _save(record, runs[0].config.output_dir)
    progress, baseline = ConsoleProgress(console), baseline_method()
    for number, run in enumerate(runs, 1):
        console.print(f"[{number}/{len(runs)}] {run.config.label}", markup=False, highlight=False)
        record = run_cell(run.config, run.plan, baseline, progress)
        outcome.records.append(record)
        if record.status != "failed":
            continue
        outcome.failed.append((run, record))
        console.print(f"  failed: {record.error}", style="red", markup=False, highlight=False, soft_wrap=True)
        if run.config.traceback and record.traceback is not None:
            console.print(Path(record.traceback).read_text(), markup=False, highlight=False)
        if record.error_kind == STORAGE:
            outcome.not_started = len(runs) - number
            return


def _last_lines(outcome: _Outcome, runs: Sequence[_Run], command: Command) -> list[str]:
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


def print_plan(console: Console, plans: Sequence[Plan], num_cells: int, num_skipped: int, store: Path) -> None:
    """The distinct stages, in order, with their keys and whether the store has them; how long the others may take."""
    distinct: dict[tuple[str, str], PlannedStage] = {}
    for plan in plans:
        for stage in plan.stages:
            distinct.setdefault((stage.stage, stage.key), stage)
    stages = list(distinct.values())
    console.print(_stage_table(stages) if len(stages) <= LONGEST_PLAN else _count_table(stages))
    to_do = sum(not stage.cached for stage in stages)
    left = estimate(store, stages)
    if num_cells > 1:
        skips = f", {num_skipped} skipped" if num_skipped else ""
        time = f": {left}" if to_do else ""
        console.print(
            f"{num_cells} cells: {len(plans)} distinct runs{skips}; {len(stages)} stages, {to_do} to do{time}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    elif left.known:
        console.print(f"time: {left}", highlight=False, soft_wrap=True)


def _stage_table(stages: Sequence[PlannedStage]) -> Table:
    table = Table(title="plan", title_justify="left", header_style="bold")
    for heading in ("stage", "of", "key", ""):
        table.add_column(heading)
    for stage in stages:
        table.add_row(stage.stage, stage.subject, stage.key, "cached" if stage.cached else "to do")
    return table


def _count_table(stages: Sequence[PlannedStage]) -> Table:
    table = Table(title="plan", title_justify="left", header_style="bold")
    for heading in ("stage", "distinct", "cached", "to do"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    all_of, cached = Counter(one.stage for one in stages), Counter(one.stage for one in stages if one.cached)
    for name, number in all_of.items():
        table.add_row(name, f"{number:,}", f"{cached[name]:,}", f"{number - cached[name]:,}")
    return table


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Let a scheduler's SIGTERM end the sweep as Ctrl-C does, where this is the main thread, which alone may."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _save(record: Record, output_dir: Path) -> None:
    try:
        record.save(output_dir / "records")
    except OSError as error:
        raise NoRoomError(f"{output_dir / 'records'} cannot be written ({error.strerror or error})") from error


def _skipped(cell: Cell) -> Record:
    run_id = content_key("skipped", 1, cell.facts)[:12]
    return Record(run_id=run_id, status="skipped", error=cell.skipped, **cell.facts)
