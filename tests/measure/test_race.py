"""Who is fastest, on a made-up clock."""

from collections.abc import Callable, Sequence

import pytest

from qbench.errors import QBenchError
from qbench.measure.latency import LatencySettings
from qbench.measure.race import RaceTime, run_race

SETTINGS = LatencySettings(min_rounds=4, max_seconds=100.0, turn_seconds=0.01, warmup_calls=2)


class Track:
    """Engines on one clock; every turn is written down. ``seconds(turn)`` may raise; turn 0 is the warm-up."""

    def __init__(self, **seconds: Callable[[int], float]) -> None:
        self.now = 0.0
        self.turns: list[tuple[str, int]] = []
        self.engines = {name: self.engine(name, each) for name, each in seconds.items()}

    def engine(self, name: str, seconds: Callable[[int], float]) -> Callable[[int], Sequence[float]]:
        def turn(calls: int) -> Sequence[float]:
            each = seconds(sum(1 for other, _ in self.turns if other == name))
            self.turns.append((name, calls))
            self.now += calls * each
            return [each] * calls

        return turn

    def race(self, settings: LatencySettings = SETTINGS) -> tuple[dict[str, RaceTime], dict[str, str]]:
        return run_race(self.engines, settings, clock=lambda: self.now)


def failing(at: int) -> Callable[[int], float]:
    def seconds(turn: int) -> float:
        if turn == at:
            raise QBenchError("engine died\n  last words")
        return 0.0001

    return seconds


def test_the_fastest_comes_first() -> None:
    times, out = Track(slow=lambda _: 0.003, fast=lambda _: 0.001, middle=lambda _: 0.002).race()
    assert list(times) == ["fast", "middle", "slow"] and out == {}
    assert [time.ms_median for time in times.values()] == pytest.approx([1.0, 2.0, 3.0])
    assert {time.rounds for time in times.values()} == {4}


def test_engines_take_turns_that_last_about_alike() -> None:
    track = Track(slow=lambda _: 0.005, fast=lambda _: 0.001)
    track.race()
    assert track.turns == [("slow", 2), ("fast", 2), *[("slow", 2), ("fast", 10)] * 4]


def test_what_is_not_decided_goes_on_until_it_is() -> None:
    # after four rounds the second engine may be faster or slower; from then on it is slower
    swings = [1.0, 0.5, 1.6, 1.5, 0.6]
    times, _ = Track(a=lambda _: 0.001, b=lambda turn: 0.001 * (swings[turn] if turn < 5 else 1.4)).race()
    assert list(times) == ["a", "b"] and 4 < times["a"].rounds == times["b"].rounds < 40


def test_time_is_up() -> None:
    settings = LatencySettings(min_rounds=4, max_seconds=1.0, turn_seconds=0.01, warmup_calls=2)
    track = Track(a=lambda _: 0.001, b=lambda turn: 0.001 * (0.5 if turn % 2 else 2.0))
    times, _ = track.race(settings)
    assert times["a"].rounds > 4 and 1.0 <= track.now < 1.1  # a round lasts at most 30 ms


def test_a_tie_is_a_decision() -> None:
    times, _ = Track(a=lambda _: 0.001, b=lambda _: 0.001).race()
    assert times["a"].rounds == 4


@pytest.mark.parametrize("at", [0, 1, 3], ids=["in the warm-up", "in the first round", "later"])
def test_an_engine_that_fails_is_out_and_the_others_go_on(at: int) -> None:
    times, out = Track(mortal=failing(at), a=lambda _: 0.001, b=lambda _: 0.002).race()
    assert list(times) == ["a", "b"] and times["a"].rounds == 4
    assert out == {"mortal": "engine died\n  last words"}


def test_one_engine_needs_no_rival() -> None:
    times, _ = Track(a=lambda _: 0.001).race()
    assert times["a"].rounds == 4


def test_nobody_is_left() -> None:
    times, out = Track(mortal=failing(1)).race()
    assert times == {} and list(out) == ["mortal"]
    assert run_race({}, SETTINGS) == ({}, {})
