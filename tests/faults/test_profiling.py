"""What becomes of measured latency: columns, ratios, and the word of a machine that was not idle."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from calling import QUICK, Bench
from faults.rows import records, table

import qbench.profiling
from qbench.exclusive import busy
from qbench.measure.latency import LatencyResult
from qbench.methods.base import Context
from qbench.methods.linear import Linear
from qbench.program.graph import Program


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that need no process: what is tested here is what becomes of their figures."""

    class Engine:
        def __init__(self, spec: Any) -> None:
            self.spec = spec

        def __enter__(self) -> Engine:
            return self

        def __exit__(self, *error: object) -> None:
            pass

    def latency(
        candidate: Engine, baselines: list[Engine], *, batch_size: int, settings: object
    ) -> list[LatencyResult]:
        first = LatencyResult(batch_size, 1, 8, 0.5, 0.01, 1.0, 0.02, 2.0, 1.9, 2.1, 0.95, True, 5, 3, 2)
        there = replace(first, ratio=1.5, ratio_low=1.25, ratio_high=1.75, baseline_ms_median=0.75)
        return [first, there][: len(baselines)]

    monkeypatch.setattr(qbench.profiling, "foreign_load_percent", lambda: 0.0)
    monkeypatch.setattr(qbench.profiling, "Worker", Engine)
    monkeypatch.setattr(qbench.profiling, "measure_against", latency)


PROFILE = ("run", *[word for word in QUICK if not word.startswith("measure")], "measure.memory=false", "method=linear")


def test_latency_columns_come_from_the_profile(bench: Bench, measured: None) -> None:
    assert bench(*PROFILE).code == 0
    (row,) = table(bench).to_dict("records")
    assert (row["latency_ms_median"], row["latency_ratio"], row["latency_ratio_low"]) == (0.5, 2.0, 1.9)
    assert (row["batch_size"], row["latency_ms_median_batch32"], row["latency_kind"]) == (1, 0.5, "float")
    assert pd.isna(row["peak_memory_bytes"])
    assert "to do" not in bench(*PROFILE, "dry=true").out


@pytest.mark.parametrize(
    "runtime, there",
    [("torch", 2.0), ("onnxruntime", 1.5), ("integer", None)],
    ids=["the baseline's own runtime", "another one", "one without floats"],
)
def test_the_float_network_is_timed_on_the_runs_own_runtime_too(
    bench: Bench, measured: None, runtime: str, there: float | None
) -> None:
    words = [word for word in PROFILE if word != "method=linear"]
    assert bench(*words, f"runtime={runtime}", "method=integer" if runtime != "torch" else "method=linear").code == 0
    (record,) = records(bench).values()
    assert (record.latency_ratio, record.latency_baseline_runtime) == (2.0, "torch")
    assert record.latency_same_runtime_ratio == there
    (row,) = table(bench).to_dict("records")
    if there is None:
        assert pd.isna(row["latency_same_runtime_ratio_low"]) and "latency_same_runtime_ratio_batch32" not in row
    else:
        low = 1.25 if runtime == "onnxruntime" else 1.9
        assert record.latency[1]["same_runtime_ms_median"] == there * 0.5
        assert (row["latency_same_runtime_ratio_low"], row["latency_same_runtime_ratio_low_batch32"]) == (low, low)


def test_simulated_arithmetic_has_a_time_and_no_speed_up(bench: Bench, measured: None) -> None:
    """Kinds of kernels never mix in one comparison: the baseline's is float."""
    assert bench(*PROFILE, "act_bits=8").code == 0
    (row,) = table(bench).to_dict("records")
    assert (row["latency_kind"], row["latency_ms_median"]) == ("simulated", 0.5)
    assert pd.isna(row["latency_ratio"]) and pd.isna(row["latency_ratio_low_batch32"]) and pd.isna(row["warning"])


def test_a_contended_profile_has_no_ratio_and_is_not_kept(
    bench: Bench, measured: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qbench.profiling, "others_busy", lambda: True)
    done = bench(*PROFILE)
    assert done.code == 0
    (record,) = records(bench).values()
    assert record.latency_ms_median == 0.5 and record.warning is not None and record.warning.startswith("contended: ")
    assert (record.latency_ratio, record.latency_ratio_low, record.latency_ratio_high) == (None, None, None)
    assert record.latency_same_runtime_ratio is None and record.latency[0]["same_runtime_ratio_high"] is None
    assert all(one["ratio"] is None and one["candidate_ms_median"] == 0.5 for one in record.latency)
    (row,) = table(bench).to_dict("records")
    assert pd.isna(row["latency_ratio"]) and pd.isna(row["latency_ratio_batch32"]) and "contended" in row["warning"]
    plan = bench(*PROFILE, "dry=true").out
    assert plan.count("to do") == 1 and plan.count("cached") == 5
    monkeypatch.setattr(qbench.profiling, "others_busy", lambda: False)
    assert bench(*PROFILE).code == 0
    (record,) = records(bench).values()
    assert (record.latency_ratio, record.warning) == (2.0, None)


def test_a_busy_machine_is_warned_of(bench: Bench, measured: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qbench.profiling, "foreign_load_percent", lambda: 52.3)
    assert bench(*PROFILE).code == 0
    (record,) = records(bench).values()
    assert record.warning == "busy machine: processors were 52 % in use before latency was measured"
    assert record.latency_ratio == 2.0


def test_a_stage_of_another_process_is_seen_while_profiling(bench: Bench, measured: None) -> None:
    code = "from qbench.exclusive import others_busy; print(others_busy())"
    with busy():
        assert bench.python("-c", code).out == "True\n"
    assert bench.python("-c", code).out == "False\n"


def test_a_working_stage_shows_itself(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    compress = Linear.compress

    def looking(self: Linear, baseline: Program, context: Context) -> Program:
        seen.extend(path.name for path in Path(os.environ["TMPDIR"]).glob("qbench-*/busy-*"))
        return compress(self, baseline, context)

    monkeypatch.setattr(Linear, "compress", looking)
    assert bench("run", *QUICK, "method=linear").code == 0
    assert seen == [f"busy-{os.getpid()}.lock"]


def test_profiling_itself_is_not_a_busy_stage(bench: Bench, measured: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    others = qbench.profiling.others_busy

    def looking() -> bool:
        seen.append([path.name for path in Path(os.environ["TMPDIR"]).glob("qbench-*/busy-*")])
        return others()

    monkeypatch.setattr(qbench.profiling, "others_busy", looking)
    assert bench(*PROFILE).code == 0 and seen == [[], []]
