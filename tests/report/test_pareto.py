"""Pareto fronts against a brute-force definition, and what may not be compared."""

from __future__ import annotations

from dataclasses import replace

import pytest
from records import OK, many
from rich.console import Console

from qbench.report.pareto import METRICS, front_table, fronts


@pytest.mark.parametrize("name", METRICS)
def test_the_front_is_what_no_other_point_beats(name: str) -> None:
    found = fronts(many(200), METRICS[name])
    assert {(front.dataset, front.model) for front in found} == {
        (dataset, model) for dataset in ("cifar10", "fashion_mnist") for model in ("small_cnn", "vgg16")
    }
    for front in found:
        points = [(point.value, point.top1_percent) for point in front.points]
        assert points == sorted(points, key=lambda one: (one[0], -one[1]))
        for point, (value, top1) in zip(front.points, points):
            beaten = any((v <= value and t >= top1) and (v, t) != (value, top1) for v, t in points)
            assert point.on_front is not beaten
        assert any(point.on_front for point in front.points)


def test_seeds_are_one_point_of_means() -> None:
    runs = [replace(OK, run_id=f"s{seed}", seed=seed, top1_percent=90.0 + seed, size_bytes=1000) for seed in (0, 1, 2)]
    (front,) = fronts(runs, METRICS["size"])
    (point,) = front.points
    assert (point.top1_percent, point.value, point.run_ids) == (91.0, 1.0, ("s0", "s1", "s2"))
    assert point.low is None and point.on_front
    (front,) = fronts(runs[:1], METRICS["size"])
    assert (front.points[0].low, front.points[0].high) == (OK.top1_low_percent, OK.top1_high_percent)


def test_latencies_of_other_kernels_machines_and_batches_are_other_fronts() -> None:
    other = [
        replace(OK, run_id="i", latency_kind="integer"),
        replace(OK, run_id="b", batch_size=32),
        replace(OK, run_id="t", threads=8),
        replace(OK, run_id="m", environment={"cpu_model": "another"}),
    ]
    found = fronts([OK, *other], METRICS["latency"])
    assert sorted(point.run_ids for front in found for point in front.points) == [
        ("b",),
        ("i",),
        ("m",),
        ("ok",),
        ("t",),
    ]
    assert len({front.conditions for front in found}) == 5
    assert fronts([replace(OK, latency_kind="simulated")], METRICS["latency"]) == []
    assert len(fronts([OK, *other], METRICS["size"])) == 1


def test_runs_without_figures_are_left_out() -> None:
    failed = replace(OK, status="failed")
    assert fronts([failed, replace(OK, top1_percent=None), replace(OK, size_bytes=None)], METRICS["size"]) == []


def test_the_terminal_marks_the_front() -> None:
    worse = replace(OK, run_id="w", method="[bold]linear", top1_percent=80.0, size_bytes=20000)
    (front,) = fronts([OK, worse], METRICS["size"])
    console = Console(width=100, no_color=True, force_terminal=False)
    with console.capture() as printed:
        console.print(front_table(front))
    lines = [line.split() for line in printed.get().splitlines() if "w4" in line]
    assert lines == [["●", "kmeans", "w4", "15.2", "95.00"], ["[bold]linear", "w4", "20.0", "80.00"]]
