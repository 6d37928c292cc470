"""The tables of a study: the source's numbers above ours, on the terminal and as CSV, Markdown and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from qbench.details import Details
from qbench.files import write_atomic
from qbench.record import Record, finite
from qbench.report.study import Study, StudyTable
from qbench.report.study_figures import Figure, RowRuns, answers, figure, verdict
from qbench.report.tables import measured_on, pipe_table
from qbench.report.worked import Worked

SOURCE, OURS = "source", "qbench"
COLUMNS = (
    "study", "table", "row", "setting", "column", "value", "low_95_percent", "high_95_percent", "n_seeds",
    "interval_over", "source", "note", "run_ids",
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A row of a table: what the source says (None: nothing), and our figures, by column."""

    row: str
    setting: str
    label: str
    source: tuple[Any, ...] | None
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Sheet:
    """A table filled in."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Results:
    """A study filled in; ``notes`` end with what is missing or to be read with care."""

    study: Study
    sheets: tuple[Sheet, ...]
    verdict: str
    notes: tuple[str, ...]
    examples: tuple[Worked, ...]
    records: tuple[Record, ...]


def results(
    study: Study, rows: Sequence[RowRuns], details: Mapping[str, Details], examples: Sequence[Worked] = ()
) -> Results:
    """Fill in every table of a study.

    Args:
        study: Its form.
        rows: What became of its rows; one row may be there at several settings.
        details: By run, where there are any: which images were right makes single-seed comparisons sharper.
        examples: Its worked examples, computed.
    """
    compared = answers(study, rows, details)
    sheets = []
    for part in study.parts:
        of_part = [one for one in rows if one.row in part.rows]
        for table in part.tables:
            lines = tuple(_line(table, one, [figure(c, one, compared) for c in table.columns]) for one in of_part)
            sheets.append(Sheet(table.title, tuple(column.title for column in table.columns), lines))
    records = {record.run_id: record for one in rows for of_run in one.runs.values() for record in of_run}
    notes = (*study.notes, *_missing(sheets), *_failures(rows), *_warnings(records.values()))
    return Results(study, tuple(sheets), verdict(study, compared), notes, tuple(examples), tuple(records.values()))


def _line(table: StudyTable, one: RowRuns, figures: Sequence[Figure]) -> Line:
    source = table.source.get(one.row.name)
    return Line(one.row.name, one.setting, one.label, source, tuple(figures))


def _missing(sheets: Sequence[Sheet]) -> list[str]:
    """Why a column has no value, once for all the rows where the reason is the same."""
    where: dict[tuple[str, str], list[str]] = {}
    for sheet in sheets:
        for line in sheet.lines:
            for title, one in zip(sheet.columns, line.figures):
                if one.why:
                    where.setdefault((one.why, sheet.title), []).append(f"{title} of {line.label}")
    return [f"n/a in {title!r}: {why} ({_some(cells)})" for (why, title), cells in where.items()]


def _failures(rows: Sequence[RowRuns]) -> list[str]:
    """Runs that failed where others of the row did not, whose figures are then those of the others alone."""
    found = []
    for one in rows:
        for name, of_run in one.runs.items():
            failed = [record for record in of_run if record.status != "ok"]
            if failed and len(failed) < len(of_run):
                seeds = ", ".join(str(record.seed) for record in failed)
                found.append(
                    f"{len(failed)} of {len(of_run)} runs failed, {name} of {one.label} (seed {seeds}): "
                    f"{failed[0].error}. Its figures are of the others."
                )
    return found


def _some(cells: Sequence[str]) -> str:
    shown = ", ".join(cells[:3])
    return shown if len(cells) <= 3 else f"{shown} and {len(cells) - 3} more"


def _warnings(records: Any) -> list[str]:
    found: dict[str, list[str]] = {}
    for record in records:
        if record.warning and record.status == "ok":
            found.setdefault(record.warning, []).append(f"{record.model} {record.method}")
    return [f"to be read with care, {_some(list(dict.fromkeys(runs)))}: {text}" for text, runs in found.items()]


def rows_of(sheet: Sheet) -> dict[str, list[str]]:
    """The table as text, by heading: for every line what the source says, where it says anything, and our figures."""
    rows: list[list[str]] = []
    for line in sheet.lines:
        if line.source is not None and any(value is not None for value in line.source):
            rows.append([line.label, SOURCE, *map(_said, line.source), ""])
        rows.append([line.label, OURS, *(one.text for one in line.figures), _basis(line)])
    headings = ["", "by", *sheet.columns, "over"]
    return {heading: [row[index] for row in rows] for index, heading in enumerate(headings)}


def _basis(line: Line) -> str:
    """How many seeds are behind a row, and what its intervals are over where that is something else."""
    counts = sorted({one.n for one in line.figures if one.n})
    n = counts[-1] if counts else 0
    fewest = f"{counts[0]} to " if counts and counts[0] < n else ""
    over = dict.fromkeys(one.over for one in line.figures if one.over not in ("", "seeds") and "[" in one.text)
    return ", ".join([f"{fewest}{n} seed{'s' if n > 1 else ''}", *over]) if n else ""


def _said(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else str(value)


def example_rows(examples: Sequence[Worked]) -> dict[str, list[str]]:
    """The worked examples as text, by heading."""
    return {
        "": [one.example.what for one in examples],
        "by the source": ["" if one.example.source is None else _plain(one.example.source) for one in examples],
        "by qbench": [_plain(one.found) for one in examples],
        "answer": [one.answer for one in examples],
    }


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    return str(value)


def rich_tables(found: Results) -> list[Table]:
    """For the terminal: the examples, then every table; the source's rows are dim."""
    tables = []
    if found.examples:
        tables.append(_rich("worked examples", example_rows(found.examples), numbers=False))
    for sheet in found.sheets:
        columns = {heading: cells for heading, cells in rows_of(sheet).items() if any(cells)}
        tables.append(_rich(sheet.title, columns, numbers=True))
    return tables


