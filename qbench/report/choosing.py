"""The tables of the decision guide, rebuilt from records and from the measured latencies.

python -m qbench.report.choosing docs/choosing.md            rewrite its tables
python -m qbench.report.choosing docs/choosing.md --check    fail if one is stale

The YAML beside the page names ``records`` (folders; a setting is shown from the first that has it), ``latency`` (a
JSON of ``benchmarks/latency.py``) and ``tables``: by the name of a region its ``dataset``, ``model`` and ``rows``, each
with ``what`` and ``run``, the overrides of the command whose record is shown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from qbench.files import write_atomic
from qbench.record import Record, load_records
from qbench.report.goals import points_lost, record_of
from qbench.report.readme import with_region
from qbench.report.tables import pipe_table

MISSING = "not run"
_COSTS = {  # title -> column of the record, and what follows the figure
    "file, kB": ("size_bytes", ""),
    "smaller": ("compression_ratio", "×"),
    "energy, µJ": ("energy_modelled_uJ", ""),
    "activations, kB": ("activation_bytes_peak", ""),
    "seconds to make": ("quantize_seconds", ""),
}


def first_of_each(folders: Sequence[Sequence[Record]]) -> list[Record]:
    """One record per setting: of the first folder that has it, of its lowest seed."""
    found: dict[tuple[object, ...], Record] = {}
    for records in folders:
        for record in sorted((one for one in records if one.status == "ok"), key=lambda one: one.seed):
            asked = (record.method, record.variant, record.weight_bits, record.act_bits, record.runtime)
            found.setdefault((record.dataset, record.model, *asked), record)
    return [*found.values()]


def cost_table(table: Mapping[str, Any], records: Sequence[Record]) -> str:
    """One Markdown table: what each setting loses, and what its file and making it take.

    Args:
        table: ``dataset``, ``model`` and ``rows``, as in the module's docstring.
        records: One per setting.

    Raises:
        ValueError: Several records fit a row equally well.
    """
    where = {name: table[name] for name in ("dataset", "model")}
    rows = []
    for row in table["rows"]:
        record = record_of(row["run"], where, records)
        rows.append({"what": row["what"], "command": f"`qbench run {row['run']}`", **_costs(record)})
    return pipe_table({title: [row[title] for row in rows] for title in rows[0]}) + "\n"


def _costs(record: Record | None) -> dict[str, str]:
    if record is None:
        return {"points lost [95 %]": MISSING, **dict.fromkeys(_COSTS, "")}
    thousandth = {name: getattr(record, name) for name in ("size_bytes", "activation_bytes_peak")}
    kilobytes = {name: None if value is None else value / 1000 for name, value in thousandth.items()}
    values = {**vars(record), **kilobytes}
    return {
        "points lost [95 %]": points_lost(record),
        **{title: _figure(values[name]) + unit for title, (name, unit) in _COSTS.items()},
    }


def _figure(value: float | None) -> str:
    """Three digits or more, but no more than one behind the point."""
    return "" if value is None else f"{value:,.{0 if value >= 100 else 1}f}"


def latency_table(measured: Mapping[str, Any]) -> str:
    """One Markdown table: milliseconds of the int8 file on its fastest runtime, and speed-ups over float networks."""
    columns: dict[str, list[str]] = {}
    for network in measured["networks"]:
        for cell in network["cells"]:
            runtime = cell["auto"].removeprefix("qbench_")
            row = {
                "network": network["model"],
                "batch": str(cell["batch_size"]),
                "fastest runtime": runtime,
                "ms": f"{cell['ms_median'][cell['auto']]:.3f}",
                "over ONNX Runtime, float": _ratio(cell["speed_up"]["auto_over_onnxruntime_float"]),
                "over eager PyTorch, float": _ratio(cell["speed_up"]["auto_over_torch"]),
            }
            for title, text in row.items():
                columns.setdefault(title, []).append(text)
    about = f"Measured on: {measured['cpu']}, {measured['threads']} threads."
    return f"{pipe_table(columns)}\n\n{about}\n"


def _ratio(one: Mapping[str, float]) -> str:
    return f"{one['ratio']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"


def rebuilt(page: Path) -> str:
    """The page's text with its tables as the records have them now.

    Raises:
        ValueError: A region is missing, or a row fits several records.
    """
    asked = yaml.safe_load(page.with_suffix(".yaml").read_text(encoding="utf-8"))
    records = first_of_each([load_records(page.parent / name)[0] for name in asked["records"]])
    measured = json.loads((page.parent / asked["latency"]).read_text(encoding="utf-8"))
    text = with_region(page.read_text(encoding="utf-8"), latency_table(measured), "latency")
    for name, table in asked["tables"].items():
        text = with_region(text, cost_table(table, records), name)
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite or check the page; 1 if it was stale."""
    parser = argparse.ArgumentParser(description="Rebuild the tables of the decision guide.")
    parser.add_argument("page", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a table is stale")
    options = parser.parse_args(arguments)
    after = rebuilt(options.page)
    if options.check:
        return int(after != options.page.read_text(encoding="utf-8"))
    write_atomic(options.page, after.encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
