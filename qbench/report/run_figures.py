"""The charts of one run, as its page shows them: bytes, layers, weights and levels, training, what was confused.

The page's scripts put the same values into the same templates (``qbench/report/page/run.js`` and ``evidence.js``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qbench.details import Details
from qbench.record import Record
from qbench.report.figures import WIDTH, chart, sensitivity_chart
from qbench.report.pareto import setting_label

PARTS = ("codes", "codebooks", "scales", "floats", "masks", "container")
_BAR = 16  # pixels per bar
_ON_DARK, _ON_LIGHT = "#ffffff", "#1f2630"
_MOST_TICKS = 12  # of epochs
_MOST_NUMBERS = 20  # classes whose cells have room for a number
_THIN_ABOVE = 32  # levels drawn as thin lines


def run_charts(record: Record, details: Details | None) -> dict[str, dict[str, Any]]:
    """Every chart that the run has something to show for, by name.

    Args:
        record: The run; one that failed has no charts.
        details: What is stored beside it, if anything.
    """
    if record.status != "ok":
        return {}
    found = {**_size_charts(record), **dict(_training_charts(record, details))}
    if record.sensitivity:
        found["sensitivity"] = sensitivity_chart(record)
    for layer in details.weights if details is not None else ():
        found[f"weights_{layer['layer']}"] = histogram_chart(record, layer)
    if details is not None and details.confusion:
        found["confusion"] = confusion_chart(record, details.confusion, details.classes)
    return found


def _title(record: Record, about: str, *more: str) -> dict[str, Any]:
    run = f"{setting_label(record)}, {record.model} on {record.dataset}, seed {record.seed}"
    return {"text": about, "subtitle": [run, *(text for text in more if text)]}


def _size_charts(record: Record) -> dict[str, dict[str, Any]]:
    """Where the bytes went, and what each layer has of bits, bytes and error."""
    parts = [(part, getattr(record, f"{part}_bytes")) for part in PARTS]
    found = {}
    if record.size_bytes:
        sub = f"{record.size_bytes:,} bytes"
        found["bytes"] = _bars(record, "Bytes of the file", "part", "bytes", [(n, v) for n, v in parts if v], sub)
    for name, column, title in (
        ("layer_bits", "weight_bits", "bits"),
        ("layer_bytes", "bytes", "bytes"),
        ("layer_sqnr", "sqnr_db", "SQNR, dB"),
    ):
        values = [(layer["layer"], layer.get(column)) for layer in record.layers]
        if any(value is not None for _, value in values):
            found[name] = _bars(record, f"{title} per layer", "layer", title, values)
    return found


def _bars(
    record: Record, about: str, y_title: str, x_title: str, values: Sequence[tuple[str, float | None]], *more: str
) -> dict[str, Any]:
    bars = [{"name": name, "value": value, "shown": _number(value)} for name, value in values]
    said = ", ".join(f"{bar['name']} {bar['shown']}" for bar in bars)
    about_it = {"description": f"{about}: {said}", "title": _title(record, about, *more)}
    size = {"width": WIDTH, "height": _BAR * len(bars)}
    return chart("bars", {**about_it, **size, "bars": bars, "x_title": x_title, "y_title": y_title})


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.1f}" if isinstance(value, float) and not value.is_integer() else f"{value:,.0f}"


def histogram_chart(record: Record, layer: Mapping[str, Any]) -> dict[str, Any]:
    """The float weights of a layer as bars, and the values they can take as lines, or the stored ones as an outline.

    Args:
        record: The run.
        layer: One of ``Details.weights``.
    """
    low, high, counts = layer["low"], layer["high"], layer["counts"]
    width = (high - low) / len(counts)
    bins = [
        {
            "low": low + index * width, "high": low + (index + 1) * width, "centre": low + (index + 0.5) * width,
            "count": count, "stored": stored,
        }
        for index, (count, stored) in enumerate(zip(counts, layer["stored_counts"]))
    ]  # fmt: skip
    levels, channel = layer["levels"] or [], layer["channel"]
    of = "" if channel is None else f" of output channel {channel} (each has its own)"
    sub = f"lines: the {len(levels)} levels{of}" if levels else "outline: as stored"
    flat = [{"centre": low, "stored": 0}, {"centre": high, "stored": 0}]  # where levels say it better
    about = f"Weights of {layer['layer']}"
    return chart(
        "histogram",
        {
            "description": f"{about} from {low:.4g} to {high:.4g}, {len(levels)} levels",
            "title": _title(record, about, f"bars: float weights; {sub}"),
            "width": WIDTH,
            "bins": bins,
            "stored": flat if levels and channel is None else bins,
            "levels": [{"level": level} for level in levels],
            "level_width": 0.5 if len(levels) > _THIN_ABOVE else 1.2,
        },
    )


def _training_charts(record: Record, details: Details | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Loss and accuracy by epoch, of the baseline's training and of the method's own."""
    own = details.fine_tuning if details is not None else ()
    names = [f"fine-tuning {index + 1}" if len(own) > 1 else "fine-tuning" for index in range(len(own))]
    trainings = [("float baseline", record.history), *zip(names, own)]
    kinds = (("train_loss", ", training"), ("validation_loss", ", validation"))
    yield from _curve(record, "loss", "Loss", "loss, nats", trainings, kinds)
    only = (("validation_top1_percent", ""),)
    yield from _curve(record, "accuracy", "Validation accuracy", "top-1, %", trainings, only)


def _curve(
    record: Record,
    name: str,
    about: str,
    y_title: str,
    trainings: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    kinds: Sequence[tuple[str, str]],
) -> Iterator[tuple[str, dict[str, Any]]]:
    points = [
        {"series": series + label, "epoch": epoch["epoch"] + 1, "value": epoch[field]}
        for series, history in trainings
        for field, label in kinds
        for epoch in history
        if epoch.get(field) is not None
    ]
    if points:
        last = max(point["epoch"] for point in points)
        epochs = list(range(1, last + 1, math.ceil(last / _MOST_TICKS)))
        about_it = {"description": about, "title": _title(record, about), "width": WIDTH}
        yield name, chart("curves", {**about_it, "points": points, "y_title": y_title, "epochs": epochs})


def confusion_chart(record: Record, confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> dict[str, Any]:
    """Test images by label and prediction; cells without an image are left out where there are many classes.

    Args:
        record: The run.
        confusion: Counts [label][predicted].
        classes: Their names; numbers take their place where they are not as many.
    """
    size = len(confusion)
    names = list(classes) if len(classes) == size else [f"class {index}" for index in range(size)]
    cells = [
        {"label": names[label], "predicted": names[predicted], "count": count}
        for label, row in enumerate(confusion)
        for predicted, count in enumerate(row)
        if count or size <= _MOST_NUMBERS
    ]
    most = max([1, *(count for row in confusion for count in row)])
    about = "Confusion matrix"
    return chart(
        "confusion",
        {
            "description": about,
            "title": _title(record, about, "test images by label and prediction"),
            "step": 9 if size > 2 * _MOST_NUMBERS else 16 if size > _MOST_NUMBERS else 34,
            "cells": cells,
            "text_filter": "false" if size > _MOST_NUMBERS else "datum.count > 0",
            "dark_cell": f"datum.count > {math.sqrt(most)}",
            "text_on_dark": _ON_DARK,
            "text_on_light": _ON_LIGHT,
        },
    )
