"""Pareto fronts: which runs no other run beats in both accuracy and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from rich import box
from rich.markup import escape
from rich.table import Table

from qbench.config import bits_label
from qbench.record import Record
from qbench.report.tables import sort_records


@dataclass(frozen=True)
class Metric:
    """A cost to set accuracy against: a column of the record, in its own unit times ``factor``."""

    name: str
    column: str
    title: str
    factor: float = 1.0
    digits: int = 2


METRICS = {
    "size": Metric("size", "size_bytes", "size, kB", 1e-3, 1),
    "latency": Metric("latency", "latency_ms_median", "latency, ms", 1.0, 3),
    "energy": Metric("energy", "energy_modelled_uJ", "modelled energy, µJ", 1.0, 2),
}


@dataclass(frozen=True)
class Point:
    """One setting, over its seeds: means where it ran with several, else the run's own figures.

    ``low`` and ``high`` bound the accuracy of a single run, over images; None over several seeds.
    ``run_ids`` are the runs behind it, by seed.
    """

    label: str
    method: str
    value: float
    top1_percent: float
    low: float | None
    high: float | None
    run_ids: tuple[str, ...]
    on_front: bool = False


@dataclass(frozen=True)
class Front:
    """The points that can be compared, cheapest first, and what they have in common."""

    dataset: str
    model: str
    metric: Metric
    conditions: str
    points: tuple[Point, ...]


def fronts(records: Sequence[Record], metric: Metric) -> list[Front]:
    """One front per data set and network; of latency also per kind of kernel, batch size, threads and processor.

    Simulated kernels have no latency worth comparing: their time is that of the simulation.
    """
    groups: dict[tuple[str, str, str], dict[tuple[object, ...], list[Record]]] = {}
    for record in sort_records(records):
        if record.status != "ok" or record.top1_percent is None or not getattr(record, metric.column):
            continue
        if metric.name == "latency" and record.latency_kind == "simulated":
            continue
        group = (record.dataset, record.model, _conditions(record, metric))
        asked = (record.method, record.variant, record.weight_bits, record.act_bits, record.runtime, record.device)
        setting = (*asked, str(record.config.get("train")), record.n_test)
        groups.setdefault(group, {}).setdefault(setting, []).append(record)
    return [
        Front(dataset, model, metric, conditions, _marked([_point(runs, metric) for runs in settings.values()]))
        for (dataset, model, conditions), settings in groups.items()
    ]


def setting_label(record: Record) -> str:
    """``kmeans granularity=per_channel w4 on onnxruntime``."""
    place = f"on {record.runtime}" if record.runtime != "torch" else None
    bits = bits_label(record.weight_bits, record.act_bits)
    return " ".join(filter(None, [record.method, record.variant, bits, place]))


def _conditions(record: Record, metric: Metric) -> str:
    """What two runs must share for their figures to be comparable."""
    if metric.name == "energy":
        return f"model {record.energy_model}"
    if metric.name != "latency":
        return ""
    processor = record.environment.get("cpu_model") or record.environment.get("cpu") or "unknown processor"
    return f"{record.latency_kind} kernels, batch {record.batch_size}, {record.threads} threads, {processor}"


def _point(runs: Sequence[Record], metric: Metric) -> Point:
    first = runs[0]
    alone = len(runs) == 1
    return Point(
        label=setting_label(first),
        method=first.method,
        value=metric.factor * fmean(getattr(run, metric.column) for run in runs),
        top1_percent=fmean(run.top1_percent for run in runs if run.top1_percent is not None),
        low=first.top1_low_percent if alone else None,
        high=first.top1_high_percent if alone else None,
        run_ids=tuple(run.run_id for run in runs),
    )


def _marked(points: Sequence[Point]) -> tuple[Point, ...]:
    """By rising cost, those on the front marked: more accurate than everything that costs as much or less."""
    best = float("-inf")
    marked = []
    for point in sorted(points, key=lambda one: (one.value, -one.top1_percent)):
        on_front = point.top1_percent > best
        best = max(best, point.top1_percent)
        marked.append(Point(**{**vars(point), "on_front": on_front}))
    return tuple(marked)


def front_title(front: Front) -> str:
    """What a front is about, in a line."""
    about = f"{front.model} on {front.dataset}: top-1 accuracy against {front.metric.title}"
    return f"{about} ({front.conditions})" if front.conditions else about


def front_table(front: Front) -> Table:
    """A front on the terminal: every point by rising cost, those on the front marked, the dominated ones dim."""
    several = any(len(point.run_ids) > 1 for point in front.points)
    table = Table(header_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("front", justify="center")
    table.add_column("setting", overflow="fold")
    for heading in (front.metric.title, "top-1 %", *(["seeds"] if several else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for point in front.points:
        cells = [f"{point.value:,.{front.metric.digits}f}", f"{point.top1_percent:.2f}"]
        cells += [str(len(point.run_ids))] if several else []
        mark = "●" if point.on_front else ""
        table.add_row(mark, escape(point.label), *cells, style=None if point.on_front else "dim")
    return table
