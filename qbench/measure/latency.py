"""Latency as a pair: a candidate and its float baseline, one process each, in turns, until the ratio is sure enough.

Turns alternate candidate, baseline, candidate, baseline, so that heat, clock and neighbours touch both alike; while
one runs the other sleeps. What is compared is the ratio within each pair of turns, not two averages taken apart.
Several baselines share the rounds of their candidate.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qbench.measure.worker import EngineSpec, Worker

Turn = Callable[[int], Sequence[float]]  # run that many timed calls; seconds of each
Clock = Callable[[], float]


@dataclass(frozen=True)
class LatencySettings:
    """How long to measure.

    Args:
        min_rounds: Rounds (one turn of each engine) measured in any case, >= 2.
        max_seconds: No new round starts after this many seconds; the warm-up does not count.
        relative_half_width: Stop once the interval's half-width is at most this share of the ratio.
        turn_seconds: About how long a turn lasts; decides how many calls it holds.
        warmup_calls: Calls of each engine before measuring, >= 1; they also tell how long a call takes.
        confidence: Of the ratio's interval, in (0, 1).
        resamples: Bootstrap resamples, >= 1.
        seed: Of the bootstrap.
    """

    min_rounds: int = 10
    max_seconds: float = 60.0
    relative_half_width: float = 0.02
    turn_seconds: float = 0.1
    warmup_calls: int = 5
    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.min_rounds < 2 or self.warmup_calls < 1 or self.resamples < 1:
            raise ValueError("min_rounds must be at least 2, warmup_calls and resamples at least 1")
        if not 0 < self.confidence < 1 or self.relative_half_width <= 0 or self.turn_seconds <= 0:
            raise ValueError("confidence must lie in (0, 1); relative_half_width and turn_seconds must be positive")


@dataclass(frozen=True)
class LatencyResult:
    """Latency of one batch, in milliseconds, and the speed-up over the baseline.

    The latency of a round is the median over its calls; ``*_ms_median`` and ``*_ms_iqr`` (third minus first quartile)
    are over rounds. ``ratio`` is the median over rounds of baseline / candidate, above 1 where the candidate is
    faster; [ratio_low, ratio_high] is its bootstrap percentile interval. Looking at the interval after every round
    and stopping once it is narrow makes it slightly too narrow. ``converged`` tells whether it got narrow enough.
    ``*_kind`` is the kind of kernel as the runtime states it (float, simulated, integer), None where it does not.
    ``*_energy_J`` is what the processor's counters say its turns took (:mod:`qbench.measure.rapl`), in joules per
    image; None where there are no counters.
    """

    batch_size: int
    threads: int
    rounds: int
    candidate_ms_median: float
    candidate_ms_iqr: float
    baseline_ms_median: float
    baseline_ms_iqr: float
    ratio: float
    ratio_low: float
    ratio_high: float
    confidence: float
    converged: bool
    warmup_calls: int
    candidate_calls_per_round: int
    baseline_calls_per_round: int
    candidate_kind: str | None = None
    baseline_kind: str | None = None
    candidate_energy_J: float | None = None
    baseline_energy_J: float | None = None


def measure_pair(
    candidate: EngineSpec,
    baseline: EngineSpec,
    *,
    batch_size: int,
    settings: LatencySettings | None = None,
    start_timeout: float = 120.0,
    answer_timeout: float = 600.0,
) -> LatencyResult:
    """Measure two engines against each other, each in its own process.

    Args:
        candidate: The engine whose speed-up is asked for.
        baseline: What it is compared with; same number of threads.
        batch_size: Images per call, >= 1.
        settings: How long to measure; the defaults if None.
        start_timeout: Seconds an engine may take to load.
        answer_timeout: Seconds one turn may take.

    Raises:
        QBenchError: an engine died or did not answer in time; no process is left behind.
        ValueError: batch_size < 1, or the engines differ in threads.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if candidate.threads != baseline.threads:
        raise ValueError(f"the engines use {candidate.threads} and {baseline.threads} threads; that is no comparison")
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(engine, start_timeout=start_timeout, answer_timeout=answer_timeout))
            for engine in (candidate, baseline)
        ]
        return measure_workers(workers[0], workers[1], batch_size=batch_size, settings=settings)


def measure_workers(
    candidate: Worker, baseline: Worker, *, batch_size: int, settings: LatencySettings | None = None
) -> LatencyResult:
    """Measure two running engines against each other; what :func:`measure_pair` does once they are loaded."""
    return measure_against(candidate, [baseline], batch_size=batch_size, settings=settings)[0]


def measure_against(
    candidate: Worker, baselines: Sequence[Worker], *, batch_size: int, settings: LatencySettings | None = None
) -> list[LatencyResult]:
    """Measure a running engine against others in the same rounds; one result for each of those."""
    turns, others = WorkerTurns(candidate, batch_size), [WorkerTurns(each, batch_size) for each in baselines]
    threads = candidate.engine.threads
    results = run_rounds_against(
        turns, others, settings or LatencySettings(), batch_size=batch_size, threads=threads, clock=time.monotonic
    )
    return [
        replace(
            result,
            candidate_kind=turns.kind,
            baseline_kind=other.kind,
            candidate_energy_J=turns.energy_J(result.rounds * result.candidate_calls_per_round),
            baseline_energy_J=other.energy_J(result.rounds * result.baseline_calls_per_round),
        )
        for result, other in zip(results, others)
    ]


