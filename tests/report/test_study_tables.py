"""The tables of a study from hand-made records: every number below can be checked by hand."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from report.records import CPU, DETAILS, OK, unmade
from rich.console import Console

from qbench.details import pack
from qbench.errors import ConfigError
from qbench.record import Record
from qbench.report.quantities import QUANTITIES
from qbench.report.studies import Results, as_json, csv_text, markdown, results, rich_tables, write_study
from qbench.report.study import Example, Study, study_of
from qbench.report.study_figures import RowRuns, answers
from qbench.report.worked import COMPUTE, work

FORM: dict[str, Any] = {
    "summary": "cut or rounded",
    "source": "one training of each",
    "parts": [
        {
            "rows": [
                {"name": "eight", "what": "8 bits", "runs": {"cut": "", "rounded": ""}},
                {"name": "four", "what": "4 bits", "runs": {"cut": "", "rounded": "", "timed": ""}},
            ],
            "tables": [
                {
                    "title": "accuracy",
                    "columns": [
                        {"title": "cut %", "value": "top1_percent", "run": "cut"},
                        {"title": "rounded %", "value": "top1_percent", "run": "rounded", "trained": True},
                        {"title": "gain", "value": "difference", "run": "cut", "minus": "rounded"},
                        {"title": "p", "value": "p_value", "run": "cut", "minus": "rounded"},
                        {"title": "one seed", "value": "seed_range", "run": "cut", "minus": "rounded"},
                        {"title": "is", "value": "verdict", "run": "cut", "minus": "rounded"},
                    ],
                    "source": {"eight": ["~90", 85.5, None, None, None, None]},
                },
                {
                    "title": "cost",
                    "columns": [
                        {"title": "MB", "value": "size_MB", "run": "cut"},
                        {"title": "% less", "value": "size_MB", "run": "cut", "less_than": "rounded"},
                        {"title": "ms", "value": "latency_ms", "run": ["timed", "cut"]},
                        {"title": "speed-up", "value": "speedup", "run": ["timed", "cut"]},
                        {"title": "kernel", "value": "kernel", "run": "timed"},
                        {"title": "J", "value": "energy_measured_J", "run": "cut"},
                    ],
                    "source": {"four": [1234, None, 7, None, "int8 | float", None]},
                },
            ],
        }
    ],
    "claim": {"says": "cutting wins", "because": "It drops the fraction."},
    "notes": ["The source trained once."],
}
TRAINED = {"train": {"epochs": 3}, "model": {"weights": None}}


def run(name: str, seed: int, top1: float, **changes: Any) -> Record:
    facts = {"top1_percent": top1, "seed": seed, "run_id": f"{name}{seed}", "config": TRAINED, "method": name}
    return replace(OK, **{**facts, **changes})


def of_three(name: str, *top1: float, **changes: Any) -> list[Record]:
    return [run(name, seed, value, **changes) for seed, value in enumerate(top1)]


def example_rows(study: Study) -> list[RowRuns]:
    eight, four = study.rows
    smaller = {"size_bytes": 5_000_000}
    timed = [run("t", 0, 80.0, latency_ms_median=2.5, latency_kind="integer")]
    return [
        RowRuns(eight, "", {"cut": of_three("c", 90, 91, 92, **smaller), "rounded": of_three("r", 85, 85, 85)}),
        RowRuns(
            four,
            "",
            {
                "cut": of_three("cc", 70, 70.5, 70.5, **smaller),
                "rounded": of_three("rr", 70, 70, 70, size_bytes=20_000_000),
                "timed": timed,
            },
        ),
    ]


@pytest.fixture
def study() -> Study:
    return study_of("x", FORM)


@pytest.fixture
def found(study: Study) -> Results:
    return results(study, example_rows(study), {})


GOLDEN = Path(__file__).parents[1] / "golden" / "study_page.md"


def test_the_page(found: Results) -> None:
    """Rewritten by hand, after a look: GOLDEN.write_text(markdown(found))."""
    assert markdown(found) == GOLDEN.read_text(encoding="utf-8")


def test_figures_in_the_csv_have_their_intervals_and_runs(found: Results) -> None:
    rows = {(row["row"], row["column"]): row for row in csv.DictReader(io.StringIO(csv_text(found)))}
    gain = rows["eight", "gain"]
    # differences 5, 6, 7: mean 6, standard error 1 / sqrt(3), t(0.975; 2) = 4.302653
    assert float(gain["value"]) == 6 and float(gain["low_95_percent"]) == pytest.approx(6 - 4.302653 / 3**0.5)
    assert (gain["n_seeds"], gain["interval_over"], gain["run_ids"]) == ("3", "seeds", "c0 r0 c1 r1 c2 r2")
    assert rows["four", "% less"]["value"] == "75.0" and rows["four", "ms"]["run_ids"] == "t0"
    assert rows["eight", "J"]["note"] == "the processor's counters cannot be read" and rows["eight", "J"]["value"] == ""
    assert ("eight", "kernel") not in rows  # the row has no such run, and the source says nothing
    assert rows["four", "speed-up"]["interval_over"] == "rounds"


def test_p_values_are_corrected_for_all_comparisons_of_the_study(study: Study) -> None:
    rows = example_rows(study)
    both = {key[0]: answer for key, answer in answers(study, rows, {}).items()}
    alone = next(iter(answers(study, rows[:1], {}).values()))
    # t = 6 / (1 / sqrt(3)) with two degrees of freedom: p = 0.0091; the other's is 0.18
    assert alone.p_holm == pytest.approx(0.009137, rel=1e-3)
    assert both["eight"].p_holm == pytest.approx(2 * 0.009137, rel=1e-3)
    assert (both["eight"].verdict, both["four"].verdict) == ("cut is better", "no difference shown")


@pytest.mark.parametrize(
    ("eight", "four", "says"),
    [
        ((90, 91, 92), (90, 91, 92), "Supported by these runs: of 2 comparisons"),
        ((60, 61, 62), (70, 70, 70), "Not supported by these runs: of 2 comparisons"),
        ((90, 91, 92), (70, 70, 70), "Only partly supported by these runs"),
    ],
)
def test_the_verdict_follows_the_data(study: Study, eight: Any, four: Any, says: str) -> None:
    rows = example_rows(study)
    for row, values in zip(rows, (eight, four)):
        assert isinstance(row.runs, dict)
        row.runs["cut"] = of_three(f"cut {row.row.name}", *values)
    text = results(study, rows, {}).verdict
    assert says in text and text.endswith("It drops the fraction.")
    if (eight, four) == ((60, 61, 62), (70, 70, 70)):  # runs that agree for every seed show no difference
        assert "0 show it, 1 show the opposite and 1 show no difference" in text


def test_a_single_seed_is_compared_over_its_images(study: Study) -> None:
    rows = [RowRuns(study.rows[0], "", {"cut": [run("c", 0, 95)], "rounded": [run("r", 0, 90)]})]
    right = np.arange(200) >= 10
    worse = np.arange(200) >= 20
    details = {
        "c0": replace(DETAILS, run_id="c0", correct=pack(right)),
        "r0": replace(DETAILS, run_id="r0", correct=pack(worse)),
    }
    (paired,) = answers(study, rows, details).values()
    assert paired.p_holm == pytest.approx(2 / 2**10) and paired.verdict == "cut is better"  # McNemar: ten against none
    (unpaired,) = answers(study, rows, {}).values()
    assert unpaired.p_holm is None and unpaired.verdict == "no difference shown"
    text = markdown(results(study, rows, {}))
    assert "no test: which images each run got right is not stored" in text and "1 seed, images" in text


def test_what_is_not_there_says_why(study: Study) -> None:
    failed = unmade("failed", "f", "digits", "mlp", "x", 0, error="MethodError: stem: no images")
    rows = [
        RowRuns(study.rows[0], "lr=1", {"cut": [failed], "rounded": of_three("r", 9, 9, 9, config={"train": {}})}),
        RowRuns(study.rows[1], "", {"cut": [], "rounded": []}),
    ]
    found = results(study, rows, {})
    (line, other), *_ = [sheet.lines for sheet in found.sheets]
    assert [one.why for one in line.figures[:3]] == [
        "failed: MethodError: stem: no images",
        "random weights: train.epochs=0 and no model.weights",
        "not both of the runs it compares are there",
    ]
    assert line.label == "8 bits, lr=1" and {one.why for one in other.figures[:2]} == {"not run"}
    assert found.verdict == "" and any("failed: MethodError: stem" in note for note in found.notes)
    weights = {"train": {"epochs": 0}, "model": {"weights": "w.safetensors"}}
    given = [RowRuns(study.rows[0], "", {"rounded": of_three("r", 9, 9, 9, config=weights)})]
    assert results(study, given, {}).sheets[0].lines[0].figures[1].value == 9


def test_a_run_that_failed_among_others_is_said_and_counted_out(study: Study) -> None:
    """A mean over the seeds that went well says nothing about the one that did not, unless the page does."""
    failed = unmade("failed", "f", "digits", "mlp", "x", 3, error="loss is not finite")
    cut = of_three("c", 90, 91, 92)
    rounded = [*of_three("r", 85, 85, 85), run("r", 3, 85)]
    found = results(study, [RowRuns(study.rows[0], "", {"cut": [*cut, failed], "rounded": rounded})], {})
    told = "1 of 4 runs failed, cut of 8 bits (seed 3): loss is not finite. Its figures are of the others."
    assert [note for note in found.notes if "failed" in note] == [told]
    assert "| 3 to 4 seeds |" in markdown(found)


def test_warnings_are_notes_once(study: Study) -> None:
    runs = of_three("c", 10, 10, 10, warning="chance level")
    notes = results(study, [RowRuns(study.rows[0], "", {"cut": runs, "rounded": []})], {}).notes
    assert [note for note in notes if "chance" in note] == ["to be read with care, small_cnn c: chance level"]


def test_the_terminal_shows_all_of_it(found: Results) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    for table in rich_tables(found):
        console.print(table)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 120
    for words in ("[88.52, 93.48]", "no difference", "~90", "1,234", "source"):
        assert words in text
    assert text.count("8 bits") == 2  # once a table: the source's row and ours share it


def test_files(found: Results, tmp_path: Path) -> None:
    paths = write_study(found, tmp_path)
    assert [path.name for path in paths] == ["study_x.csv", "study_x.md", "study_x.json"]
    content = json.loads(paths[2].read_text())
    assert content == json.loads(as_json(found)) and content["verdict"] == found.verdict
    assert content["tables"][0]["lines"][0]["figures"][0]["run_ids"] == ["c0", "c1", "c2"]
    assert CPU["cpu_model"] in paths[1].read_text()


@pytest.mark.parametrize("name", QUANTITIES)
def test_every_quantity_reads_a_record_and_one_that_has_nothing(name: str) -> None:
    quantity = QUANTITIES[name]
    nothing = unmade("ok", "n", "digits", "mlp", "x", 0)
    assert quantity.of(nothing) is None or name == "runtime"
    for bound in quantity.bounds or ():
        assert hasattr(nothing, bound)


def test_quantities_in_the_units_of_their_names() -> None:
    record = replace(
        OK, peak_memory_bytes=2_500_000_000, bops=3 * 10**9, train_seconds=2.0, quantize_seconds=0.5,
        runtime_chosen="openvino", effective_parameters=3800.0,
    )  # fmt: skip
    expected = {
        "size_MB": 0.0152, "saved_MB": 0.0942, "tensors_kB": 12.7, "memory_GB": 2.5, "bops_G": 3.0,
        "energy_modelled_mJ": 0.0034, "obtain_seconds": 2.5, "effective_parameters": 3800.0,
    }  # fmt: skip
    for name, value in expected.items():
        assert QUANTITIES[name].of(record) == pytest.approx(value), name
    assert QUANTITIES["runtime"].of(record) == "openvino" and QUANTITIES["runtime"].of(OK) == "torch"
    assert QUANTITIES["delta_points"].of(replace(OK, method="fp32")) is None


def example(compute: str, source: Any, expected: Any = None, **given: Any) -> Example:
    return Example("it", compute, given, source, source if expected is None else expected)


def test_examples_agree_differ_or_mismatch() -> None:
    half = {"values": [0.5], "bits": 2, "rounding": "nearest"}  # 1.5, and ties go to even
    assert (work(example("unit", [2], **half)).answer, work(example("unit", [2], **half)).agrees) == ("same", True)
    assert work(example("unit", [1], [2], **half)).answer == "differs"
    assert work(example("unit", None, [2], **half)).answer == "as expected"
    wrong = work(example("unit", [1], **half))
    assert not wrong.agrees and wrong.answer == "MISMATCH: expected [1]"
    assert not work(example("kmeans", {"SSE": 1.0}, values=[1, 3, 5, 7, 9], num_clusters=2)).agrees
    assert not work(example("kmeans", {"sse": 10.0}, values=[1, 3, 5, 7, 9], num_clusters=2)).agrees  # no such thing
    with pytest.raises(ConfigError, match=r"it: no computation 'units'; known are fixed_point"):
        work(example("units", [1], **half))
    with pytest.raises(ConfigError, match=r"it: unit cannot be computed \(bits=99 is outside 1..15\)"):
        work(example("unit", [1], values=[0.5], bits=99, rounding="nearest"))
    with pytest.raises(ConfigError, match=r"it: unit cannot be computed \(.*unexpected keyword argument 'value'"):
        work(example("unit", [1], value=0.5))


def test_every_computation_is_used_by_study_e() -> None:
    content = yaml.safe_load((Path(__file__).parents[2] / "configs/study/e.yaml").read_text())
    assert {one["compute"] for one in content["examples"]} == set(COMPUTE)
