"""Tables from hand-made records: the terminal's at a fixed width, CSV, Markdown, JSON."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from qbench.record import Record
from qbench.report.tables import MOST_ROWS, csv_text, markdown, pipe_table, rich_table, sort_records, write_tables

FLOAT = Record(
    run_id="f0", status="ok", dataset="digits", model="small_cnn", method="fp32", seed=0, runtime="torch", threads=2,
    n_test=360, top1_percent=96.11, top1_low_percent=93.6, top1_high_percent=97.7, top1_baseline_percent=96.11,
    delta_points=0.0, delta_low_points=-1.06, delta_high_points=1.06, top5_percent=99.7, agreement_percent=100.0,
    size_bytes=109_716, size_baseline_bytes=109_716, compression_ratio=1.0, bits_per_weight=32.0,
    latency_ms_median=0.0961, latency_ms_iqr=0.002, latency_ratio=1.01, latency_ratio_low=0.98,
    latency_ratio_high=1.03, latency_kind="float", batch_size=1, train_seconds=31.5, quantize_seconds=0.01,
    latency=(
        {"batch_size": 1, "candidate_ms_median": 0.0961, "candidate_ms_iqr": 0.002, "ratio": 1.01, "ratio_low": 0.98,
         "ratio_high": 1.03},
        {"batch_size": 32, "candidate_ms_median": 1.5, "candidate_ms_iqr": 0.1, "ratio": 1.0, "ratio_low": 0.99,
         "ratio_high": 1.02},
    ),
    environment={"cpu_model": "a processor", "torch": "2.12.0"},
)  # fmt: skip
FOUR = replace(
    FLOAT, run_id="k4", method="kmeans", weight_bits=4, top1_percent=95.28, delta_points=-0.83, delta_low_points=-2.4,
    delta_high_points=0.5, agreement_percent=97.5, size_bytes=16_012, compression_ratio=6.852, bits_per_weight=4.016,
    sqnr_db=21.34,
)  # fmt: skip
SIMULATED = replace(
    FOUR, run_id="l48", method="linear", act_bits=8, variant="range=mse", warning="left float: head",
    latency_ratio=0.71, latency_ratio_low=0.7, latency_ratio_high=0.73, latency_kind="simulated",
)  # fmt: skip
BLANK = Record(run_id="x", status="ok", dataset="digits", model="small_cnn", method="linear", seed=0, runtime="torch")
FAILED = replace(BLANK, run_id="l2", status="failed", weight_bits=2, error="conv [a, b]: holds NaN | or infinity")
SKIPPED = replace(BLANK, run_id="k16", status="skipped", method="kmeans", weight_bits=16, error="bits=16: allowed: 1")
ALL = [FAILED, SIMULATED, SKIPPED, FOUR, FLOAT]


PROMISED = {
    "status", "error", "warning", "dataset", "model", "method", "weight_bits", "act_bits", "seed", "runtime",
    "top1_percent", "top1_baseline_percent", "top5_percent", "agreement_percent", "n_test", "size_bytes",
    "compression_ratio", "bits_per_weight", "latency_ms_median", "latency_ratio", "latency_kind", "batch_size",
    "threads", "peak_memory_bytes", "train_seconds", "quantize_seconds", "artifact", "run_id",
}  # fmt: skip


def rendered(records: list[Record], width: int = 120) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width, no_color=True).print(rich_table(records))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def headings(records: list[Record]) -> str:
    return next(line for line in rendered(records) if "method" in line)


def test_terminal_table() -> None:
    assert rendered(ALL) == GOLDEN.splitlines()[1:]


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_no_column_vanishes_on_a_narrow_terminal(width: int) -> None:
    shown = rendered([*ALL, replace(FLOAT, seed=1, dataset="fashion_mnist", model="vgg16_imagenet")], width)
    assert max(map(len, shown)) <= width
    for heading in ("seed", "bits", "top-1 %", "size kB", "ratio", "kernel"):
        assert any(heading in line for line in shown) or width == 80
    assert "linear w2: failed: conv [a, b]: holds NaN | or infinity" in " ".join(" ".join(shown).split())
    plain = rendered([FLOAT, FOUR], width)
    for cell in ("fp32", "w4", "95.28", "-0.83", "0.50]", "16.0", "6.85", "4.02", "0.10", "1.01", "1.03]"):
        assert any(cell in line for line in plain)


def test_float_baseline_comes_first_then_methods_with_most_bits_first() -> None:
    assert [record.run_id for record in sort_records(ALL)] == ["f0", "k16", "k4", "l48", "l2"]
    other = replace(FLOAT, run_id="z", dataset="cifar10")
    seeded = replace(FLOAT, run_id="s1", seed=1)
    assert [r.run_id for r in sort_records([seeded, FOUR, FLOAT, other])] == ["z", "f0", "k4", "s1"]


def test_columns_appear_where_rows_differ() -> None:
    rows = [FLOAT, replace(FLOAT, seed=1, model="mlp")]
    assert rendered(rows)[0] == "dataset digits, kernel float" and headings(rows).split()[:2] == ["model", "seed"]
    assert "kernel" in headings([FLOAT, SIMULATED]) and rendered([FLOAT, FAILED, FOUR])[0].endswith("kernel float")


def test_latency_says_its_batch_size() -> None:
    assert "ms b1 " in headings([FLOAT, FOUR])
    assert "ms b8 " in headings([replace(FLOAT, batch_size=8), replace(FOUR, batch_size=8)])
    assert "ms b" not in headings([FLOAT, replace(FOUR, batch_size=8)]) and " ms " in headings(
        [FLOAT, replace(FOUR, batch_size=8)]
    )


def test_columns_without_any_value_are_left_out() -> None:
    unmeasured = [replace(one, latency_ms_median=None, latency_ratio=None, batch_size=None) for one in (FLOAT, FOUR)]
    assert "ms" not in headings(unmeasured).split() and "speed-up" not in headings(unmeasured)
    assert headings([FAILED, SKIPPED]).split() == ["method", "bits", "top-1", "%"]  # its cells say what became of them


def test_missing_ends_of_an_interval_leave_the_value() -> None:
    shown = "\n".join(rendered([replace(FOUR, latency_ratio_low=None, delta_low_points=None)]))
    assert "-0.83 " in shown and "[" not in shown.split("speed-up")[1]


def test_csv_has_the_promised_columns_and_no_invented_zeros(tmp_path: Path) -> None:
    paths = write_tables(ALL, tmp_path)
    assert [path.name for path in paths] == ["results.csv", "results.md", "results.json"]
    table = pd.read_csv(paths[0])
    assert set(table) >= PROMISED
    assert list(table["run_id"]) == ["f0", "k16", "k4", "l48", "l2"] and list(table)[:3] == [
        "status",
        "error",
        "warning",
    ]
    identity = {"status", "error", "dataset", "model", "method", "weight_bits", "seed", "runtime", "run_id"}
    for row in (1, 4):
        assert set(table.columns[table.iloc[row].notna()]) == identity


def test_csv_keeps_whole_numbers_whole_and_the_batch_sizes_apart() -> None:
    text = csv_text(ALL)
    assert "109716," in text and "109716.0" not in text and ",4.0," not in text
    table = pd.read_csv(io.StringIO(csv_text([FLOAT, FAILED])))
    assert table["latency_ms_median_batch32"].iloc[0] == 1.5 and table["latency_ratio_batch32"].isna().iloc[1]
    assert table["weight_bits"].isna().iloc[0] and table["weight_bits"].iloc[1] == 2


def test_no_records_make_empty_tables(tmp_path: Path) -> None:
    csv, md, js = write_tables([], tmp_path)
    assert csv.read_text().startswith("status,error,warning,") and len(csv.read_text().splitlines()) == 1
    assert md.read_text() == "No records.\n" and json.loads(js.read_text()) == []
    assert rich_table([]).row_count == 0


def test_markdown() -> None:
    lines = markdown(ALL).splitlines()
    heads = [cell.strip() for cell in lines[0].split("|")[1:-1]]
    rows = [dict(zip(heads, [cell.strip() for cell in line.split(" |")])) for line in lines[2:7]]
    assert heads == [
        *("data set", "model", "method", "variant", "w bits", "a bits", "seed", "top-1 %", "95 % interval", "Δ points"),
        *("95 % interval of Δ", "agreement %", "size, bytes", "ratio ×", "bits/weight", "SQNR dB", "latency ms"),
        *("speed-up ×", "kernel", "n", "status", "warning"),
    ]
    assert [row["method"].strip("| ") for row in rows] == ["fp32", "kmeans", "kmeans", "linear", "linear"]
    assert (rows[0]["top-1 %"].strip("| "), rows[0]["Δ points"].strip("| ")) == ("96.11", "")
    assert rows[2]["Δ points"].strip("| ") == "-0.83" and rows[2]["size, bytes"].strip("| ") == "16,012"
    assert "failed: conv [a, b]: holds NaN \\| or infinity" in lines[6]
    assert "Measured on: a processor, 2 threads, torch 2.12.0." in lines[-1]


def test_a_long_error_stays_one_markdown_row() -> None:
    text = markdown([replace(FAILED, error="first line\n  second | line")])
    assert "failed: first line second \\| line" in text and len(text.splitlines()) == 5


def test_json_has_everything(tmp_path: Path) -> None:
    *_, path = write_tables(ALL, tmp_path)
    content = json.loads(path.read_text())
    assert [record["run_id"] for record in content] == ["f0", "k16", "k4", "l48", "l2"]
    assert content[0]["environment"]["torch"] == "2.12.0" and content[0]["latency"][1]["batch_size"] == 32


def test_json_takes_the_files_of_records_as_they_are(tmp_path: Path) -> None:
    paths = [one.save(tmp_path / "records") for one in ALL]
    *_, path = write_tables(ALL, tmp_path, files=[each.read_bytes() for each in paths])
    content = json.loads(path.read_text())
    assert [record["run_id"] for record in content] == ["f0", "k16", "k4", "l48", "l2"]
    (first,) = (json.loads(each.read_text()) for each in paths if each.stem == "f0")
    assert content[0] == first and content[0]["latency"][1]["batch_size"] == 32


def test_a_markdown_table_is_the_one_tabulate_makes() -> None:
    columns = {"a": ["x", "", "a longer cell"], "a long heading": ["1", "-2.50", ""], "Δ": ["", "", "é|"]}
    rows = [dict(zip(columns, cells)) for cells in zip(*columns.values())]
    assert pipe_table(columns) == pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def test_a_csv_says_what_pandas_would(tmp_path: Path) -> None:
    odd = replace(FAILED, error='quoted "text", commas\nand lines', loss=1e-07, dataset="übung")
    text = csv_text([odd, FLOAT])
    again = pd.read_csv(io.StringIO(text))
    assert again["error"].dropna().tolist() == [odd.error] and again["loss"].dropna().tolist() == [1e-07]
    assert again["dataset"].tolist() == ["digits", "übung"] and again.shape[0] == 2


def test_the_terminal_shows_the_first_rows_of_very_many() -> None:
    many = [replace(FLOAT, run_id=f"{number:04}", seed=number) for number in range(MOST_ROWS + 50)]
    shown = rendered(many)
    assert rich_table(many).row_count == MOST_ROWS and f"{MOST_ROWS} of {len(many)} rows; results.csv has all" in shown
    assert not any(line.split()[:2] == [str(MOST_ROWS), "fp32"] for line in shown)


GOLDEN = """
dataset digits, model small_cnn, seed 0

  method            bits  top-1 %      Δ points [95 %]  size kB  ratio ×  bits/w  ms b1         speed-up ×  kernel
 ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
  fp32                      96.11                         109.7     1.00   32.00   0.10                     float
  kmeans            w16   skipped
  kmeans            w4      95.28  -0.83 [-2.40, 0.50]     16.0     6.85    4.02   0.10  1.01 [0.98, 1.03]  float
  linear range=mse  w4a8    95.28  -0.83 [-2.40, 0.50]     16.0     6.85    4.02   0.10  0.71 [0.70, 0.73]  simulated
  linear            w2     failed

kmeans w16: skipped: bits=16: allowed: 1
linear range=mse w4a8: left float: head
linear w2: failed: conv [a, b]: holds NaN | or infinity
"""
