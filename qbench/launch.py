"""A sweep through one of Hydra's launchers: in waves, followed by the marks its cells leave; no cell is lost.

First one cell of each training that is to be done, then all others, so that none waits for a training that another is
at. Where all cells run on this machine, their latencies are left to the end and measured here, one after another.

A process may die, and with joblib takes the others with it. Whatever was being worked on then is run again, alone; a
cell whose process dies a second time is a failed row.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from rich.console import Console

from qbench.errors import NoRoomError, RuntimeUnavailable, StoreError
from qbench.hydra_launcher import make_launcher, one_line, release
from qbench.jobs import Ending, Job, Marks, as_override
from qbench.launchers import Crew
from qbench.outcome import Outcome, Run, show_failure
from qbench.record import load_record

FOLDER = "jobs"
LOOK_SECONDS, GRACE_SECONDS = 0.2, 10.0  # between two looks at the marks; from asking a process to end to ending it
LOOKS_PER_SECOND = 100  # at most, at the marks of many cells, which may lie on a file system that many machines share


class Jobs:
    """A launcher of Hydra, and what it made of the cells it was given.

    Args:
        console: Where each cell that ended is said.
        crew: The launcher.
        config_dir: The user's own config folder.
        outcome: Where records go.
        runs: All runs of the sweep.
    """

    def __init__(
        self, console: Console, crew: Crew, config_dir: str | None, outcome: Outcome, runs: Sequence[Run]
    ) -> None:
        self.console, self.crew, self.outcome, self.total = console, crew, outcome, len(runs)
        self.marks = Marks(runs[0].config.output_dir.resolve() / FOLDER / uuid.uuid4().hex[:8])
        self.made: list[Run] = []  # without what is timed
        self._said: set[str] = set()
        self._launched = 0
        self._died = False
        environment = {name: value for name, value in os.environ.items() if name.startswith("QBENCH_")}
        self.job = Job(self.marks.folder, Path.cwd(), config_dir, environment, timing=not crew.here)

    def __enter__(self) -> Jobs:
        try:
            self.marks.folder.mkdir(parents=True)
        except OSError as error:
            raise NoRoomError(f"{self.marks.folder} cannot be written ({error.strerror or error})") from error
        self.launcher = make_launcher(self.crew, self.marks.folder, self.job)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        release(self.crew)
        if not self._died and error is None:  # else what a dead process said is in there
            shutil.rmtree(self.marks.folder, ignore_errors=True)

    def run(self, runs: Sequence[Run]) -> None:
        """Run these cells, at once as far as the launcher may.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM; what worked on this machine was ended.
            NoRoomError: Results cannot be kept.
            RuntimeUnavailable: The launcher cannot start anything.
        """
        at_once = self.crew.at_once if self.crew.starts_all else None
        for part in _parts(runs, at_once or len(runs)):
            for run in self._launch(part):
                self._died = True
                for dead in self._launch([run]):
                    self._end_dead(dead)
            if self.marks.stopped:
                return

    def _launch(self, runs: Sequence[Run]) -> list[Run]:
        """Run these; returns those whose process died."""
        dead: list[Run] = []
        left = list(runs)
        while left and not self.marks.stopped:
            error = self._launch_once(left)
            open_ones = [run for run in left if self.marks.ending(run.key) is None]
            begun = [run for run in open_ones if self.marks.started(run.key)]
            if open_ones == left and not begun and not self.marks.stopped:
                why = one_line(error) if error is not None else "it began no cell"
                raise RuntimeUnavailable(f"hydra/launcher={self.crew.plugin.name}: {why}") from error
            dead += begun
            for run in begun:
                (self.marks.folder / f"{run.key}.started").unlink(missing_ok=True)
            left = [run for run in open_ones if run not in begun]
        for run in runs:
            self._account(run, self.marks.ending(run.key))
        return dead

    def _launch_once(self, runs: Sequence[Run]) -> Exception | None:
        """Give the launcher these; returns what it raised, once nothing that it began is still at work."""
        words = [[as_override(run.key, [*run.cell.overrides, f"threads={run.config.threads}"])] for run in runs]
        first, self._launched = self._launched, self._launched + len(runs)
        raised = None
        with self._watched(runs):
            try:
                for job in self.launcher.launch(words, initial_job_idx=first):
                    _ = job.return_value  # raises what the job raised, which is nothing that a cell does
            except (KeyboardInterrupt, SystemExit):  # ray makes the latter of SIGTERM
                self._end_all(runs)
                raise KeyboardInterrupt from None
            except Exception as error:  # of whatever kind the plugin's library has for a process that is gone
                raised = error
            _wait(lambda: not any(self.marks.held(run.key) for run in runs))
        return raised

    def _account(self, run: Run, ending: Ending | None) -> None:
        if ending is None:
            return
        if ending.status == "lost":
            raise NoRoomError(f"{run.config.label}: {ending.error}; finished stages are kept")
        if ending.status == "made":
            self.made.append(run)
            return
        try:
            record = load_record(run.config.output_dir / "records" / f"{ending.run_id}.json")
        except (OSError, ValueError) as error:
            raise StoreError(f"{run.config.label}: its record cannot be read: {error}") from error
        self.outcome.add(run, record)

    def _end_dead(self, run: Run) -> None:
        """A failed row for a cell whose process died twice."""
        from qbench.rows import failed_record

        message = (
            "the process that ran this cell was ended from outside, twice (for its memory? by the scheduler?); "
            f"what it printed, if anything, is in {self.marks.folder}"
        )
        record = failed_record(run.config, run.plan, StoreError(message))
        record.save(run.config.output_dir / "records")
        self.marks.end(run.key, Ending(record.run_id, "failed", record.error))
        self._say([run])
        self._account(run, Ending(record.run_id, "failed"))

    def _end_all(self, runs: Sequence[Run]) -> None:
        """Let nothing more begin, and end what works on this machine: first as Ctrl-C would, then for good."""
        self.marks.stop()
        for number, patience in ((signal.SIGINT, GRACE_SECONDS), (signal.SIGKILL, GRACE_SECONDS)):
            for pid in self._processes(runs):
                try:
                    os.kill(pid, number)
                except (ProcessLookupError, PermissionError):
                    continue
            _wait(lambda: not self._processes(runs), patience)
        elsewhere = sum(self.marks.held(run.key) for run in runs)
        if elsewhere:
            line = f"note: {elsewhere} cells go on elsewhere to their end; no other begins"
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        for run in runs:
            self._account(run, self.marks.ending(run.key))

    def _processes(self, runs: Sequence[Run]) -> list[int]:
        return [pid for run in runs if (pid := self.marks.process(run.key)) is not None]

    @contextmanager
    def _watched(self, runs: Sequence[Run]) -> Iterator[None]:
        """Say of each cell when it ended, while a launcher blocks this thread."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(max(LOOK_SECONDS, sum(run.key not in self._said for run in runs) / LOOKS_PER_SECOND)):
                self._say(runs)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._say(runs)

    def _say(self, runs: Sequence[Run]) -> None:
        for run in runs:
            if run.key in self._said or (ending := self.marks.ending(run.key)) is None:
                continue
            self._said.add(run.key)
            what = {"ok": "done", "made": "made, to be timed"}.get(ending.status, f"{ending.status}: {ending.error}")
            style = None if ending.status in ("ok", "made") else "red"
            line = f"[{len(self._said)}/{self.total}] {run.config.label} {what}"
            self.console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def run_launched(
    console: Console,
    runs: Sequence[Run],
    crew: Crew,
    config_dir: str | None,
    outcome: Outcome,
    run_here: Callable[[Sequence[Run]], None],
) -> None:
    """Run a sweep through a launcher.

    Args:
        console: Where to say what happens.
        runs: All runs of the sweep.
        crew: The launcher.
        config_dir: The user's own config folder.
        outcome: Where records go, as they come.
        run_here: Runs cells in this process one after another: those that only need to be read, or timed.
    """
    to_do = [run for run in runs if not run.plan.is_cached]
    made: list[Run] = []
    if to_do:
        with Jobs(console, crew, config_dir, outcome, runs) as jobs:
            for wave in waves(to_do):
                if not jobs.marks.stopped:
                    jobs.run(wave)
            made = jobs.made
            outcome.not_started = sum(jobs.marks.ending(run.key) is None for run in to_do)
    if outcome.not_started:
        return
    rest = [run for run in runs if run in made or run.plan.is_cached]
    if made:
        console.print(f"{len(made)} to be timed, one after another on this machine", highlight=False)
    run_here(rest)
    for run, record in outcome.failed:
        if run.config.traceback and run not in rest:
            show_failure(console, run, record)


def waves(runs: Sequence[Run]) -> list[list[Run]]:
    """One run for each training that is to be done, then all others."""
    first: dict[str, Run] = {}
    for run in runs:
        if not run.plan.train.cached:
            first.setdefault(run.plan.train.key, run)
    ahead = list(first.values())
    return [wave for wave in (ahead, [run for run in runs if run not in ahead]) if wave]


def _parts(runs: Sequence[Run], size: int) -> list[Sequence[Run]]:
    return [runs[start : start + size] for start in range(0, len(runs), size)]


def _wait(condition: Callable[[], bool], seconds: float | None = None) -> None:
    began = time.monotonic()
    while not condition() and (seconds is None or time.monotonic() - began < seconds):
        time.sleep(LOOK_SECONDS)
