"""Figures of records: Vega-Lite charts, the same templates in the HTML page and as SVG and PNG files for papers.

A template is a Vega-Lite specification in ``qbench/report/page/charts/`` in which a text such as ``"$points"`` stands
for a value; :func:`filled` puts the values in, and so does the page's script. The files are rendered without a browser
or network by vl-convert, which also carries the libraries that the page needs. It is an extra,
``pip install "qbench[figures]"``; without it there are tables only.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from qbench.details import Details
from qbench.errors import RuntimeUnavailable
from qbench.files import write_atomic
from qbench.record import Record
from qbench.report.comparisons import Comparison, compare
from qbench.report.pareto import METRICS, Front, fronts

EXTRA = "figures"
PAGE = Path(__file__).parent / "page"
WIDTH = 560  # pixels, of a figure for a paper
LABELS = 300  # pixels, of the names of what is compared
_PNG_SCALE = 3.0
MOST_PAIRS = 40  # of a chart of differences; more are not told apart


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


def write_figures(records: Sequence[Record], folder: Path, details: Mapping[str, Details] | None = None) -> list[Path]:
    """Draw what the records have to show together, as SVG and PNG.

    ``RUN_ID_sensitivity`` for each record with a sensitivity table; ``comparison_QUESTION_DATASET_MODEL``;
    ``pareto_METRIC_DATASET_MODEL`` for each front of at least two points, numbered where its runs are on several
    machines or kernels.

    Args:
        records: What is drawn, in any order.
        folder: Where the files go.
        details: By run, where a run has them: comparisons are then paired over images.

    Returns:
        The files written, each whole or not at all; none where the extra is not installed.
    """
    if not available():
        return []
    drawn = {f"{record.run_id}_sensitivity": sensitivity_chart(record) for record in records if record.sensitivity}
    drawn.update(comparison_charts(compare(records, details or {})))
    for metric in METRICS.values():
        for front in fronts(records, metric):
            name = _safe(f"pareto_{metric.name}_{front.dataset}_{front.model}")
            number = sum(key == name or key.startswith(f"{name}-") for key in drawn)
            if len(front.points) > 1:
                drawn[f"{name}-{number + 1}" if number else name] = pareto_chart(front)
    return write_charts(drawn, folder)


def write_charts(drawn: Mapping[str, Mapping[str, Any]], folder: Path) -> list[Path]:
    """Each chart on white, as ``NAME.svg`` and ``NAME.png``; returns the files."""
    import vl_convert

    config = {**charts()["theme"]["light"], "background": "white"}
    written = []
    for name, specification in drawn.items():
        svg, png = folder / f"{_safe(name)}.svg", folder / f"{_safe(name)}.png"
        text = vl_convert.vegalite_to_svg(dict(specification), config=config)
        write_atomic(svg, text.encode())
        write_atomic(png, _few_colours(vl_convert.svg_to_png(text, scale=_PNG_SCALE)))
        written += [svg, png]
    return written


def _few_colours(png: bytes) -> bytes:
    """The same image with at most 256 colours, which charts do not exceed by much: a fraction of the bytes."""
    small = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        few = image.convert("RGB").quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(small, "PNG", optimize=True)
    return small.getvalue()


def _safe(name: str) -> str:
    """As a file's name: runs of anything but letters, digits and ``_-.`` become one ``_``."""
    return re.sub(r"[^\w.-]+", "_", name)


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
            "width": WIDTH,
            "points": [{**values, "command": ""} for values in pareto_values(front)],
            "x_title": front.metric.title,
            "y_scale": {"zero": False, "padding": 10},
        },
    )


def comparison_charts(found: Sequence[Comparison]) -> dict[str, dict[str, Any]]:
    """One chart of differences per question and network, by name; the first of too many pairs."""
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for one in found:
        groups.setdefault((one.question, one.dataset, one.model), []).append(one)
    drawn = {}
    for (question, dataset, model), pairs in groups.items():
        values = [_difference(pair) for pair in pairs[:MOST_PAIRS]]
        bases = "; ".join(dict.fromkeys(pair.basis for pair in pairs))
        about = f"{model} on {dataset}"
        drawn[f"comparison_{question}_{dataset}_{model}"] = chart(
            "differences",
            {
                "description": f"{about}, {question}",
                "title": {"text": f"{about}: {question}", "subtitle": [f"95 % intervals, {bases}"]},
                "width": WIDTH + LABELS,
                "height": 34 * len(values),  # two lines each
                "label_limit": LABELS,
                "pairs": values,
            },
        )
    return drawn


def _difference(pair: Comparison) -> dict[str, Any]:
    outcome = "first better" if pair.low > 0 else "second better" if pair.high < 0 else "undecided"
    shown = f"{pair.difference_points:+.2f} [{pair.low:+.2f}, {pair.high:+.2f}]"
    numbers = {name: getattr(pair, name) for name in ("difference_points", "low", "high")}
    return {"name": pair.label, **numbers, "outcome": outcome, "shown": shown, "basis": pair.basis}


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
