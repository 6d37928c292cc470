"""The cells of a deployed file: how far its engine agrees with the integer reference, and how fast it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qbench.record import Record

BATCH_SIZES = (1, 32)
# prefix of the fields of a measurement -> what the float network ran on
BASELINES = {"ratio": "PyTorch", "same_runtime_ratio": "the same runtime"}


def agreement_cells(record: Record | None, row: Mapping[str, Any]) -> dict[str, str]:
    """Cells by title, those without a value empty.

    Args:
        record: None where the run is missing: its row says so.
        row: ``goal``, where there is one: the least agreement with the integer reference, in percent.
    """
    if record is None:
        return {"top-1 %": "not run"}
    compared = record.agreement_integer_percent is not None
    once = {"sums rounded once": str(len(record.sums_rounded_once)) if compared else ""}
    cells = {**_answers(record), **once, "goal %": "", **_what_ran(record)}
    if (goal := row.get("goal")) is not None and record.agreement_integer_percent is not None:
        cells["goal %"] = f"{goal:g}: {'reached' if record.agreement_integer_percent >= goal else 'missed'}"
    for size in BATCH_SIZES:
        found = next((one for one in record.latency if one["batch_size"] == size), {})
        for field, runtime in BASELINES.items():
            cells[f"× float on {runtime}, batch {size} [95 %]"] = _speed_up(found, field)
    return cells


def answer_cells(record: Record | None, row: Mapping[str, Any]) -> dict[str, str]:
    """As :func:`agreement_cells` without goals and times: what a file answers, whose speed is told elsewhere."""
    return {"top-1 %": "not run"} if record is None else {**_answers(record), **_what_ran(record)}


def _answers(record: Record) -> dict[str, str]:
    return {
        "top-1 %": _number(record.top1_percent, 2),
        "agreement with integers %": _number(record.agreement_integer_percent, 2),
        "identical logits %": _number(record.identical_logits_percent, 2),
        "largest difference": _number(record.largest_logit_difference, 3),
    }


def _what_ran(record: Record) -> dict[str, str]:
    size = "" if record.size_bytes is None else f"{record.size_bytes / 1000:,.0f}"
    return {"kernel": record.latency_kind or "", "ran on": _ran_on(record), "file, kB": size}


def _ran_on(record: Record) -> str:
    """The runtime; of ``auto`` what it chose, at each batch size where that differs."""
    chosen = {one["batch_size"]: one["runtime"] for one in record.candidates if one["chosen"]}
    if len({*chosen.values()}) > 1:
        return ", ".join(f"{name} (batch {size})" for size, name in chosen.items())
    return record.runtime_chosen or record.runtime


def _speed_up(measured: Mapping[str, Any], field: str) -> str:
    ratio, low, high = (measured.get(name) for name in (field, f"{field}_low", f"{field}_high"))
    return "" if ratio is None or low is None or high is None else f"{ratio:.2f} [{low:.2f}, {high:.2f}]"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
