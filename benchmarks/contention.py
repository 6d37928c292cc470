"""What one store takes when many processes hammer it over a slow file system: a sweep without the networks.

    PROCESSES start at once and divide CELLS between them, as the jobs of a launcher do. A cell does what the runner
    does: it says what it reads, takes its five stages from the store, makes those that are missing, and writes a
    record. All cells of a training share three of the five, so everybody wants the same few keys at first.

Stages only sleep and write files of a plausible size. Every operation on a file of the store (open, stat, rename,
unlink, mkdir, utime, listing, link, fsync, flock) first waits LATENCY, as over a network; the file system below is this
machine's, so what a real one adds under load (a busy metadata server, caches that lag behind) is not in the figures.

    python benchmarks/contention.py --json result.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from report import full_record

from qbench.machine import cpu_model
from qbench.record import load_for_tables
from qbench.store import Store, content_key
from qbench.upkeep import check, collect, entries

WORK_SECONDS = {"train": 4.0, "quantize": 0.2, "score": 0.1}
FILES = {"train": 400_000, "quantize": 50_000, "score": 100_000}  # bytes, of a small network
DELAYED = frozenset(
    {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.utime", "os.listdir", "os.scandir"}
)


class SlowFiles:
    """Every operation on a file below a folder waits first, and is counted. Python tells of most by audit events."""

    def __init__(self, home: Path, latency: float) -> None:
        self.home, self.latency = str(home), latency
        self.count = Counter[str]()
        sys.addaudithook(self._audited)
        for name in ("stat", "lstat"):  # which Python does not audit
            setattr(os, name, partial(self._delayed, name, getattr(os, name)))
        self._fsync = os.fsync
        os.fsync = self._synced

    def _audited(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "fcntl.flock":
            self._wait("flock")
        elif event in DELAYED:
            self._on(event.removeprefix("os."), arguments[0])

    def _delayed(self, name: str, action: Callable[..., Any], path: Any, *rest: Any, **named: Any) -> Any:
        self._on(name, path)
        return action(path, *rest, **named)

    def _synced(self, descriptor: int) -> None:
        self._wait("fsync")
        self._fsync(descriptor)

    def _on(self, event: str, path: Any) -> None:
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.home):
            self._wait(event)

    def _wait(self, event: str) -> None:
        self.count[event] += 1
        time.sleep(self.latency)


@dataclass(frozen=True)
class Asked:
    """A stage that a cell asked for. Times are of the clock that all processes share."""

    key: str
    began: float
    ended: float
    worked: float  # seconds; 0 where it was there, or another process made it


@dataclass
class Seen:
    """What one process did."""

    cells: list[tuple[float, float, float, list[Asked]]] = field(default_factory=list)  # began, ended, gate, stages
    record_seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    operations: Counter[str] = field(default_factory=Counter)


def stages_of(training: int, method: int) -> list[tuple[str, str]]:
    """The (stage, key) of a cell, in order; the first three are shared by all cells of its training."""
    of_training: list[tuple[str, object]] = [("train", training), ("quantize", training), ("score", training)]
    own: list[tuple[str, object]] = [("quantize", [training, method]), ("score", [training, method])]
    return [(stage, content_key(stage, 1, what)) for stage, what in (*of_training, *own)]


def make(stage: str, scale: float, folder: Path) -> None:
    time.sleep(WORK_SECONDS[stage] * scale)
    for name, size in (("data.bin", FILES[stage]), ("facts.json", 300)):
        with (folder / name).open("wb") as stream:
            stream.write(random.Random(folder.name).randbytes(size))
            os.fsync(stream.fileno())


def run_cell(store: Store, outputs: Path, training: int, method: int, scale: float, seen: Seen) -> None:
    """As :func:`qbench.runner.run_cell`, without what is not about files."""
    wanted, asked = stages_of(training, method), []
    began = time.monotonic()
    with store.in_use(wanted):
        gate = time.monotonic() - began
        for stage, key in wanted:
            called = time.monotonic()
            _, cached = store.get_or_make(stage, key, partial(make, stage, scale), "made up")
            asked.append(Asked(key, called, time.monotonic(), 0.0 if cached else WORK_SECONDS[stage] * scale))
    saving = time.monotonic()
    names = {"run_id": wanted[-1][1][:12], "dataset": "made up", "model": f"m{training}", "method": "x", "seed": method}
    full_record(names, 4, random.Random(0)).save(outputs / "records")
    seen.record_seconds.append(time.monotonic() - saving)
    seen.cells.append((began, time.monotonic(), gate, asked))


def work(number: int, options: argparse.Namespace, home: Path, barrier: Any) -> Seen:
    """One process's share: every cell whose turn it is, training by training."""
    slow, seen = SlowFiles(home, options.latency_ms / 1000), Seen()
    store = Store(home / "store")
    barrier.wait()
    for cell in range(number, options.cells, options.processes):
        try:
            run_cell(store, home, cell % options.trainings, cell // options.trainings, options.scale, seen)
        except Exception as error:
            seen.errors.append(f"{type(error).__name__}: {error}")
    seen.operations = slow.count
    return seen


_share: Callable[[int], Seen]  # of the processes: inherited, because a barrier cannot be sent to them


def _work(number: int) -> Seen:
    return _share(number)


def hammer(options: argparse.Namespace, home: Path) -> list[Seen]:
    """Let them all loose."""
    global _share
    processes = multiprocessing.get_context("fork")
    _share = partial(work, options=options, home=home, barrier=processes.Barrier(options.processes))
    with processes.Pool(options.processes) as pool:  # each waits for all at the barrier, so each gets one share
        return pool.map(_work, range(options.processes), chunksize=1)


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 95 %, largest, in seconds; zeros where there is nothing."""
    if len(seconds) < 2:
        return dict.fromkeys(("p50", "p95", "max"), seconds[0] if seconds else 0.0)
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    return {"p50": cuts[9], "p95": cuts[18], "max": max(seconds)}


def summary(options: argparse.Namespace, seen: Sequence[Seen]) -> dict[str, Any]:
    """What the store added to a cell's own work."""
    cells = [cell for one in seen for cell in one.cells]
    made = [asked for *_, stages in cells for asked in stages if asked.worked]
    there = {one.key: one.ended for one in made}
    late, added = [], []
    for began, ended, _, stages in cells:
        waited = [(one, max(0.0, there[one.key] - one.began)) for one in stages if not one.worked]
        late += [one.ended - there[one.key] for one, unavoidable in waited if unavoidable]
        added.append(ended - began - sum(one.worked for one in stages) - sum(seconds for _, seconds in waited))
    records = [seconds for one in seen for seconds in one.record_seconds]
    operations = Counter[str]()
    for one in seen:
        operations += one.operations
    wall = max(ended for _, ended, *_ in cells) - min(began for began, *_ in cells)
    return {
        "wall_seconds": wall,
        "stages": 3 * options.trainings + 2 * options.cells,
        "made": len(made),
        "made_once": len(there),
        "errors": [error for one in seen for error in one.errors],
        "cells_per_second": len(cells) / wall,
        "gate_seconds": spread([gate for _, _, gate, _ in cells]),
        "first_gate_seconds": spread([one.cells[0][2] for one in seen if one.cells]),
        "waited_for_others": len(late),
        "late_seconds": spread(late),
        "added_seconds_per_cell": spread(added),
        "record_seconds": spread(records),
        "operations_per_cell": {name: number / len(cells) for name, number in operations.most_common()},
    }


def look(home: Path) -> dict[str, Any]:
    """Seconds of what people do with a store and its records afterwards, and how much there is."""
    store, facts = Store(home / "store"), dict[str, Any]()

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        facts[f"{name}_seconds"] = time.monotonic() - began

    with timed("list"):
        found = entries(store)
    with timed("verify"):
        facts["damaged"] = len(list(check(store)))
    with timed("gc_dry_run"):
        collect(store, keep_bytes=0, dry_run=True)
    with timed("read_records"):
        records, _, problems = load_for_tables(home / "records")
    facts |= {"entries": len(found), "leftovers": sum(one.kind != "entry" for one in found)}
    facts |= {"records": len(records), "problems": problems, "store_bytes": sum(one.size_bytes for one in found)}
    facts["record_bytes"] = sum(path.stat().st_size for path in (home / "records").iterdir()) / len(records)
    facts["files_in_locks"] = len(list(store.locks.iterdir()))
    return facts


def slow_look(home: Path, latency: float) -> dict[str, Any]:
    """The same over the slow file system, in a process of its own: the delay cannot be taken back."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(_slow_look, (home, latency))


def _slow_look(home: Path, latency: float) -> dict[str, Any]:
    SlowFiles(home, latency)
    return look(home)


def show(facts: dict[str, Any]) -> None:
    seen, here, slow = facts["sweep"], facts["afterwards"], facts["afterwards_slow"]
    print(f"{facts['processes']} processes, {facts['cells']} cells of {facts['trainings']} trainings, "
          f"{facts['latency_ms']:g} ms per operation: {seen['wall_seconds']:.1f} s, "
          f"{seen['cells_per_second']:.1f} cells/s")  # fmt: skip
    print(f"  {seen['stages']} stages, made {seen['made']}, errors {len(seen['errors'])} {seen['errors'][:3]}")
    for name in ("gate", "first_gate", "late", "added_seconds_per_cell", "record"):
        values = seen[name if name in seen else f"{name}_seconds"]
        print(f"  {name:<24}" + "".join(f"{key} {1000 * value:9.0f} ms   " for key, value in values.items()))
    print(f"  operations per cell {sum(seen['operations_per_cell'].values()):.0f}: "
          + ", ".join(f"{name} {number:.1f}" for name, number in seen["operations_per_cell"].items()))  # fmt: skip
    print(f"  {here['entries']} entries {here['store_bytes'] / 1e6:.1f} MB, {here['files_in_locks']} files in locks, "
          f"records of {here['record_bytes'] / 1e3:.1f} kB")  # fmt: skip
    for name in ("list", "verify", "gc_dry_run", "read_records"):
        print(f"  {name:<14}{here[f'{name}_seconds']:8.2f} s   slow {slow[f'{name}_seconds']:8.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=64)
    parser.add_argument("--cells", type=int, default=640)
    parser.add_argument("--trainings", type=int, default=8)
    parser.add_argument("--latency-ms", type=float, default=10.0, help="before every operation on a file")
    parser.add_argument("--scale", type=float, default=1.0, help=f"of the seconds that stages take: {WORK_SECONDS}")
    parser.add_argument("--small", action="store_true", help="see that it runs: 4 processes, 16 cells, hardly a delay")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    if options.small:
        options.processes, options.cells, options.trainings, options.latency_ms, options.scale = 4, 16, 2, 0.1, 0.02
    facts: dict[str, Any] = {name: getattr(options, name) for name in ("processes", "cells", "trainings", "latency_ms")}
    facts |= {"work_seconds": {name: seconds * options.scale for name, seconds in WORK_SECONDS.items()}}
    facts |= {
        "cpu": cpu_model(),
        "load_before": os.getloadavg()[0],
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        facts["sweep"] = summary(options, hammer(options, home))
        facts["afterwards"] = look(home)
        facts["afterwards_slow"] = slow_look(home, options.latency_ms / 1000)
    show(facts)
    if options.json is not None:
        options.json.write_text(json.dumps(facts, indent=1) + "\n")
    sys.exit(1 if facts["sweep"]["errors"] or facts["sweep"]["made"] != facts["sweep"]["stages"] else 0)


if __name__ == "__main__":
    main()
