"""Every figure of the page as a file: the same values, valid images of moderate size."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from records import DETAILS, OK, many

from qbench.report import figures
from qbench.report.comparisons import compare
from qbench.report.run_figures import confusion_chart, histogram_chart, run_charts
from qbench.reporting import report

ROOT = Path(__file__).parents[2]
MOST_BYTES = 300_000
OF_A_RUN = {
    "bytes", "layer_bits", "layer_bytes", "layer_sqnr", "loss", "accuracy", "confusion", "weights_stem",
    "weights_body.1", "weights_head",
}  # fmt: skip


def saved(folder: Path) -> Path:
    """Two runs to compare, one with details."""
    for record in (OK, replace(OK, run_id="other", method="linear", top1_percent=80.0, size_bytes=20000, layers=())):
        record.save(folder / "records")
    DETAILS.save(folder / "details")
    return folder


def values(chart: dict, layer: int | None = None) -> list[dict]:
    found: list[dict] = (chart if layer is None else chart["layer"][layer])["data"]["values"]
    return found


def test_a_run_has_each_chart_of_its_page() -> None:
    assert run_charts(OK, DETAILS).keys() == OF_A_RUN
    assert run_charts(OK, None).keys() == OF_A_RUN - {name for name in OF_A_RUN if name[0] in "w"} - {"confusion"}
    assert run_charts(replace(OK, status="failed"), DETAILS) == {}
    nothing = replace(OK, layers=(), history=(), size_bytes=None)
    assert run_charts(nothing, None) == {}


def test_bars_are_the_record(tmp_path: Path) -> None:
    drawn = run_charts(OK, None)
    assert {bar["name"]: bar["value"] for bar in values(drawn["bytes"])} == {
        "codes": 12000, "codebooks": 200, "floats": 500, "container": 2500,
    }  # fmt: skip
    assert [(bar["name"], bar["value"]) for bar in values(drawn["layer_bytes"])] == [
        ("stem", 1000), ("body.1", 2000), ("head", 3000),
    ]  # fmt: skip
    curve = values(drawn["loss"])
    assert Counter(point["series"] for point in curve) == {
        "float baseline, training": 8,
        "float baseline, validation": 8,
    }
    tuned = values(run_charts(OK, DETAILS)["accuracy"])
    assert [p["value"] for p in tuned if p["series"] == "fine-tuning"] == [50.0, 55.0, 60.0]
    assert [p["epoch"] for p in tuned if p["series"] == "fine-tuning"] == [1, 2, 3]


def test_a_histogram_has_bins_and_levels() -> None:
    chart = histogram_chart(OK, DETAILS.weights[0])
    bins = values(chart, 0)
    assert (bins[0]["low"], bins[-1]["high"], len(bins)) == (-1.0, 1.0, 64)
    assert [one["count"] for one in bins] == DETAILS.weights[0]["counts"]
    assert [one["level"] for one in values(chart, 2)] == DETAILS.weights[0]["levels"]
    assert [one["stored"] for one in values(chart, 1)] == [0, 0]  # the levels say it
    without = histogram_chart(OK, {**DETAILS.weights[0], "levels": None})
    assert [one["stored"] for one in values(without, 1)] == DETAILS.weights[0]["stored_counts"]


def test_of_many_classes_only_cells_with_images_are_drawn() -> None:
    wide = [[3 * (row == column) for column in range(50)] for row in range(50)]
    chart = confusion_chart(OK, wide, ())
    assert len(values(chart)) == 50 and values(chart)[7]["label"] == "class 7"
    assert len(values(confusion_chart(OK, DETAILS.confusion or (), DETAILS.classes))) == 100


def test_a_comparison_is_drawn_with_its_interval() -> None:
    worse = {"top1_percent": 80.0, "top1_low_percent": 74.0, "top1_high_percent": 85.0}
    runs = [OK, replace(OK, run_id="other", method="linear", **worse)]
    drawn = figures.comparison_charts(compare(runs, {}))
    ((name, chart),) = drawn.items()
    assert name == "comparison_k-means against linear, at equal bits_digits_small_cnn"
    (pair,) = values(chart)
    (expected,) = compare(runs, {})
    assert (pair["difference_points"], pair["low"], pair["high"]) == (15.0, expected.low, expected.high)
    assert pair["outcome"] == "first better" and pair["name"].startswith("kmeans w4 − linear w4")


def check(folder: Path) -> None:
    """Each file is a whole image of its kind, not blank, and no larger than a page of a paper wants."""
    for path in folder.rglob("*.*"):
        content = path.read_bytes()
        assert len(content) <= MOST_BYTES, path
        if path.suffix == ".svg":
            assert ET.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"
            continue
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            assert image.format == "PNG" and min(image.size) > 100
            low, high = image.convert("L").getextrema()
            assert low < 128 < high


def test_report_writes_all_figures_of_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = saved(tmp_path / "outputs")
    assert report([str(place), "--figures", str(tmp_path / "all")]) == 0
    together = [f"pareto_{cost}_digits_small_cnn" for cost in ("size", "latency", "energy")]
    together.append("comparison_k-means_against_linear_at_equal_bits_digits_small_cnn")
    expected = {*together, *(f"ok/{name}" for name in OF_A_RUN), "other/bytes", "other/loss", "other/accuracy"}
    written = {path.relative_to(tmp_path / "all").with_suffix("") for path in (tmp_path / "all").rglob("*.svg")}
    assert {path.as_posix() for path in written} == expected
    check(tmp_path / "all")
    assert f"written: {2 * len(expected)} files" in capsys.readouterr().out
    assert report([str(place / "records" / "other.json"), "--figures", str(tmp_path / "one")]) == 0
    assert sorted(path.name for path in (tmp_path / "one").glob("*.png")) == ["accuracy.png", "bytes.png", "loss.png"]


def test_of_many_runs_only_what_they_show_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("qbench.reporting.MOST_RUNS_DRAWN", 1)
    assert report([str(saved(tmp_path)), "--figures", str(tmp_path / "all")]) == 0
    assert not [path for path in (tmp_path / "all").iterdir() if path.is_dir()]
    assert "2 runs; for those of one alone" in capsys.readouterr().out


def test_a_crowded_front_stays_small(tmp_path: Path) -> None:
    crowded = [replace(one, dataset="digits", model="small_cnn", variant=f"x={i}") for i, one in enumerate(many(120))]
    figures.write_figures(crowded, tmp_path)
    assert len([*tmp_path.glob("pareto_*.png")]) == 3
    check(tmp_path)


def test_committed_images_are_no_larger_than_a_reader_wants() -> None:
    images = [path for path in (ROOT / "docs").rglob("*.*") if path.suffix in (".png", ".svg")]
    assert images and [path.name for path in images if path.stat().st_size > MOST_BYTES] == []


def test_templates_are_those_of_the_page() -> None:
    """Whatever a run draws is a template that the page has, with every value of it filled."""
    for chart in run_charts(OK, DETAILS).values():
        assert "$" not in json.dumps({**chart, "$schema": ""}).replace('"$schema"', "")
