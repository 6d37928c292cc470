"""The verb store: what it shows, what it takes and what it leaves, what it finds damaged."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from calling import Bench

from qbench.files import sealed_json
from qbench.store import MANIFEST, Store
from qbench.store_verb import in_bytes, parse_bytes, parse_seconds, since
from qbench.upkeep import collect, entries

DAY = 86400.0


def put(store: Store, stage: str, key: str, size: int, days: float = 0.0) -> Path:
    """An entry of so many bytes (beside its manifest), last used so many days ago."""
    folder, _ = store.get_or_make(stage, key, lambda f: (f / "content").write_bytes(bytes(size)) and None, f"of {key}")
    old(folder, days)
    return folder


def old(folder: Path, days: float) -> None:
    past = time.time() - days * DAY
    for path in (*folder.iterdir(), folder):
        os.utime(path, (past, past))


def keys(store: Store) -> set[str]:
    return {f"{one.key}{'' if one.kind == 'entry' else '.' + one.kind}" for one in entries(store)}


def size_of(store: Store, stage: str, key: str) -> int:
    return sum(path.stat().st_size for path in store.entry(stage, key).iterdir())


@pytest.fixture
def store(bench: Bench) -> Store:
    """Three entries of 1000, 2000 and 3000 bytes and their manifests, the smallest unused the longest."""
    store = Store(bench.store)
    for key, size, days in (("a", 1000, 40.0), ("b", 2000, 20.0), ("c", 3000, 3.0)):
        put(store, "train" if key == "b" else "quantize", key, size, days)
    return store


def test_ls(bench: Bench, store: Store) -> None:
    (store.root / "score" / "d.partial").mkdir(parents=True)
    done = bench("store", "ls")
    rows = [line.split() for line in done.out.splitlines() if line[2:3].isalpha()]
    assert done.code == 0 and rows[0] == ["stage", "key", "subject", "size", "age", "last", "use"]
    assert rows[1] == ["train", "b", "of", "b", *in_bytes(size_of(store, "train", "b")).split(), "20", "d", "20", "d"]
    assert [row[:2] for row in rows[1:-1]] == [["train", "b"], ["quantize", "c"], ["quantize", "a"], ["score", "d"]]
    assert rows[4][2] == "(partial)"
    size = sum(path.stat().st_size for path in store.root.glob("*/*/*"))
    assert done.out.splitlines()[-1] == f"4 entries, {size / 1000:.1f} kB, in {store.root}"


def test_gc_takes_the_longest_unused_until_so_many_bytes_are_left(bench: Bench, store: Store) -> None:
    size = in_bytes(size_of(store, "quantize", "a"))
    assert f"would remove quantize/a (of a), {size}" in bench("store", "gc", "--keep-bytes", "6kB", "--dry-run").out
    assert keys(store) == {"a", "b", "c"}
    done = bench("store", "gc", "--keep-bytes=6kB")
    assert done.code == 0 and done.out.splitlines()[0] == f"removed quantize/a (of a), {size}"
    left = size_of(store, "train", "b") + size_of(store, "quantize", "c")
    assert done.out.splitlines()[-1] == f"1 gone, {size}; left: {in_bytes(left)}"
    assert keys(store) == {"b", "c"}
    bench("store", "gc", "--keep-bytes", "0")
    assert keys(store) == set() and store.size_bytes() == 0


def test_gc_takes_what_was_not_used_for_so_long(bench: Bench, store: Store) -> None:
    store.get_or_make("quantize", "a", lambda folder: None)  # uses it
    assert bench("store", "gc", "--older-than", "30d").out.startswith("0 gone")
    bench("store", "gc", "--older-than", "2w")
    assert keys(store) == {"a", "c"}


def test_gc_alone_takes_leftovers(bench: Bench, store: Store) -> None:
    for name, days in (("b.damaged", 0.0), ("x.partial", 2.0), ("y.partial", 0.1), ("z.collected.entry", 0.0)):
        (store.root / "train" / name).mkdir()
        (store.root / "train" / name / ".checkpoint").write_text("epoch 3")
        old(store.root / "train" / name, days)
    bench("store", "gc")
    assert keys(store) == {"a", "b", "c", "y.partial"}  # a training stopped an hour ago may be taken up again
    assert {path.name for path in (store.root / "train").iterdir()} == {"b", "y.partial"}
    bench("store", "gc", "--older-than", "1h")
    assert keys(store) == set()


HOLD = {
    "reads": "with store.in_use([('quantize', 'a')]):",
    "makes": "with store.lock('quantize', 'a'):",
}


@contextmanager
def another(bench: Bench, what: str) -> Iterator[subprocess.Popen[str]]:
    """A process that reads or makes entry ``a`` until the block ends."""
    code = "import sys\nfrom pathlib import Path\nfrom qbench.store import Store\nstore = Store(Path(sys.argv[1]))\n"
    code += f"{HOLD[what]}\n    print('holds', flush=True)\n    sys.stdin.read()"
    command, pipe = [sys.executable, "-c", code, str(bench.store)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=bench.environment()) as process:
        assert process.stdout is not None and process.stdout.readline() == "holds\n"
        yield process


@pytest.mark.parametrize("what", HOLD)
def test_gc_leaves_what_a_living_process_works_with(bench: Bench, store: Store, what: str) -> None:
    with another(bench, what) as process:
        done = bench("store", "gc", "--keep-bytes", "0")
        assert keys(store) == {"a"}
        if what == "reads":
            assert "kept quantize/a (of a): a running process reads it" in done.out
        process.kill()
    bench("store", "gc", "--keep-bytes", "0")
    assert keys(store) == set() and list(store.locks.glob("use-*")) == []


def test_what_a_run_reads_is_free_when_it_ends(store: Store) -> None:
    with store.in_use([("quantize", "a"), ("train", "not made yet")]):
        assert {one.key for one in collect(store, keep_bytes=0, dry_run=True).in_use} == {"a"}
    assert collect(store, keep_bytes=0, dry_run=True).in_use == () and list(store.locks.glob("use-*")) == []


def test_a_clock_that_was_set_back_makes_nothing_old(bench: Bench, store: Store) -> None:
    old(store.entry("quantize", "c"), -400)
    out = bench("store", "ls").out
    assert next(line for line in out.splitlines() if " c " in line).split()[-4:] == ["0", "s", "0", "s"]
    bench("store", "gc", "--older-than", "0s")
    assert keys(store) == {"c"}


def test_verify_names_what_is_damaged_and_repair_removes_it(bench: Bench, store: Store) -> None:
    assert bench("store", "verify").out == "3 entries checked, 0 not as they were written\n"
    with (store.entry("train", "b") / "content").open("r+b") as stream:
        stream.write(b"x")
    (store.entry("quantize", "a") / "content").unlink()
    newer = store.entry("quantize", "c") / MANIFEST
    newer.write_bytes(sealed_json({"format": 2}))
    done = bench("store", "verify")
    assert done.code == 1
    assert done.out.splitlines()[:3] == [
        "train/b (of b): content does not match its checksum",
        f"quantize/c: store entry {newer.parent} has format 2, this qbench reads 1: another version of qbench wrote "
        "it; use that version, or give this one a store of its own (store_dir=FOLDER or QBENCH_STORE)",
        "quantize/a (of a): content is missing",
    ]
    assert keys(store) == {"a", "b", "c"}
    done = bench("store", "verify", "--repair")
    assert (done.code, keys(store)) == (1, {"c"})
    assert "3 not as they were written; 2 removed, the next run that needs them makes them anew" in done.out


def test_another_store(bench: Bench, store: Store) -> None:
    store.root.rename(bench.home / "elsewhere")
    assert bench("store", "ls", "--store", str(bench.home / "elsewhere")).out.splitlines()[-1].startswith("3 entries")


@pytest.mark.parametrize(
    "words, message",
    [
        ("", "store: ls, gc or verify is needed."),
        ("verfy", "store verfy: ls, gc or verify is needed. Did you mean verify?"),
        ("ls all", "store ls all: takes nothing but --store DIR."),
        ("gc --keep-bytes many", "--keep-bytes many: a size is needed, like 5GB, 200MB or 4GiB."),
        ("gc --keep-bytes", "--keep-bytes: a size is missing after it."),
        ("gc --older-than 30", "--older-than 30: a time is needed, like 30d, 12h or 2w."),
        ("gc --all", "store gc --all: flags are --keep-bytes SIZE, --older-than TIME, --dry-run."),
        ("verify --fix", "store verify --fix: the flag is --repair, which removes what is damaged."),
        ("ls --store nowhere", "store ls: nowhere is no folder; a first run makes it, --store DIR names another."),
    ],
    ids=str,
)
def test_the_verb_refuses(bench: Bench, store: Store, words: str, message: str) -> None:
    done = bench("store", *words.split())
    assert (done.code, done.out, done.err) == (2, "", f"qbench: {message}\n")
    assert keys(store) == {"a", "b", "c"}


def test_sizes_and_times() -> None:
    sizes = {"5GB": 5 * 10**9, "1.5 MB": 1_500_000, "4GiB": 2**32, "17": 17, "2kb": 2000}
    assert {text: parse_bytes("x", text) for text in sizes} == sizes
    times = {"30d": 30 * DAY, "12h": DAY / 2, "1.5m": 90.0, "2w": 14 * DAY, "0s": 0.0}
    assert {text: parse_seconds("x", text) for text in times} == times
    assert [in_bytes(count) for count in (0, 999, 1500, 2_345_678, 10**10)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.3 MB",
        "10.0 GB",
    ]
    assert [since(value) for value in (-5, 30, 300, 3 * 3600, 50 * 3600)] == ["0 s", "30 s", "5 m", "3 h", "2 d"]
