"""The store: finished stage outputs under their content key, published atomically, checked when read.

    STORE/STAGE/KEY/           a finished entry: its files and ``manifest.json`` (names, sizes, sha256)
    STORE/STAGE/KEY.partial/   an entry in the making; what a killed stage left behind, so that it can go on
    STORE/locks/STAGE-KEY.lock held by the process that makes the entry; the system frees it when the process dies

An entry appears by one ``os.rename`` of its finished folder, so a reader sees all of it or nothing. Several checkouts
may share one store (``QBENCH_STORE``).
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from qbench.errors import StoreError
from qbench.files import file_sha256, write_atomic

MANIFEST = "manifest.json"
FORMAT = 1
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
    def verify(folder: Path) -> str | None:
        """What is wrong with a finished entry, or None."""
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            if manifest["format"] != FORMAT:
                return f"store format {manifest['format']}, this qbench reads {FORMAT}"
            for name, facts in manifest["files"].items():
                if Path(name).name != name or (folder / name).is_symlink():
                    return f"{name} is not a plain file name"
                if not (folder / name).is_file():
                    return f"{name} is missing"
                if file_sha256(folder / name) != facts["sha256"]:
                    return f"{name} does not match its checksum"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return f"{MANIFEST}: {error or type(error).__name__}"
        return None

    @contextmanager
    def lock(self, stage: str, key: str) -> Iterator[None]:
        """Hold the key for this process; others wait. A dead holder's lock is free at once (it is the system's)."""
        folder = self.root / "locks"
        lock = FileLock(folder / f"{stage}-{key}.lock")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (self.root / stage).mkdir(exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                logger.warning("store: another process makes %s/%s; waiting for it", stage, key)
                lock.acquire()
        except OSError as error:
            raise StoreError(
                f"store {self.root} cannot be written ({error.strerror or error}); "
                "set store_dir=FOLDER or QBENCH_STORE to a folder of your own"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def get_or_make(self, stage: str, key: str, make: Callable[[Path], None]) -> tuple[Path, bool]:
        """Return (the folder of the finished entry, whether it was there already), making it when it is absent.

        ``make`` fills the given folder. If it is killed, the folder stays and the next call gets it back as it was.
        Files whose name begins with a dot help it to go on; they are dropped when it is done. A damaged entry is set
        aside (``KEY.damaged``) with a warning and made anew.
        """
        if (found := self.read(stage, key)) is not None:
            return found, True
        with self.lock(stage, key):
            if (found := self.read(stage, key)) is not None:
                return found, True
            self._set_aside(stage, key)
            partial = self.root / stage / f"{key}.partial"
            partial.mkdir(parents=True, exist_ok=True)
            make(partial)
            files = {
                path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
                for path in sorted(partial.iterdir())
                if path.is_file() and not path.name.startswith(".") and path.name != MANIFEST
            }
            write_atomic(partial / MANIFEST, json.dumps({"format": FORMAT, "files": files}, indent=1).encode())
            for helper in partial.glob(".*"):
                helper.unlink()
            partial.rename(self.entry(stage, key))
            return self.entry(stage, key), False

    def discard(self, stage: str, key: str) -> None:
        """Forget a finished entry."""
        with self.lock(stage, key):
            shutil.rmtree(self.entry(stage, key), ignore_errors=True)

    def _set_aside(self, stage: str, key: str) -> None:
        """Move a damaged entry out of the way; its lock is held."""
        folder = self.entry(stage, key)
        if not folder.exists():
            return
        problem = self.verify(folder)
        logger.warning("store: %s/%s is damaged (%s); it is set aside and made anew", stage, key, problem)
        aside = folder.with_name(f"{key}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)

    def size_bytes(self) -> int:
        """Bytes of all files in the store."""
        return sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file()) if self.root.is_dir() else 0
