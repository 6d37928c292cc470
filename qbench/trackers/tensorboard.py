"""TensorBoard: one folder of event files per run, for ``tensorboard --logdir FOLDER``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from qbench.runtime.extras import import_extra, missing_extra, quietly
from qbench.trackers.base import Tracked, read_note, write_note

NOTE = "qbench.json"
EVENTS = "events.out.tfevents.*"


@dataclass(frozen=True)
class TensorBoard:
    """Scalars per epoch, figures as scalars and as the metrics of hyperparameters, and the run as text.

    Args:
        folder: Holds one folder per run, named as those of ``outputs/runs``.
    """

    folder: str

    def missing(self) -> str | None:
        return missing_extra(["tensorboard"], "tensorboard")

    def log(self, run: Tracked) -> None:
        place = Path(self.folder) / run.name
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / ".lock"):
            if read_note(place / NOTE).get("digest") == run.digest:
                return
            for old in place.glob(EVENTS):
                old.unlink()
            with quietly():
                board = import_extra("torch.utils.tensorboard", "tensorboard")
                summary = import_extra("torch.utils.tensorboard.summary", "tensorboard")
                _write(run, board.SummaryWriter(str(place)), summary.hparams(dict(run.params), dict(run.metrics)))
            write_note(place / NOTE, digest=run.digest)


def _write(run: Tracked, writer: Any, hyperparameters: Any) -> None:
    with writer:
        for name, points in run.curves.items():
            for epoch, value in points:
                writer.add_scalar(name, value, epoch)
        for name, value in run.metrics.items():
            writer.add_scalar(name, value, 0)
        for one in hyperparameters:  # in this file; `add_hparams` would open a second one
            writer.file_writer.add_summary(one)
        writer.add_text("run", _page(run), 0)


def _page(run: Tracked) -> str:
    """The run in Markdown."""
    rows = {"run": run.run_id, **run.tags, **{f"file {path.name}": str(path) for path in run.files}}
    lines = [f"| {name} | {str(text).replace('|', '/')} |" for name, text in rows.items()]
    return "\n".join([f"# {run.name}", "", "| | |", "|---|---|", *lines])
