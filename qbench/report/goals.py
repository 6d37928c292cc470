"""Tables of goals beside what records reached: every region of a document, rebuilt from records and a list of goals.

python -m qbench.report.goals docs/results/accuracy            rewrite README.md from goals.yaml and records/
python -m qbench.report.goals docs/results/accuracy --check    fail if it is stale
python -m qbench.report.goals docs/results/accuracy --details outputs/accuracy/details
                                                               first take the details of the runs set against others

``goals.yaml`` maps the name of a region to ``dataset``, ``model``, ``columns`` (those of ``COLUMNS``), ``judged_by``
(value, or interval: the goal holds for its worse end), ``ratio`` (true: also how many times smaller the file is),
``run`` (overrides that all its rows share) and ``rows``. A row
has ``run`` (the other overrides of its command, which find its record), ``what`` (a name; without one the row is called
by its ``run``), ``weight_bits`` and ``act_bits`` where the command leaves them to the method and other runs differ in
nothing else, and, where there is one, ``goal``: the most points of top-1 it may lose, or the least agreement with the
integer reference in percent. A row with ``against`` (overrides of another run) is set against that run, over the images
that ``details/`` says each got right.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from qbench.details import FOLDER, Details, find_details
from qbench.files import write_atomic
from qbench.record import Record, load_records
from qbench.report.agreement import agreement_cells, answer_cells
from qbench.report.readme import with_region
from qbench.report.tables import pipe_table
from qbench.report.versus import versus_cells

NO_DETAILS: Mapping[str, Details] = MappingProxyType({})
GROUPS = ("method", "runtime", "train")  # of the config; a key of no group is a parameter of the method
SHORTHANDS = {"bits": "weight_bits", "act_bits": "act_bits", "method": "method", "runtime": "runtime"}


def goals_table(
    region: Mapping[str, Any], records: Sequence[Record], details: Mapping[str, Details] = NO_DETAILS
) -> str:
    """One Markdown table, a row for each goal; a row whose record is missing says so.

    Args:
        region: As in the module's docstring.
        records: Those to find the rows in; one that is not ok counts as missing.
        details: By run, for rows that are set against others.

    Raises:
        ValueError: Several records fit a row equally well; names the row.
    """
    columns = COLUMNS[region.get("columns", "loss")]
    rows = []
    for row in region["rows"]:
        where = _where(row, region)
        run = " ".join(filter(None, [region.get("run"), row["run"]]))
        named = "what" in row
        name = {"what": row["what"], "command": f"`qbench run {run}`"} if named else {"run": f"`{row['run']}`"}
        found = record_of(run, where, records)
        if "against" in row:
            against = versus_cells(found, record_of(row["against"], where, records), details)
            rows.append({**name, "against": f"`{row['against']}`", **against})
        else:
            rows.append({**name, **columns(found, {**region, **row})})
    titles = dict.fromkeys(title for row in rows for title in row)
    return pipe_table({title: [str(row.get(title, "")) for row in rows] for title in titles}) + "\n"


def _where(row: Mapping[str, Any], region: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of a row's record and their values."""
    beside = {name: row[name] for name in ("weight_bits", "act_bits") if name in row}
    return {name: row.get(name, region.get(name)) for name in ("dataset", "model")} | beside


def record_of(run: str, where: Mapping[str, Any], records: Sequence[Record]) -> Record | None:
    """The record that the overrides describe, of several the one with the fewest parameters of its own.

    Args:
        run: The overrides of a command, separated by spaces.
        where: Columns of the record and what they must be: data set, network, and bits that the command leaves to the
            method.
        records: Those to look through.

    Raises:
        ValueError: Several records fit equally well.
    """
    asked = dict(word.split("=", 1) for word in run.split())
    asked.setdefault("runtime", "torch")
    fitting = [
        record
        for record in records
        if record.status == "ok"
        and all(getattr(record, name) == value for name, value in where.items())
        and all(_fits(record, key, value) for key, value in asked.items())
    ]
    fitting.sort(key=_extras)
    if len(fitting) > 1 and _extras(fitting[0]) == _extras(fitting[1]):
        raise ValueError(f"several records fit {run!r}: {', '.join(record.run_id for record in fitting[:2])}")
    return fitting[0] if fitting else None


def _extras(record: Record) -> int:
    """How many parameters differ from their defaults."""
    return len((record.variant or "").split())


