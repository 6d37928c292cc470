"""The verb store: ``qbench store ls|gc|verify`` shows, bounds and checks the store."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qbench.catalog import nearest
from qbench.console import make_console
from qbench.errors import ConfigError
from qbench.store import Store
from qbench.upkeep import Entry, check, collect, entries
from qbench.words import take_option

BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
BYTES |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


def store_verb(words: Sequence[str]) -> int:
    """``qbench store ls|gc|verify [--store DIR]``; 1 if verify finds a damaged entry."""
    folder, rest = take_option("--store", words)
    actions = {"ls": _ls, "gc": _gc, "verify": _verify}
    if not rest or rest[0] not in actions:
        given = rest[0] if rest else ""
        raise ConfigError(
            f"store {given}: ls, gc or verify is needed.{nearest(given, list(actions))}".replace(" :", ":")
        )
    store = Store(Path(folder) if folder is not None else _usual_place())
    if not store.root.is_dir():
        raise ConfigError(
            f"store {rest[0]}: {store.root} is no folder; a first run makes it, --store DIR names another."
        )
    return actions[rest[0]](make_console(), store, rest[1:])


def parse_bytes(flag: str, text: str) -> int:
    """``5GB``, ``200 MiB``, ``1000``.

    Raises:
        ConfigError: It is no such size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)", text)
    if found is None or found[2].upper() not in BYTES:
        raise ConfigError(f"{flag} {text}: a size is needed, like 5GB, 200MB or 4GiB.")
    return int(float(found[1]) * BYTES[found[2].upper()])


def parse_seconds(flag: str, text: str) -> float:
    """``30d``, ``12h``, ``2w``.

    Raises:
        ConfigError: It is no such time.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text)
    if found is None:
        raise ConfigError(f"{flag} {text}: a time is needed, like 30d, 12h or 2w.")
    return float(found[1]) * SECONDS[found[2]]


def _usual_place() -> Path:
    return Path(os.environ.get("QBENCH_STORE", Path(os.environ.get("QBENCH_OUTPUTS", "outputs")) / "store"))


def _ls(console: Console, store: Store, words: Sequence[str]) -> int:
    if words:
        raise ConfigError(f"store ls {' '.join(words)}: takes nothing but --store DIR.")
    found = entries(store)
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for heading in ("stage", "key", "subject", "size", "age", "last use"):
        table.add_column(heading, justify="right" if heading in ("size", "age", "last use") else "left")
    now = time.time()
    for one in found:
        subject = one.subject if one.kind == "entry" else f"({one.kind})"
        times = (since(now - one.made), since(now - one.used))
        table.add_row(one.stage, one.key, escape(subject), in_bytes(one.size_bytes), *times)
    console.print(table)
    _line(console, f"{len(found)} entries, {in_bytes(sum(one.size_bytes for one in found))}, in {store.root}")
    return 0


def _gc(console: Console, store: Store, words: Sequence[str]) -> int:
    keep, rest = take_option("--keep-bytes", words, "a size")
    older, rest = take_option("--older-than", rest, "a time")
    dry_run = "--dry-run" in rest
    unknown = [word for word in rest if word != "--dry-run"]
    if unknown:
        raise ConfigError(f"store gc {' '.join(unknown)}: flags are --keep-bytes SIZE, --older-than TIME, --dry-run.")
    done = collect(
        store,
        keep_bytes=parse_bytes("--keep-bytes", keep) if keep is not None else None,
        older_than_seconds=parse_seconds("--older-than", older) if older is not None else None,
        dry_run=dry_run,
    )
    for one in done.taken:
        _line(console, f"{'would remove' if dry_run else 'removed'} {_named(one)}, {in_bytes(one.size_bytes)}")
    for one in done.in_use:
        _line(console, f"kept {_named(one)}: a running process reads it")
    freed = in_bytes(sum(one.size_bytes for one in done.taken))
    _line(console, f"{len(done.taken)} {'would go' if dry_run else 'gone'}, {freed}; left: {in_bytes(done.left_bytes)}")
    return 0


def _verify(console: Console, store: Store, words: Sequence[str]) -> int:
    if any(word != "--repair" for word in words):
        raise ConfigError(f"store verify {' '.join(words)}: the flag is --repair, which removes what is damaged.")
    repair = "--repair" in words
    total, bad, removed = sum(one.kind == "entry" for one in entries(store)), 0, 0
    for one, problem, gone in check(store, repair=repair):
        bad, removed = bad + 1, removed + gone
        _line(console, f"{_named(one)}: {problem}")
    then = "; --repair removes damaged ones, and the next run that needs them makes them anew" if bad else ""
    then = f"; {removed} removed, the next run that needs them makes them anew" if repair and bad else then
    _line(console, f"{total} entries checked, {bad} not as they were written{then}")
    return 1 if bad else 0


def _named(entry: Entry) -> str:
    kind = "" if entry.kind == "entry" else f".{entry.kind}"
    return f"{entry.stage}/{entry.key}{kind}" + (f" ({entry.subject})" if entry.subject else "")


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def in_bytes(count: int) -> str:
    """A size for people, in decimal units."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count} B"


def since(seconds: float) -> str:
    """A past time for people; what lies in the future, after a clock was set back, is now."""
    for letter in ("d", "h", "m"):
        if seconds >= 2 * SECONDS[letter]:
            return f"{seconds / SECONDS[letter]:.0f} {letter}"
    return f"{max(0.0, seconds):.0f} s"
