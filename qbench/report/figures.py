"""Figures of records: Vega-Lite charts, the same templates in the HTML page and as SVG and PNG files for papers.

A template is a Vega-Lite specification in ``qbench/report/page/charts/`` in which a text such as ``"$points"`` stands
for a value; :func:`filled` puts the values in, and so does the page's script. The files are rendered without a browser
or network by vl-convert, which also carries the libraries that the page needs. It is an extra,
``pip install "qbench[figures]"``; without it there are tables only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qbench.errors import RuntimeUnavailable
from qbench.files import write_atomic
from qbench.record import Record
from qbench.report.pareto import METRICS, Front, fronts

EXTRA = "figures"
PAGE = Path(__file__).parent / "page"
_WIDTH = 560  # pixels, of a figure for a paper
_PNG_SCALE = 3.0


def available() -> bool:
    """Whether the library that draws is installed."""
    return find_spec("vl_convert") is not None


def vega_bundle() -> str:
    """The JavaScript of Vega, Vega-Lite and vega-embed; it defines ``window.vegaEmbed`` and needs nothing else.

    Raises:
        RuntimeUnavailable: The library that carries it is not installed.
    """
    if not available():
        raise RuntimeUnavailable(f'the page needs the libraries that draw: pip install "qbench[{EXTRA}]"')
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # inside a block its many short names are nobody else's
    return "{" + bundle.replace("</script", "<\\/script") + "\n}"


@cache
def charts() -> dict[str, Any]:
    """Every template by name, and the colours under ``theme``."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(PAGE.glob("charts/*.json"))}
    return {**found, "theme": json.loads((PAGE / "theme.json").read_text(encoding="utf-8"))}


def chart(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The specification of a chart: the template of that name with its values.

    Raises:
        KeyError: A value is missing.
    """
    specification: dict[str, Any] = filled(charts()[name], values)
    return specification


def filled(template: Any, values: Mapping[str, Any]) -> Any:
    """A template with every ``"$name"`` replaced by that value.

    Raises:
        KeyError: A name has no value.
    """
    if isinstance(template, str) and template.startswith("$"):
        return values[template[1:]]
    if isinstance(template, Mapping):
        return {key: inner if key == "$schema" else filled(inner, values) for key, inner in template.items()}
    return [filled(inner, values) for inner in template] if isinstance(template, list) else template


def write_figures(records: Sequence[Record], folder: Path) -> list[Path]:
    """Draw what the records have to show, as SVG and PNG.

    ``RUN_ID_sensitivity`` for each record with a sensitivity table, and ``pareto_METRIC_DATASET_MODEL`` for each front
    of at least two points; numbered where its runs are on several machines or kernels.

    Returns:
        The files written, whole or not at all; none where the extra is not installed.
    """
    if not available():
        return []
    drawn = {f"{record.run_id}_sensitivity": sensitivity_chart(record) for record in records if record.sensitivity}
    for metric in METRICS.values():
        for front in fronts(records, metric):
            name = _safe(f"pareto_{metric.name}_{front.dataset}_{front.model}")
            number = sum(key == name or key.startswith(f"{name}-") for key in drawn)
            if len(front.points) > 1:
                drawn[f"{name}-{number + 1}" if number else name] = pareto_chart(front)
    return [path for name, drawing in drawn.items() for path in _rendered(drawing, folder / name)]


def _rendered(specification: dict[str, Any], stem: Path) -> list[Path]:
    """The chart on white, as ``stem.svg`` and ``stem.png``."""
    import vl_convert

    config = {**charts()["theme"]["light"], "background": "white"}
    svg, png = stem.with_name(f"{stem.name}.svg"), stem.with_name(f"{stem.name}.png")
    write_atomic(svg, vl_convert.vegalite_to_svg(specification, config=config).encode())
    write_atomic(png, vl_convert.vegalite_to_png(specification, config=config, scale=_PNG_SCALE))
    return [svg, png]


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "_-." else "_" for letter in name)


def pareto_values(front: Front) -> list[dict[str, Any]]:
    """One mapping per point: what the chart of a front draws and what its tooltip says, the command aside."""
    found = []
    for point in front.points:
        seeds = len(point.run_ids)
        interval = "" if point.low is None else f" [{point.low:.2f}, {point.high:.2f}]"
        found.append(
            {
                "run": point.run_ids[0],
                "setting": point.label + (f", mean of {seeds} seeds" if seeds > 1 else ""),
                "method": point.method,
                "value": point.value,
                "top1_percent": point.top1_percent,
                "low": point.low,
                "high": point.high,
                "accuracy": f"{point.top1_percent:.2f}{interval}",
                "cost": f"{point.value:,.{front.metric.digits}f}",
                "on_front": point.on_front,
                "place": "on the front" if point.on_front else "dominated",
            }
        )
    return found


def pareto_chart(front: Front) -> dict[str, Any]:
    """Accuracy against cost: every point, the front drawn through those no other one beats."""
    about = f"{front.model} on {front.dataset}"
    conditions = [front.conditions] if front.conditions else []
    return chart(
        "pareto",
        {
            "description": f"{about}: top-1 accuracy against {front.metric.title}",
            "title": {"text": about, "subtitle": conditions},
            "width": _WIDTH,
            "points": [{**values, "command": ""} for values in pareto_values(front)],
            "x_title": front.metric.title,
            "y_scale": {"zero": False, "padding": 10},
        },
    )


def sensitivity_values(record: Record) -> dict[str, Any]:
    """What the matrix of layers and options draws; a sensitivity of 0 has the colour of the smallest positive one."""
    rows = [dict(row) for row in record.sensitivity]
    smallest = min((row["sensitivity"] for row in rows if row["sensitivity"] > 0), default=1.0)
    cells = [
        {**row, "option": f"{row['encoding']} {row['bits']}", "shown": max(row["sensitivity"], smallest)}
        for row in rows
    ]
    by_option = {cell["option"]: (cell["encoding"], cell["bits"]) for cell in cells}
    return {
        "cells": cells,
        "options": sorted(by_option, key=lambda option: by_option[option]),
        "layers": list(dict.fromkeys(row["layer"] for row in rows)),
    }


def sensitivity_chart(record: Record) -> dict[str, Any]:
    """A matrix of layers, in execution order, and options, coloured by sensitivity on a logarithmic scale.

    The option each layer got is marked.
    """
    subtitle = [" ".join(filter(None, [record.method, record.variant])), "dots: what each layer got"]
    about = f"{record.model} on {record.dataset}"
    title = {"text": about, "subtitle": subtitle}
    values = {"description": f"{about}: sensitivity of each layer to each option", "title": title}
    return chart("sensitivity", {**values, **sensitivity_values(record)})
