from collections.abc import Callable, Sequence

import numpy as np
import pytest

from qbench.measure.latency import (
    LatencySettings,
    bootstrap_median_interval,
    measure_pair,
    run_rounds,
    run_rounds_against,
)
from qbench.measure.worker import EngineSpec

FAST = LatencySettings(min_rounds=4, max_seconds=100.0, turn_seconds=0.01, warmup_calls=2)


class FakeEngines:
    """Two engines on one made-up clock: each turn takes what ``seconds(round)`` says, and is written down."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turns: list[tuple[str, int]] = []

    def engine(self, name: str, seconds: Callable[[int], float]) -> Callable[[int], Sequence[float]]:
        def turn(calls: int) -> Sequence[float]:
            done = sum(1 for other, _ in self.turns if other == name)
            self.turns.append((name, calls))
            each = seconds(done)  # 0 is the warm-up
            self.now += calls * each
            return [each] * calls

        return turn

    def clock(self) -> float:
        return self.now


def run(candidate: Callable[[int], float], baseline: Callable[[int], float], settings: LatencySettings = FAST):  # type: ignore[no-untyped-def]
    engines = FakeEngines()
    result = run_rounds(
        engines.engine("candidate", candidate),
        engines.engine("baseline", baseline),
        settings,
        batch_size=8,
        threads=2,
        clock=engines.clock,
    )
    return result, engines


def test_an_engine_twice_as_fast_has_ratio_two() -> None:
    result, _ = run(lambda _: 0.001, lambda _: 0.002)
    assert result.candidate_ms_median == pytest.approx(1.0)
    assert result.baseline_ms_median == pytest.approx(2.0)
    assert (result.ratio, result.ratio_low, result.ratio_high) == pytest.approx((2.0, 2.0, 2.0))
    assert result.converged
    assert (result.candidate_ms_iqr, result.baseline_ms_iqr) == pytest.approx((0.0, 0.0))
    assert (result.batch_size, result.threads, result.warmup_calls, result.confidence) == (8, 2, 2, 0.95)


def test_engines_alternate_after_a_warm_up_of_each() -> None:
    result, engines = run(lambda _: 0.001, lambda _: 0.002)
    assert engines.turns[:2] == [("candidate", 2), ("baseline", 2)]
    assert engines.turns[2:] == [("candidate", 10), ("baseline", 5)] * 4  # 10 ms a turn
    assert (result.rounds, result.candidate_calls_per_round, result.baseline_calls_per_round) == (4, 10, 5)


def test_several_baselines_share_the_rounds_of_the_candidate() -> None:
    """Each has its ratio; the rounds go on until all of them are sure."""
    engines = FakeEngines()
    steady = engines.engine("steady", lambda _: 0.002)
    unsure = engines.engine("unsure", lambda i: 0.001 if i % 2 else 0.004)
    settings = LatencySettings(min_rounds=4, max_seconds=1.0, turn_seconds=0.01)
    candidate = engines.engine("candidate", lambda _: 0.001)
    first, second = run_rounds_against(
        candidate, [steady, unsure], settings, batch_size=8, threads=2, clock=engines.clock
    )
    assert [name for name, _ in engines.turns[:6]] == ["candidate", "steady", "unsure"] * 2
    assert (first.ratio, first.converged, second.converged) == (pytest.approx(2.0), True, False)
    assert first.rounds == second.rounds > 4 and first.candidate_ms_median == second.candidate_ms_median
    assert (second.ratio_low, second.ratio_high) == pytest.approx((1.0, 4.0))
    assert (first.baseline_calls_per_round, second.baseline_calls_per_round) == (5, 3)  # by the warm-up


def test_a_call_longer_than_a_turn_is_made_once() -> None:
    result, _ = run(lambda _: 0.5, lambda _: 1.5)
    assert (result.candidate_calls_per_round, result.baseline_calls_per_round) == (1, 1)


def test_drift_common_to_both_leaves_the_ratio_alone() -> None:
    result, _ = run(lambda i: 0.001 * 1.5**i, lambda i: 0.003 * 1.5**i)
    assert (result.ratio, result.ratio_low, result.ratio_high) == pytest.approx((3.0, 3.0, 3.0))
    assert result.converged
    assert result.candidate_ms_iqr > 0.5


def test_the_ratio_is_the_median_of_paired_ratios() -> None:
    baseline = [0.001, 0.001, 0.002, 0.004, 0.100]
    settings = LatencySettings(min_rounds=4, turn_seconds=0.001, relative_half_width=1e9)
    result, _ = run(lambda _: 0.001, lambda i: baseline[i], settings)
    assert result.ratio == pytest.approx(3.0)  # of 1, 2, 4, 100
    assert result.baseline_ms_iqr == pytest.approx(28.0 - 1.75)


def test_an_unsure_ratio_is_measured_until_time_is_up() -> None:
    settings = LatencySettings(min_rounds=4, max_seconds=1.0, turn_seconds=0.01)
    result, engines = run(lambda _: 0.001, lambda i: 0.001 if i % 2 else 0.004, settings)
    assert not result.converged
    assert result.ratio_high - result.ratio_low > 2 * 0.02 * result.ratio
    assert result.rounds > 4
    assert 1.0 <= engines.now < 1.1  # one round lasts at most 50 ms


def test_more_rounds_make_noise_converge() -> None:
    noise = np.random.default_rng(0).lognormal(sigma=0.05, size=2000)
    result, _ = run(lambda i: 0.001 * noise[2 * i], lambda i: 0.002 * noise[2 * i + 1])
    assert result.converged
    assert 4 < result.rounds < 500
    assert result.ratio_low <= 2.0 <= result.ratio_high
    assert (result.ratio_high - result.ratio_low) / 2 <= 0.02 * result.ratio


def test_bootstrap_repeats_with_its_seed() -> None:
    values = np.random.default_rng(1).normal(size=30)
    first = bootstrap_median_interval(values, LatencySettings())
    assert first == bootstrap_median_interval(values, LatencySettings())
    assert first != bootstrap_median_interval(values, LatencySettings(seed=1, resamples=50))
    assert first[0] < np.median(values) < first[1]


def test_bootstrap_covers_the_median_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    settings = LatencySettings(resamples=300)
    covered = 0
    for _ in range(400):
        low, high = bootstrap_median_interval(rng.normal(size=40), settings)
        covered += low <= 0.0 <= high
    # four standard errors of a share of 0.95 among 400 are 0.044; the percentile interval of a median is known to be
    # slightly off at n = 40
    assert covered / 400 == pytest.approx(0.95, abs=0.05)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_rounds": 1},
        {"warmup_calls": 0},
        {"resamples": 0},
        {"confidence": 1.0},
        {"relative_half_width": 0.0},
        {"turn_seconds": 0.0},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LatencySettings(**wrong)  # type: ignore[arg-type]


def test_engines_with_different_threads_are_no_pair() -> None:
    with pytest.raises(ValueError, match="1 and 2 threads"):
        measure_pair(EngineSpec("candidate", "a.b"), EngineSpec("baseline", "a.b", threads=2), batch_size=1)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size"):
        measure_pair(EngineSpec("candidate", "a.b"), EngineSpec("baseline", "a.b"), batch_size=0)
