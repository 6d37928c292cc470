"""Killed at any instant, and started again: the same table, the same bytes, and nothing half-written was ever read.

Ten kills in ``make test``; ``make faults`` sets QBENCH_KILLS to a hundred.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
from calling import Bench
from faults.procs import SWEEP, Events, agree, artefacts, call, done_lines, epochs, in_folder, results, start

from qbench.store import Store
from qbench.upkeep import check

KILLS = int(os.environ.get("QBENCH_KILLS", "10"))
BY_TIME = KILLS // 3
PARTS = ("train", "quantize", "score", "publish", "outputs")


@dataclass(frozen=True)
class Whole:
    """A run that nothing disturbed: what it left, how long it took, and its operations on files."""

    bench: Bench
    seconds: float
    log: Path

    @cached_property
    def events(self) -> dict[str, list[int]]:
        """Part of the run -> the numbers of its operations."""
        found: dict[str, list[int]] = {part: [] for part in PARTS}
        for number, line in enumerate(self.log.read_text().splitlines(), 1):
            event, _, path = line.partition(" ")
            found.setdefault(part_of(event, Path(path)), []).append(number)
        return found


def part_of(event: str, path: Path) -> str:
    if path.parts[:1] == ("outputs",):
        return "outputs"
    inside = len(path.parts) > 3 and not path.name.startswith(("manifest", ".manifest"))
    stage = path.parts[1] if path.parts[:1] == ("store",) and len(path.parts) > 1 else ""
    if stage not in PARTS[:3]:
        return "other"
    return stage if inside else "publish"  # the entry's own folder, and its manifest


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    bench = Bench(tmp_path_factory.mktemp("whole"), None)  # type: ignore[arg-type]  # only forked processes print
    timed, log = in_folder(bench, "timed"), bench.home / "events"
    watched = in_folder(bench, "watched")
    code, output = call(watched, SWEEP, Events(watched.home, log=log))
    assert code == 0, output
    began = time.monotonic()
    assert call(timed, SWEEP)[0] == 0
    agree(watched, timed)
    return Whole(timed, time.monotonic() - began, log)


def instants(whole: Whole) -> Iterator[tuple[str, int]]:
    """Operations to be killed at: each part in turn, any of its operations."""
    draw = random.Random(KILLS)
    for index in range(KILLS - BY_TIME):
        part = PARTS[index % len(PARTS)]
        yield part, draw.choice(whole.events[part])


def finish(whole: Whole, killed: Bench) -> None:
    """What was left can be read; the same command does the rest, and no trace of the kill remains."""
    assert list(check(Store(killed.store))) == []
    code, output = call(killed, SWEEP)
    assert code == 0 and "damaged" not in output, output
    agree(whole.bench, killed)


def test_a_whole_run_does_something_of_everything(whole: Whole) -> None:
    counts = {part: len(numbers) for part, numbers in whole.events.items()}
    assert min(counts[part] for part in PARTS) >= 10, counts
    assert results(whole.bench)["status"].tolist() == ["ok", "ok"] and len(artefacts(whole.bench)) == 2


@pytest.mark.parametrize("index", range(KILLS - BY_TIME))
def test_killed_at_an_operation_on_a_file(whole: Whole, tmp_path: Path, index: int) -> None:
    killed = Bench(tmp_path / "killed", whole.bench.capture)
    part, number = list(instants(whole))[index]
    code, output = call(killed, SWEEP, Events(killed.home, kill_at=number))
    assert code == -signal.SIGKILL, f"operation {number} of {part} did not come: {output}"
    finish(whole, killed)


@pytest.mark.parametrize("seed", range(BY_TIME))
def test_killed_at_any_time(whole: Whole, tmp_path: Path, seed: int) -> None:
    killed = Bench(tmp_path / "killed", whole.bench.capture)
    running = start(killed, SWEEP)
    time.sleep(random.Random(seed).uniform(0, 1) * whole.seconds)
    running.process.kill()
    code, _ = running.end()
    assert code in (-signal.SIGKILL, 0)  # 0: it was faster this time
    finish(whole, killed)


def test_a_training_goes_on_after_its_last_whole_epoch(whole: Whole, tmp_path: Path) -> None:
    killed = Bench(tmp_path / "killed", whole.bench.capture)
    lines = whole.log.read_text().splitlines()
    saved = [
        number
        for number, line in enumerate(lines, 1)
        if "os.rename" in line and "/.checkpoint" in line.replace("..", ".")
    ]
    assert len(saved) == 3
    assert call(killed, SWEEP, Events(killed.home, kill_at=saved[2]))[0] == -signal.SIGKILL
    code, output = call(killed, SWEEP)
    assert code == 0 and epochs(output) == ["3/3"]
    assert sum(line.startswith("train ") for line in done_lines(output)) == 1
    agree(whole.bench, killed)
