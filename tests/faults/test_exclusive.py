"""Locks of this machine: who is busy, who measures, and what the dead leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from calling import Bench

from qbench.exclusive import busy, others_busy, profiling

HOLD = "import sys\nfrom qbench.exclusive import {0}\nwith {0}():\n    print('held', flush=True)\n    sys.stdin.read()"


@contextmanager
def holder(bench: Bench, what: str) -> Iterator[subprocess.Popen[str]]:
    """Another process inside ``busy()`` or ``profiling()``, until the block ends."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", HOLD.format(what)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=bench.environment()) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process


def files(bench: Bench) -> list[str]:
    return sorted(path.name for path in (bench.home / "tmp").glob("qbench-*/busy-*"))


def test_another_stage_is_seen_until_it_ends(bench: Bench) -> None:
    assert not others_busy()
    with holder(bench, "busy") as other:
        assert others_busy() and others_busy()  # looking changes nothing
        assert files(bench) == [f"busy-{other.pid}.lock"]
    assert other.returncode == 0 and not others_busy() and files(bench) == []


def test_ones_own_stage_is_not_anothers(bench: Bench) -> None:
    with busy():
        assert not others_busy() and files(bench) == [f"busy-{os.getpid()}.lock"]
    assert files(bench) == []
    with pytest.raises(ValueError, match="broke"), busy():
        raise ValueError("broke")
    assert files(bench) == []


def test_a_killed_stage_is_not_busy_and_its_file_is_cleared_away(bench: Bench) -> None:
    with holder(bench, "busy") as other:
        other.kill()
        other.wait()
        assert not others_busy() and files(bench) == []


def test_the_file_of_a_living_process_stays(bench: Bench) -> None:
    # between two stages, or just before it locks its file: removing it would hide the next stage
    with holder(bench, "profiling") as other:
        path = next((bench.home / "tmp").glob("qbench-*")) / f"busy-{other.pid}.lock"
        path.touch()
        assert not others_busy() and path.exists()


def test_one_process_profiles_at_a_time(bench: Bench) -> None:
    with holder(bench, "profiling") as other:
        assert other.stdin is not None
        waiting = subprocess.Popen(
            [sys.executable, "-c", HOLD.format("profiling")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=bench.environment(),
        )  # fmt: skip
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=0.5)
    assert waiting.communicate()[0] == "held\n" and waiting.returncode == 0
    with profiling():
        assert not others_busy()  # measuring is not a stage that disturbs


def test_the_folder_is_the_users_own(bench: Bench) -> None:
    with busy():
        (folder,) = (bench.home / "tmp").iterdir()
        assert folder.stat().st_mode & 0o077 == 0 and isinstance(folder, Path)
