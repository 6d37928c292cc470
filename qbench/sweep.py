"""Expand, plan, print, run, tabulate: what ``qbench run`` does, for one cell or many."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.logging import RichHandler

from qbench.compose import Cell, baseline_method, compose_sweeps
from qbench.config import NO_TRACKER, RunConfig
from qbench.console import make_console
from qbench.errors import ConfigError, NoRoomError
from qbench.hydra_settings import HydraSettings, is_search, read_settings, split
from qbench.launchers import Crew, default_threads, is_basic, make_crew
from qbench.outcome import Outcome, Run, exit_code, last_lines, show_failure
from qbench.plan import make_plan
from qbench.plan_table import print_plan
from qbench.record import Record, load_for_tables
from qbench.rerun import Command
from qbench.store import content_key

INTERRUPTED = 130
# prints the row that each cell became, by the cell's overrides; cells that were not reached are not among them
Show = Callable[[Console, Mapping[tuple[str, ...], Record]], None]


def run_sweep(overrides: Sequence[str], config_dir: str | None, multirun: bool) -> int:
    """Run what the overrides ask for; returns the exit code.

    Raises:
        ConfigError: The overrides are wrong; nothing ran.
        NoRoomError: Records or tables cannot be written; what is finished is kept.
    """
    import_beside(config_dir)
    if is_search(overrides):
        from qbench.search import run_search

        return run_search(make_console(), overrides, config_dir, multirun)
    about_the_sweep, about_cells = split(overrides)
    (cells,), settings = composed([about_cells], about_the_sweep, config_dir, multirun)
    return run_cells(cells, Command(tuple(overrides), config_dir, multirun, settings.overrides), settings)


def import_beside(config_dir: str | None) -> None:
    """Let configs name the modules of a package beside the user's YAML folder."""
    if config_dir is not None:
        sys.path.insert(0, str(Path(config_dir).resolve().parent))


def composed(
    sweeps: Sequence[Sequence[str]],
    about_the_sweep: Sequence[str],
    config_dir: str | None,
    multirun: bool,
    to_run: bool = True,
) -> tuple[list[list[Cell]], HydraSettings]:
    """The cells of each sweep and how to run them all; ``to_run`` is that of :func:`compose_sweeps`.

    Raises:
        ConfigError: Everything that is wrong with either.
    """
    folder = Path(config_dir) if config_dir else None
    problems: list[str] = []
    settings = HydraSettings()
    cells: list[list[Cell]] = []
    try:
        settings = read_settings(about_the_sweep, folder, multirun)
    except ConfigError as error:
        problems += error.problems
    try:
        cells = compose_sweeps(sweeps, folder, multirun, default_threads(settings.launcher), to_run)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return cells, settings


def run_cells(cells: Sequence[Cell], command: Command, settings: HydraSettings, show: Show | None = None) -> int:
    """Print the plan of cells, of one sweep or of several, run what it lacks and show what became of them.

    Args:
        cells: At least one of them has a config; cells that mean the same run are run once.
        command: What asked for them, for advice on how to go on.
        settings: Who runs them.
        show: Prints the results once all runs ended or were stopped; None prints a table of them.

    Returns:
        The exit code.

    Raises:
        ConfigError: The launcher or the tracker cannot be had.
        NoRoomError: Records or tables cannot be written; what is finished is kept.
    """
    console = make_console()
    runs, skipped, run_ids = _distinct(cells)
    any_config = runs[0].config
    crew = None
    if not is_basic(settings.launcher):
        crew = make_crew(settings.launcher, max(run.config.threads for run in runs))
    _check_tracker(any_config)
    num_skipped = sum(cell.config is None for cell in cells)
    print_plan(console, [run.plan for run in runs], len(cells), num_skipped, any_config.store_dir)
    for note in dict.fromkeys(note for cell in cells for note in cell.notes):
        console.print(f"note: {note}", markup=False, highlight=False)
    if crew is not None:
        console.print(f"launcher {crew}", markup=False, highlight=False, soft_wrap=True)
        if crew.note:
            console.print(f"note: {crew.note}", markup=False, highlight=False, soft_wrap=True)
    if any_config.dry:
        return 0
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    outcome = Outcome(records=skipped)
    with stopped_by_sigterm():
        _run_all(console, runs, outcome, command, crew)
        rows = {record.run_id: record for record in outcome.records}
        (show or _show_rows)(console, {words: rows[one] for words, one in run_ids.items() if one in rows})
        write_all_tables(console, any_config.output_dir)
    for line in last_lines(outcome, runs, command):
        console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    return INTERRUPTED if outcome.interrupted else exit_code([record for _, record in outcome.failed])


