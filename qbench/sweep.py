"""Expand, plan, print, run, tabulate: what ``qbench run`` does, for one cell or many."""

from __future__ import annotations

import logging
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from qbench.compose import Cell, baseline_method, compose_cells
from qbench.console import make_console
from qbench.durations import estimate
from qbench.errors import ConfigError, NoRoomError
from qbench.hydra_settings import HydraSettings, is_search, read_settings, split
from qbench.launchers import Crew, default_threads, is_basic, make_crew
from qbench.outcome import Outcome, Run, exit_code, last_lines, show_failure
from qbench.plan import Plan, PlannedStage, make_plan
from qbench.record import Record, load_for_tables
from qbench.rerun import Command
from qbench.store import content_key

INTERRUPTED = 130
LONGEST_PLAN = 100  # stages shown one by one; of more, how many there are


def run_sweep(overrides: Sequence[str], config_dir: str | None, multirun: bool) -> int:
    """Run what the overrides ask for; returns the exit code.

    Raises:
        ConfigError: The overrides are wrong; nothing ran.
        NoRoomError: Records or tables cannot be written; what is finished is kept.
    """
    console = make_console()
    if config_dir is not None:
        sys.path.insert(0, str(Path(config_dir).resolve().parent))  # a package beside the user's YAML folder
    if is_search(overrides):
        from qbench.search import run_search

        return run_search(console, overrides, config_dir, multirun)
    cells, settings = _composed(overrides, Path(config_dir) if config_dir else None, multirun)
    command = Command(tuple(overrides), config_dir, multirun, settings.overrides)
    baseline = baseline_method()
    runs: dict[str, Run] = {}
    for cell in cells:
        if cell.config is not None:
            plan = make_plan(cell.config, baseline)
            runs.setdefault(plan.run_id, Run(cell, cell.config, plan))
    skipped = [skipped_record(cell) for cell in cells if cell.config is None]
    any_config = next(iter(runs.values())).config
    crew = None
    if not is_basic(settings.launcher):
        crew = make_crew(settings.launcher, max(run.config.threads for run in runs.values()))
    print_plan(console, [run.plan for run in runs.values()], len(cells), len(skipped), any_config.store_dir)
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
    with stopped_by_sigterm():
        return _run_all(console, list(runs.values()), skipped, command, crew)


def _composed(overrides: Sequence[str], config_dir: Path | None, multirun: bool) -> tuple[list[Cell], HydraSettings]:
    """The cells and how to run them; everything that is wrong with either is listed at once."""
    about_the_sweep, about_cells = split(overrides)
    problems: list[str] = []
    settings, cells = HydraSettings(), []
    try:
        settings = read_settings(about_the_sweep, config_dir, multirun)
    except ConfigError as error:
        problems += error.problems
    try:
        cells = compose_cells(about_cells, config_dir, multirun, default_threads(settings.launcher))
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return cells, settings


def _run_all(
    console: Console, runs: Sequence[Run], skipped: Sequence[Record], command: Command, crew: Crew | None
) -> int:
    output_dir = runs[0].config.output_dir
    outcome = Outcome(records=[*skipped])
    try:
        for record in skipped:
            save_record(record, output_dir)
        if crew is None:
            _run_each(console, runs, outcome)
        else:
            _run_launched(console, runs, outcome, command.config_dir, crew)
    except KeyboardInterrupt:
        outcome.interrupted = True
    show_tables(console, outcome.records, output_dir)
    for line in last_lines(outcome, runs, command):
        console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    return INTERRUPTED if outcome.interrupted else exit_code([record for _, record in outcome.failed])


def show_tables(console: Console, records: Sequence[Record], output_dir: Path) -> None:
    """Print the table of these records, and rebuild the files from all.

    Raises:
        NoRoomError: They cannot be written.
    """
    from qbench.report.tables import rich_table, write_tables

    if records:
        console.print(rich_table(records))
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