def run_rounds(
    candidate: Turn,
    baseline: Turn,
    settings: LatencySettings,
    *,
    batch_size: int,
    threads: int,
    clock: Clock = time.monotonic,
) -> LatencyResult:
    """Alternate two engines and summarise: the whole of :func:`measure_pair` but the processes.

    Args:
        candidate: Runs the given number of timed calls and returns the seconds of each, > 0.
        baseline: The same for the baseline.
        settings: How long to measure.
        batch_size: Recorded in the result.
        threads: Recorded in the result.
        clock: Seconds on a clock that never goes back.
    """
    found = run_rounds_against(candidate, [baseline], settings, batch_size=batch_size, threads=threads, clock=clock)
    return found[0]


def run_rounds_against(
    candidate: Turn,
    baselines: Sequence[Turn],
    settings: LatencySettings,
    *,
    batch_size: int,
    threads: int,
    clock: Clock,
) -> list[LatencyResult]:
    """As :func:`run_rounds`, with one result for each of several baselines, until every ratio is sure enough."""
    engines = [candidate, *baselines]
    calls = [calls_per_turn(engine(settings.warmup_calls), settings) for engine in engines]
    milliseconds: list[list[float]] = [[] for _ in engines]
    start = clock()
    while True:
        for engine, count, found in zip(engines, calls, milliseconds):
            found.append(1e3 * float(np.median(engine(count))))
        if len(milliseconds[0]) < settings.min_rounds:
            continue
        ratios = [_ratio(milliseconds[0], found, settings) for found in milliseconds[1:]]
        sure = [(high - low) / 2 <= settings.relative_half_width * ratio for ratio, low, high in ratios]
        if all(sure) or clock() - start >= settings.max_seconds:
            break
    return [
        LatencyResult(
            batch_size=batch_size,
            threads=threads,
            rounds=len(found),
            candidate_ms_median=float(np.median(milliseconds[0])),
            candidate_ms_iqr=iqr(milliseconds[0]),
            baseline_ms_median=float(np.median(found)),
            baseline_ms_iqr=iqr(found),
            ratio=ratio,
            ratio_low=low,
            ratio_high=high,
            confidence=settings.confidence,
            converged=converged,
            warmup_calls=settings.warmup_calls,
            candidate_calls_per_round=calls[0],
            baseline_calls_per_round=count,
        )
        for found, count, (ratio, low, high), converged in zip(milliseconds[1:], calls[1:], ratios, sure)
    ]


def _ratio(
    candidate: Sequence[float], baseline: Sequence[float], settings: LatencySettings
) -> tuple[float, float, float]:
    """Median over rounds of baseline / candidate, and its interval."""
    ratios = np.array(baseline) / np.array(candidate)
    return (float(np.median(ratios)), *bootstrap_median_interval(ratios, settings))


def bootstrap_median_interval(values: NDArray[np.float64], settings: LatencySettings) -> tuple[float, float]:
    """Percentile bootstrap interval of the median of ``values`` [n], n >= 1; the same values give the same interval.

    Source: B. Efron, R. Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
    """
    picks = np.random.default_rng(settings.seed).integers(0, len(values), (settings.resamples, len(values)))
    medians = np.median(values[picks], axis=1)
    tail = 50 * (1 - settings.confidence)
    low, high = np.percentile(medians, [tail, 100 - tail])
    return float(low), float(high)


class WorkerTurns:
    """A worker as a :data:`Turn`: each call is one request. The first of them is the warm-up.

    Attributes:
        kind: Of the kernels that ran last, as the runtime states it; None where it does not.
    """

    def __init__(self, worker: Worker, batch_size: int) -> None:
        self.kind: str | None = None
        self._worker = worker
        self._batch_size = batch_size
        self._joules: list[float | None] = []

    def __call__(self, calls: int) -> Sequence[float]:
        answer = self._worker.request(self._batch_size, calls)
        self._joules.append(answer.get("joules"))
        self.kind = answer.get("kind")
        seconds: Sequence[float] = answer["seconds"]
        return seconds

    def energy_J(self, calls: int) -> float | None:
        """Joules per image over all turns but the warm-up, which made so many calls; None where none were read."""
        read = [joules for joules in self._joules[1:] if joules is not None]
        if not read or len(read) < len(self._joules) - 1:
            return None
        return sum(read) / (calls * self._batch_size)


def calls_per_turn(warmup_seconds: Sequence[float], settings: LatencySettings) -> int:
    """How many calls fill a turn."""
    # the fastest call: the first ones still compile, allocate and fill caches
    return max(1, math.ceil(settings.turn_seconds / max(min(warmup_seconds), 1e-9)))


def iqr(values: Sequence[float]) -> float:
    """Third minus first quartile."""
    first, third = np.percentile(values, [25, 75])
    return float(third - first)
