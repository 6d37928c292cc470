"""The verb report: tables, Pareto fronts, figures and the HTML page, always rebuilt from records."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.console import make_console
from qbench.errors import ConfigError
from qbench.words import take_option

if TYPE_CHECKING:
    from rich.console import Console

    from qbench.record import Record

METRICS = ("size", "latency", "energy")
FORMATS = ("csv", "md", "json", "latex")
MOST_DRAWN = 1000  # records: more take minutes to draw and are no figure of a paper
MOST_RUNS_DRAWN = 100  # whose own figures are drawn together with those of all
FLAGS = "--html [--output FILE], --figures DIR, --pareto size|latency|energy, --format csv|md|json|latex"


@dataclass(frozen=True)
class Asked:
    """What the words ask for; at most one of ``html``, ``figures``, ``metric`` and ``form``."""

    path: Path | None
    html: bool
    figures: Path | None
    output: Path | None
    metric: str | None
    form: str | None


def report(words: Sequence[str]) -> int:
    """``qbench report [PATH] [--html [--output FILE] | --figures DIR | --pareto METRIC | --format FORMAT]``.

    Without a flag the tables and figures are rebuilt from the records below PATH and the tables printed. With one, only
    what it asks for happens: the page or its figures are written, or the front or the table in that format printed.

    Raises:
        ConfigError: The words are wrong, there are no records, or a file cannot be written.
        RuntimeUnavailable: The page or figures are asked for and the library that draws is missing.
    """
    from qbench.record import load_for_tables, load_records

    asked = _asked(words)
    place = _place(asked.path)
    files: list[bytes] = []
    if asked.html or asked.figures or asked.metric is not None or asked.form == "json":  # these need whole records
        records, problems = load_records(place)
    else:
        records, files, problems = load_for_tables(place)
    for problem in problems:
        print(f"note: {problem}", file=sys.stderr)
    if not records:
        raise ConfigError(f"report {place}: holds no records; run something first (qbench run).")
    if asked.form is not None:
        from qbench.report.formats import formatted

        print(formatted(records, asked.form), end="")
    elif asked.metric is not None:
        _print_fronts(make_console(), records, asked.metric)
    elif asked.html:
        _write_page(make_console(), records, place, asked.output)
    elif asked.figures is not None:
        _write_figures(make_console(), records, place, asked.figures)
    else:
        _rebuild(make_console(), records, files, place)
    return 0


def _asked(words: Sequence[str]) -> Asked:
    output, rest = take_option("--output", words)
    drawn, rest = take_option("--figures", rest)
    metric, rest = take_option("--pareto", rest, " or ".join(METRICS))
    form, rest = take_option("--format", rest, " or ".join(FORMATS))
    html, rest = "--html" in rest, [word for word in rest if word != "--html"]
    for flag, value, allowed in (("--pareto", metric, METRICS), ("--format", form, FORMATS)):
        if value is not None and value not in allowed:
            raise ConfigError(f"report {flag} {value}: allowed are {', '.join(allowed)}.")
    if len(rest) > 1 or any(word.startswith("-") for word in rest):
        raise ConfigError(
            f"report {' '.join(rest)}: give one folder or record file, or nothing for outputs/records; flags: {FLAGS}."
        )
    if html + sum(value is not None for value in (drawn, metric, form)) > 1:
        raise ConfigError(
            "report: --html, --figures, --pareto and --format ask for different things; give one of them."
        )
    if output is not None and not html:
        raise ConfigError(f"report --output {output}: the file is that of the page; add --html.")
    path, folder, file = (Path(value) if value else None for value in (rest[0] if rest else None, drawn, output))
    return Asked(path, html, folder, file, metric, form)


def _place(path: Path | None) -> Path:
    """The folder of records, or the one record."""
    place = path if path is not None else Path(os.environ.get("QBENCH_OUTPUTS", "outputs")) / "records"
    if (place / "records").is_dir():
        place = place / "records"  # an output folder: its other JSON files are no records
    if not place.exists():
        raise ConfigError(f"report {place}: no such folder; run something first (qbench run), or give its records.")
    return place


def _rebuild(console: Console, records: Sequence[Record], files: Sequence[bytes], place: Path) -> None:
    """Print the tables; write them and the figures beside a folder of records."""
    from qbench.report.tables import MOST_ROWS, rich_table, write_tables

    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.dataset, record.model), []).append(record)
    room = MOST_ROWS  # a terminal is no place for thousands of rows
    for _, group in sorted(groups.items()):
        if room > 0:
            console.print(rich_table(group))
        room -= len(group)
    if len(records) > MOST_ROWS:
        _say(console, f"{len(records):,} records; the files have all of them")
    if place.is_file():
        return
    tables = place.parent / "tables"
    try:
        if len(records) <= MOST_DRAWN:
            _draw_beside(console, place)
        else:
            _say(console, f"note: figures are drawn of at most {MOST_DRAWN:,} records; --html shows them all")
        for path in write_tables(records, tables, files=files):
            _say(console, f"written: {path}")
    except OSError as error:
        raise ConfigError(f"report: {tables} cannot be written ({error.strerror}).") from error


def _draw_beside(console: Console, place: Path) -> None:
    from qbench.report import figures  # with SciPy, which takes a second: tables alone do without

    if not figures.available():
        _say(console, f'note: no figures; they need: pip install "qbench[{figures.EXTRA}]"')
    elif drawn := _drawn_beside(place):
        _say(console, f"written: {len(drawn)} figures in {place.parent / 'figures'}")


def _drawn_beside(place: Path) -> list[Path]:
    """What all runs show together, in ``figures/`` beside the records; tables alone need less of a record."""
    from qbench.details import find_details
    from qbench.record import load_records
    from qbench.report.figures import write_figures

    records, _ = load_records(place)
    details, _ = find_details(place, [record.run_id for record in records])
    return write_figures(records, place.parent / "figures", details)


def _print_fronts(console: Console, records: Sequence[Record], name: str) -> None:
    from qbench.report.pareto import METRICS as KNOWN
    from qbench.report.pareto import front_table, front_title, fronts
    from qbench.reproduce import command

    found = fronts(records, KNOWN[name])
    if not found:
        raise ConfigError(f"report --pareto {name}: no run has both an accuracy and {name} that can be compared.")
    by_id = {record.run_id: record for record in records}
    for front in found:
        _say(console, front_title(front))
        console.print(front_table(front))
        for point in front.points:
            repeat = command(by_id[point.run_ids[0]])
            if point.on_front and repeat is not None:
                _say(console, f"  {point.label}: {repeat}")
        console.print()


def _write_page(console: Console, records: Sequence[Record], place: Path, output: Path | None) -> None:
    from qbench.details import find_details
    from qbench.files import write_atomic
    from qbench.report.page import build_page
    from qbench.reproduce import command

    target = output or (place.parent.parent if place.is_file() else place.parent) / "report.html"
    details, problems = find_details(place, [record.run_id for record in records])
    for problem in problems:
        print(f"note: {problem}", file=sys.stderr)
    page = build_page(records, details, {record.run_id: command(record) for record in records}).encode()
    try:
        write_atomic(target, page)
    except OSError as error:
        raise ConfigError(f"report: {target} cannot be written ({error.strerror}).") from error
    _say(console, f"written: {target} ({len(records)} runs, {len(page) / 1e6:.1f} MB); open it in any browser")


def _write_figures(console: Console, records: Sequence[Record], place: Path, folder: Path) -> None:
    """The page's figures as files: those of all runs in the folder, each run's own in one of its name below."""
    from qbench.details import find_details
    from qbench.errors import RuntimeUnavailable
    from qbench.report import figures
    from qbench.report.run_figures import run_charts

    if not figures.available():
        raise RuntimeUnavailable(
            f'report --figures needs the library that draws: pip install "qbench[{figures.EXTRA}]"'
        )
    details, problems = find_details(place, [record.run_id for record in records])
    for problem in problems:
        print(f"note: {problem}", file=sys.stderr)
    try:
        written = [] if place.is_file() else figures.write_figures(records, folder, details)
        if len(records) <= MOST_RUNS_DRAWN:
            for record in records:
                own = folder if place.is_file() else folder / record.run_id
                written += figures.write_charts(run_charts(record, details.get(record.run_id)), own)
        else:
            _say(
                console, f"note: {len(records):,} runs; for those of one alone: qbench report RECORD.json --figures DIR"
            )
    except OSError as error:
        raise ConfigError(f"report: {folder} cannot be written ({error.strerror}).") from error
    _say(console, f"written: {len(written)} files in {folder}")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
