"""A full disk at each stage: said clearly, nothing earlier is lost, and the same command goes on once there is room."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from calling import Bench
from faults.procs import SMALL, SWEEP, agree, call, done_lines, in_folder, in_stage, results

from qbench.record import load_records


def no_file_longer_than(size: int) -> None:
    """The system refuses to write more into any file: EFBIG, as a full disk is ENOSPC."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def finished(bench: Bench) -> dict[str, tuple[int, bytes]]:
    """The files of finished stages: when they were written, and what they hold."""
    files = [path for path in bench.store.glob("*/*/*") if path.is_file() and not path.parent.suffix]
    return {str(path.relative_to(bench.store)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("whole"), None)  # type: ignore[arg-type]
    assert call(bench, SWEEP)[0] == 0
    return bench


@pytest.mark.parametrize(("stage", "kept"), [("train", 0), ("quantize", 1), ("score", 2)])
def test_full_when_a_stage_begins(bench: Bench, whole: Bench, stage: str, kept: int) -> None:
    code, output = call(bench, SWEEP, in_stage(stage, partial(no_file_longer_than, 0)))
    # the record cannot be written either: the last line has both
    lines = output.splitlines()
    assert code == 1 and "Traceback" not in output
    assert lines[-1].startswith(
        f"qbench: {bench.outputs}/records cannot be written (File too large), and the run failed ("
    )
    assert "cannot be written (File too large): make room (qbench store gc bounds" in lines[-1]
    assert lines[-1].endswith("once it can be, the same command goes on from there")
    assert "[2/2]" not in output  # a second training would come to nothing as well
    before = finished(bench)
    assert len({name.rpartition("/")[0] for name in before}) == kept
    assert not (bench.outputs / "records").exists() or load_records(bench.outputs / "records") == ([], [])
    code, output = call(bench, SWEEP)
    assert code == 0, output
    assert before.items() <= finished(bench).items()
    agree(whole, bench)


@dataclass(frozen=True)
class Before:
    """Something done before a function of a module is called."""

    module: str
    name: str
    action: Callable[[], object]

    def __call__(self) -> None:
        import importlib

        place = importlib.import_module(self.module)
        function = getattr(place, self.name)

        def disturbed(*arguments: object, **named: object) -> object:
            self.action()
            return function(*arguments, **named)

        setattr(place, self.name, disturbed)


def test_full_when_the_record_is_written(bench: Bench, whole: Bench) -> None:
    code, output = call(bench, SWEEP, Before("qbench.runner", "assess", partial(no_file_longer_than, 0)))
    assert code == 1 and output.splitlines()[-1] == (
        f"qbench: {bench.outputs}/records cannot be written (File too large), and its finished stages are kept; "
        "once it can be, the same command goes on from there"
    )
    assert len(done_lines(output)) == 5 and len(done_lines(call(bench, SWEEP)[1])) == 2
    agree(whole, bench)


def test_full_when_the_tables_are_written(bench: Bench, whole: Bench) -> None:
    code, output = call(bench, SWEEP, Before("qbench.report.tables", "write_tables", partial(no_file_longer_than, 0)))
    assert code == 1 and output.splitlines()[-1] == (
        f"qbench: {bench.outputs}/tables cannot be written (File too large); the records are kept, and "
        f"`qbench report {bench.outputs}` makes the tables once there is room"
    )
    assert call(bench, ["report", str(bench.outputs)])[0] == 0
    agree(whole, bench)


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], None] | None]:
    """A file system of its own that holds a megabyte, and what enlarges it; None where nobody may mount one."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        yield None
        return
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=200m", str(folder)], check=True) and None
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_store_on_a_small_disk(bench: Bench) -> None:
    """The store alone is full: the failure is a row, the sweep stops there, and says what to do."""
    whole = in_folder(bench, "whole")
    assert call(whole, SWEEP)[0] == 0
    with small_disk(bench.store) as enlarge:
        # where nobody may mount: a checkpoint is the longest file, and longer than any record
        limit = [] if enlarge else [partial(no_file_longer_than, 100_000)]
        code, output = call(bench, SWEEP, *limit)
        lines = output.splitlines()
        assert code == 1 and "Traceback" not in output, output
        (record,), problems = load_records(bench.outputs / "records")
        assert (record.status, record.error_kind, problems) == ("failed", "storage", [])
        assert (
            record.error is not None
            and str(bench.store) in record.error
            and "make room (qbench store gc" in record.error
        )
        assert "No space left on device" in record.error or (not enlarge and "File too large" in record.error)
        assert results(bench)["status"].tolist() == ["failed"]
        assert lines[-4].startswith("1 of 2 runs failed; tracebacks: ")
        assert lines[-3:] == [
            "stopped: 1 further runs were not started, their results could not be kept",
            "go on with:", f"  qbench {' '.join(SWEEP)}",
        ]  # fmt: skip
        if enlarge is not None:
            enlarge()
        assert call(bench, SWEEP)[0] == 0
        agree(whole, bench)


def test_a_cache_of_nothing_is_no_reason_to_fail(bench: Bench) -> None:
    """What is only remembered for convenience, the durations and the list of what is read, may fail in silence."""
    run = ("run", *SMALL, "method=linear", "bits=4")
    assert call(bench, run)[0] == 0
    for name in ("durations", "locks"):
        folder = bench.store / name
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        folder.write_text("a file in its place")
    code, output = call(bench, run)
    assert code == 0 and done_lines(output) == [], output
