"""MLflow: one run per run of qbench, in a folder of files (``mlflow ui --backend-store-uri FOLDER``); no server.

Of MLflow's stores the one of plain files is what the small package (``mlflow-skinny``) has with nothing else installed;
MLflow 3 keeps it as it is and asks to be told that it is wanted. Nothing is sent anywhere: its telemetry is turned off.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from qbench.runtime.extras import import_extra, missing_extra, quietly
from qbench.trackers.base import Tracked, read_note, write_note

SETTINGS = {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
MOST_METRICS, MOST_OTHERS = 1000, 100  # that MLflow takes in one call
RUN_ID = "qbench.run_id"
_Entry = TypeVar("_Entry")


@dataclass(frozen=True)
class MLflow:
    """Parameters, figures, a value per epoch, tags, and the artefact.

    Args:
        folder: MLflow's store of files.
        experiment: Its name; made where there is none.
        artifacts: Whether the artefact is copied into the store.
    """

    folder: str
    experiment: str = "qbench"
    artifacts: bool = True

    def missing(self) -> str | None:
        return missing_extra(["mlflow"], "mlflow")

    def log(self, run: Tracked) -> None:
        place = Path(self.folder).resolve()
        place.mkdir(parents=True, exist_ok=True)
        note = place / f".qbench-{run.run_id}.json"  # searching the store for a run reads every run of it
        with FileLock(place / ".qbench.lock"), quietly():
            os.environ.update(SETTINGS)
            client = import_extra("mlflow", "mlflow").MlflowClient(place.as_uri())
            said = read_note(note)
            known = _living(client, said.get("run"))
            if known is not None and said.get("digest") == run.digest:
                return
            if known is not None:
                client.delete_run(known)
            made = self._write(client, run)
            write_note(note, run=made, digest=run.digest)

    def _write(self, client: Any, run: Tracked) -> str:
        """A new run of MLflow's; returns its id."""
        entities = import_extra("mlflow.entities", "mlflow")
        tags = {RUN_ID: run.run_id, **{f"qbench.{name}": text for name, text in run.tags.items()}}
        made = str(client.create_run(_experiment(client, self.experiment), run_name=run.name).info.run_id)
        now = int(time.time() * 1000)
        points = [(name, value, 0) for name, value in run.metrics.items()]
        points += [(name, value, epoch) for name, curve in run.curves.items() for epoch, value in curve]
        for some in _pieces(points, MOST_METRICS):
            client.log_batch(made, metrics=[entities.Metric(name, value, now, step) for name, value, step in some])
        for params in _pieces(list(run.params.items()), MOST_OTHERS):
            client.log_batch(made, params=[entities.Param(name, str(value)) for name, value in params])
        for pairs in _pieces(list(tags.items()), MOST_OTHERS):
            client.log_batch(made, tags=[entities.RunTag(name, text) for name, text in pairs])
        for path in run.files if self.artifacts else ():
            client.log_artifact(made, str(path))
        client.set_terminated(made, "FINISHED" if run.status == "ok" else "FAILED")
        return made


def _experiment(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _living(client: Any, run: str | None) -> str | None:
    """The id of a run that is still there, and that nobody deleted."""
    if run is None:
        return None
    missing = import_extra("mlflow.exceptions", "mlflow").MlflowException
    try:
        found = client.get_run(run)
    except missing:
        return None
    return run if found.info.lifecycle_stage == "active" else None


def _pieces(entries: Sequence[_Entry], size: int) -> Iterator[Sequence[_Entry]]:
    for start in range(0, len(entries), size):
        yield entries[start : start + size]
