"""A sweep whose cells Optuna chooses: ``qbench run -m hydra/sweeper=optuna ...``.

A trial is a cell like that of any sweep, with its record and its stages in the store. What it is judged by is measured
on the validation images; the accuracy on the test images stands beside it in the last table and decides nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from qbench.catalog import GROUPS
from qbench.compose import OneByOne, baseline_method
from qbench.config import RunConfig
from qbench.errors import ConfigError
from qbench.hydra_settings import BASIC, read_settings, split
from qbench.objectives import Goals, front, goals_of
from qbench.outcome import Run, show_failure
from qbench.plan import make_plan
from qbench.record import Record, load_record
from qbench.reproduce import command as command_of
from qbench.rerun import Command
from qbench.search_space import Dimension, check_space, split_space
from qbench.store import content_key
from qbench.sweep import INTERRUPTED, save_record, show_table, skipped_record, stopped_by_sigterm, write_all_tables
from qbench.trials import FOLDER, RUN_ID, Settings, Study, load_optuna, open_study

if TYPE_CHECKING:
    from optuna.trial import Trial

VALIDATE = "measure.validation=true"
PLACES = ("data_dir", "output_dir", "store_dir", "dry", "traceback")  # say nothing about what is searched


@dataclass
class Search:
    """One call of a search: what was asked for, and what became of its trials."""

    console: Console
    settings: Settings
    goals: Goals
    space: Sequence[Dimension]
    fixed: Sequence[str]
    composer: OneByOne
    command: Command
    config: RunConfig  # of some cell: what all have in common is read from it
    failed: list[Record] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)

    @property
    def about(self) -> dict[str, object]:
        """What tells this search from others, as JSON has it; how many trials, and how they are chosen, does not."""
        fixed = sorted(word for word in self.fixed if word.partition("=")[0] not in PLACES)
        sought = [one.name for one in self.goals.objectives]
        space = sorted(map(str, self.space))
        return {"fixed": fixed, "space": space, "objectives": sought, "budgets": dict(self.goals.budgets)}

    @property
    def name(self) -> str:
        return self.settings.study_name or f"search-{content_key('search', 1, self.about)[:8]}"


def run_search(console: Console, overrides: Sequence[str], config_dir: str | None, multirun: bool) -> int:
    """Search as the overrides ask; returns the exit code.

    Raises:
        ConfigError: The overrides are wrong, or the study is about something else; nothing ran.
        RuntimeUnavailable: Optuna is not installed.
        StoreError: Another process is at this study; nothing ran.
        NoRoomError: Records or tables cannot be written; what is finished is kept.
    """
    search = _prepared(console, overrides, config_dir, multirun)
    load_optuna()
    if search.config.dry:
        _say_plan(search, None)
        return 0
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    output_dir = search.config.output_dir
    with open_study(search.settings, search.goals, search.about, search.name, output_dir / FOLDER) as study:
        _say_plan(search, study)
        interrupted, stopped = False, False
        with stopped_by_sigterm():
            try:
                stopped = _run_trials(search, study)
            except KeyboardInterrupt:
                interrupted = True
        rows = _rows(search, dict.fromkeys([*study.run_ids(), *search.records]))
        show_table(console, rows)
        write_all_tables(console, output_dir)
        _show_front(search, [one for one in rows if one.status == "ok" and search.goals.missing(one) is None])
        left = study.num_left
    _say_end(search, left, interrupted or stopped)
    return INTERRUPTED if interrupted else 1 if search.failed else 0


def _prepared(console: Console, overrides: Sequence[str], config_dir: str | None, multirun: bool) -> Search:
    """Everything checked that can be before a trial runs; all problems are listed at once."""
    about_the_sweep, about_cells = split(overrides)
    folder = Path(config_dir) if config_dir else None
    problems: list[str] = []
    try:
        chosen = read_settings(about_the_sweep, folder, multirun)
        if chosen.launcher.name != BASIC:
            problems.append(
                f"hydra/launcher={chosen.launcher.name}: a search runs its trials one after another, each learning "
                "from those before it; leave the launcher out."
            )
    except ConfigError as error:
        problems += error.problems
    try:
        fixed, space = split_space(about_cells)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    settings = Settings(**chosen.sweeper.params)
    goals = goals_of(chosen.sweeper.params)
    fixed = [word for word in fixed if word.partition("=")[0] != "measure.validation"]
    composer = OneByOne(folder)
    config = check_space(composer, [*fixed, VALIDATE], space)
    lacking = [
        f"hydra.sweeper: {name} needs measure.{key}=true."
        for key, name in goals.needs.items()
        if not getattr(config.measure, key)
    ]
    if lacking:
        raise ConfigError(lacking)
    command = Command(tuple(overrides), config_dir, multirun)
    return Search(console, settings, goals, space, fixed, composer, command, config)


def _run_trials(search: Search, study: Study) -> bool:
    """As many as are left; whether they had to stop because nothing can be kept."""
    from qbench.rows import STORAGE

    total, done = search.settings.n_trials, len(study.finished)
    for number in range(done + 1, done + study.num_left + 1):
        trial = study.ask()
        try:
            record = _run_trial(search, study, trial, f"[{number}/{total}]")
        except BaseException:
            study.fail(trial)
            raise
        if record.error_kind == STORAGE:
            return True
    return False


def _run_trial(search: Search, study: Study, trial: Trial, label: str) -> Record:
    from qbench.progress import ConsoleProgress
    from qbench.runner import run_cell

    console = search.console
    words = _words(search, trial)
    cell, problems = search.composer.cell([*search.fixed, *words, VALIDATE])
    if cell.config is None:
        if not cell.facts:
            raise ConfigError(problems)
        reason = cell.skipped or "; ".join(problems)
        console.print(f"{label} {' '.join(words)} skipped: {reason}", markup=False, highlight=False, soft_wrap=True)
        record = skipped_record(cell, reason)
        save_record(record, search.config.output_dir)
    else:
        run = Run(cell, cell.config, make_plan(cell.config, baseline_method()))
        console.print(f"{label} {run.config.label}", markup=False, highlight=False)
        record = run_cell(run.config, run.plan, baseline_method(), ConsoleProgress(console))
        if record.status == "failed":
            show_failure(console, run, record)
    _tell(search, study, trial, record)
    return record


def _words(search: Search, trial: Trial) -> list[str]:
    """A trial's overrides. A key that the options it chose do not have is none of its parameters."""
    chosen = [one.suggest(trial) for one in search.space if one.key in GROUPS]
    rest = [one for one in search.space if one.key not in GROUPS]
    lacked = search.composer.lacked([*search.fixed, *chosen], [one.key for one in rest])
    return [*chosen, *(one.suggest(trial) for one in rest if one.key not in lacked)]


