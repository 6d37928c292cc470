"""Looking after a store: what is in it, what may go, what is damaged. The verb is in :mod:`qbench.store_verb`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from qbench.errors import StoreError
from qbench.store import MANIFEST, Store, remove

STAGES = ("train", "quantize", "choose", "reference", "score", "validate", "profile")
COLLECTED = ".collected"  # what gc has taken out and not deleted yet
AT_ONCE = 16  # entries looked at together: over a network most of the time is waiting
HALF_MADE_SECONDS = 24 * 3600.0  # a checkpoint of a stopped training this old is not waited for any more


@dataclass(frozen=True)
class Entry:
    """A folder of the store. ``kind`` is entry, partial, damaged or collected; times are seconds since the epoch."""

    stage: str
    key: str
    kind: str
    path: Path
    subject: str
    size_bytes: int
    made: float
    used: float

    @property
    def identity(self) -> tuple[str, str]:
        return self.stage, self.key


@dataclass(frozen=True)
class Collection:
    """What ``gc`` took, what it would have taken but for a living process, and the bytes of what is left."""

    taken: tuple[Entry, ...]
    in_use: tuple[Entry, ...]
    left_bytes: int


def entries(store: Store) -> list[Entry]:
    """Every entry of the store, finished or not, by stage, the last used first."""
    folders = [store.root / stage for stage in STAGES if (store.root / stage).is_dir()]
    paths = [path for folder in folders for path in folder.iterdir()]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = [one for one in pool.map(_entry, paths) if one is not None]
    return sorted(found, key=lambda one: (STAGES.index(one.stage), -one.used, one.key))


def check(store: Store, *, repair: bool = False) -> Iterator[tuple[Entry, str, bool]]:
    """Read every finished entry; gives each that is not as it was written, what is wrong, and whether it was removed.

    ``repair`` removes those, so that the next run that needs one makes it anew. An entry of another version of qbench
    is named, and never removed.
    """
    finished = [entry for entry in entries(store) if entry.kind == "entry"]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for entry, (problem, ours) in zip(finished, pool.map(_problem, finished)):
            if problem is None:
                continue
            if ours and not (entry.path.exists() or entry.path.is_symlink()):  # collected meanwhile
                continue
            if ours and repair:
                store.discard(entry.stage, entry.key)
            yield entry, problem, ours and repair


def _problem(entry: Entry) -> tuple[str | None, bool]:
    """What is wrong with a finished entry, or None; and whether it is of this version of qbench."""
    try:
        return Store.verify(entry.path), True
    except StoreError as error:
        return str(error), False


def collect(
    store: Store,
    *,
    keep_bytes: int | None = None,
    older_than_seconds: float | None = None,
    dry_run: bool = False,
) -> Collection:
    """Bound the store. Leftovers go first, then entries, the longest unused first.

    Nothing goes that a living process said it reads (:meth:`Store.in_use`) or holds the lock of.

    Args:
        store: The store.
        keep_bytes: Entries go until no more than these are left.
        older_than_seconds: Entries go that were not used for so long; so do half-made ones (otherwise after a day).
        dry_run: Take nothing.

    Raises:
        StoreError: The store cannot be written to.
    """
    if not store.root.is_dir():
        return Collection((), (), 0)
    try:
        with store.gate():
            used = _in_use(store)
            found = entries(store)
            wanted = _wanted(found, keep_bytes, older_than_seconds)
            spared = [one for one in wanted if one.identity in used]
            taken = [one for one in wanted if one.identity not in used]
            if not dry_run:
                taken = [one for one in (_take_out(store, one) for one in taken) if one is not None]
    except (OSError, NotImplementedError) as error:
        raise StoreError(
            f"store {store.root} cannot be written ({getattr(error, 'strerror', None) or error})"
        ) from error
    left = sum(one.size_bytes for one in found) - sum(one.size_bytes for one in taken)
    if not dry_run:
        for one in taken:
            remove(one.path)
    return Collection(tuple(taken), tuple(spared), left)


def _entry(path: Path) -> Entry | None:
    key, dot, ending = path.name.partition(".")
    kind = ending.partition(".")[0] if dot else "entry"
    if kind not in ("entry", "partial", "damaged", "collected"):
        return None
    try:
        facts = path.lstat()
        files = [] if path.is_symlink() or not path.is_dir() else [one.lstat() for one in path.iterdir()]
        made = (path / MANIFEST).stat().st_mtime if kind == "entry" and (path / MANIFEST).is_file() else facts.st_mtime
    except FileNotFoundError:  # gone meanwhile
        return None
    used = max([facts.st_mtime, *(one.st_mtime for one in files)])
    return Entry(path.parent.name, key, kind, path, _subject(path), sum(one.st_size for one in files), made, used)


def _subject(path: Path) -> str:
    try:
        return str(Store.manifest(path).get("subject", ""))
    except (StoreError, OSError, ValueError, KeyError, TypeError):
        return ""


def _wanted(found: Sequence[Entry], keep_bytes: int | None, older_than_seconds: float | None) -> list[Entry]:
    """What should go, in this order."""
    now = time.time()
    patience = HALF_MADE_SECONDS if older_than_seconds is None else older_than_seconds
    finished = sorted((one for one in found if one.kind == "entry"), key=lambda one: one.used)
    wanted = [one for one in found if one.kind in ("damaged", "collected")]
    wanted += [one for one in found if one.kind == "partial" and now - one.used > patience]
    if older_than_seconds is not None:
        wanted += [one for one in finished if now - one.used > older_than_seconds]
    if keep_bytes is not None:
        left = sum(one.size_bytes for one in found) - sum(one.size_bytes for one in wanted)
        for one in finished:
            if left <= keep_bytes:
                break
            if one not in wanted:
                wanted.append(one)
                left -= one.size_bytes
    return wanted


def _take_out(store: Store, entry: Entry) -> Entry | None:
    """Rename an entry out of sight, to be deleted outside the gate; None where another process holds its lock."""
    if entry.kind == "collected":
        return entry
    aside = entry.path.with_name(f"{entry.key}{COLLECTED}.{entry.kind}")
    try:
        with store.lock(entry.stage, entry.key, wait=False):
            remove(aside)
            entry.path.rename(aside)
    except (Timeout, FileNotFoundError):
        return None
    return replace(entry, path=aside)


def _in_use(store: Store) -> set[tuple[str, str]]:
    """What living processes say they read; the lists of dead ones are cleared away."""
    found: set[tuple[str, str]] = set()
    for listed in store.locks.glob("use-*.json"):
        lock = listed.with_suffix(".lock")
        try:
            with FileLock(lock).acquire(timeout=0):
                listed.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
        except Timeout:
            with suppress(FileNotFoundError):  # it has just ended
                found.update(_pairs(json.loads(listed.read_bytes())))
    return found


def _pairs(listed: Iterable[Sequence[str]]) -> Iterator[tuple[str, str]]:
    return ((stage, key) for stage, key in listed)
