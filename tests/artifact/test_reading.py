"""Files that cannot be read at all, and machines that cannot hold them."""

import os
from pathlib import Path
from typing import Any

import pytest

from qbench.artifact import container, from_bytes, header, load, size_report, to_bytes
from qbench.errors import ArtifactError

from .programs import conv_program

CONV = to_bytes(conv_program())


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    wrong = {
        tmp_path: "is a folder, not an artefact",
        tmp_path / "link": "is a folder, not an artefact",
        tmp_path / "loop": "cannot be read: Too many levels",
        tmp_path / "missing": "cannot be read: No such file",
        tmp_path / "pipe": "is not a regular file",
        tmp_path / "a\0b": "cannot be read: embedded null",
    }
    for path, message in wrong.items():
        for function in (load, size_report):
            with pytest.raises(ArtifactError, match=message) as caught:
                function(path)
            assert str(caught.value).startswith(f"{path}: ")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.qbench"
    path.write_bytes(CONV)

    def denied(_: Path) -> bytes:  # permissions do not stop the superuser, who runs many a CI
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(ArtifactError, match=r"model.qbench: cannot be read: Permission denied"):
        load(path)


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ((container, "split"), MemoryError(), r"FILE: not enough memory to load \d+ bytes"),
        ((header, "build"), MemoryError("no room"), "FILE: cannot be decoded: no room"),
        ((header, "build"), RuntimeError("can't allocate memory"), "FILE: cannot be decoded: can't allocate memory"),
    ],
    ids=["reading", "decoding", "torch"],
)
def test_running_out_of_memory_is_an_error_about_the_file(
    where: tuple[Any, str], error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(*where, fail)
    with pytest.raises(ArtifactError, match=message):
        from_bytes(CONV, "FILE")


def test_a_file_through_a_link_names_the_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(CONV[:-1])
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ArtifactError, match="link: truncated"):
        load(tmp_path / "link")


@pytest.mark.parametrize("name, what", [("model.onnx", "ONNX"), ("model.xml", "OpenVINO"), ("model.pt2", "PyTorch")])
def test_files_of_other_libraries_are_told_apart(tmp_path: Path, name: str, what: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"theirs")
    with pytest.raises(ArtifactError, match=f"an? {what} file, without the layers and codes of a .qbench file; only"):
        load(path)
    path.write_bytes(CONV)  # what counts is the content
    assert load(path).input_shape == conv_program().input_shape
    path.unlink()
    with pytest.raises(ArtifactError, match=r"cannot be read: No such file"):
        load(path)