def _rich(title: str, columns: Mapping[str, Sequence[str]], *, numbers: bool) -> Table:
    shown = {heading: cells for heading, cells in columns.items() if heading != "by" or SOURCE in cells}
    table = Table(
        title=escape(title), title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, collapse_padding=True
    )
    for heading in shown:
        words = heading in ("", "by") or not numbers
        table.add_column(
            heading if words else heading.replace(" ", "\n"), overflow="fold", justify="left" if words else "right"
        )
    dim = [who == SOURCE for who in columns["by"]] if "by" in columns else [False] * len(shown[""])
    previous = None
    for row, of_source in zip(zip(*shown.values()), dim):
        label = "" if row[0] == previous else row[0]
        previous = row[0]
        cells = (cell.replace(" [", "\n[") if numbers else cell for cell in row[1:])  # intervals below their numbers
        table.add_row(*map(escape, (label, *cells)), style="dim" if of_source else None)
    return table


def markdown(found: Results) -> str:
    """The study as a page."""
    study = found.study
    parts = [f"# Study {study.name.upper()}: {study.summary}", f"Rows *source*: {study.source}."]
    if found.verdict:
        parts.append(f"**{found.verdict}**")
    if found.examples:
        parts += ["## worked examples", _pipes(example_rows(found.examples))]
    for sheet in found.sheets:
        parts += [f"## {sheet.title}", _pipes(rows_of(sheet))]
    if found.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in found.notes)]
    intervals = (
        "Figures are those of the file, from disk. Intervals are 95 %: over seeds Student's t of the mean; where "
        "*over* says images, Wilson's or Tango's (differences) of one seed; where it says rounds, those of timing."
    )
    return "\n\n".join([*parts, intervals]) + measured_on(found.records) + "\n"


def _pipes(columns: Mapping[str, Sequence[str]]) -> str:
    kept = {heading: cells for heading, cells in columns.items() if any(cells)}
    return pipe_table({heading: [cell.replace("|", "\\|") for cell in cells] for heading, cells in kept.items()})


def csv_text(found: Results) -> str:
    """One line per figure, with every interval."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for sheet in found.sheets:
        for line in sheet.lines:
            for index, (column, one) in enumerate(zip(sheet.columns, line.figures)):
                source = None if line.source is None else line.source[index]
                if one.value is None and not one.why and source is None:
                    continue  # the row has no such run
                numbers = (one.value, one.low, one.high, one.n or None, one.over)
                place = (found.study.name, sheet.title, line.row, line.setting, column)
                writer.writerow([*place, *numbers, source, one.why, " ".join(one.run_ids)])
    return stream.getvalue()


def as_json(found: Results) -> str:
    """Everything: tables, notes, verdict, examples and which runs are behind each figure."""
    content = {
        "study": found.study.name,
        "summary": found.study.summary,
        "source": found.study.source,
        "verdict": found.verdict,
        "tables": [asdict(sheet) for sheet in found.sheets],
        "examples": [{**asdict(one.example), "found": one.found, "agrees": one.agrees} for one in found.examples],
        "notes": list(found.notes),
        "runs": sorted(record.run_id for record in found.records),
    }
    return json.dumps(finite(content), indent=1) + "\n"


def write_study(found: Results, folder: Path) -> list[Path]:
    """Write ``study_NAME.csv``, ``.md`` and ``.json``; returns their paths."""
    texts = {"csv": csv_text(found), "md": markdown(found), "json": as_json(found)}
    paths = [folder / f"study_{found.study.name}.{suffix}" for suffix in texts]
    for path, text in zip(paths, texts.values()):
        write_atomic(path, text.encode(), durable=False)  # made again by the same command at any time
    return paths
