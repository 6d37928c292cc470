"""runtime=auto from the command line to the tables: which candidate runs what, and which are left out and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from calling import QUICK, Bench
from faults.racers import CODE
from runtime.test_integer_runtime import float_program

import qbench.choose
import qbench.profiling
from qbench.artifact import save
from qbench.choose import choose_stage
from qbench.compose import compose_cells
from qbench.config import Choice, RunConfig
from qbench.errors import RuntimeUnavailable
from qbench.measure.latency import LatencyResult
from qbench.profiling import profile_stage
from qbench.record import Record, load_records
from qbench.stages import read_facts

# fast for single images, slow for many; the other way round; and those that cannot run
RUNTIMES: dict[str, tuple[str, dict[str, Any]]] = {
    "single": ("Paused", {"kind": "integer", "per_image": 0.002}),
    "many": ("Paused", {"kind": "simulated", "per_call": 0.02}),
    "refusing": ("Refusing", {}),
    "dying": ("Dying", {}),
    "late": ("Late", {}),
    "uninstalled": ("Uninstalled", {}),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A config folder with these runtimes, and ``race``, which chooses from them."""
    (tmp_path / "racers.py").write_text(CODE)
    place = tmp_path / "conf" / "runtime"
    place.mkdir(parents=True)
    for name, (kind, params) in RUNTIMES.items():
        lines = [f"_target_: racers.{kind}", "summary: made up for a test", "limits: {}"]
        (place / f"{name}.yaml").write_text("\n".join([*lines, *(f"{k}: {v}" for k, v in params.items())]))
    listed = ", ".join([*RUNTIMES, "elsewhere"])
    (place / "race.yaml").write_text(
        "_target_: qbench.runtime.auto.AutoRuntime\nsummary: made up for a test\n"
        f"candidates: [{listed}]\nlimits: {{candidates: [{listed}]}}\n"
    )
    return place.parent


def words(folder: Path, *more: str) -> tuple[str, ...]:
    return ("run", "--config-dir", str(folder), *QUICK, "method=linear", "runtime=race", *more)


def one(bench: Bench) -> Record:
    (record,), problems = load_records(bench.outputs / "records")
    assert problems == []
    return record


def test_the_fastest_candidate_of_each_batch_size_is_chosen(bench: Bench, folder: Path) -> None:
    done = bench(*words(folder))
    assert done.code == 0, done.out
    record = one(bench)
    assert (record.runtime, record.runtime_chosen) == ("race", "single")
    assert record.latency_kind == "integer"  # what the chosen runtime says of itself: it made the score
    chosen = {(row["runtime"], row["batch_size"]) for row in record.candidates if row["chosen"]}
    assert chosen == {("single", 1), ("many", 32)}
    measured = [row for row in record.candidates if row["skipped"] is None]
    assert {(row["runtime"], row["kind"]) for row in measured} == {("single", "integer"), ("many", "simulated")}
    assert all(row["ms_median"] > 0 and row["rounds"] >= 3 for row in measured) and len(measured) == 4
    assert {row["runtime"]: row["skipped"] for row in record.candidates if row["batch_size"] == 32} == {
        "single": None,
        "many": None,
        "refusing": "has no form for it",
        "dying": "RuntimeError: wheels came off",
        "late": "needs its library after all",
        "uninstalled": "needs its library",
        "elsewhere": "this qbench has no such runtime",
    }
    assert record.warning == (
        "runtimes differ by batch size: single at batch 1, many at batch 32; accuracy is that of single"
    )
    (row,) = pd.read_csv(bench.outputs / "tables" / "results.csv").to_dict("records")
    assert (row["runtime_chosen"], row["runtime_chosen_batch32"]) == ("single", "many")
    assert row["candidate_ms_single_batch1"] < row["candidate_ms_many_batch1"]
    assert row["candidate_ms_single_batch32"] > row["candidate_ms_many_batch32"]
    assert pd.isna(row["candidate_ms_dying_batch1"])
    assert "race: single" in done.out
    again = bench(*words(folder, "dry=true")).out
    assert "to do" not in again and again.count("choose") == 1


