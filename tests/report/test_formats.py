"""What ``qbench report`` prints and writes, by flag."""

from __future__ import annotations

import io
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
from calling import Bench
from records import DETAILS, OK, many

from qbench.record import load_records
from qbench.report.formats import formatted, latex
from qbench.report.tables import markdown, sort_records

HOSTILE = replace(OK, run_id="h", variant="a_b=50% {x} \\ #1 & ~^<>$|")


@pytest.fixture
def outputs(bench: Bench) -> Path:
    """Thirty records and the details of one, where the report looks for them."""
    for record in many(30):
        record.save(bench.outputs / "records")
    replace(DETAILS, run_id=f"{0:012x}").save(bench.outputs / "details")
    return bench.outputs


@pytest.mark.parametrize("form", ["csv", "md", "json", "latex"])
def test_a_format_is_all_that_is_printed(bench: Bench, outputs: Path, form: str) -> None:
    done = bench("report", "--format", form)
    expected = formatted(load_records(outputs / "records")[0], form)
    assert (done.code, done.out, done.err) == (0, expected, "")
    assert len(expected) > 30 * 30
    assert sorted(path.name for path in outputs.iterdir()) == ["details", "records"]  # and nothing is written


def test_formats_hold_the_records() -> None:
    records = many(12)
    table = pd.read_csv(io.StringIO(formatted(records, "csv")))
    assert table["run_id"].tolist() == [record.run_id for record in sort_records(records)]
    assert [one["run_id"] for one in json.loads(formatted(records, "json"))] == table["run_id"].tolist()
    assert json.loads(formatted([OK], "json")) == json.loads(json.dumps([asdict(OK)]))
    assert formatted(records, "md") == markdown(records)
    with pytest.raises(ValueError, match="known are csv, md, json, latex"):
        formatted(records, "xml")


def test_latex_is_a_table_of_as_many_cells_and_escapes_what_it_must() -> None:
    lines = latex([OK, HOSTILE]).splitlines()
    columns = re.fullmatch(r"\\begin\{tabular\}\{([lr]+)\}", lines[1])
    assert columns is not None and lines[-1] == r"\end{tabular}"
    rows = [line for line in lines if line.endswith(r"\\")]
    assert len(rows) == 3
    assert all(len(re.split(r"(?<!\\)&", row)) == len(columns[1]) for row in rows)
    special = r"a\_b=50\% \{x\} \textbackslash{} \#1 \& \textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\$|"
    assert special in rows[1] + rows[2]
    assert r"$\Delta$ points" in rows[0]


def test_a_front_is_printed_with_the_commands_that_repeat_it(bench: Bench, outputs: Path) -> None:
    done = bench("report", "--pareto", "size")
    assert done.code == 0
    assert "vgg16 on cifar10: top-1 accuracy against size, kB" in done.out
    assert done.out.count("●") >= 4
    assert "kmeans w8: qbench run dataset=digits model=small_cnn method=kmeans runtime=torch " in done.out
    assert not (outputs / "tables").exists()


def test_the_page_is_written_beside_the_records_or_where_asked(bench: Bench, outputs: Path, tmp_path: Path) -> None:
    done = bench("report", "--html")
    assert done.code == 0 and "30 runs" in done.out
    page = (outputs / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "window.vegaEmbed=" in page
    elsewhere = tmp_path / "else" / "where.html"
    assert bench("report", "--html", "--output", str(elsewhere)).code == 0
    assert elsewhere.read_text(encoding="utf-8") == page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "xml"], "--format xml: allowed are csv, md, json, latex"),
        (["--pareto", "colour"], "--pareto colour: allowed are size, latency, energy"),
        (["--pareto"], "--pareto: size or latency or energy is missing"),
        (["--html", "--format", "csv"], "give one of them"),
        (["--output", "x.html"], "add --html"),
        (["--pdf"], "flags: --html"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_are_refused(bench: Bench, outputs: Path, words: list[str], message: str) -> None:
    done = bench("report", *words)
    assert done.code == 2 and message in done.err and done.out == ""


def test_a_front_of_nothing_is_an_error(bench: Bench) -> None:
    replace(OK, energy_modelled_uJ=None).save(bench.outputs / "records")
    done = bench("report", "--pareto", "energy")
    assert done.code == 2 and "no run has both an accuracy and energy" in done.err


def test_damaged_details_are_a_note_and_the_page_is_written(bench: Bench, outputs: Path) -> None:
    (outputs / "details" / f"{3:012x}.json").write_text("{")
    done = bench("report", "--html")
    assert done.code == 0 and (outputs / "report.html").is_file()
    assert "not the details of a run" in done.err
