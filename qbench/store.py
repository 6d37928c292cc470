"""The store: finished stage outputs under their content key, published atomically, checked when read.

    STORE/STAGE/KEY/           a finished entry: its files, and ``manifest.json`` (names, sizes, sha256 of all of it)
    STORE/STAGE/KEY.partial/   an entry in the making; what a killed stage left behind, so that it can go on
    STORE/STAGE/KEY.damaged/   an entry that did not match its checksums
    STORE/locks/STAGE-KEY.lock held by the process that makes the entry; the system frees it when the process dies
    STORE/locks/use-*          which entries a living process reads: ``qbench store gc`` leaves them alone

An entry appears by one ``os.rename`` of its finished folder, so a reader sees all of it or nothing. Its folder's time
of modification is when it was last used. Several checkouts may share one store (``QBENCH_STORE``).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from qbench.errors import StoreError
from qbench.files import file_sha256, read_sealed_json, sealed_json, write_atomic

MANIFEST = "manifest.json"
PARTIAL, DAMAGED = ".partial", ".damaged"
GATE = "gate.lock"
FORMAT = 1
POLL_SECONDS = 0.02  # between the first two looks at what another process holds
POLL_SHARE = 0.05  # later looks wait this share of the time waited so far: many waiters must not wear out a server
POLL_LONGEST_SECONDS = 30.0
logger = logging.getLogger(__name__)


def content_key(stage: str, version: int, fields: Any) -> str:
    """The key of a stage: sha256 over the canonical JSON of exactly what the stage reads, 16 hex digits."""
    text = json.dumps([stage, version, fields], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Store:
    """Finished stages by key. ``root`` is created when first written to."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def entry(self, stage: str, key: str) -> Path:
        """Where the entry is, or will be."""
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        """Whether the entry is finished (its content is checked by ``read``)."""
        return (self.entry(stage, key) / MANIFEST).is_file()

    def read(self, stage: str, key: str) -> Path | None:
        """The folder of a finished entry whose every file matches its checksum; None if absent or damaged."""
        folder = self.entry(stage, key)
        return folder if folder.is_dir() and self.verify(folder) is None else None

    @staticmethod
    def manifest(folder: Path) -> dict[str, Any]:
        """What a finished entry says of itself.

        Raises:
            StoreError: It has another format than this qbench reads; it is not touched.
            OSError, ValueError, KeyError, TypeError: It is damaged.
        """
        content = read_sealed_json((folder / MANIFEST).read_bytes())
        found = content["format"]
        if isinstance(found, int) and found != FORMAT:
            raise StoreError(
                f"store entry {folder} has format {found}, this qbench reads {FORMAT}: another version of qbench wrote "
                "it; use that version, or give this one a store of its own (store_dir=FOLDER or QBENCH_STORE)"
            )
        if not isinstance(content["files"], dict):
            raise ValueError("its files are no mapping")
        checked: dict[str, Any] = content
        return checked

    @staticmethod
    def verify(folder: Path) -> str | None:
        """What is wrong with a finished entry, or None.

        Raises:
            StoreError: It has another format than this qbench reads.
        """
        try:
            if folder.is_symlink():
                return "it is a symbolic link"
            for name, facts in Store.manifest(folder)["files"].items():
                if Path(name).name != name or (folder / name).is_symlink():
                    return f"{name} is not a plain file name"
                if not (folder / name).is_file():
                    return f"{name} is missing"
                if file_sha256(folder / name) != facts["sha256"]:
                    return f"{name} does not match its checksum"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return f"{MANIFEST}: {error or type(error).__name__}"
        return None

    @property
    def locks(self) -> Path:
        """The folder of lock files."""
        return self.root / "locks"

    @contextmanager
    def lock(self, stage: str, key: str, *, wait: bool = True) -> Iterator[None]:
        """Hold the key for this process; others wait. A dead holder's lock is free at once (it is the system's).

        Raises:
            StoreError: The store cannot be written to.
            Timeout: Another process holds it, and ``wait`` is False.
        """
        lock = FileLock(self.locks / f"{stage}-{key}.lock")
        try:
            for folder in (self.locks, self.root / stage):
                if not folder.is_dir():  # one look over the network instead of two
                    folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if not wait:
                    raise
                _say_waiting(stage, key)
                lock.acquire(poll_interval=POLL_SECONDS)
        except Timeout:
            raise  # an OSError too
        except (OSError, NotImplementedError) as error:
            raise StoreError(
                f"store {self.root} cannot be written ({getattr(error, 'strerror', None) or error}); "
                "set store_dir=FOLDER or QBENCH_STORE to a folder of your own"
            ) from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def gate(self) -> Iterator[None]:
        """Held while ``gc`` decides what goes: a process that has said what it will read waits here before it reads."""
        self.locks.mkdir(parents=True, exist_ok=True)
        with FileLock(self.locks / GATE).acquire(poll_interval=POLL_SECONDS):
            yield

    def _pass_gate(self) -> None:
        """Wait for a ``gc`` that is deciding. Those who pass share the lock: they do not wait for one another."""
        try:
            descriptor = os.open(self.locks / GATE, os.O_RDWR)
        except FileNotFoundError:  # there was no gc yet, and one that begins now sees what was said
            return
        try:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_SH)
        except (ImportError, OSError):  # a system without such locks
            with self.gate():
                return
        finally:
            os.close(descriptor)

    @contextmanager
    def in_use(self, entries: Iterable[tuple[str, str]]) -> Iterator[None]:
        """Keep ``gc`` off these (stage, key), made already or not, until the block ends or this process dies.

        A store that cannot be written to is used without: nobody else can collect it either.
        """
        listed = self.locks / f"use-{os.getpid()}-{uuid.uuid4().hex[:8]}.json"
        lock = listed.with_suffix(".lock")
        with ExitStack() as held:
            with suppress(OSError, NotImplementedError):
                self.locks.mkdir(parents=True, exist_ok=True)
                held.callback(listed.unlink, missing_ok=True)
                held.callback(lock.unlink, missing_ok=True)
                held.enter_context(FileLock(lock))
                write_atomic(listed, json.dumps(sorted(set(entries))).encode(), durable=False)
                self._pass_gate()  # said first: a gc that begins later knows of it, one that decides is waited for
            yield

    def get_or_make(self, stage: str, key: str, make: Callable[[Path], None], subject: str = "") -> tuple[Path, bool]:
        """Return (the folder of the finished entry, whether it was there already), making it when it is absent.

        ``make`` fills the given folder. If it is killed, the folder stays and the next call gets it back as it was.
        Files whose name begins with a dot help it to go on; they are dropped when it is done. A damaged entry is set
        aside (``KEY.damaged``) with a warning and made anew. ``subject`` says to people what the entry is about.

        Raises:
            StoreError: The store cannot be written to, or another version of qbench made the entry.
        """
        with ExitStack() as held:
            if (found := self._read_or_hold(stage, key, held)) is not None:
                return found, True
            self._set_aside(stage, key)
            partial = self.entry(stage, key + PARTIAL)
            if partial.is_symlink():  # into a folder that is none of the store's
                partial.unlink()
            partial.mkdir(parents=True, exist_ok=True)
            began = time.monotonic()
            make(partial)
            _finish(partial, subject, time.monotonic() - began)
            partial.rename(self.entry(stage, key))
            return self.entry(stage, key), False

    def _read_or_hold(self, stage: str, key: str, held: ExitStack) -> Path | None:
        """The folder of the finished entry; None once ``held`` holds its lock, and it is to be made.

        While another process makes it, this one looks for the entry before it tries the lock: however many wait, none
        of them stands in line to read.
        """
        began = time.monotonic()
        waiting = False
        while (found := self.read(stage, key)) is None:
            try:
                held.enter_context(self.lock(stage, key, wait=False))
                return self.read(stage, key)  # it may have been finished between the look and the lock
            except Timeout:
                if not waiting:
                    _say_waiting(stage, key)
                waiting = True
            waited = time.monotonic() - began
            time.sleep(min(max(POLL_SECONDS, POLL_SHARE * waited), POLL_LONGEST_SECONDS))
        _mark_used(found)
        return found

    def discard(self, stage: str, key: str) -> None:
        """Forget a finished entry."""
        with self.lock(stage, key):
            remove(self.entry(stage, key))

    def _set_aside(self, stage: str, key: str) -> None:
        """Move a damaged entry out of the way; its lock is held."""
        folder = self.entry(stage, key)
        if not folder.exists() and not folder.is_symlink():
            return
        problem = self.verify(folder)
        logger.warning("store: %s/%s is damaged (%s); it is set aside and made anew", stage, key, problem)
        aside = folder.with_name(key + DAMAGED)
        remove(aside)
        folder.rename(aside)

    def size_bytes(self) -> int:
        """Bytes of all files in the store."""
        return sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file()) if self.root.is_dir() else 0


def remove(folder: Path) -> None:
    """Delete a folder of the store; of a symbolic link only the link."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _finish(partial: Path, subject: str, seconds: float) -> None:
    """Write the manifest of what a stage left, and drop its helpers."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(partial.iterdir())
        if path.is_file() and not path.name.startswith(".") and path.name != MANIFEST
    }
    about = {"subject": subject, "seconds": round(seconds, 3)}
    write_atomic(partial / MANIFEST, sealed_json({"format": FORMAT, "files": files, **about}))
    for helper in partial.glob(".*"):
        helper.unlink()


def _say_waiting(stage: str, key: str) -> None:
    logger.warning("store: another process makes %s/%s; waiting for it", stage, key)


def _mark_used(folder: Path) -> None:
    with suppress(OSError):  # of somebody else, or read-only
        os.utime(folder)
