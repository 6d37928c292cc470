"""What a plan says about time: from what stages of the same kind took, and nothing where none has run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from calling import QUICK, Bench

from qbench.compose import baseline_method, compose_cells
from qbench.durations import KEPT, Estimate, estimate, guess, in_words, note
from qbench.plan import PlannedStage, make_plan

TRAIN = PlannedStage("train", "small_cnn on digits", "0" * 16, False, "train small_cnn on digits", 10)
SCORE = PlannedStage("score", "linear w4", "1" * 16, False, "score small_cnn on digits")


def test_nothing_is_known_at_first(tmp_path: Path) -> None:
    assert guess(tmp_path, TRAIN) is None
    assert str(estimate(tmp_path, [TRAIN, SCORE])) == "time unknown"


def test_an_epoch_more_takes_an_epoch_longer(tmp_path: Path) -> None:
    note(tmp_path, TRAIN, 50.0)
    assert guess(tmp_path, replace(TRAIN, key="another", units=20)) == pytest.approx(100.0)
    assert estimate(tmp_path, [TRAIN, SCORE]) == Estimate(50.0, 1, 1)
    assert str(estimate(tmp_path, [TRAIN, SCORE])) == "about 50 s, and 1 of a kind that has not run here yet"
    assert estimate(tmp_path, [replace(TRAIN, cached=True)]) == Estimate(0, 0, 0)


def test_the_guess_is_the_median_of_the_last(tmp_path: Path) -> None:
    for seconds in (900.0, 1.0, 2.0, 3.0, 4.0, 100.0):
        note(tmp_path, SCORE, seconds)
    assert KEPT == 5 and guess(tmp_path, SCORE) == 3.0


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', '{"format": 1, "seconds_per_unit": ["x", -3]}'])
def test_a_damaged_or_foreign_file_costs_the_guess_alone(tmp_path: Path, content: str) -> None:
    note(tmp_path, SCORE, 3.0)
    (path,) = (tmp_path / "durations").iterdir()
    path.write_text(content)
    assert guess(tmp_path, SCORE) is None
    note(tmp_path, SCORE, 5.0)
    assert guess(tmp_path, SCORE) == 5.0


@pytest.mark.parametrize(
    "seconds, words",
    [(0.2, "1 s"), (40, "40 s"), (89, "89 s"), (91, "2 min"), (700, "12 min"), (5390, "90 min"), (12600, "3.5 h")],
)
def test_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def kinds(bench: Bench, *words: str) -> dict[str, str]:
    (cell,) = compose_cells([*QUICK, "method=linear", *words])
    assert cell.config is not None
    plan = make_plan(cell.config, baseline_method())
    return {"train": plan.train.kind, "quantize": plan.quantize.kind, "score": plan.score.kind}


def test_a_kind_is_what_time_depends_on(bench: Bench) -> None:
    plain = kinds(bench)
    assert kinds(bench, "seed=1", "bits=2") == plain
    assert kinds(bench, "method=kmeans")["quantize"] != plain["quantize"]
    assert kinds(bench, "method=kmeans")["score"] == plain["score"]
    for change in ("model=mlp", "limit_test=100", "threads=2", "dataset=digits"):
        assert all(kinds(bench, change)[stage] != plain[stage] for stage in plain), change


def test_a_plan_says_how_long_once_something_is_known(bench: Bench) -> None:
    """The times in the store are replaced by known ones: the sum is what the plan must say."""
    run = ("run", "-m", *QUICK, "method=linear", "bits=8")
    assert "7 stages, 7 to do: time unknown" in bench(*run[:-1], "bits=8,4", "dry=true").out
    assert bench(*run).code == 0
    files = list((bench.store / "durations").iterdir())
    assert len(files) == 4  # train; quantize of two methods; score of both on one runtime
    for path in files:
        path.write_text(json.dumps({**json.loads(path.read_text()), "seconds_per_unit": [100.0]}))
    plan = bench(*run[:-1], "bits=4,2", "seed=0,1", "dry=true").out
    # seed 0: quantize and score at two widths; seed 1: the same, its training, and the float artefact with its score
    assert "4 cells: 4 distinct runs; 14 stages, 11 to do: about 18 min" in plan
    assert "of a kind that has not run here yet" in bench(*run[:-1], "method=kmeans", "bits=4,2", "dry=true").out
    assert "time: about 3 min" in bench("run", *run[2:-1], "bits=3", "dry=true").out
