"""The results table of a document is rebuilt from records, and the committed README is not stale."""

from pathlib import Path

import pytest

from qbench.record import Record, load_records
from qbench.report.readme import main, results_region, with_region

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def record(method: str, bits: int | None, **changes: object) -> Record:
    facts = {
        "run_id": f"{method}{bits}",
        "status": "ok",
        "dataset": "digits",
        "model": "small_cnn",
        "seed": 0,
        "runtime": "torch",
        "n_test": 360,
        "top1_percent": 95.0,
        "delta_points": -0.5,
        "delta_low_points": -1.25,
        "delta_high_points": 0.25,
        "size_bytes": 12345,
        "compression_ratio": 7.96,
        "bits_per_weight": 4.01,
        "latency_ratio": 1.01,
        "latency_ratio_low": 0.99,
        "latency_ratio_high": 1.03,
        "latency_kind": "float",
        "threads": 2,
        "environment": {"cpu_model": "a processor", "torch": "2.12.0"},
    }
    return Record(method=method, weight_bits=bits, **{**facts, **changes})


def test_baseline_comes_first_and_has_no_differences() -> None:
    lines = results_region([record("kmeans", 4), record("fp32", None)]).splitlines()
    assert lines[0] == "**small_cnn on digits** (360 test images, seed 0)"
    assert [cell.strip() for cell in lines[4].split("|")[1:4]] == ["fp32", "95.00", ""]
    assert "-0.50 [-1.25, +0.25]" in lines[5] and "7.96×" in lines[5] and "1.01 [0.99, 1.03]" in lines[5]
    assert lines[-1].endswith("Measured on: a processor, 2 threads, torch 2.12.0.")


def test_failed_runs_stay_out_of_the_table() -> None:
    shown = results_region([record("fp32", None), record("linear", 2, status="failed", error="broke")])
    assert "linear" not in shown


def test_network_without_a_finished_run_has_no_table() -> None:
    assert "small_cnn" not in results_region([record("linear", 2, status="failed", error="broke")])


def test_variant_is_part_of_the_method_cell() -> None:
    assert "| kmeans granularity=per_channel, 4 bits |" in results_region(
        [record("kmeans", 4, variant="granularity=per_channel")]
    )


def test_region_is_replaced_and_the_rest_kept() -> None:
    before = f"# title\n{BEGIN}\nold\n{END}\nend\n"
    assert with_region(before, "new") == f"# title\n{BEGIN}\n\nnew\n{END}\nend\n"


def test_missing_marker_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks <!-- results:begin -->"):
        with_region("# title\n", "new")


def test_check_fails_on_a_stale_document_and_leaves_it(tmp_path: Path) -> None:
    record("fp32", None).save(tmp_path / "records")
    document = tmp_path / "README.md"
    document.write_text(f"{BEGIN}\nold\n{END}\n")
    arguments = [str(document), str(tmp_path / "records")]
    assert main([*arguments, "--check"]) == 1
    assert document.read_text() == f"{BEGIN}\nold\n{END}\n"
    assert main(arguments) == 0
    assert main([*arguments, "--check"]) == 0


def test_committed_readme_shows_the_committed_records() -> None:
    records, problems = load_records(ROOT / "docs" / "results" / "records")
    assert not problems
    assert len(records) >= 40
    assert main([str(ROOT / "README.md"), str(ROOT / "docs" / "results" / "records"), "--check"]) == 0
