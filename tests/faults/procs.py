"""qbench in processes that can be killed, starved or shut out, each forked from one where torch is loaded already.

Such a process costs a second instead of the ten that importing takes. Only what is forked is disturbed: the process
that forks runs nothing itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pandas as pd
from calling import Bench

from qbench.record import load_records

PRELOADED = [
    "torch", "torch._dynamo", "torch.fx", "torchvision", "pandas", "hydra", "scipy.stats",
    "statsmodels.stats.proportion",
    "qbench.cli", "qbench.sweep", "qbench.runner", "qbench.progress", "qbench.report.tables", "qbench.data.synthetic",
    "qbench.models.small", "qbench.methods.standard", "qbench.methods.linear", "qbench.methods.kmeans",
    "qbench.methods.float_storage", "qbench.runtime.torch_runtime", "calling", "faults.procs",
]  # fmt: skip
# a second of work: a training of three epochs with a checkpoint after each, a perceptron, generated images
SMALL = (
    "dataset=synthetic", "dataset.train_images=480", "dataset.test_images=120", "dataset.calibration_images=40",
    "dataset.noise=0.9",
    "model=mlp", "train.epochs=3", "train.batch_size=48", "measure=none", "threads=1",
)  # fmt: skip
SWEEP = ("run", "-m", *SMALL, "method=linear,kmeans", "bits=4")
TIMES = ["train_seconds", "quantize_seconds", "artifact"]
TIMEOUT_SECONDS = 120
WATCHED = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.utime"})
Hook = Callable[[], object]


@dataclass
class Running:
    """A forked ``qbench``; its output is gathered while it runs, through a pipe, which no limit on files touches."""

    process: Any
    receiver: Connection
    parts: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        while part := os.read(self.receiver.fileno(), 1 << 16):
            self.parts.append(part)

    def end(self) -> tuple[int, str]:
        """Wait; returns the exit code (minus the signal of a killed one) and everything it printed."""
        self.process.join(TIMEOUT_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            raise AssertionError(f"still running after {TIMEOUT_SECONDS} s: {b''.join(self.parts).decode()}")
        self.reader.join()
        self.receiver.close()
        return self.process.exitcode, b"".join(self.parts).decode()


def start(bench: Bench, words: Sequence[str], *hooks: Hook) -> Running:
    """``qbench WORDS`` with the folders of ``bench``; ``hooks`` are called in that process first."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by the process that forks
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(PRELOADED)
    (bench.home / "tmp").mkdir(parents=True, exist_ok=True)
    folders = {"STORE": bench.store, "OUTPUTS": bench.outputs, "DATA": bench.home / "data"}
    environment = {f"QBENCH_{name}": str(folder) for name, folder in folders.items()}
    environment |= {"TMPDIR": os.environ.get("TMPDIR", str(bench.home / "tmp")), "NO_COLOR": "1"}
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=_run, args=(list(words), environment, str(bench.home), sender, hooks))
    process.start()
    sender.close()
    return Running(process, receiver)


def call(bench: Bench, words: Sequence[str], *hooks: Hook) -> tuple[int, str]:
    """As :func:`start`, to its end."""
    return start(bench, words, *hooks).end()


def _run(words: list[str], environment: dict[str, str], home: str, sender: Connection, hooks: tuple[Hook, ...]) -> None:
    from qbench.cli import main

    # what a shell starts in the background ignores Ctrl-C, and so would everything forked from it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    tempfile.tempdir = None
    os.chdir(home)
    for stream in (1, 2):
        os.dup2(sender.fileno(), stream)
    sender.close()
    sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
    for hook in hooks:
        hook()
    main(words)


# --- what is done to them, in them


class Events:
    """The operations on files below a folder, in order, and a signal at one of them.

    Python tells of most by its audit events, before they happen; a synced write is one more, and a kill there leaves
    half of what was written.
    """

    def __init__(self, home: Path, kill_at: int | None = None, log: Path | None = None) -> None:
        self.home, self.kill_at, self.log = str(home) + os.sep, kill_at, log

    def __call__(self) -> None:
        self.count = 0
        self.writing = ""
        self._fsync = os.fsync
        os.fsync = self._synced
        sys.addaudithook(self._audited)

    def _audited(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in WATCHED and isinstance(arguments[0], str | os.PathLike):
            path = os.fspath(arguments[0])
            if isinstance(path, str) and path.startswith(self.home) and path != str(self.log):
                self.writing = path  # what is synced next was opened last
                self._happened(event, path)

    def _synced(self, descriptor: int) -> None:
        def tear() -> None:
            state = os.fstat(descriptor)
            if stat.S_ISREG(state.st_mode):  # folders are synced too, and cannot be torn
                os.ftruncate(descriptor, state.st_size // 2)

        self._happened("fsync", self.writing, tear)
        self._fsync(descriptor)

    def _happened(self, event: str, path: str, tear: Callable[[], None] = lambda: None) -> None:
        self.count += 1
        if self.count == self.kill_at:
            tear()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.log is not None:
            with self.log.open("a") as stream:
                stream.write(f"{event} {path.removeprefix(self.home)}\n")


def in_stage(stage: str, action: Callable[[], object]) -> Hook:
    """Do something when a stage of this name begins."""
    return _InStage(stage, action)


@dataclass(frozen=True)
class _InStage:
    stage: str
    action: Callable[[], object]

    def __call__(self) -> None:
        import qbench.runner

        name = f"{self.stage}_stage"
        make = getattr(qbench.runner, name)

        def disturbed(*arguments: Any, **named: Any) -> Any:
            self.action()
            return make(*arguments, **named)

        setattr(qbench.runner, name, disturbed)


# --- what must be true afterwards


def in_folder(bench: Bench, name: str) -> Bench:
    """The same with folders of its own."""
    return Bench(bench.home / name, bench.capture)


def results(bench: Bench) -> pd.DataFrame:
    return pd.read_csv(bench.outputs / "tables" / "results.csv")


def artefacts(bench: Bench) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in bench.outputs.glob("runs/*/model.qbench")}


def agree(left: Bench, right: Bench) -> None:
    """All but time and place: every column, every byte of every artefact; nothing half-made or damaged is left."""
    pd.testing.assert_frame_equal(results(left).drop(columns=TIMES), results(right).drop(columns=TIMES))
    assert artefacts(left) == artefacts(right) and artefacts(left)
    assert load_records(left.outputs / "records")[1] == load_records(right.outputs / "records")[1] == []
    assert [path.name for path in right.store.glob("*/*") if path.suffix in (".partial", ".damaged")] == []


def done_lines(output: str) -> list[str]:
    """``train KEY`` of every stage that a process made itself."""
    return [line.strip().removesuffix(" done") for line in output.splitlines() if line.endswith(" done")]


def epochs(output: str) -> list[str]:
    """``1/3`` of every epoch that a process trained itself."""
    return [line.split()[2].rstrip(":") for line in output.splitlines() if " epoch " in line and "loss" in line]


def wait_until(condition: Callable[[], bool]) -> None:
    """Look every few milliseconds until it holds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < TIMEOUT_SECONDS
        time.sleep(0.005)
