"""Which record is of which cell: by what was run, not by threads, machine or version."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from qbench.compose import Cell, compose_cells
from qbench.record import Record
from qbench.recorded import records_of
from qbench.rows import blank_record

WORDS = ("dataset=digits", "model=small_cnn", "method=kmeans", "bits=4", "runtime=auto")


def cell(*words: str) -> Cell:
    (found,) = compose_cells([*WORDS, *words])
    return found


def record(run_id: str, *words: str, **changes: Any) -> Record:
    config = cell(*words).config
    assert config is not None
    return replace(blank_record(config, run_id, "ok"), **changes)


@pytest.mark.parametrize("beside", ["threads=3", "measure=none", "device=cuda", "data_dir=elsewhere"])
def test_the_machine_and_what_else_was_measured_decide_nothing(beside: str) -> None:
    asked = cell(beside)
    assert records_of([asked], [record("a")])[asked.overrides].run_id == "a"


@pytest.mark.parametrize(
    "other",
    ["seed=1", "bits=3", "train.epochs=3", "limit_test=90", "method.granularity=per_channel", "runtime=torch",
     "runtime.candidates=[torch]", "model=mlp", "method=linear", "dataset.split_seed=1", "tiny=true"],
)  # fmt: skip
def test_another_run_is_another(other: str) -> None:
    assert records_of([cell(other)], [record("a")]) == {}


def test_a_parameter_that_one_of_them_does_not_know_decides_nothing() -> None:
    older = record("a")
    config = copy.deepcopy(dict(older.config))
    del config["method"]["params"]["correction"]
    config["train"]["of_long_ago"] = 3
    assert records_of([cell()], [replace(older, config=config)])
    assert records_of([cell()], [replace(older, config={})]) == {}


def test_of_several_one_that_is_ok_then_one_measured_alike_then_the_first() -> None:
    asked = cell()
    several = [
        record("d"), record("c"), record("b", "measure=none"), record("a", status="failed"),
    ]  # fmt: skip
    assert records_of([asked], several)[asked.overrides].run_id == "c"
    assert records_of([asked], several[2:])[asked.overrides].run_id == "b"
    assert records_of([asked], several[3:])[asked.overrides].run_id == "a"
