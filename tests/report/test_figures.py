"""Figures: what a sensitivity table says is what is drawn."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from records import OK

from qbench.record import Record
from qbench.report import figures
from qbench.reporting import report

ROWS = tuple(
    {"layer": layer, "encoding": kind, "bits": bits, "sensitivity": value, "bytes": 100 * bits, "chosen": chosen}
    for layer, kind, bits, value, chosen in (
        ("stem", "kmeans", 2, 0.5, False),
        ("stem", "kmeans", 4, 0.01, True),
        ("body.10", "kmeans", 2, 0.02, True),
        ("body.10", "kmeans", 4, 0.0, False),
    )
)
RECORD = Record("h3", "ok", "digits", "small_cnn", "hybrid", 0, "torch", sensitivity=ROWS, variant="budget=avg_bits:3")


def test_the_chart_has_every_option_of_every_layer_and_marks_the_chosen() -> None:
    spec = figures.sensitivity_chart(RECORD)
    data = spec["data"]["values"]
    drawn = [(row["layer"], row["option"], row["sensitivity"], row["chosen"]) for row in data]
    assert drawn == [(r["layer"], f"kmeans {r['bits']}", r["sensitivity"], r["chosen"]) for r in ROWS]
    assert min(row["shown"] for row in data) == 0.01  # a logarithm has no 0
    assert spec["encoding"]["y"]["sort"] == ["stem", "body.10"]  # execution order, not the alphabet's
    assert spec["encoding"]["x"]["sort"] == ["kmeans 2", "kmeans 4"]
    assert spec["layer"][1]["transform"] == [{"filter": "datum.chosen"}]


def test_each_record_with_a_table_is_a_figure(tmp_path: Path) -> None:
    plain = replace(RECORD, run_id="k4", sensitivity=())
    written = figures.write_figures([plain, RECORD], tmp_path / "figures")
    names = ["h3_sensitivity.png", "h3_sensitivity.svg"]
    assert sorted(path.name for path in written) == names == sorted(p.name for p in (tmp_path / "figures").iterdir())
    text = " ".join(ET.fromstring((tmp_path / "figures" / "h3_sensitivity.svg").read_text()).itertext())
    assert "body.10" in text and "kmeans 4" in text and "budget=avg_bits:3" in text
    assert (tmp_path / "figures" / "h3_sensitivity.png").read_bytes().startswith(b"\x89PNG")


def test_each_front_of_two_points_or_more_is_a_figure(tmp_path: Path) -> None:
    worse = replace(OK, run_id="w", method="linear", top1_percent=80.0, size_bytes=20000)
    other = [replace(one, run_id=f"{one.run_id}i", latency_kind="integer") for one in (OK, worse)]
    written = figures.write_figures([OK, worse, *other], tmp_path)
    costs = ("energy", "latency", "size")
    assert sorted(path.name for path in written if path.suffix == ".svg") == sorted(
        [
            "comparison_k-means_against_linear_at_equal_bits_digits_small_cnn.svg",
            *(f"pareto_{cost}_digits_small_cnn.svg" for cost in costs),
            "pareto_latency_digits_small_cnn-2.svg",
        ]
    )
    text = " ".join(ET.fromstring((tmp_path / "pareto_size_digits_small_cnn.svg").read_text()).itertext())
    assert "small_cnn on digits" in text and "size, kB" in text and "linear" in text
    assert figures.write_figures([OK], tmp_path / "none") == []


def test_a_table_of_nothing_but_zeros_is_drawn(tmp_path: Path) -> None:
    zeros = replace(RECORD, sensitivity=tuple({**row, "sensitivity": 0.0} for row in ROWS))
    assert len(figures.write_figures([zeros], tmp_path)) == 2


def test_report_draws_and_without_the_extra_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RECORD.save(tmp_path / "records")
    assert report([str(tmp_path)]) == 0
    assert (tmp_path / "figures" / "h3_sensitivity.svg").is_file()
    monkeypatch.setattr(figures, "available", lambda: False)
    capsys.readouterr()
    assert report([str(tmp_path)]) == 0
    assert 'no figures; they need: pip install "qbench[figures]"' in capsys.readouterr().out
