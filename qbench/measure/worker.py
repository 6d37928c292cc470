"""The parent's side of :mod:`qbench.measure.latency_worker`: start an engine in its own process, ask it, end it."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from qbench.errors import QBenchError

_MODULE = "qbench.measure.latency_worker"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_STDERR_TAIL_LINES = 20
_EXIT_SECONDS = 5


@dataclass(frozen=True)
class EngineSpec:
    """What a worker process loads.

    Args:
        name: For messages: "candidate", "baseline".
        factory: Dotted path of a function that takes ``args`` and returns a callable running one batch.
        args: JSON-able arguments of the factory.
        threads: Threads the engine may use, >= 1; set in its environment before any library is imported.
        preload: Modules imported before memory is first read.
    """

    name: str
    factory: str
    args: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    preload: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1, not {self.threads}")
        if "." not in self.factory:
            raise ValueError(f"factory must be a dotted path, not {self.factory!r}")


def artifact_engine(
    name: str,
    path: Path,
    runtime: str,
    input_shape: Sequence[int],
    *,
    threads: int,
    params: Mapping[str, Any] | None = None,
    preload: tuple[str, ...] = (),
) -> EngineSpec:
    """Describe an artefact on a runtime.

    Args:
        name: For messages: "candidate", "baseline".
        path: The artefact.
        runtime: Dotted path of the runtime class.
        input_shape: (C, H, W) of one image.
        threads: Threads the runtime may use, >= 1.
        params: JSON-able parameters of the runtime.
        preload: Modules the runtime imports late, such as the engine it wraps, so that they count as code.
    """
    return EngineSpec(
        name=name,
        factory=f"{_MODULE}.load_artifact",
        args={
            "path": str(path),
            "runtime": runtime,
            "params": dict(params or {}),
            "input_shape": list(input_shape),
            "threads": threads,
        },
        threads=threads,
        preload=("torch", runtime.rpartition(".")[0], *preload),
    )


class Worker:
    """A running engine process; a context manager that leaves no process behind, whatever happens inside it.

    Args:
        engine: What to load.
        start_timeout: Seconds it may take to import and load.
        answer_timeout: Seconds one request may take.

    Attributes:
        ready: What the worker said when it had loaded: kind and resident sets.
    """

    def __init__(self, engine: EngineSpec, *, start_timeout: float = 120.0, answer_timeout: float = 600.0) -> None:
        self.engine = engine
        self.ready: Mapping[str, Any] = {}
        self._start_timeout = start_timeout
        self._answer_timeout = answer_timeout
        self._lines: queue.Queue[str | None] = queue.Queue()

    def __enter__(self) -> Worker:
        arguments = [self.engine.factory, json.dumps(dict(self.engine.args)), json.dumps(list(self.engine.preload))]
        # A file, not a pipe: nobody reads it until the worker dies, and a full pipe would block the worker.
        self._stderr: IO[bytes] = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=_environment(self.engine.threads),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        try:
            self._reader.start()
            self.ready = self._receive(self._start_timeout, "loading")
        except BaseException:  # Ctrl-C while it loads must not leave it behind either
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def request(self, batch_size: int, inner: int) -> Mapping[str, Any]:
        """Have the engine run ``inner`` timed calls of one batch.

        Returns:
            The worker's answer: "seconds" (one per call) and "peak_rss_bytes".

        Raises:
            QBenchError: the worker died or did not answer in time; the message ends with the tail of its stderr.
        """
        assert self._process.stdin is not None  # opened as a pipe above
        try:
            self._process.stdin.write(json.dumps({"batch_size": batch_size, "inner": inner}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._failure("running") from error
        return self._receive(self._answer_timeout, "running")

    def _read(self) -> None:
        assert self._process.stdout is not None  # opened as a pipe above
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _receive(self, timeout: float, doing: str) -> Mapping[str, Any]:
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise QBenchError(
                f"the {self.engine.name} engine did not answer within {timeout:g} s while {doing}{self._tail()}"
            ) from None
        if line is None:
            raise self._failure(doing)
        answer: Mapping[str, Any] = json.loads(line)
        return answer

    def _failure(self, doing: str) -> QBenchError:
        try:
            code: int | str = self._process.wait(timeout=_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            code = "unknown, still running"
        return QBenchError(f"the {self.engine.name} engine died while {doing} (exit code {code}){self._tail()}")

    def _tail(self) -> str:
        # Through its own offset: the worker shares this file's position and may still be writing.
        size = os.fstat(self._stderr.fileno()).st_size
        lines = os.pread(self._stderr.fileno(), size, 0).decode(errors="replace").splitlines()
        return "".join(f"\n  {line}" for line in lines[-_STDERR_TAIL_LINES:])

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._reader.ident is not None:
            self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):  # what was not yet written cannot reach a dead process
                    stream.close()
        self._stderr.close()


def _environment(threads: int) -> dict[str, str]:
    """Copy the environment of this process, with the thread counts and the import path the worker needs."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # noqa: PTH109 - a string is what is needed
    return {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads)), "PYTHONPATH": path}
