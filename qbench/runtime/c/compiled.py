"""Compiling a network in C and calling it from here: how it is checked against the reference executor."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from qbench.errors import RuntimeUnavailable

FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-O2")
COMPILERS = ("cc", "gcc", "clang")


def find_compiler() -> list[str]:
    """The command of a C compiler: ``CC`` of the environment, or the first of cc, gcc and clang that is there.

    Raises:
        RuntimeUnavailable: There is none.
    """
    given = shlex.split(os.environ.get("CC", ""))
    for command in [given] if given else [[name] for name in COMPILERS]:
        if shutil.which(command[0]) is not None:
            return command
    looked = f"CC={' '.join(given)} is not there" if given else f"none of {', '.join(COMPILERS)} is there"
    raise RuntimeUnavailable(f"no C compiler ({looked}); install gcc or clang, or name one: CC=COMMAND")


def compile_c(arguments: Sequence[str], folder: Path) -> None:
    """Run the compiler in a folder, with ``FLAGS``.

    Raises:
        RuntimeUnavailable: There is no compiler, or it refuses; the message has its first complaint.
    """
    command = [*find_compiler(), *FLAGS, *arguments]
    plain = {**os.environ, "LC_ALL": "C"}  # messages in English, without typographic quotes
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=plain, check=False)
    if done.returncode:
        complaints = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        first = complaints[0] if complaints else f"exit code {done.returncode}"
        raise RuntimeUnavailable(f"{' '.join(command)} failed: {first}")


class CompiledNetwork:
    """A network in C as a shared library of this process. One call at a time: its memory is static.

    Args:
        folder: Holds ``NAME.c``, ``NAME.h`` and, for large networks, ``NAME.bin``; the library is written there too.
        name: Prefix of the functions.
        classes: Number of logits.
        options: Further words for the compiler, after ``FLAGS``.

    Raises:
        RuntimeUnavailable: There is no compiler, it refuses, or the file of the weights does not fit.
    """

    def __init__(self, folder: Path, name: str, classes: int, options: Sequence[str] = ()) -> None:
        self.classes = classes
        library = folder / f"{name}.so"
        compile_c([*options, "-shared", "-fPIC", f"{name}.c", "-o", library.name], folder)
        self._library = ctypes.CDLL(str(library.resolve()))
        self._name = name
        self._weights: Tensor | None = None
        blob = folder / f"{name}.bin"
        if blob.exists():
            self._weights = _aligned(blob.read_bytes())
            if not self.weights_fit(self._weights):
                raise RuntimeUnavailable(f"{blob} does not hold the weights of {name}.c")

    def __call__(self, codes: Tensor) -> Tensor:
        """Codes int8 [N, H, W, C] -> integers [N, K] as the network's ``infer`` makes them."""
        codes = codes.contiguous()
        logits = torch.empty(len(codes), self.classes, dtype=torch.int32)
        weights = [] if self._weights is None else [_pointer(self._weights)]
        infer = getattr(self._library, f"{self._name}_infer")
        infer.restype = None
        for image, row in zip(codes, logits):
            infer(*weights, _pointer(image), _pointer(row))
        return logits

    def quantize(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 [N, H, W, C] -> codes int8 of that shape; where the network has a ``quantize``."""
        pixels = pixels.contiguous()
        codes = torch.empty(pixels.shape, dtype=torch.int8)
        for image, row in zip(pixels, codes):
            getattr(self._library, f"{self._name}_quantize")(_pointer(image), _pointer(row))
        return codes

    def top1(self, logits: Tensor) -> Tensor:
        """Integers [N, K] -> class of each row, int64 [N]."""
        choose = getattr(self._library, f"{self._name}_top1")
        return torch.tensor([choose(_pointer(row)) for row in logits.contiguous()])

    def weights_fit(self, content: Tensor) -> bool:
        """Whether bytes (uint8) are the weights of this network, as its ``weights_fit`` says."""
        check = getattr(self._library, f"{self._name}_weights_fit")
        return bool(check(_pointer(content), ctypes.c_size_t(content.numel())))


def _pointer(values: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(values.data_ptr())


def _aligned(content: bytes) -> Tensor:
    """Bytes in memory that begins at a multiple of 16, as memory that maps a file does."""
    room = torch.empty(len(content) + 15, dtype=torch.uint8)
    start = -room.data_ptr() % 16
    room[start : start + len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return room[start : start + len(content)]
