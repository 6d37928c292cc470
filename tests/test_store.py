"""The store: an entry is there whole or not at all, is made once, and is checked when read."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from storing import KEY, fill, never

from qbench.errors import StoreError
from qbench.files import sealed_json, write_atomic
from qbench.store import MANIFEST, Store, content_key


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_made_once_then_found(store: Store) -> None:
    assert not store.has("train", KEY) and store.read("train", KEY) is None and store.size_bytes() == 0
    folder, cached = store.get_or_make("train", KEY, fill)
    assert (folder, cached) == (store.entry("train", KEY), False)
    assert store.get_or_make("train", KEY, never) == (folder, True)
    assert store.has("train", KEY) and store.read("train", KEY) == folder
    assert {path.name for path in folder.iterdir()} == {"weights.bin", "facts.json", MANIFEST}
    assert store.size_bytes() == sum(path.stat().st_size for path in folder.iterdir())
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["files"]["weights.bin"]["bytes"] == 7000 and "facts.json" in manifest["files"]


def test_stages_keep_apart(store: Store) -> None:
    store.get_or_make("train", KEY, fill)
    assert not store.has("score", KEY)


def test_nothing_is_seen_before_it_is_finished(store: Store) -> None:
    def check(folder: Path) -> None:
        fill(folder)
        assert not store.has("train", KEY) and store.read("train", KEY) is None

    store.get_or_make("train", KEY, check)
    assert not list((store.root / "train").glob("*.partial"))


def test_a_failed_making_leaves_its_files_for_the_next(store: Store) -> None:
    def half(folder: Path) -> None:
        (folder / ".checkpoint").write_text("epoch 3")
        raise RuntimeError("no more power")

    with pytest.raises(RuntimeError, match="no more power"):
        store.get_or_make("train", KEY, half)
    assert store.read("train", KEY) is None
    seen: list[str] = []

    def resume(folder: Path) -> None:
        seen.append((folder / ".checkpoint").read_text())
        fill(folder)

    folder, cached = store.get_or_make("train", KEY, resume)
    assert seen == ["epoch 3"] and not cached
    assert not (folder / ".checkpoint").exists()  # it helped to go on, and belongs to nobody's results


def flip(folder: Path) -> None:
    content = bytearray((folder / "weights.bin").read_bytes())
    content[3500] ^= 1
    (folder / "weights.bin").write_bytes(content)


def truncate(folder: Path) -> None:
    (folder / "weights.bin").write_bytes((folder / "weights.bin").read_bytes()[:-1])


def empty(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"")


def remove(folder: Path) -> None:
    (folder / "facts.json").unlink()


def link(folder: Path) -> None:
    target = folder.parent / "elsewhere"
    (folder / "weights.bin").rename(target)
    (folder / "weights.bin").symlink_to(target)


def make_folder(folder: Path) -> None:
    (folder / "facts.json").unlink()
    (folder / "facts.json").mkdir()


def manifest(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / MANIFEST).write_text(text) and None


def swap(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def without_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


DAMAGES = {
    "bit flip": (flip, "weights.bin does not match its checksum"),
    "truncation": (truncate, "weights.bin does not match its checksum"),
    "emptied": (empty, "weights.bin does not match its checksum"),
    "missing file": (remove, "facts.json is missing"),
    "symbolic link": (link, "weights.bin is not a plain file name"),
    "folder for file": (make_folder, "facts.json is missing"),
    "no manifest": (without_manifest, "manifest.json: "),
    "empty manifest": (manifest(""), "manifest.json: "),
    "manifest of a list": (manifest("[]"), "manifest.json: "),
    "manifest without files": (manifest('{"format": 1}'), "manifest.json: 'files'"),
    "files of no kind": (manifest('{"format": 1, "files": [3]}'), "manifest.json: its files are no mapping"),
    "checksum of the manifest": (
        lambda folder: swap(folder / MANIFEST, "7000", "7001"),
        "manifest.json: its content does",
    ),
    "path in manifest": (manifest('{"format": 1, "files": {"../x": {}}}'), "../x is not a plain file name"),
}


@pytest.mark.parametrize("damage, problem", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_set_aside_and_made_anew(
    store: Store, damage: Callable[[Path], None], problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, _ = store.get_or_make("train", KEY, fill)
    damage(folder)
    assert store.read("train", KEY) is None
    with caplog.at_level(logging.WARNING):
        again, cached = store.get_or_make("train", KEY, fill)
    assert (again, cached) == (folder, False) and store.verify(folder) is None
    (message,) = caplog.messages
    assert f"train/{KEY} is damaged ({problem}" in message and "made anew" in message
    assert (folder.parent / f"{KEY}.damaged").is_dir()
    damage(folder)  # a second time: the older remains make room
    assert store.get_or_make("train", KEY, fill) == (folder, False)


@pytest.mark.parametrize("found", [0, 2, 17])
def test_an_entry_of_another_format_is_refused_and_left_alone(store: Store, found: int) -> None:
    """Two versions of qbench on one store must not take turns in throwing away what the other made."""
    folder, _ = store.get_or_make("train", KEY, fill)
    (folder / MANIFEST).write_bytes(sealed_json({"format": found, "content": "whatever it holds"}))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    message = f"store entry {folder} has format {found}, this qbench reads 1: another version of qbench wrote it"
    with pytest.raises(StoreError, match=re.escape(message)):
        store.get_or_make("train", KEY, never)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_entry_of_an_earlier_version_is_read(store: Store) -> None:
    folder, _ = store.get_or_make("train", KEY, fill)
    content = json.loads((folder / MANIFEST).read_text())
    for later in ("~sha256", "subject", "seconds"):
        del content[later]
    (folder / MANIFEST).write_text(json.dumps(content, indent=1))
    assert store.get_or_make("train", KEY, never) == (folder, True)


def test_a_link_in_place_of_an_entry_is_no_entry(store: Store, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    folder, _ = store.get_or_make("train", KEY, fill)
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    (store.root / "train" / f"{KEY}.partial").symlink_to(elsewhere)
    before = sorted(path.name for path in elsewhere.iterdir())
    assert store.get_or_make("train", KEY, fill) == (folder, False)
    assert not folder.is_symlink() and sorted(path.name for path in elsewhere.iterdir()) == before
    assert (folder.parent / f"{KEY}.damaged").is_symlink()


def test_a_manifest_says_what_it_is_about(store: Store) -> None:
    folder, _ = store.get_or_make("train", KEY, fill, "small_cnn on digits")
    content = Store.manifest(folder)
    assert content["subject"] == "small_cnn on digits" and 0 <= content["seconds"] < 60


def test_use_is_marked_by_the_time_of_the_folder(store: Store) -> None:
    folder, _ = store.get_or_make("train", KEY, fill)
    os.utime(folder, (1000, 1000))
    files = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert store.get_or_make("train", KEY, never)[1] and folder.stat().st_mtime > 1_000_000
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == files


def test_discard_forgets_an_entry(store: Store) -> None:
    store.get_or_make("profile", KEY, fill)
    store.discard("profile", KEY)
    assert not store.has("profile", KEY)
    store.discard("profile", KEY)  # and does not mind that it is gone
    assert store.get_or_make("profile", KEY, fill)[1] is False


def test_a_store_that_cannot_be_written_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"store .*/file/store cannot be written \(Not a directory\); set store_dir="):
        Store(tmp_path / "file" / "store").get_or_make("train", KEY, fill)


def test_a_read_only_store_serves_what_it_has(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = store.get_or_make("train", KEY, fill)

    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)  # permissions do not stop the superuser, whom tests may run as
    assert store.get_or_make("train", KEY, never) == (folder, True)
    with pytest.raises(StoreError, match=r"cannot be written \(Permission denied\)"):
        store.get_or_make("train", "another", fill)


# --- keys and files


def test_content_keys_follow_the_content_alone() -> None:
    key = content_key("train", 1, {"a": 1, "b": [1.5, None, "x"]})
    assert key == content_key("train", 1, {"b": (1.5, None, "x"), "a": 1})
    assert len(key) == 16 and set(key) <= set("0123456789abcdef")
    others = [
        content_key("score", 1, {"a": 1, "b": [1.5, None, "x"]}),
        content_key("train", 2, {"a": 1, "b": [1.5, None, "x"]}),
        content_key("train", 1, {"a": 2, "b": [1.5, None, "x"]}),
        content_key("train", 1, {"a": "1", "b": [1.5, None, "x"]}),
    ]
    assert len({key, *others}) == 5


def test_content_keys_are_stable() -> None:
    # a change of this value throws away every store there is
    assert content_key("train", 1, {"seed": 0, "recipe": {"lr": 0.1}}) == "4dd5e346d966407e"


def test_what_is_not_plain_data_has_no_key() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        content_key("train", 1, {"model": object()})


def test_write_atomic_keeps_the_old_content_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a" / "record.json"
    write_atomic(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]
