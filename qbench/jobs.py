"""One cell in a process of a launcher: what it is told, what it does, and the marks by which the sweep follows it.

    OUTPUTS/jobs/SWEEP/KEY.lock      held while a process works on the cell; the system frees it when the process dies
    OUTPUTS/jobs/SWEEP/KEY.started   which process that is, and where
    OUTPUTS/jobs/SWEEP/KEY.ended     what became of the cell
    OUTPUTS/jobs/SWEEP/stop          cells that have not begun are not to begin any more

KEY is the run's id as the sweep planned it. A processor of another kind has other keys for what is timed, so the id of
the record may differ; ``KEY.ended`` has it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from filelock import FileLock, Timeout

from qbench.files import write_atomic

STOP = "stop"
PLAIN = "=,:/[]{}()@+* "  # kept as they are between the quotes of an override of Hydra


@dataclass(frozen=True)
class Ending:
    """What became of a cell: its record's id and status.

    ``made`` says that all is there but what must be timed on a quiet machine; ``stopped`` that it did not begin;
    ``lost`` that nothing could be recorded, and why.
    """

    run_id: str
    status: str
    error: str | None = None


class Marks:
    """The marks of a sweep's cells."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ending(self, key: str) -> Ending | None:
        """What became of a cell; None as long as that is open."""
        path = self.folder / f"{key}.ended"
        return Ending(**json.loads(path.read_bytes())) if path.is_file() else None

    def end(self, key: str, ending: Ending) -> None:
        """Say what became of a cell."""
        write_atomic(self.folder / f"{key}.ended", json.dumps(asdict(ending)).encode(), durable=False)

    def start(self, key: str) -> None:
        """Say that this process works on a cell."""
        where = {"host": socket.gethostname(), "pid": os.getpid()}
        write_atomic(self.folder / f"{key}.started", json.dumps(where).encode(), durable=False)

    def started(self, key: str) -> bool:
        """Whether a process ever worked on a cell."""
        return (self.folder / f"{key}.started").is_file()

    def process(self, key: str) -> int | None:
        """The process of this machine that works on a cell."""
        if not self.started(key) or not self.held(key):
            return None
        where = json.loads((self.folder / f"{key}.started").read_bytes())
        return int(where["pid"]) if where["host"] == socket.gethostname() else None

    def lock(self, key: str) -> FileLock:
        """Of whoever works on a cell."""
        return FileLock(self.folder / f"{key}.lock", timeout=0)

    def held(self, key: str) -> bool:
        """Whether a living process works on a cell."""
        try:
            with self.lock(key):
                return False
        except Timeout:
            return True

    def stop(self) -> None:
        """Let no further cell begin."""
        (self.folder / STOP).touch()

    @property
    def stopped(self) -> bool:
        return (self.folder / STOP).exists()


def as_override(key: str, overrides: Sequence[str]) -> str:
    """A cell as one override of the job's config, whatever characters its own have."""
    words = " ".join(quote(text, safe=PLAIN.replace(" ", "")) for text in overrides)
    return f"job='{key} {words}'"


def from_override(value: str) -> tuple[str, list[str]]:
    """Key and overrides of a cell; see :func:`as_override`."""
    key, *words = value.split(" ")
    return key, [unquote(word) for word in words if word]


@dataclass(frozen=True)
class Job:
    """The task that a launcher runs: picklable, and the same for every cell of a sweep.

    Args:
        marks: Folder of the marks.
        folder: Where the sweep was started; relative paths are relative to it.
        config_dir: The user's own config folder.
        environment: Variables that name the folders of qbench.
        timing: Whether to measure time too.
    """

    marks: Path
    folder: Path
    config_dir: str | None
    environment: Mapping[str, str]
    timing: bool

    def __call__(self, config: Any) -> Ending:
        """Run the cell of a job's config."""
        key, overrides = from_override(config.job)
        marks = Marks(self.marks)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts behind itself ignores it
        try:
            with marks.lock(key):
                return marks.ending(key) or self._run(marks, key, overrides)
        except Timeout:
            return Ending(key, "running")  # in another process: that one was thought dead

    def _run(self, marks: Marks, key: str, overrides: Sequence[str]) -> Ending:
        if marks.stopped:
            return Ending(key, "stopped")
        marks.start(key)
        try:
            ending = self._run_cell(overrides)
        except Exception as error:
            ending = Ending(key, "lost", f"{type(error).__name__}: {error}")
        if ending.status == "lost":
            marks.stop()
        marks.end(key, ending)
        return ending

    def _run_cell(self, overrides: Sequence[str]) -> Ending:
        os.chdir(self.folder)
        os.environ.update(self.environment)
        from qbench.compose import baseline_method, compose_cells
        from qbench.plan import make_plan
        from qbench.progress import SilentProgress
        from qbench.rows import STORAGE
        from qbench.runner import make_cell, run_cell

        config_dir = Path(self.config_dir) if self.config_dir is not None else None
        if config_dir is not None and str(config_dir.resolve().parent) not in sys.path:
            sys.path.insert(0, str(config_dir.resolve().parent))
        (cell,) = compose_cells(overrides, config_dir, multirun=True)
        if cell.config is None:
            raise ValueError(f"{' '.join(overrides)} has no run here: {cell.skipped}")
        baseline = baseline_method()
        plan = make_plan(cell.config, baseline)
        if plan.is_timed and not self.timing:
            failed = make_cell(cell.config, plan, baseline, SilentProgress())
            if failed is None:
                return Ending(plan.run_id, "made")
            record = failed
        else:
            record = run_cell(cell.config, plan, baseline, SilentProgress())
        if record.error_kind == STORAGE:
            Marks(self.marks).stop()  # no later result could be kept either
        return Ending(record.run_id, record.status, record.error)
