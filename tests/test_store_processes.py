"""The store between processes: an entry is made once, waiting is said, a killed process frees its lock."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from calling import ROOT
from storing import KEY, fill, never

from qbench.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def _make_slowly(root: Path, log: Path, start: float) -> None:
    def make(folder: Path) -> None:
        with log.open("a") as stream:
            stream.write("made\n")
        time.sleep(0.3)
        fill(folder)

    time.sleep(max(0.0, start - time.time()))
    folder, _ = Store(root).get_or_make("train", KEY, make)
    assert Store.verify(folder) is None


def test_processes_make_an_entry_once(store: Store, tmp_path: Path) -> None:
    processes = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    workers = [processes.Process(target=_make_slowly, args=(store.root, log, time.time() + 1)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert log.read_text().splitlines() == ["made"]


def child(code: str, store: Store) -> subprocess.Popen[str]:
    """A process that runs the code on the store, once it has said so."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom qbench.store import Store\nstore = Store(Path(sys.argv[1]))\n"
        + code
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(store.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_waiting_for_another_process_is_said(store: Store) -> None:
    code = f"with store.lock('train', {KEY!r}):\n    print('ready', flush=True)\n    sys.stdin.read()"
    said: list[str] = []
    with child(code, store) as holder:

        class Release(logging.Handler):
            """The other process lets go as soon as this one says that it waits."""

            def emit(self, record: logging.LogRecord) -> None:
                said.append(record.getMessage())
                assert holder.stdin is not None
                holder.stdin.close()

        handler = Release(logging.WARNING)
        logging.getLogger("qbench.store").addHandler(handler)
        try:
            assert store.get_or_make("train", KEY, fill)[1] is False
        finally:
            logging.getLogger("qbench.store").removeHandler(handler)
    assert said == [f"store: another process makes train/{KEY}; waiting for it"]
    assert holder.returncode == 0


def test_whoever_waits_reads_a_finished_entry_without_the_lock(store: Store, tmp_path: Path) -> None:
    """However many wait: they do not stand in line for the lock of an entry that is there."""
    elsewhere, _ = Store(tmp_path / "elsewhere").get_or_make("train", KEY, fill)
    code = f"with store.lock('train', {KEY!r}):\n    print('ready', flush=True)\n    time.sleep(20)"

    class Finish(logging.Handler):
        """The entry appears as soon as this process says that it waits for it."""

        def emit(self, record: logging.LogRecord) -> None:
            elsewhere.rename(store.entry("train", KEY))

    with child(code, store) as holder:
        handler = Finish(logging.WARNING)
        logging.getLogger("qbench.store").addHandler(handler)
        try:
            assert store.get_or_make("train", KEY, never) == (store.entry("train", KEY), True)
            assert holder.poll() is None
        finally:
            logging.getLogger("qbench.store").removeHandler(handler)
            holder.kill()


def test_those_who_say_what_they_read_do_not_wait_for_one_another(store: Store) -> None:
    code = (
        "import fcntl\nstore.locks.mkdir(parents=True)\ngate = (store.locks / 'gate.lock').open('w')\n"
        "fcntl.flock(gate, fcntl.LOCK_SH)\nprint('ready', flush=True)\ntime.sleep(20)"
    )
    with child(code, store) as passing:
        with store.in_use([("train", KEY)]):
            assert passing.poll() is None
        passing.kill()


def test_those_who_say_what_they_read_wait_for_a_gc_that_decides(store: Store) -> None:
    code = (
        "with store.gate():\n    print('ready', flush=True)\n    time.sleep(0.3)\n    (store.root / 'decided').touch()"
    )
    with child(code, store), store.in_use([("train", KEY)]):
        assert (store.root / "decided").exists()


def test_a_system_without_shared_locks_still_waits_for_gc(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    code = (
        "with store.gate():\n    print('ready', flush=True)\n    time.sleep(0.3)\n    (store.root / 'decided').touch()"
    )
    with child(code, store), store.in_use([("train", KEY)]):
        assert (store.root / "decided").exists()


def test_a_killed_process_frees_its_lock_and_leaves_its_files(store: Store) -> None:
    code = (
        "def make(folder):\n    (folder / '.checkpoint').write_text('epoch 2')\n    print('ready', flush=True)\n"
        f"    time.sleep(600)\nstore.get_or_make('train', {KEY!r}, make)"
    )
    with child(code, store) as maker:
        maker.kill()
    assert maker.returncode == -signal.SIGKILL
    assert store.read("train", KEY) is None
    seen: list[str] = []

    def resume(folder: Path) -> None:
        seen.append((folder / ".checkpoint").read_text())
        fill(folder)

    assert store.get_or_make("train", KEY, resume)[1] is False and seen == ["epoch 2"]
