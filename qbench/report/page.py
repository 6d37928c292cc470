"""The HTML page of records: one file that opens from disk and asks no network for anything.

Python puts it together: the template, style and scripts of ``qbench/report/page/``, the Vega libraries from the
package vl-convert, and the records as JSON. What the page shows is built by its scripts, a run's details on demand.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qbench.config import bits_label
from qbench.details import Details
from qbench.record import Record, finite
from qbench.report.comparisons import Comparison, compare
from qbench.report.figures import charts, pareto_values, sensitivity_values, vega_bundle
from qbench.report.pareto import METRICS, Front, fronts
from qbench.report.tables import footnote, grid, sort_records

ASSETS = Path(__file__).parent / "page"
SCRIPTS = ("base", "figures", "table", "overview", "pareto", "comparisons", "run", "evidence", "app")
LICENCES = (
    "Vega, Vega-Lite, vega-embed, vega-tooltip: BSD-3-Clause, Copyright 2015-2023 University of Washington "
    "Interactive Data Lab and Jeffrey Heer. d3 and topojson: ISC and BSD-3-Clause, Copyright Mike Bostock. "
    "qbench: Apache-2.0."
)
DIGITS = 6  # significant, of numbers that are drawn; the overview's table keeps them whole
_DRAWN = ("layers", "history", "latency")


def build_page(
    records: Sequence[Record],
    details: Mapping[str, Details] | None = None,
    commands: Mapping[str, str | None] | None = None,
    title: str = "qbench report",
) -> str:
    """The whole page as text; the same arguments give the same text.

    Args:
        records: What it shows, in any order.
        details: By run, where a run has them.
        commands: By run, the command that repeats it.
        title: Of the page.

    Raises:
        RuntimeUnavailable: The libraries that draw are not installed.
    """
    ordered = sort_records(records)
    found, known = details or {}, commands or {}
    shared = _Shared()
    runs = [_run(record, _fitting(record, found), shared) for record in ordered]
    data = {
        "table": _table(ordered, known),
        "fronts": [_front(front) for metric in METRICS.values() for front in fronts(ordered, metric)],
        "metrics": [{"name": metric.name, "title": metric.title} for metric in METRICS.values()],
        "comparisons": [_comparison(one) for one in compare(ordered, found)],
        "note": footnote(ordered),
        "charts": charts(),
        "shared": shared.values,
    }
    stored = "\n".join(
        f'<script type="application/json" id="run-{html.escape(record.run_id)}">{_json(run)}</script>'
        for record, run in zip(ordered, runs)
    )
    parts = {
        "TITLE": html.escape(title),
        "STYLE": _asset("style.css"),
        "LICENCES": LICENCES,
        "RUNS": stored,
        "DATA": _json(data),
        "SCRIPT": "\n".join(_asset(f"{name}.js") for name in SCRIPTS),
        "VEGA": vega_bundle(),
    }
    return re.sub(r"<!--([A-Z]+)-->", lambda found: parts[found[1]], _asset("page.html"))


class _Shared:
    """Values that many runs have in common (the machine, a baseline's training) are in the page once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, value: Any) -> int:
        """Where in ``values`` it is."""
        text = json.dumps(value, sort_keys=True, default=str)
        if text not in self._places:
            self._places[text] = len(self.values)
            self.values.append(value)
        return self._places[text]


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON that may stand inside a script element, whatever text it holds; numbers that are none become null."""
    text = json.dumps(finite(value), separators=(",", ":"), default=str, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _fitting(record: Record, details: Mapping[str, Details]) -> Details | None:
    """The run's details, unless they are those of another artefact."""
    own = details.get(record.run_id)
    return own if own is not None and own.artifact_sha256 == record.artifact_sha256 else None


def _table(ordered: Sequence[Record], commands: Mapping[str, str | None]) -> dict[str, Any]:
    """The CSV's columns and rows, and beside them what each run's bits are called and the command that repeats it."""
    columns, rows = grid(ordered)
    bits = [bits_label(record.weight_bits, record.act_bits) for record in ordered]
    own = [commands.get(record.run_id) for record in ordered]
    return {"columns": columns, "rows": rows, "bits": bits, "commands": own}


def _front(front: Front) -> dict[str, Any]:
    about = {"dataset": front.dataset, "model": front.model, "conditions": front.conditions}
    return {**about, "metric": front.metric.name, "points": _short(pareto_values(front))}


def _comparison(one: Comparison) -> dict[str, Any]:
    numbers = {name: _short(getattr(one, name)) for name in ("difference_points", "low", "high", "p_value")}
    about = {name: getattr(one, name) for name in ("question", "label", "dataset", "model", "basis")}
    return {**about, **numbers, "a": one.a.run_id, "b": one.b.run_id}


def _run(record: Record, details: Details | None, shared: _Shared) -> dict[str, Any]:
    """What the page of one run needs beside its row of the table."""
    found: dict[str, Any] = {name: _short(getattr(record, name)) for name in _DRAWN}
    found["layers"] = _columns(found["layers"])
    found["history"] = shared.place(found["history"])
    found["environment"] = shared.place(dict(record.environment))
    found["sensitivity"] = _short(sensitivity_values(record)) if record.sensitivity else None
    found["memory"] = record.memory
    found["sums_rounded_once"] = record.sums_rounded_once
    found["config"] = record.config
    found["stage_keys"] = record.stage_keys
    if details is not None:
        weights = [{**layer, "counts": shared.place(layer["counts"])} for layer in details.weights]
        found["details"] = {
            "weights": weights,
            "classes": details.classes,
            "confusion": details.confusion,
            "fine_tuning": _short(details.fine_tuning),
            "disagreements": details.disagreements,
        }
    return found


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows of the same keys, each key written once."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _short(value: Any) -> Any:
    """Floats with the digits that can be seen."""
    if isinstance(value, Mapping):
        return {key: _short(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_short(inner) for inner in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
