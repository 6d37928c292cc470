"""What a tracker is told of a run, and how it is told: from the record and its details alone.

Nothing that measures knows of trackers, and no key depends on one: ``tracker=`` may change between two calls of the
same command, and what is cached stays cached.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from qbench.assets import instantiate
from qbench.config import NO_TRACKER, Choice, RunConfig
from qbench.details import Details
from qbench.errors import ConfigError
from qbench.files import write_atomic
from qbench.foreign import artifact_of
from qbench.record import Record
from qbench.rows import run_folder
from qbench.steps import flat

logger = logging.getLogger(__name__)
CURVES = ("train_loss", "validation_loss", "validation_top1_percent", "lr")
NO_METRICS = frozenset({"seed", "threads", "format", "weight_bits", "act_bits", "batch_size"})  # those are parameters
TAGS = ("status", "error", "warning", "artifact", "artifact_sha256", "latency_kind", "train_precision")


@dataclass(frozen=True)
class Tracked:
    """A run, as trackers take it.

    Args:
        run_id: Of the record.
        name: For people; ends with the id.
        status: ok or failed.
        params: What was composed: groups by their option, everything else by its dotted key.
        metrics: Every figure of the record by its name there; ``.../batch_N`` where there is one per batch size.
        curves: (epoch, value) by name: ``baseline/train_loss``, ``fine_tuning_0/lr``.
        tags: What else there is to say of it, as text.
        files: The artefact.
    """

    run_id: str
    name: str
    status: str
    params: Mapping[str, str | int | float | bool]
    metrics: Mapping[str, float]
    curves: Mapping[str, tuple[tuple[int, float], ...]]
    tags: Mapping[str, str]
    files: tuple[Path, ...]

    @property
    def digest(self) -> str:
        """Of all that is told: the same again need not be told again."""
        told = [self.run_id, self.name, self.status, self.params, self.metrics, self.curves, self.tags]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


class Tracker(Protocol):
    """Where runs are told to. Both methods may be called in any process of a sweep."""

    def missing(self) -> str | None:
        """What has to be installed first, as one line; None if nothing."""

    def log(self, run: Tracked) -> None:
        """Tell of a run. One that was told already, as it is, leaves nothing; one that changed replaces it."""


class NoTracker:
    """Nothing is told to anybody."""

    def missing(self) -> str | None:
        return None

    def log(self, run: Tracked) -> None:
        pass


def check_tracker(choice: Choice) -> None:
    """Raise ConfigError, before anything runs, if the tracker's library is not installed or its YAML is wrong."""
    if choice == NO_TRACKER:
        return
    tracker: Tracker = instantiate("tracker", choice)
    if (problem := tracker.missing()) is not None:
        raise ConfigError(f"tracker={choice.name}: {problem}")


def log_run(config: RunConfig, record: Record, details: Details | None) -> None:
    """Tell the run's tracker, if it has one. One that fails is a warning: the record is there already."""
    if config.tracker == NO_TRACKER:
        return
    try:
        tracker: Tracker = instantiate("tracker", config.tracker)
        tracker.log(tracked(config, record, details))
    except Exception as error:  # whatever another library raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        logger.warning(
            "tracker=%s: run %s was not logged (%s); its record is kept, and the same command logs it again",
            config.tracker.name, record.run_id, reason,
        )  # fmt: skip


def tracked(config: RunConfig, record: Record, details: Details | None) -> Tracked:
    """A run from its record and details; a failed one has parameters and tags alone."""
    made = record.artifact is not None
    told = {name: getattr(record, name) for name in TAGS}
    versions = {f"environment.{name}": value for name, value in record.environment.items() if isinstance(value, str)}
    return Tracked(
        run_id=record.run_id,
        name=run_folder(config, record.run_id).name,
        status=record.status,
        params=params_of(record.config),
        metrics=metrics_of(record),
        curves=curves_of(record, details),
        tags={name: str(value) for name, value in {**told, **versions}.items() if value is not None},
        files=artifact_of(Path(str(record.artifact)).parent).published if made else (),
    )


def params_of(config: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """The config of a record, flat: ``method``, ``method.granularity``, ``train.lr``, ``seed``; null as text."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        choice = value.get("choice", value) if isinstance(value, Mapping) else {}
        if "target" not in choice:  # no option of a group that builds something
            found.update(_dotted(key, value))
            continue
        found[key] = choice["name"]
        found.update({f"{key}.{name}": one for name, one in flat(choice["params"]).items()})
        if choice is not value:
            found.update(_dotted(key, {name: one for name, one in value.items() if name != "choice"}))
    return {key: value if isinstance(value, str | int | float) else _text(value) for key, value in found.items()}


def _dotted(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {key: value}
    return {name: one for inner, deeper in value.items() for name, one in _dotted(f"{key}.{inner}", deeper).items()}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def metrics_of(record: Record) -> dict[str, float]:
    """Every finite number of a record by its field's name, and those of each batch size."""
    named = {one.name: getattr(record, one.name) for one in fields(record) if one.name not in NO_METRICS}
    for measured in record.latency:
        at = f"batch_{measured['batch_size']}"
        named.update({f"latency.{name}/{at}": value for name, value in measured.items() if name != "batch_size"})
    return {name: float(value) for name, value in named.items() if _is_number(value)}


def curves_of(record: Record, details: Details | None) -> dict[str, tuple[tuple[int, float], ...]]:
    """Loss, accuracy and learning rate per epoch, of the float training and of each fine-tuning."""
    trainings: dict[str, Iterable[Mapping[str, Any]]] = {"baseline": record.history}
    if details is not None:
        trainings.update({f"fine_tuning_{number}": one for number, one in enumerate(details.fine_tuning)})
    found = {}
    for training, history in trainings.items():
        for name in CURVES:
            points = tuple((int(one["epoch"]), float(one[name])) for one in history if _is_number(one.get(name)))
            if points:
                found[f"{training}/{name}"] = points
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_note(path: Path) -> dict[str, str]:
    """What :func:`write_note` left; nothing if there is nothing that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_note(path: Path, **said: str) -> None:
    """Leave word, as the last thing, of what a tracker was told."""
    write_atomic(path, json.dumps(said, sort_keys=True).encode())
