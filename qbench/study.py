"""The verb study: all sweeps of a published study as one, then its table with the study's numbers beside ours."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from qbench.catalog import nearest, options
from qbench.compose import Cell
from qbench.console import make_console
from qbench.errors import ConfigError, NoRoomError
from qbench.hydra_settings import split
from qbench.record import Record, load_records
from qbench.report.study import Study, study_of
from qbench.rerun import Command
from qbench.sweep import composed, import_beside, run_cells
from qbench.words import take_option

if TYPE_CHECKING:
    from rich.console import Console

    from qbench.report.study_figures import RowRuns
    from qbench.report.worked import Worked

GROUP = "study"
TINY = (
    "tiny=true: small networks, few images of other data sets, one epoch. A test of the path; the figures mean nothing."
)
Run = tuple[str, str]  # names of a row and of one of its runs


@dataclass(frozen=True)
class _Asked:
    """A study, the cells of each of its runs, where their records are, and where its tables go."""

    study: Study
    cells: Mapping[Run, Sequence[Cell]]
    examples: tuple[Worked, ...]
    records: Path
    tables: Path


def study(words: Sequence[str]) -> int:
    """``qbench study [NAME [KEY=VALUE | ROW:KEY=VALUE ...]] [FLAGS]``; without NAME, a list.

    Flags are ``--rows NAMES``, ``--config-dir DIR`` and ``--records DIR``, with which nothing runs.

    Returns:
        The exit code of the sweep; 1 if a worked example came out differently.

    Raises:
        ConfigError: The words are wrong, or a study's YAML is; nothing ran.
        NoRoomError: Records or tables cannot be written; what is finished is kept.
    """
    folder, rest = take_option("--config-dir", words, "a folder")
    wanted, rest = take_option("--rows", rest, "a list of rows")
    recorded, rest = take_option("--records", rest, "a folder of records")
    config_dir = None if folder is None else Path(folder)
    if config_dir is not None and not config_dir.is_dir():
        raise ConfigError(f"--config-dir {config_dir}: no such folder.")
    if flags := [word for word in rest if word.startswith("-")]:
        raise ConfigError(
            f"unknown flag {flags[0]!r}; flags of study are --rows NAMES, --records DIR and --config-dir DIR, keys are "
            "KEY=VALUE."
        )
    for flag, value in (("--rows", wanted), ("--records", recorded)):
        if not rest and value is not None:
            raise ConfigError(
                f"{flag} {value}: of which study? Its name comes first: qbench study NAME {flag} {value}."
            )
    if not rest:
        _list(config_dir)
        return 0
    name, *given = rest
    form = load_study(name, config_dir)
    if wanted is not None:
        form = form.only(wanted.split(","))
    about_the_sweep, about_cells = split(given)
    sweeps = sweeps_of(form, about_cells)
    if is_tiny(given):
        form = replace(form, notes=(TINY, *form.notes))
    if recorded is not None and about_the_sweep:
        raise ConfigError(f"--records {recorded}: nothing runs with it; leave {' '.join(about_the_sweep)} out.")
    import_beside(folder)
    found, settings = composed(list(sweeps.values()), about_the_sweep, folder, True, to_run=recorded is None)
    cells = dict(zip(sweeps, found))
    every = [cell for of_run in cells.values() for cell in of_run]
    config = next(cell.config for cell in every if cell.config is not None)
    examples = () if config.dry else _worked(form)
    records = config.output_dir / "records" if recorded is None else Path(recorded)
    asked = _Asked(form, cells, examples, records, config.output_dir / "tables")
    if recorded is not None:
        code = _show_recorded(asked, every)
    else:
        verb = (GROUP, name) if wanted is None else (GROUP, name, "--rows", wanted)
        command = Command(tuple(given), folder, True, settings.overrides, verb)
        code = run_cells(every, command, settings, partial(_show, asked))
    return code or int(not all(one.agrees for one in examples))


def load_study(name: str, config_dir: Path | None = None) -> Study:
    """A study of qbench's, or of the user's config folder.

    Raises:
        ConfigError: There is none of that name, or its YAML is wrong.
    """
    known = options(GROUP, config_dir)
    if name not in known:
        what = f"study {name}: unknown study." if "=" not in name else f"study: its name comes first, before {name!r}."
        raise ConfigError(f"{what}{nearest(name, list(known))} Known: {', '.join(known)}.")
    return study_of(name, known[name].load())


def sweeps_of(form: Study, given: Sequence[str]) -> dict[Run, tuple[str, ...]]:
    """The overrides of every run of a study with those the user gave, ``ROW:KEY=VALUE`` for the runs of one row.

    Args:
        form: The study.
        given: ``ROW`` may be a pattern, as for ``--rows``.

    Raises:
        ConfigError: There is no such row.
    """
    for_all: list[str] = []
    of_rows: dict[str, list[str]] = {}
    names = [row.name for row in form.rows]
    for word in given:
        row, colon, rest = word.partition(":")
        if not colon or "=" in row:
            for_all.append(word)
            continue
        matching = fnmatch.filter(names, row)
        if not matching:
            raise ConfigError(
                f"{word}: study {form.name} has no row {row!r}.{nearest(row, names)} Rows: {', '.join(names)}."
            )
        for name in matching:
            of_rows.setdefault(name, []).append(rest)
    return form.sweeps(for_all, of_rows, tiny=is_tiny(given))


def is_tiny(given: Sequence[str]) -> bool:
    """Whether the overrides ask for the small form of every run."""
    values = [word.partition("=")[2] for word in given if word.startswith("tiny=")]
    return bool(values) and values[-1].lower() == "true"


def _list(config_dir: Path | None) -> None:
    table = Table(title="qbench study NAME", title_justify="left", box=box.SIMPLE_HEAD, header_style="bold")
    for heading in ("name", "what it is", "rows"):
        table.add_column(heading, overflow="fold")
    for name in options(GROUP, config_dir):
        form = load_study(name, config_dir)
        table.add_row(*map(escape, (name, form.summary, " ".join(row.name for row in form.rows))))
    make_console().print(table)


def _worked(form: Study) -> tuple[Worked, ...]:
    if not form.examples:
        return ()
    from qbench.report.worked import work

    return tuple(map(work, form.examples))


def _show_recorded(asked: _Asked, cells: Sequence[Cell]) -> int:
    """The tables from records that are there, wherever they were made.

    Raises:
        ConfigError: None of them is of the study.
    """
    from qbench.recorded import records_of

    if not asked.records.exists():
        raise ConfigError(f"--records {asked.records}: no such folder.")
    there, problems = load_records(asked.records)
    found = records_of(cells, there)
    if not found:
        raise ConfigError(
            f"--records {asked.records}: none of its {len(there)} records is of a run of study {asked.study.name}."
        )
    missing = len({cell.overrides for cell in cells}) - len(found)
    notes = [f"{missing} of {len(found) + missing} runs have no record in {asked.records}"] if missing else []
    form = replace(asked.study, notes=(*asked.study.notes, *notes, *problems))
    _show(replace(asked, study=form), make_console(), found)
    return 0


def _show(asked: _Asked, console: Console, records: Mapping[tuple[str, ...], Record]) -> None:
    """Print the tables of a study and write them."""
    from qbench.details import find_details
    from qbench.report.studies import results, rich_tables, write_study

    rows = rows_of(asked.study, asked.cells, records)
    found_ids = [record.run_id for record in records.values()]
    details, problems = find_details(asked.records, found_ids)
    found = results(asked.study, rows, details, asked.examples)
    console.print(f"\nstudy {asked.study.name}: {asked.study.summary}", style="bold", markup=False, highlight=False)
    console.print(f"source: {asked.study.source}\n", markup=False, highlight=False)
    for table in rich_tables(found):
        console.print(table)
    for line in filter(None, [found.verdict, *(f"note: {note}" for note in (*found.notes, *problems))]):
        console.print(line, markup=False, highlight=False)
    try:
        for path in write_study(found, asked.tables):
            console.print(f"written: {path}", markup=False, highlight=False, soft_wrap=True)
    except OSError as error:
        raise NoRoomError(
            f"{asked.tables} cannot be written ({error.strerror or error}); the records are kept, and "
            "the same command makes the tables once there is room"
        ) from error


def rows_of(
    form: Study, cells: Mapping[Run, Sequence[Cell]], records: Mapping[tuple[str, ...], Record]
) -> list[RowRuns]:
    """What became of each row: its runs over all seeds, once for every setting that the user swept over."""
    from qbench.report.study_figures import RowRuns

    rows = []
    for row in form.rows:
        by_run = {run: _by_setting(cells[row.name, run]) for run in row.runs}
        settings = dict.fromkeys(setting for of_run in by_run.values() for setting in of_run if setting)
        for setting in settings or ("",):
            chosen = {run: of_run.get(setting, of_run.get("", ())) for run, of_run in by_run.items()}
            made = {
                run: [records[cell.overrides] for cell in some if cell.overrides in records]
                for run, some in chosen.items()
            }
            rows.append(RowRuns(row, setting, made))
    return rows


def _by_setting(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """The cells of a run by what they differ in, seeds aside."""
    varied = {word for cell in cells for word in cell.overrides if not all(word in other.overrides for other in cells)}
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        setting = " ".join(word for word in cell.overrides if word in varied and not word.startswith("seed="))
        found.setdefault(setting, []).append(cell)
    return found
