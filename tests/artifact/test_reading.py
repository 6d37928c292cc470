"""Files that cannot be read at all, and machines that cannot hold them."""

import io
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from qbench.artifact import container, from_bytes, header, load, size_report, to_bytes
from qbench.artifact.files import read
from qbench.errors import ArtifactError

from .programs import assert_same, coded_program, conv_program

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

    def denied(*_: object, **__: object) -> None:  # permissions do not stop the superuser, who runs many a CI
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(ArtifactError, match=r"model.qbench: cannot be read: Permission denied"):
        load(path)


@pytest.mark.parametrize("shared", [1, 1 << 40], ids=["arrays in the file's memory", "arrays copied"])
def test_memory_of_the_file_is_used_or_left_alone(shared: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program is the same either way; bytes, which nobody may write to, stay as they are."""
    monkeypatch.setattr(container, "SHARED_BYTES", shared)
    path = tmp_path / "model.qbench"
    for program in (conv_program(), coded_program()):
        data = to_bytes(program)
        path.write_bytes(data)
        assert_same(load(path), program)
        before = bytes(bytearray(data))
        assert_same(from_bytes(data, "x"), program)
        assert data == before
        size_report(path)
        content = memoryview(bytearray(data))
        text, arrays = container.split(content)
        assert text == container.split(data)[0]
        own = {name: array.data_ptr() for name, array in arrays.items() if array.numel()}
        start = torch.frombuffer(content, dtype=torch.uint8).data_ptr()
        inside = [start <= place < start + len(data) for place in own.values()]
        assert all(inside) if shared == 1 else not any(inside)


def test_files_are_read_to_their_end_in_whatever_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(io.BytesIO):
        """Hands out five bytes at a time."""

        def readinto(self, target: Any) -> int:
            return super().readinto(memoryview(target)[:5])

        def fileno(self) -> int:
            return handle

        def readall(self) -> bytes:
            return self.read()

    path = tmp_path / "model.qbench"
    for length in (0, 4, 12, 100):  # of what the system says: the file shrinks, or grows, while it is read
        path.write_bytes(bytes(length))
        with path.open("rb") as file:
            handle = file.fileno()
            monkeypatch.setattr(Path, "open", lambda *_, **__: Slow(b"twelve bytes"))
            assert bytes(read(path)) == b"twelve bytes"
            monkeypatch.undo()


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
