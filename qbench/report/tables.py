"""Tables, always rebuilt from records: rich on the terminal; CSV, Markdown and JSON in files."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from qbench.config import bits_label
from qbench.files import write_atomic
from qbench.record import RATIOS, Record
from qbench.report.columns import BLANK_FOR_BASELINE, DIGITS, LEADING, MARKDOWN, TRAILING

MOST_ROWS = 200  # that the terminal shows; the files have all


def sort_records(records: Sequence[Record]) -> list[Record]:
    """By data set, model and seed; the float baseline first, then methods by name, most bits first."""
    return sorted(records, key=_order)


def _order(r: Record) -> tuple[Any, ...]:
    bits = -(r.weight_bits or 0), -(r.act_bits or 0)
    return (r.dataset, r.model, r.runtime, r.seed, r.method != "fp32", r.method, *bits, r.run_id)


def grid(records: Sequence[Record]) -> tuple[list[str], list[list[Any]]]:
    """The columns of the CSV, and a row of values for each record, sorted.

    Latency at further batch sizes gets columns of its own, and so do the candidates of runtime=auto at every size.
    """
    ordered = sort_records(records)
    further = [_further(record) for record in ordered]
    extra = list(dict.fromkeys(name for row in further for name in row))
    leading, trailing = attrgetter(*LEADING), attrgetter(*TRAILING)
    rows = [
        [*leading(record), *(row.get(name) for name in extra), *trailing(record)]
        for record, row in zip(ordered, further)
    ]
    return [*LEADING, *extra, *TRAILING], rows


def csv_text(records: Sequence[Record]) -> str:
    """One row per record, sorted."""
    columns, rows = grid(records)
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([columns, *rows])
    return stream.getvalue()


def _further(record: Record) -> dict[str, Any]:
    """The columns that a record brings beside the usual ones."""
    row: dict[str, Any] = {}
    for one in record.latency[1:]:
        size = one["batch_size"]
        row[f"latency_ms_median_batch{size}"] = one["candidate_ms_median"]
        row[f"latency_ms_iqr_batch{size}"] = one["candidate_ms_iqr"]
        for column in RATIOS:
            if column in one:  # those of before have no ratio on the same runtime
                row[f"latency_{column}_batch{size}"] = one[column]
    for one in record.candidates:
        size = one["batch_size"]
        row[f"candidate_ms_{one['runtime']}_batch{size}"] = one["ms_median"]
        if one["chosen"] and size != record.candidates[0]["batch_size"]:
            row[f"runtime_chosen_batch{size}"] = one["runtime"]
    return row


def write_tables(
    records: Sequence[Record], folder: Path, name: str = "results", files: Sequence[bytes] | None = None
) -> list[Path]:
    """Write ``results.csv``, ``results.md`` and ``results.json``; returns their paths.

    Args:
        records: The rows.
        folder: Where to.
        name: Of the files.
        files: What each record's own file holds, in the same order; it goes into the JSON as it is.
    """
    if files is None:
        files = [f"{json.dumps(vars(record), default=str)}\n".encode() for record in records]
    ordered = [data for _, data in sorted(zip(records, files), key=lambda pair: _order(pair[0]))]
    separated = (piece for data in ordered for piece in (b",", data))
    contents: dict[str, bytes | list[bytes]] = {
        "csv": csv_text(records).encode(),
        "md": markdown(records).encode(),
        "json": [b"[\n", *itertools.islice(separated, 1, None), b"]\n"],
    }
    paths = []
    for suffix, text in contents.items():
        path = folder / f"{name}.{suffix}"
        write_atomic(path, text, durable=False)  # made again from the records at any time
        paths.append(path)
    return paths


def as_json(records: Sequence[Record]) -> str:
    """The whole records, sorted."""
    return json.dumps([vars(record) for record in sort_records(records)], indent=1, default=str) + "\n"


def markdown(records: Sequence[Record]) -> str:
    """A table for people, with a note on what its columns mean and where its numbers were measured."""
    if not records:
        return "No records.\n"
    columns = {title: [cell.replace("|", "\\|") for cell in cells] for title, cells in selection(records).items()}
    return pipe_table(columns) + "\n\n" + footnote(records)


def selection(records: Sequence[Record]) -> dict[str, list[str]]:
    """The columns for people as text, sorted, by heading; those that are empty in every row are left out."""
    ordered = sort_records(records)
    columns = {title: [_cell(r, column) for r in ordered] for column, title in MARKDOWN.items()}
    return {title: cells for title, cells in columns.items() if any(cells)}


def pipe_table(columns: Mapping[str, Sequence[str]]) -> str:
    """A Markdown table of left-aligned columns, by heading; padded so that it can be read as it is.

    What tabulate's ``pipe`` makes, without looking for numbers in every cell.
    """
    padded = []
    for heading, cells in columns.items():
        width = max(len(heading) + 2, *map(len, cells))
        padded.append([heading.ljust(width), "", *(cell.ljust(width) for cell in cells)])
    rows = [f"| {' | '.join(cells)} |" for cells in zip(*padded)]
    rows[1] = "|".join(["", *(":" + "-" * (len(column[0]) + 1) for column in padded), ""])
    return "\n".join(rows)


def footnote(records: Sequence[Record]) -> str:
    """Machines, threads and versions behind the rows; what intervals and ratios mean."""
    return (
        "Accuracy, size and latency are those of the file re-loaded from disk. Intervals are over test images: "
        "Wilson's for top-1, Tango's for the paired difference Δ to the float baseline of the same training. "
        "Ratios are to that baseline saved as a file of the same format. Latency is for the batch size in the CSV; "
        "speed-up is the median of paired, alternated rounds against the float baseline in eager PyTorch, *there* "
        "against it on the row's own runtime; *kernel* says what ran: float, simulated or integer "
        "arithmetic." + measured_on(records) + "\n"
    )


def measured_on(records: Sequence[Record]) -> str:
    """A paragraph that names the machines, threads and versions behind the rows; nothing where no run is ok."""
    places = sorted(
        {
            f"{r.environment.get('cpu_model') or r.environment.get('cpu', '?')}, {r.threads} threads, "
            f"torch {r.environment.get('torch', '?')}"
            for r in records
            if r.status == "ok"
        }
    )
    return "\n\nMeasured on: " + "; ".join(places) + "." if places else ""


def rich_table(records: Sequence[Record], title: str | None = None) -> Table:
    """The terminal's table. What is the same in every row moves to the title; errors and warnings stand below.

    Of very many records it has the first ``MOST_ROWS``, and says how many there are.
    """
    ordered = sort_records(records)[:MOST_ROWS]
    values = {name: {getattr(r, name) for r in ordered} - {None} for name in ("dataset", "model", "seed")}
    kernels = {r.latency_kind for r in ordered} - {None}
    sizes = {r.batch_size for r in ordered} - {None}
    varied = [name for name, found in values.items() if len(found) > 1]
    common = [f"{name} {found.copy().pop()}" for name, found in values.items() if len(found) == 1]
    common += [f"kernel {kernels.copy().pop()}"] if len(kernels) == 1 else []
    table = Table(
        title=escape(title or ", ".join(common)),
        title_justify="left",
        caption=escape("\n".join([*_notes(ordered, varied), *_left_out(len(records))])) or None,
        caption_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
    )
    latency = f"ms b{sizes.copy().pop()}" if len(sizes) == 1 else "ms"
    figures = ("top-1 %", "Δ points [95 %]", "size kB", "ratio ×", "bits/w", latency, "speed-up ×")
    headings = (*varied, "method", "bits", *figures, "kernel", "runtime")
    rows = [[*(str(getattr(r, name)) for name in varied), *_terminal_cells(r)] for r in ordered]
    shown = [column for column, cells in enumerate(zip(*rows)) if any(cells)]
    shown = [column for column in shown if headings[column] != "kernel" or len(kernels) > 1]
    if len({r.runtime for r in ordered}) == 1 and not any(r.runtime_chosen for r in ordered):
        shown = [column for column in shown if headings[column] != "runtime"]
    for heading in (headings[column] for column in shown):
        number = heading in figures
        wraps = (not number and heading not in ("kernel", "runtime")) or heading in ("Δ points [95 %]", "speed-up ×")
        table.add_column(heading, justify="right" if number else "left", no_wrap=not wraps, overflow="fold")
    for record, row in zip(ordered, rows):
        cells = [row[column] for column in shown]
        style = {"failed": "red", "skipped": "dim"}.get(record.status, "bold" if record.method == "fp32" else None)
        table.add_row(*map(escape, cells), style=style)
    return table


def _notes(records: Sequence[Record], varied: Sequence[str]) -> list[str]:
    """One line for each record that failed, was skipped, or should be read with care."""
    lines = []
    for r in records:
        text = r.warning if r.status == "ok" else f"{r.status}: {r.error}"
        names = [str(getattr(r, name)) for name in varied]
        if text:
            bits = bits_label(r.weight_bits, r.act_bits)
            lines.append(f"{' '.join(filter(None, [*names, r.method, r.variant, bits]))}: {text}")
    return lines


def _left_out(total: int) -> list[str]:
    return [f"{MOST_ROWS} of {total:,} rows; results.csv has all"] if total > MOST_ROWS else []


def _terminal_cells(r: Record) -> list[str]:
    delta = speed = ""
    if r.delta_points is not None and r.method != "fp32":
        delta = f"{r.delta_points:+.2f} {_interval(r, 'delta', '_points')}".rstrip()
    if r.latency_ratio is not None and r.method != "fp32":
        speed = f"{r.latency_ratio:.2f} {_interval(r, 'latency_ratio', '')}".rstrip()
    return [
        " ".join(filter(None, [r.method, r.variant])),
        bits_label(r.weight_bits, r.act_bits),
        _number(r.top1_percent, 2) if r.status == "ok" else r.status,
        delta,
        _number(None if r.size_bytes is None else r.size_bytes / 1000, 1),
        _number(r.compression_ratio, 2),
        _number(r.bits_per_weight, 2),
        _number(r.latency_ms_median, 2),
        speed,
        r.latency_kind or "",
        f"{r.runtime}: {r.runtime_chosen}" if r.runtime_chosen else r.runtime,
    ]


def _interval(r: Record, prefix: str, suffix: str) -> str:
    low, high = getattr(r, f"{prefix}_low{suffix}"), getattr(r, f"{prefix}_high{suffix}")
    return "" if low is None else f"[{low:.2f}, {high:.2f}]"


def _cell(r: Record, column: str) -> str:
    """One cell of the Markdown table; empty where there is no value."""
    if column == "top1_interval":
        return _interval(r, "top1", "_percent")
    if column == "delta_interval":
        return "" if r.method == "fp32" else _interval(r, "delta", "_points")
    if column == "status":
        return "" if r.status == "ok" else _one_line(f"{r.status}: {r.error}")
    value = getattr(r, column)
    if value is None or (r.method == "fp32" and column in BLANK_FOR_BASELINE):
        return ""
    if column == "fixed_width_bytes" and r.pruned_bytes is None:
        return ""  # the stages of a pruned file side by side: its weights as floats, quantized, entropy-coded
    if column.endswith("_bytes"):
        return f"{value:,}"
    return _number(value, DIGITS[column]) if column in DIGITS else _one_line(str(value))


def _one_line(text: str) -> str:
    """Text that stays in one row."""
    return " ".join(text.split())


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