def _fits(record: Record, key: str, text: str) -> bool:
    if key == "experiment":  # it says what dataset and model say
        return True
    value = yaml.safe_load(text)
    if key in SHORTHANDS:
        return bool(getattr(record, SHORTHANDS[key]) == value)
    group, _, rest = key.partition(".")
    found: Any = record.config.get(group if group in GROUPS else "method", {})
    found = found.get("params", found)
    for part in (rest if group in GROUPS else key).split("."):
        if not isinstance(found, Mapping) or part not in found:
            return False
        found = found[part]
    return bool(found in (value, text))  # YAML reads 2:4 as a number


def _loss(record: Record | None, row: Mapping[str, Any]) -> dict[str, str]:
    goal, worst = row.get("goal"), row.get("judged_by") == "interval"
    cells = {} if goal is None else {"goal": f"{goal:g}"}
    if record is None or record.delta_points is None:
        return {**cells, "points lost [95 %]": "not run", "file, kB": "", **({"reached": ""} if cells else {})}
    cells.update({"points lost [95 %]": points_lost(record), "file, kB": _kilobytes(record.size_bytes)})
    if row.get("ratio") and record.compression_ratio is not None:
        cells["smaller"] = f"{record.compression_ratio:.2f}×"
    if goal is not None:
        judged = record.delta_low_points if worst and record.delta_low_points is not None else record.delta_points
        cells["reached"] = "yes" if -judged <= goal + 1e-9 else "no"
    return cells


def _sizes(record: Record | None, row: Mapping[str, Any]) -> dict[str, str]:
    if record is None:
        return _loss(record, row)
    return {
        **_loss(record, row),
        "float, kB": _kilobytes(record.size_baseline_bytes),
        "pruned, kB": _kilobytes(record.pruned_bytes),
        "and quantized, kB": _kilobytes(record.fixed_width_bytes),
        "and entropy-coded, kB": _kilobytes(record.size_bytes),
        "ratio": "" if record.compression_ratio is None else f"{record.compression_ratio:.1f}×",
    }


def points_lost(record: Record) -> str:
    """Points of top-1 lost to the float network, with the interval; a negative loss is a gain."""
    if record.delta_points is None:
        return ""
    interval = "" if record.delta_low_points is None or record.delta_high_points is None else (
        f" [{0.0 - record.delta_high_points:.2f}, {0.0 - record.delta_low_points:.2f}]"
    )  # fmt: skip
    return f"{0.0 - record.delta_points:.2f}{interval}"


def _kilobytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1000:,.0f}"


# a record (None where there is none) and its row, with what its region says -> title -> cell
COLUMNS: Mapping[str, Callable[[Record | None, Mapping[str, Any]], dict[str, str]]] = {
    "loss": _loss,
    "sizes": _sizes,
    "agreement": agreement_cells,
    "answers": answer_cells,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite or check a folder's README.md; 1 if it was stale."""
    parser = argparse.ArgumentParser(description="Rebuild the tables of goals of a folder's README.md.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a table is stale")
    parser.add_argument("--details", type=Path, help="where to take the details of runs that are set against others")
    options = parser.parse_args(arguments)
    goals = yaml.safe_load((options.folder / "goals.yaml").read_text(encoding="utf-8"))
    records, problems = load_records(options.folder / "records")
    if options.details is not None:
        _take_details(goals, records, options.details, options.folder / FOLDER)
    details, of_details = find_details(options.folder / "records", [record.run_id for record in records])
    for problem in (*problems, *of_details):
        print(problem)
    document = options.folder / "README.md"
    before = after = document.read_text(encoding="utf-8")
    for name, region in goals.items():
        after = with_region(after, goals_table(region, records, details), name)
    if options.check:
        return int(after != before)
    write_atomic(document, after.encode())
    return 0


def _take_details(goals: Mapping[str, Any], records: Sequence[Record], source: Path, to: Path) -> None:
    """Copy the details without which runs cannot be paired over images, and no others: they are many."""
    for region in goals.values():
        for row in region["rows"]:
            where = _where(row, region)
            runs = [" ".join(filter(None, [region.get("run"), row["run"]])), row["against"]] if "against" in row else []
            for record in filter(None, (record_of(run, where, records) for run in runs)):
                if (path := source / f"{record.run_id}.json").is_file():
                    write_atomic(to / path.name, path.read_bytes())


if __name__ == "__main__":
    raise SystemExit(main())
