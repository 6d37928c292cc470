"""Who is busy on this machine: timings are worth something only while no other qbench stage runs.

Every stage holds a lock file of its own process; profiling holds one that all processes share, and looks at the others.
The system frees the locks of a dead process.
"""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout


def _folder() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()  # a container's user may have no name
    folder = Path(tempfile.gettempdir()) / f"qbench-{user}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@contextmanager
def busy() -> Iterator[None]:
    """Let profiling processes of this machine know that a stage is working."""
    path = _folder() / f"busy-{os.getpid()}.lock"
    try:
        with FileLock(path):
            yield
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def profiling() -> Iterator[None]:
    """Wait until no other process of this machine is profiling, and hold that right."""
    with FileLock(_folder() / "profile.lock"):
        yield


def foreign_load_percent(seconds: float = 0.3) -> float:
    """Share of this machine's processors that was busy while this process slept for ``seconds``."""
    return float(psutil.cpu_percent(interval=seconds))


def others_busy() -> bool:
    """Whether another process holds a stage right now. Files of dead processes are cleared away."""
    found = False
    for path in _folder().glob("busy-*.lock"):
        if path.stem == f"busy-{os.getpid()}":
            continue
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            found = True
        else:
            lock.release()
            pid = path.stem.removeprefix("busy-")
            # a living process may be about to lock its file: then it must stay where others look
            if pid.isdigit() and not psutil.pid_exists(int(pid)):
                path.unlink(missing_ok=True)
    return found
