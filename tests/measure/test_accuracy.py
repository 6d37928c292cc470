import math

import numpy as np
import pytest
import torch

from qbench.measure.accuracy import Predictions, agreement_percent, correct, mean_cross_entropy, top_k_percent

# rows predict 0, 1, 2, 2; the labels say 0, 1, 2, 0
LOGITS = torch.tensor([[3.0, 1, 0], [0, 2, 1], [0, 1, 2], [1, 0, 5]])
LABELS = torch.tensor([0, 1, 2, 0])


def test_a_known_confusion_gives_its_top_1() -> None:
    assert top_k_percent(LOGITS, LABELS, 1) == 75.0
    assert correct(LOGITS, LABELS).tolist() == [True, True, True, False]


def test_the_wrong_row_has_its_label_second() -> None:
    assert top_k_percent(LOGITS, LABELS, 2) == 100.0


def test_k_equal_to_the_number_of_classes_is_always_right() -> None:
    assert top_k_percent(torch.zeros(4, 3), LABELS, 3) == 100.0


@pytest.mark.parametrize(("label", "k", "hit"), [(0, 1, True), (1, 1, False), (1, 2, True), (2, 2, False)])
def test_ties_go_to_the_lowest_class(label: int, k: int, hit: bool) -> None:
    assert correct(torch.zeros(1, 3), torch.tensor([label]), k).item() is hit


def test_top_k_equals_a_stable_sort_in_numpy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 4, (200, 10), generator=generator).float()  # many ties
    labels = torch.randint(0, 10, (200,), generator=generator)
    order = np.argsort(-logits.numpy(), axis=1, kind="stable")
    for k in (1, 3, 5):
        expected = 100 * np.mean([label in row[:k] for label, row in zip(labels.tolist(), order)])
        assert top_k_percent(logits, labels, k) == pytest.approx(expected)


def test_a_row_with_nan_is_wrong_and_agrees_with_nothing() -> None:
    broken = LOGITS.clone()
    broken[0, 0] = math.nan
    assert correct(broken, LABELS, 3).tolist() == [False, True, True, True]
    assert agreement_percent(broken, broken) == 75.0
    assert math.isnan(mean_cross_entropy(broken, LABELS))


def test_loss_equals_numpy() -> None:
    x = LOGITS.numpy().astype(np.float64)
    expected = np.mean(np.log(np.exp(x).sum(axis=1)) - x[np.arange(4), LABELS.numpy()])
    assert mean_cross_entropy(LOGITS, LABELS) == pytest.approx(expected, rel=1e-12)


def test_loss_of_a_uniform_prediction_is_log_of_the_classes() -> None:
    assert mean_cross_entropy(torch.zeros(4, 3), LABELS) == pytest.approx(math.log(3), rel=1e-12)


def test_agreement_counts_equal_predictions_not_equal_logits() -> None:
    other = 2 * LOGITS + 1
    other[0] = torch.tensor([0.0, 9, 0])
    assert agreement_percent(LOGITS, LOGITS) == 100.0
    assert agreement_percent(LOGITS, other) == 75.0


def test_agreement_breaks_ties_like_accuracy() -> None:
    assert agreement_percent(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])) == 100.0
    assert agreement_percent(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])) == 0.0


def test_predictions_gather_the_metrics() -> None:
    predictions = Predictions(LOGITS, LABELS)
    assert predictions.top1_percent == 75.0
    assert predictions.top5_percent is None
    assert predictions.loss == mean_cross_entropy(LOGITS, LABELS)
    assert predictions.correct.tolist() == [True, True, True, False]


def test_top_5_needs_five_classes() -> None:
    assert Predictions(torch.eye(6), torch.tensor([0, 1, 2, 3, 4, 0])).top5_percent == 100.0
    six_last = torch.tensor([[6.0, 5, 4, 3, 2, 1]])
    assert Predictions(six_last, torch.tensor([5])).top5_percent == 0.0
    assert Predictions(six_last, torch.tensor([4])).top5_percent == 100.0


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        pytest.param(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), "not empty", id="empty"),
        pytest.param(torch.zeros(2, 3).double(), torch.tensor([0, 1]), "float32", id="dtype"),
        pytest.param(torch.zeros(2, 3), torch.tensor([0.0, 1.0]), "int64", id="float labels"),
        pytest.param(torch.zeros(2, 3), torch.tensor([0]), r"int64 \[2\]", id="too few labels"),
        pytest.param(torch.zeros(2, 3), torch.tensor([0, 3]), r"\[0, 3\), found 0..3", id="label too large"),
        pytest.param(torch.zeros(2, 3), torch.tensor([-1, 0]), r"found -1..0", id="negative label"),
    ],
)
def test_bad_predictions_are_refused(logits: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Predictions(logits, labels)


@pytest.mark.parametrize("k", [0, 4])
def test_k_outside_the_classes_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"top-{k} needs"):
        top_k_percent(LOGITS, LABELS, k)


def test_agreement_of_different_shapes_is_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        agreement_percent(LOGITS, LOGITS[:2])
