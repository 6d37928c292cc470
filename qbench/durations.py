"""How long stages took, so that a plan can say how long the next ones will: one small file per kind in the store.

    STORE/durations/HASH.json      the last seconds per unit of work of stages of one kind

A kind is what the time depends on (stage, data set, network, method, runtime, number of images, machine); a unit is an
epoch where there are epochs. What is guessed from it decides nothing: a lost or damaged file costs an estimate.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from qbench.files import write_atomic
from qbench.plan import PlannedStage
from qbench.store import content_key

FORMAT = 1
KEPT = 5  # times of a kind; their median is the guess
FOLDER = "durations"


@dataclass(frozen=True)
class Estimate:
    """Seconds of all stages whose kind has run before, and how many have not."""

    seconds: float
    known: int
    unknown: int

    def __str__(self) -> str:
        if not self.known:
            return "time unknown"
        rest = f", and {self.unknown} of a kind that has not run here yet" if self.unknown else ""
        return f"about {in_words(self.seconds)}{rest}"


def in_words(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``: as exact as a guess deserves."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def note(store: Path, stage: PlannedStage, seconds: float) -> None:
    """Remember how long a stage took; a store that cannot be written to remembers nothing."""
    path = _path(store, stage)
    kept = [*_kept(path), seconds / stage.units][-KEPT:]
    about = {"format": FORMAT, "kind": stage.kind, "seconds_per_unit": kept}
    with suppress(OSError):
        write_atomic(path, json.dumps(about, indent=1).encode(), durable=False)


def estimate(store: Path, stages: Iterable[PlannedStage]) -> Estimate:
    """How long the stages that are not cached may take, one after another."""
    guesses = [guess(store, stage) for stage in stages if not stage.cached]
    known = [seconds for seconds in guesses if seconds is not None]
    return Estimate(sum(known), len(known), len(guesses) - len(known))


def guess(store: Path, stage: PlannedStage) -> float | None:
    """Seconds that stages of this kind took; None where none has run."""
    kept = _kept(_path(store, stage))
    return statistics.median(kept) * stage.units if kept else None


def _path(store: Path, stage: PlannedStage) -> Path:
    return store / FOLDER / f"{content_key('duration', FORMAT, stage.kind)}.json"


def _kept(path: Path) -> list[float]:
    try:
        content = json.loads(path.read_bytes())
        times = content["seconds_per_unit"] if content["format"] == FORMAT else []
        return [float(time) for time in times if math.isfinite(float(time)) and float(time) >= 0]
    except (OSError, ValueError, KeyError, TypeError):
        return []
