"""Programs to files and back."""

from __future__ import annotations

import io
import os
import secrets
import stat
from pathlib import Path

import numpy as np
from torch import Tensor

from qbench.artifact import checks, container, header
from qbench.artifact.tensors import parts
from qbench.errors import ArtifactError
from qbench.program.graph import Program

_OF_OTHERS = {".onnx": "an ONNX file", ".xml": "an OpenVINO file", ".bin": "an OpenVINO file", ".pt2": "a PyTorch file"}


def to_bytes(program: Program) -> bytes:
    """Make the content of the artefact file; the same program gives the same bytes.

    Raises:
        ValueError: the program holds something a file cannot (attributes other than the op's, a code off its grid,
            provenance that is not JSON ...); the message names it.
    """
    checks.check_program(program)
    arrays: dict[str, Tensor] = {}
    any_coded = False
    for key, encoding in program.tensors.items():
        for part in parts(key, encoding):
            coded = part.coded() if program.entropy_coding else None
            if coded is None:
                arrays[part.name] = part.stored()
            else:
                arrays[part.coded_name], any_coded = coded, True
    return container.join(header.write(program, any_coded), arrays)


def from_bytes(data: bytes | memoryview, name: str) -> Program:
    """Rebuild a program from the content of an artefact file. Executes nothing that the content says.

    Args:
        data: The content; memory that can be written to becomes the program's, and is written to.
        name: What error messages call it; a path.

    Raises:
        ArtifactError: the content is truncated, altered, foreign, inconsistent, or from a newer qbench.
    """
    return open_up(data, name)[0]


def open_up(data: bytes | memoryview, name: str) -> tuple[Program, dict[str, int]]:
    """As :func:`from_bytes`; returns the length in bytes of each array as well."""
    try:
        text, arrays = container.split(data)
        content = header.parse(text)
    except RecursionError as error:
        raise ArtifactError(f"{name}: the header is nested too deeply") from error
    except MemoryError as error:
        raise ArtifactError(f"{name}: not enough memory to load {len(data)} bytes") from error
    except ValueError as error:
        raise ArtifactError(f"{name}: {error}") from error
    try:
        return header.build(content, arrays), {key: array.nbytes for key, array in arrays.items()}
    except (ValueError, OverflowError) as error:
        raise ArtifactError(f"{name}: invalid content: {error}") from error
    except (MemoryError, RuntimeError) as error:  # torch reports a failed allocation as RuntimeError
        raise ArtifactError(f"{name}: cannot be decoded: {error}") from error


def save(program: Program, path: Path) -> None:
    """Write an artefact. Afterwards ``path`` is the complete file, or whatever it was before.

    Raises:
        ValueError: as :func:`to_bytes`.
        ArtifactError: the file cannot be written.
    """
    data = to_bytes(program)
    # In the same folder, because a rename is atomic only within a file system; not by tempfile, whose files are
    # readable by their owner alone.
    temporary = path.parent / f".qbench-{secrets.token_hex(8)}.tmp"
    try:
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written: {error.strerror}") from error


def read(path: Path) -> memoryview:
    """Read the content of a file, without judging it, into memory of its own.

    Raises:
        ArtifactError: nothing is there, it is not a regular file, or it cannot be read.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ArtifactError(f"{path}: is a folder, not an artefact")
        if not stat.S_ISREG(mode):  # reading a pipe or a device may never end
            raise ArtifactError(f"{path}: is not a regular file")
        with path.open("rb", buffering=0) as file:
            return _content(file)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, MemoryError) as error:  # a NUL in the path; a file beyond memory
        raise ArtifactError(f"{path}: cannot be read: {error}") from error


def load(path: Path) -> Program:
    """Read and verify an artefact.

    Raises:
        ArtifactError: as :func:`read` and :func:`from_bytes`; of a file of another library, that it is one.
    """
    data = read(path)
    try:
        return from_bytes(data, str(path))
    except ArtifactError as error:
        if (what := _OF_OTHERS.get(path.suffix)) is None:
            raise
        advice = "only `qbench run` uses such files, on their own runtime"
        raise ArtifactError(f"{path}: {what}, without the layers and codes of a .qbench file; {advice}") from error


def _content(file: io.FileIO) -> memoryview:
    """All of a file: in memory of NumPy's, whose large pages take a fraction of the time of those of a bytes object."""
    content, filled = np.empty(os.fstat(file.fileno()).st_size, np.uint8), 0
    while count := file.readinto(content.data[filled:]):
        filled += count
    rest = file.readall()  # it has grown since
    whole = np.concatenate([content[:filled], np.frombuffer(rest, np.uint8)]) if rest else content[:filled]
    return whole.data


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power failure, where the system can open folders."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
