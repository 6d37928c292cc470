"""What a search may vary, read from overrides; what it seeks, and which runs no other beats."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report.records import OK

from qbench.errors import ConfigError
from qbench.objectives import BUDGETS, MAX_DROP, OBJECTIVES, Goals, front, goals_of
from qbench.record import Record
from qbench.search_space import Dimension, split_space

NO_BUDGET = dict.fromkeys((*BUDGETS, MAX_DROP))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("bits=2,4,8", Dimension("bits", ("2", "4", "8"))),
        ("bits=choice(8,2,8)", Dimension("bits", ("8", "2"))),
        ("method.x=null,per_channel", Dimension("method.x", ("null", "per_channel"))),
        ("bits=range(2,9)", Dimension("bits", (), 2, 8, 1)),
        ("bits=range(2,9,3)", Dimension("bits", (), 2, 8, 3)),
        ("bits=int(interval(2,8))", Dimension("bits", (), 2, 8, None)),
        ("method.x=range(0.5,2,0.5)", Dimension("method.x", ("0.5", "1", "1.5"))),
        ("method.lr=interval(0.5,1)", Dimension("method.lr", (), 0.5, 1.0)),
        ("method.lr=tag(log,interval(0.1,1))", Dimension("method.lr", (), 0.1, 1.0, None, True)),
        ("method.epochs=tag(log,range(1,65))", Dimension("method.epochs", (), 1, 64, None, True)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_key_with_several_values_is_a_dimension(word: str, expected: Dimension) -> None:
    assert split_space(["model=mlp", word]) == (["model=mlp"], [expected])


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["bits=4"], "hydra/sweeper=optuna: nothing to search over; give a key several values, e.g. bits=2,4,8 or "
         "'method.lr=interval(0.001,0.1)'."),
        (["seed=0,1"], "seed=0,1: cannot be searched over; all trials must be measured alike, so seed has one value."),
        (["dataset.split_seed=0,1"], "dataset.split_seed=0,1: cannot be searched over; all trials must be measured "
         "alike, so dataset.split_seed has one value."),
        (["output_dir=a,b"], "output_dir=a,b: cannot be searched over; output_dir has one value for the whole search."),
        (["method=glob(*)"], "method=glob(*): cannot be searched over; list the values."),
        (["method=interval(0,1)"], "method=interval(0,1): method takes names, not numbers; list them, e.g. "
         "method=a,b."),
        (["bits=tag(log,choice(2,4))"], "bits=tag(log,choice(2,4)): a choice has no logarithmic scale."),
        (["method.x=tag(log,interval(0,1))"], "method.x=tag(log,interval(0,1)): a logarithmic scale begins above 0."),
        (["method.x=tag(cold,interval(0,1))"], "method.x=tag(cold,interval(0,1)): unknown tag cold; the only one is "
         "log."),
        (["method.x=interval(1,0)"], "method.x=interval(1,0): its lower end is above its upper end."),
        (["bits=range(8,8)"], "bits=range(8,8): an empty range."),
        (["bits=tag(log,range(2,9,2))"], "bits=tag(log,range(2,9,2)): a logarithmic scale has no step."),
        (["bits=2,4", "bits=range(2,5)"], "bits: is given twice."),
        (["bits=(2"], "'bits=(2' cannot be read as KEY=VALUE. Quote a value with special characters: \"bits='(2'\"."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_refused(words: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        split_space(words)
    assert refused.value.problems == (problem,)


def test_no_objective_looks_at_test_images() -> None:
    columns = {one.column for one in OBJECTIVES.values()} | {OBJECTIVES[name].column for name in BUDGETS.values()}
    assert not {column for column in columns if "top1" in column} - {"validation_top1_percent"}
    assert not columns & {"loss", "delta_points", "agreement_percent", "top5_percent"}


def run(name: str, top1: float, size: int, **values: object) -> Record:
    made = replace(OK, run_id=name, validation_top1_percent=top1, validation_top1_baseline_percent=90.0)
    return replace(made, size_bytes=size, top1_percent=None, **values)  # type: ignore[arg-type]


def goals(*objectives: str, **budgets: float) -> Goals:
    return goals_of({**NO_BUDGET, **budgets, "objectives": objectives})


RUNS = [run("a", 90, 400), run("b", 89, 100), run("c", 88, 200), run("d", 89, 100), run("e", 70, 50)]


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (goals("top1", "size_bytes"), "abe"),
        (goals("size_bytes", "top1"), "eba"),
        (goals("top1", "size_bytes", max_drop=2.0), "ab"),
        (goals("top1", max_size_bytes=100), "b"),
        (goals("size_bytes", max_drop=1.0), "b"),
        (goals("top1", max_size_bytes=49), ""),
        (goals("top1"), "a"),
    ],
    ids=lambda value: value.describe() if isinstance(value, Goals) else value,
)
def test_the_front_has_what_no_run_beats_within_the_budget(asked: Goals, names: str) -> None:
    assert "".join(record.run_id for record in front(asked, RUNS)) == names


def test_latencies_of_different_kernels_are_not_compared() -> None:
    asked = goals("top1", "latency_ms_median")
    runs = [
        run("a", 90, 1, latency_ms_median=3.0, latency_kind="float"),
        run("b", 89, 1, latency_ms_median=4.0, latency_kind="float"),
        run("c", 89, 1, latency_ms_median=4.0, latency_kind="integer"),
    ]
    assert [record.run_id for record in front(asked, runs)] == ["a", "c"]
    assert asked.missing(runs[0]) is None and asked.needs == {"latency": "latency_ms_median"}
    simulated = run("s", 90, 1, latency_ms_median=3.0, latency_kind="simulated")
    assert "simulation" in (asked.missing(simulated) or "") and goals("top1").missing(simulated) is None


def test_a_run_without_a_column_says_nothing_about_it() -> None:
    record = replace(RUNS[0], energy_modelled_uJ=None, validation_top1_percent=None)
    assert goals("top1", max_energy_uJ=1.0).missing(record) == (
        "its record has no validation_top1_percent, energy_modelled_uJ"
    )
    assert goals("size_bytes").missing(record) is None


def test_how_far_above_each_budget() -> None:
    asked = goals("top1", max_size_bytes=150, max_drop=1.5)
    assert asked.excess(RUNS[2]) == {"max_size_bytes": 50.0, "max_drop": 0.5}