def _distinct(cells: Sequence[Cell]) -> tuple[list[Run], list[Record], dict[tuple[str, ...], str]]:
    """The distinct runs; a row for each distinct cell that has none; the id of either by the cell's overrides."""
    baseline = baseline_method()
    runs: dict[str, Run] = {}
    skipped: dict[str, Record] = {}
    run_ids: dict[tuple[str, ...], str] = {}
    for cell in cells:
        if cell.config is None:
            record = skipped_record(cell)
            skipped[record.run_id] = record
            run_ids[cell.overrides] = record.run_id
        else:
            plan = make_plan(cell.config, baseline)
            runs.setdefault(plan.run_id, Run(cell, cell.config, plan))
            run_ids[cell.overrides] = plan.run_id
    return list(runs.values()), list(skipped.values()), run_ids


def _check_tracker(config: RunConfig) -> None:
    """Refuse a tracker that is not installed; torch is imported for that where there is one."""
    if config.tracker != NO_TRACKER:
        from qbench.trackers.base import check_tracker

        check_tracker(config.tracker)


def _show_rows(console: Console, records: Mapping[tuple[str, ...], Record]) -> None:
    show_table(console, list({record.run_id: record for record in records.values()}.values()))


def show_table(console: Console, records: Sequence[Record]) -> None:
    """Print a table of these records, if there are any."""
    from qbench.report.tables import rich_table

    if records:
        console.print(rich_table(records))


def _run_all(console: Console, runs: Sequence[Run], outcome: Outcome, command: Command, crew: Crew | None) -> None:
    """Every run, here or by a launcher, until the end or an interrupt."""
    try:
        for record in outcome.records:  # the skipped
            save_record(record, runs[0].config.output_dir)
        if crew is None:
            _run_each(console, runs, outcome)
        else:
            _run_launched(console, runs, outcome, command.config_dir, crew)
    except KeyboardInterrupt:
        outcome.interrupted = True


def write_all_tables(console: Console, output_dir: Path) -> None:
    """Rebuild the files of tables from all records.

    Raises:
        NoRoomError: They cannot be written.
    """
    from qbench.report.tables import write_tables

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


def _run_each(console: Console, runs: Sequence[Run], outcome: Outcome) -> None:
    """Every run, until one finds that nothing can be kept any more; rows go to ``outcome`` as they come."""
    from qbench.progress import ConsoleProgress
    from qbench.rows import STORAGE
    from qbench.runner import run_cell

    progress, baseline = ConsoleProgress(console), baseline_method()
    for number, run in enumerate(runs, 1):
        console.print(f"[{number}/{len(runs)}] {run.config.label}", markup=False, highlight=False)
        record = run_cell(run.config, run.plan, baseline, progress)
        outcome.add(run, record)
        if record.status != "failed":
            continue
        show_failure(console, run, record)
        if record.error_kind == STORAGE:
            outcome.not_started = len(runs) - number
            return


def _run_launched(console: Console, runs: Sequence[Run], outcome: Outcome, config_dir: str | None, crew: Crew) -> None:
    from qbench.launch import run_launched

    def run_here(rest: Sequence[Run]) -> None:
        with stopped_by_sigterm():  # ray has put a handler of its own in the place of ours
            _run_each(console, rest, outcome)

    run_launched(console, runs, crew, config_dir, outcome, run_here)


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
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


def save_record(record: Record, output_dir: Path) -> None:
    try:
        record.save(output_dir / "records")
    except OSError as error:
        raise NoRoomError(f"{output_dir / 'records'} cannot be written ({error.strerror or error})") from error


def skipped_record(cell: Cell, reason: str | None = None) -> Record:
    """The row of a combination that cannot run; its reason is the cell's own unless another is given."""
    run_id = content_key("skipped", 1, cell.facts)[:12]
    return Record(run_id=run_id, status="skipped", error=reason or cell.skipped, **cell.facts)
