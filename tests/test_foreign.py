"""Files of other libraries as artefacts: their names, their card, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from qbench.errors import ArtifactError, MethodError
from qbench.files import ARTIFACT, CARD
from qbench.foreign import ArtifactFiles, artifact_of, input_of, keep
from qbench.methods.base import External

PROVENANCE = {"mean": [0.1, 0.2], "std": [0.3, 0.4], "classes": ["cat", "dog"], "method": "theirs", "params": {"a": 1}}


def written(folder: Path, *names: str) -> list[Path]:
    """Files whose content is their name."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(name)
    return [folder / name for name in names]


def kept(tmp_path: Path, *names: str) -> ArtifactFiles:
    file, *beside = written(tmp_path / "made", *names)
    (tmp_path / "stage").mkdir(exist_ok=True)
    return keep(
        External(file, "engine", tuple(beside)),
        tmp_path / "stage",
        packages={"theirs": "1.2"},
        input_shape=(2, 5, 7),
        provenance=PROVENANCE,
    )


def test_files_get_names_of_ours_and_a_card(tmp_path: Path) -> None:
    found = kept(tmp_path, "net.v2.xml", "net.v2.bin")
    assert [path.name for path in found.files] == ["model.xml", "model.bin"] and found.path.read_text() == "net.v2.xml"
    assert [path.name for path in found.published] == ["model.xml", "model.bin", "model.json"]
    assert found.size_bytes == 20
    assert found.sha256 == hashlib.sha256(b"net.v2.xmlnet.v2.bin").hexdigest()
    card = json.loads((tmp_path / "stage" / CARD).read_text())
    assert card == {
        "files": ["model.xml", "model.bin"],
        "runtime": "engine",
        "packages": {"theirs": "1.2"},
        "input_shape": [2, 5, 7],
        "provenance": PROVENANCE,
        "format": 1,
    }
    assert artifact_of(tmp_path / "stage") == found
    assert input_of(found.path).shape == (2, 5, 7) and input_of(found.path).mean == (0.1, 0.2)


@pytest.mark.parametrize("found", [None, [0.5], 0.5, {}], ids=["nothing", "one of two", "a number", "no list"])
def test_images_cannot_be_normalised_by_nothing(tmp_path: Path, found: Any) -> None:
    path = kept(tmp_path, "net.onnx").path
    card = json.loads(path.with_name(CARD).read_text())
    card["provenance"]["std"] = found
    path.with_name(CARD).write_text(json.dumps(card))
    taken = input_of(path)
    assert taken.shape == (2, 5, 7) and taken.mean == (0.1, 0.2)
    with pytest.raises(ArtifactError, match=r"model\.onnx: nothing says its std per channel"):
        _ = taken.std


def test_a_folder_without_a_card_holds_an_artefact_of_ours(tmp_path: Path) -> None:
    written(tmp_path, ARTIFACT)
    found = artifact_of(tmp_path)
    assert (found.path, found.files, found.card) == (tmp_path / ARTIFACT, (tmp_path / ARTIFACT,), None)
    assert found.published == found.files and found.size_bytes == len(ARTIFACT)


@pytest.mark.parametrize(
    "names, message",
    [
        (("net.xml", "weights.bin"), r"^weights\.bin: the name of a file beside net\.xml must begin with it"),
        (("net.xml", "net.xml"), None),
        (("net.json",), r"^net\.json: cannot be kept as model\.json; give it a suffix of its own"),
        (("net.qbench",), r"^net\.qbench: cannot be kept as model\.qbench"),
        (("net",), r"^net: cannot be kept as model; give it a suffix"),
    ],
    ids=["another name", "the same file twice", "the card's name", "our name", "no suffix"],
)
def test_names_that_would_not_do(tmp_path: Path, names: tuple[str, ...], message: str | None) -> None:
    if message is None:
        assert len(kept(tmp_path, *names).files) == 1
        return
    with pytest.raises(MethodError, match=message):
        kept(tmp_path, *names)
    assert list((tmp_path / "stage").iterdir()) == []


def test_a_file_that_was_not_written(tmp_path: Path) -> None:
    made = External(tmp_path / "model.xml", "engine", (tmp_path / "model.bin",))
    written(tmp_path, "model.xml")
    with pytest.raises(MethodError, match=r"^model\.bin: the library was to write this file, and did not"):
        keep(made, tmp_path / "stage", packages={}, input_shape=(1, 1, 1), provenance={})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": 2}, "card format 2; this qbench reads 1"),
        ({"files": []}, "no file: plain names of files are needed"),
        ({"files": ["../model.onnx"]}, r"\.\./model\.onnx: plain names of files are needed"),
        ({"input_shape": [1, 2]}, "not the card of another library's file"),
        ({"runtime": None, "files": None}, "not the card of another library's file"),
    ],
)
def test_a_card_that_is_none(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    card = kept(tmp_path, "net.onnx").path.with_name(CARD)
    card.write_text(json.dumps({**json.loads(card.read_text()), **change}))
    with pytest.raises(ArtifactError, match=message):
        artifact_of(card.parent)


@pytest.mark.parametrize("content", [None, "", "[]", "{}"])
def test_a_file_without_a_readable_card(tmp_path: Path, content: str | None) -> None:
    path, *_ = written(tmp_path, "model.onnx")
    if content is not None:
        (tmp_path / CARD).write_text(content)
    with pytest.raises(ArtifactError, match=r"model\.json: not the card of another library's file"):
        input_of(path)