def _tell(search: Search, study: Study, trial: Trial, record: Record) -> None:
    """What became of a trial, to Optuna and to the table."""
    goals = search.goals
    search.records[record.run_id] = record
    if record.status == "failed":
        search.failed.append(record)
        study.fail(trial)
        return
    trial.set_user_attr(RUN_ID, record.run_id)
    reason = record.error if record.status == "skipped" else goals.missing(record)
    if reason is not None:
        if record.status != "skipped":
            search.console.print(f"  says nothing: {reason}", markup=False, highlight=False, soft_wrap=True)
        study.skip(trial, reason)
    elif goals.timed and "contended" in (record.warning or ""):
        search.console.print("  another stage ran meanwhile: its latency is measured again by the next command")
        study.fail(trial)
    else:
        study.complete(trial, goals, goals.values(record), goals.excess(record))


def _rows(search: Search, run_ids: Iterable[str]) -> list[Record]:
    """The records of all trials, those of earlier commands too; one that is gone is named."""
    found = []
    for run_id in run_ids:
        try:
            found.append(load_record(search.config.output_dir / "records" / f"{run_id}.json"))
        except (OSError, ValueError) as error:
            search.console.print(f"note: {error}", markup=False, highlight=False, soft_wrap=True)
    return found


def _say_plan(search: Search, study: Study | None) -> None:
    done = len(study.finished) if study is not None else 0
    lines = [f"search {search.name}: {search.goals.describe()}"]
    lines += [f"  {one}" for one in search.space]
    before = f", {done} of them done" if done else ""
    lines += [f"{search.settings.n_trials} trials{before}; sampler {search.settings.sampler}"]
    for line in lines:
        search.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _show_front(search: Search, records: Sequence[Record]) -> None:
    """The runs that no other beats, and the command behind each."""
    from qbench.report.pareto import setting_label

    goals, console = search.goals, search.console
    best = front(goals, records)
    if not best:
        if records:
            line = f"no trial keeps to the budget ({goals.describe()}); raise it, or n_trials"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return
    several = len(goals.objectives) > 1
    table = Table(title="front" if several else "best", title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("setting", overflow="fold")
    top1 = "validation_top1_percent"
    shown = [one for one in goals.objectives if one.column != top1]
    for heading in ("validation top-1 %", *(one.title for one in shown), "test top-1 %"):
        table.add_column(heading, justify="right")
    for record in best:
        values = [f"{getattr(record, one.column):,.{one.digits}f}" for one in shown]
        label = f"{record.model} {setting_label(record)}" + (f" ({record.latency_kind})" if goals.timed else "")
        table.add_row(escape(label), f"{getattr(record, top1):.2f}", *values, f"{record.top1_percent:.2f}")
    console.print(table)
    for record in best:
        console.print(f"  {command_of(record)}", markup=False, highlight=False, soft_wrap=True)


def _say_end(search: Search, left: int, stopped: bool) -> None:
    lines = []
    if search.failed:
        traces = [record.traceback for record in search.failed if record.traceback]
        where = f"; tracebacks: {', '.join(traces)}" if traces else ""
        lines.append(f"{len(search.failed)} trials failed{where}")
    if stopped:
        lines.append(f"stopped; finished trials are kept: {search.settings.n_trials - left} of "
                     f"{search.settings.n_trials}")  # fmt: skip
    if stopped or search.failed or left:
        lines += ["go on with:", f"  {search.command}"]
    for line in lines:
        search.console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
