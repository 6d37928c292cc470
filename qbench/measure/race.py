"""Which of several engines is the fastest: measured in turns, like a pair (:mod:`qbench.measure.latency`).

The times found here decide; they are not those to publish: the winner of a race was also a little lucky. What a run
reports is measured afterwards, against the float baseline.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qbench.errors import QBenchError
from qbench.measure.latency import Clock, LatencySettings, Turn, bootstrap_median_interval, calls_per_turn, iqr


@dataclass(frozen=True)
class RaceTime:
    """Latency of one engine, milliseconds per batch: median and interquartile range over its rounds."""

    ms_median: float
    ms_iqr: float
    rounds: int


def run_race(
    engines: Mapping[str, Turn], settings: LatencySettings, *, clock: Clock = time.monotonic
) -> tuple[dict[str, RaceTime], dict[str, str]]:
    """Let engines take turns until the fastest is known.

    It is known when, over the rounds, the ratio of the second fastest to the fastest is surely above 1, or when its
    interval is as narrow as ``relative_half_width`` asks (a tie); at the latest after ``max_seconds``.

    Args:
        engines: By name, what runs the given number of timed calls and returns the seconds of each, > 0. One that
            raises QBenchError is out.
        settings: How long to measure.
        clock: Seconds on a clock that never goes back.

    Returns:
        (times of those that finished, fastest first; why the others are out).
    """
    racing = dict(engines)
    out: dict[str, str] = {}
    rounds: dict[str, list[float]] = {name: [] for name in engines}

    def turn(name: str, calls: int) -> list[float]:
        try:
            return list(racing[name](calls))
        except QBenchError as error:
            out[name] = str(error)
            del racing[name]
            return []

    warm_up = {name: turn(name, settings.warmup_calls) for name in engines}
    calls = {name: calls_per_turn(warm_up[name], settings) for name in racing}
    start = clock()
    while racing:
        for name in list(racing):
            if seconds := turn(name, calls[name]):
                rounds[name].append(1e3 * float(np.median(seconds)))
        done = min((len(rounds[name]) for name in racing), default=0)
        late = clock() - start >= settings.max_seconds
        if done >= settings.min_rounds and (late or _is_decided({name: rounds[name] for name in racing}, settings)):
            break
    times = {name: RaceTime(float(np.median(rounds[name])), iqr(rounds[name]), len(rounds[name])) for name in racing}
    return dict(sorted(times.items(), key=lambda item: item[1].ms_median)), out


def _is_decided(rounds: Mapping[str, list[float]], settings: LatencySettings) -> bool:
    if len(rounds) < 2:
        return True
    fastest, second = sorted(rounds.values(), key=np.median)[:2]
    ratios = np.array(second) / np.array(fastest)
    low, high = bootstrap_median_interval(ratios, settings)
    return low > 1 or (high - low) / 2 <= settings.relative_half_width * float(np.median(ratios))
