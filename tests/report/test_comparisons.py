"""Comparisons: which pairs are made, and where their intervals come from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from records import DETAILS, LAYERS, OK
from scipy import stats

from qbench.details import pack
from qbench.measure.intervals import paired_difference
from qbench.record import Record
from qbench.report.comparisons import PAIRED, UNPAIRED, compare

LINEAR = replace(OK, run_id="lin", method="linear", top1_percent=93.0, top1_low_percent=88.6, top1_high_percent=95.8)


def test_predictions_are_compared_image_by_image() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(200) < 0.95, rng.random(200) < 0.6
    details = {
        run: replace(DETAILS, run_id=run, correct=pack(correct)) for run, correct in (("ok", first), ("lin", second))
    }
    (found,) = compare([OK, LINEAR], details)
    expected = paired_difference(first, second)
    assert (found.low, found.high, found.p_value) == (expected.low, expected.high, expected.p_value)
    assert (found.a.run_id, found.b.run_id, found.basis, found.difference_points) == ("ok", "lin", PAIRED, 2.0)


@pytest.mark.parametrize(
    "details",
    [{}, {"ok": DETAILS}, {"ok": DETAILS, "lin": replace(DETAILS, labels_sha256="c" * 64)}],
    ids=["neither", "one", "other images"],
)
def test_without_both_predictions_the_intervals_are_combined(details: dict[str, object]) -> None:
    (found,) = compare([OK, LINEAR], details)  # type: ignore[arg-type]
    low = 2.0 - ((95.0 - 91.0) ** 2 + (95.8 - 93.0) ** 2) ** 0.5
    high = 2.0 + ((97.3 - 95.0) ** 2 + (93.0 - 88.6) ** 2) ** 0.5
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.p_value, found.basis) == (None, UNPAIRED)


def test_seeds_are_one_row_with_students_interval() -> None:
    values = [(95.0, 93.0), (94.0, 93.5), (96.0, 92.5)]
    runs = [
        replace(one, run_id=f"{one.run_id}{seed}", seed=seed, top1_percent=top1, stage_keys={"train:x": str(seed)})
        for seed, pair in enumerate(values)
        for one, top1 in zip((OK, LINEAR), pair)
    ]
    (found,) = compare(runs, {})
    differences = [first - second for first, second in values]
    interval = stats.t.interval(0.95, 2, loc=np.mean(differences), scale=stats.sem(differences))
    assert (found.low, found.high) == pytest.approx(interval)
    assert found.difference_points == pytest.approx(2.0)
    assert found.p_value == pytest.approx(stats.ttest_rel(*zip(*values)).pvalue)
    assert found.basis == "over 3 seeds"


@pytest.mark.parametrize(
    "changes",
    [
        {"weight_bits": 2}, {"act_bits": 8}, {"dataset": "mnist"}, {"model": "mlp"}, {"runtime": "onnxruntime"},
        {"n_test": 100}, {"stage_keys": {"train:small_cnn on digits": "9"}}, {"status": "failed"}, {"seed": 3},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_runs_that_differ_in_more_are_no_pair(changes: dict[str, object]) -> None:
    assert compare([OK, replace(LINEAR, **changes)], {}) == []  # type: ignore[arg-type]


def questions(*records: Record) -> list[tuple[str, str, str]]:
    return [(one.question, one.a.run_id, one.b.run_id) for one in compare(records, {})]


def test_pruned_quantized_and_both() -> None:
    def layers(encoding: str) -> tuple[dict[str, object], ...]:
        return tuple({**layer, "encoding": encoding} for layer in LAYERS)

    pruned = replace(
        OK, run_id="p", method="prune", weight_bits=None, sparsity_percent=50.0, layers=layers("sparse-float")
    )
    both = replace(OK, run_id="b", method="mine", sparsity_percent=50.2, layers=layers("sparse-codebook"))
    assert questions(pruned, OK, both) == [
        ("pruned and quantized against pruned alone", "b", "p"),
        ("pruned and quantized against quantized alone", "b", "ok"),
    ]
    assert questions(replace(pruned, sparsity_percent=90.0), replace(OK, weight_bits=8), both) == []


def test_fine_tuned_against_post_training() -> None:
    qat, ptq = replace(OK, run_id="q", method="qat"), replace(OK, run_id="p", method="ptq")
    tuned = replace(OK, run_id="t", method="kmeans_qat")
    assert questions(qat, ptq, tuned, OK) == [
        ("fine-tuned against post-training: integers", "q", "p"),
        ("fine-tuned against post-training: shared values", "t", "ok"),
    ]
