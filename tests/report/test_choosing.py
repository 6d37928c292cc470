"""The decision guide quotes what was measured: its tables come from records, its prose has no figures of its own."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import yaml
from records import OK

from qbench.report.choosing import cost_table, first_of_each, latency_table, main

ROOT = Path(__file__).parents[2]
TABLE = {"dataset": "digits", "model": "small_cnn", "rows": [{"what": "four", "run": "method=kmeans bits=4"}]}
RATIO = {"ratio": 1.5, "low": 1.25, "high": 1.75}
MEASURED = {
    "cpu": "a processor", "threads": 2,
    "networks": [{"model": "small_cnn", "cells": [
        {"batch_size": 32, "auto": "qbench_openvino", "ms_median": {"qbench_openvino": 0.25},
         "speed_up": {"auto_over_onnxruntime_float": RATIO, "auto_over_torch": RATIO}}]}],
}  # fmt: skip


def cells(table: str) -> list[str]:
    return [cell.strip() for cell in table.splitlines()[2].strip("|").split("|")]


def test_a_row_has_what_the_record_lost_and_cost() -> None:
    record = replace(OK, activation_bytes_peak=4096, quantize_seconds=123.4)
    expected = ["four", "`qbench run method=kmeans bits=4`", "1.00 [-1.50, 3.50]", "15.2", "7.2×", "3.4", "4.1", "123"]
    assert cells(cost_table(TABLE, [record])) == expected
    assert cells(cost_table(TABLE, [replace(record, weight_bits=2)]))[2:] == ["not run", "", "", "", "", ""]


def test_of_several_folders_and_seeds_the_first_counts() -> None:
    other = [replace(OK, run_id=name, seed=seed) for name, seed in (("b", 1), ("c", 0))]
    failed = replace(OK, run_id="d", status="failed", variant="x=1")
    assert [one.run_id for one in first_of_each([other, [OK], [failed]])] == ["c"]
    assert [one.run_id for one in first_of_each([[OK], other])] == ["ok"]


def test_latency_is_that_of_the_fastest_runtime() -> None:
    lines = latency_table(MEASURED).splitlines()
    found = ["small_cnn", "32", "openvino", "0.250", "1.50 [1.25, 1.75]", "1.50 [1.25, 1.75]"]
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == found
    assert "a processor, 2 threads" in lines[-1]


def test_a_stale_page_is_found_and_rewritten(tmp_path: Path) -> None:
    OK.save(tmp_path / "records")
    (tmp_path / "latency.json").write_text(json.dumps(MEASURED))
    asked = {"records": ["records"], "latency": "latency.json", "tables": {"one": TABLE}}
    (tmp_path / "page.yaml").write_text(yaml.safe_dump(asked))
    page = tmp_path / "page.md"
    page.write_text("<!-- one:begin -->\n<!-- one:end -->\n<!-- latency:begin -->\nold\n<!-- latency:end -->\n")
    assert main([str(page), "--check"]) == 1
    assert main([str(page)]) == 0
    assert main([str(page), "--check"]) == 0
    assert "1.00 [-1.50, 3.50]" in page.read_text() and "old" not in page.read_text()


def test_the_committed_guide_is_not_stale() -> None:
    """``make docs`` rebuilds it."""
    page = ROOT / "docs" / "choosing.md"
    assert main([str(page), "--check"]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("[-") > 10 and text.count("not run") < 3


def test_its_prose_quotes_no_figure_beside_the_tables() -> None:
    text = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
    prose = re.sub(r"<!-- (\w+):begin -->.*?<!-- \1:end -->|```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    assert re.findall(r"\d+\.\d+|\d ?×", prose) == []