def config_of(folder: Path, *more: str) -> RunConfig:
    (cell,) = compose_cells(words(folder, *more)[3:], folder)
    assert cell.config is not None
    return cell.config


def test_no_candidate_at_all(bench: Bench, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder.parent)
    config = config_of(folder, "runtime.candidates=[refusing,elsewhere]")
    save(float_program(), tmp_path / "model.qbench")
    with pytest.raises(RuntimeUnavailable) as refused:
        choose_stage(config, tmp_path / "model.qbench", tmp_path)
    assert str(refused.value) == (
        "runtime=auto: no candidate can run the file at batch 1: refusing: has no form for it; "
        "elsewhere: this qbench has no such runtime"
    )


class Engine:
    """A worker without a process."""

    ready: dict[str, str] = {}  # noqa: RUF012 - never written to

    def __init__(self, spec: Any) -> None:
        self.name, self.runtime = spec.name, spec.args["runtime"]

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def request(self, batch_size: int, inner: int) -> dict[str, list[float]]:
        return {"seconds": [0.001] * inner}


def test_each_batch_size_is_profiled_on_its_runtime(
    bench: Bench, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs: list[tuple[Any, ...]] = []

    def latency(
        candidate: Engine, baselines: list[Engine], *, batch_size: int, settings: object
    ) -> list[LatencyResult]:
        pairs.append((candidate.runtime, *(each.runtime for each in baselines), batch_size))
        ratios = [2.0, 1.5][: len(baselines)]
        return [
            LatencyResult(batch_size, 1, 8, batch_size, 0.01, 1.0, 0.02, ratio, 1.9, 2.1, 0.95, True, 5, 3, 2)
            for ratio in ratios
        ]

    monkeypatch.setattr(qbench.profiling, "Worker", Engine)
    monkeypatch.setattr(qbench.profiling, "measure_against", latency)
    monkeypatch.setattr(qbench.profiling, "_runs", lambda _, runtime: runtime.name == "fast")
    config = config_of(folder, "measure.latency=true", "measure.batch_sizes=[1,8,32]")
    save(float_program(), tmp_path / "model.qbench")
    fast, slow, base = (Choice(name, f"made.up.{name}") for name in ("fast", "slow", "base"))
    path = tmp_path / "model.qbench"
    profile_stage(config, path, path, base, tmp_path, {1: fast, 8: slow, 32: fast})
    assert pairs == [("made.up.fast", "made.up.base", "made.up.fast", 1),
                     ("made.up.fast", "made.up.base", "made.up.fast", 32),
                     ("made.up.slow", "made.up.base", 8)]  # fmt: skip
    latencies = read_facts(tmp_path)["latency"]
    assert [(one["ratio"], one.get("same_runtime_ratio")) for one in latencies] == [(2.0, 1.5), (2.0, None), (2.0, 1.5)]
    assert [(one["batch_size"], one["runtime"]) for one in latencies] == [(1, "fast"), (8, "slow"), (32, "fast")]


def test_a_contended_choice_is_made_anew(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qbench.choose, "Worker", Engine)
    monkeypatch.setattr(qbench.choose, "others_busy", lambda: True)
    assert bench(*words(folder, "runtime.candidates=[single]")).code == 0
    record = one(bench)
    assert record.runtime_chosen == "single" and record.warning is not None
    assert record.warning.startswith("contended: another qbench stage ran while runtimes were compared")
    plan = bench(*words(folder, "runtime.candidates=[single]", "dry=true")).out
    assert [line.split("│")[1].strip() for line in plan.splitlines() if "to do" in line] == ["choose", "score"]
    monkeypatch.setattr(qbench.choose, "others_busy", lambda: False)
    assert bench(*words(folder, "runtime.candidates=[single]")).code == 0
    assert one(bench).warning is None
