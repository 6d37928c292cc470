"""Questions that pairs of runs answer: which of two ways is better, and is the difference more than chance?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from scipy import stats

from qbench.details import Details, unpack
from qbench.measure.intervals import mean_interval, paired_difference
from qbench.record import Record
from qbench.report.pareto import setting_label
from qbench.report.tables import sort_records

PAIRED = "paired over images"
UNPAIRED = "from the two intervals"
SAME_SPARSITY_POINTS = 1.0  # shares of removed weights that count as equal


@dataclass(frozen=True)
class Question:
    """Two kinds of runs to set against one another; ``asks(a, b)`` says whether two runs are such a pair."""

    title: str
    asks: Callable[[Record, Record], bool]


@dataclass(frozen=True)
class Comparison:
    """Accuracy of run a minus that of run b, in points, with its 95 % interval.

    ``basis`` says what the interval rests on: the predictions of both runs for every image (Tango's interval and
    McNemar's exact test), or, where one has none stored, the intervals of both alone (Newcombe's; no p-value), which
    is wider. With several seeds it is the mean difference and the interval and test are Student's over them, paired by
    seed; ``a`` and ``b`` are then the runs of the first seed.
    """

    question: str
    dataset: str
    model: str
    a: Record
    b: Record
    difference_points: float
    low: float
    high: float
    p_value: float | None
    basis: str

    @property
    def label(self) -> str:
        return f"{setting_label(self.a)} − {setting_label(self.b)}"


def compare(records: Sequence[Record], details: Mapping[str, Details]) -> list[Comparison]:
    """Every pair of runs that one of ``QUESTIONS`` is about, of the same baseline, test images and runtime."""
    groups: dict[tuple[object, ...], list[Record]] = {}
    for record in sort_records(records):
        if record.status == "ok" and record.top1_percent is not None and record.n_test:
            groups.setdefault(_shared(record), []).append(record)
    found: dict[tuple[object, ...], list[Comparison]] = {}
    for question in QUESTIONS:
        for runs in groups.values():
            for a, b in _pairs(question, runs):
                settings = question.title, a.dataset, a.model, setting_label(a), setting_label(b), a.n_test
                found.setdefault(settings, []).append(_comparison(question.title, a, b, details))
    return [_over_seeds(of_seeds) for of_seeds in found.values()]


def set_against(
    title: str, pairs: Sequence[tuple[Record, Record]], details: Mapping[str, Details]
) -> tuple[Comparison, list[float]]:
    """One comparison of chosen runs, a pair for each seed, and the difference that each pair alone shows, in points.

    Args:
        title: Of the question.
        pairs: At least one; all have an accuracy.
        details: By run; those that are missing make a single pair's interval wider.
    """
    found = [_comparison(title, a, b, details) for a, b in pairs]
    return _over_seeds(found), [one.difference_points for one in found]


def _over_seeds(found: Sequence[Comparison]) -> Comparison:
    """One comparison for all seeds; a single one as it is."""
    if len(found) == 1:
        return found[0]
    differences = [one.difference_points for one in found]
    interval = mean_interval(differences)
    assert interval is not None  # there are two or more
    spread = interval[1] > interval[0]
    return replace(
        found[0],
        difference_points=fmean(differences),
        low=interval[0],
        high=interval[1],
        p_value=float(stats.ttest_1samp(differences, 0.0).pvalue) if spread else None,
        basis=f"over {len(found)} seeds",
    )


def _shared(record: Record) -> tuple[object, ...]:
    """What both runs of a pair have in common."""
    trained = tuple(key for name, key in record.stage_keys.items() if name.startswith("train:"))
    return record.dataset, record.model, record.seed, record.runtime, record.n_test, trained


def _pairs(question: Question, runs: Sequence[Record]) -> Iterator[tuple[Record, Record]]:
    return ((a, b) for a in runs for b in runs if question.asks(a, b))


def _comparison(title: str, a: Record, b: Record, details: Mapping[str, Details]) -> Comparison:
    low, high, p_value, basis = _paired(a, b, details) or (*_newcombe(a, b), None, UNPAIRED)
    difference = (a.top1_percent or 0.0) - (b.top1_percent or 0.0)
    return Comparison(title, a.dataset, a.model, a, b, difference, low, high, p_value, basis)


def _paired(a: Record, b: Record, details: Mapping[str, Details]) -> tuple[float, float, float, str] | None:
    """From which images each got right; None where that is not stored for both, of the same images."""
    one, other, count = details.get(a.run_id), details.get(b.run_id), a.n_test
    if one is None or other is None or count is None or one.correct is None or other.correct is None:
        return None
    if one.labels_sha256 != other.labels_sha256:
        return None
    found = paired_difference(unpack(one.correct, count), unpack(other.correct, count))
    return found.low, found.high, found.p_value, PAIRED


def _newcombe(a: Record, b: Record) -> tuple[float, float]:
    """The interval of a difference from those of its terms, as if they were independent.

    low = d - sqrt((a - a_low)^2 + (b_high - b)^2);  high = d + sqrt((a_high - a)^2 + (b - b_low)^2)

    Source: R. G. Newcombe, "Interval estimation for the difference between independent proportions", Statistics in
        Medicine 17 (1998), method 10. Two networks that err on the same images vary less, so this is cautious.
    """
    p, p_low, p_high = _interval(a)
    q, q_low, q_high = _interval(b)
    return p - q - math.hypot(p - p_low, q_high - q), p - q + math.hypot(p_high - p, q - q_low)


def _interval(record: Record) -> tuple[float, float, float]:
    value = record.top1_percent or 0.0
    low, high = record.top1_low_percent, record.top1_high_percent
    return value, value if low is None else low, value if high is None else high


def _same_bits(a: Record, b: Record) -> bool:
    return a.weight_bits is not None and (a.weight_bits, a.act_bits) == (b.weight_bits, b.act_bits)


def _methods(first: str, second: str) -> Callable[[Record, Record], bool]:
    """Pairs of two methods at equal bits."""
    return lambda a, b: a.method == first and b.method == second and _same_bits(a, b)


def _has_few_values(record: Record) -> bool:
    """Whether any layer's weights, those that a mask leaves included, are stored as codes or indices."""
    return any("affine" in layer["encoding"] or "codebook" in layer["encoding"] for layer in record.layers)


def _is_pruned(record: Record) -> bool:
    return record.sparsity_percent is not None


def _both_and_pruned(a: Record, b: Record) -> bool:
    if not (_is_pruned(a) and _has_few_values(a) and _is_pruned(b) and not _has_few_values(b)):
        return False
    return abs((a.sparsity_percent or 0.0) - (b.sparsity_percent or 0.0)) <= SAME_SPARSITY_POINTS


def _both_and_quantized(a: Record, b: Record) -> bool:
    both = _is_pruned(a) and _has_few_values(a)
    return both and not _is_pruned(b) and _has_few_values(b) and _same_bits(a, b)


QUESTIONS = (
    Question("k-means against linear, at equal bits", _methods("kmeans", "linear")),
    Question("fine-tuned against post-training: integers", _methods("qat", "ptq")),
    Question("fine-tuned against post-training: shared values", _methods("kmeans_qat", "kmeans")),
    Question("pruned and quantized against pruned alone", _both_and_pruned),
    Question("pruned and quantized against quantized alone", _both_and_quantized),
)
