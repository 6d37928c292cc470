"""Integers alone: the reference executor of lowered programs. Bit-exact, on PyTorch's integer kernels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from qbench.artifact import load
from qbench.errors import MethodError, RuntimeUnavailable
from qbench.program.graph import Program
from qbench.program.integer.network import IntegerModule
from qbench.program.lower import lower
from qbench.runtime.base import ImageExecutable


class IntegerExecutable(ImageExecutable):
    """A lowered program. Quantizing the images and scaling the logits are its only floats."""

    kind = "integer"

    def __init__(self, module: IntegerModule, input_shape: tuple[int, int, int]) -> None:
        super().__init__("integer", (None, *input_shape))
        self.module = module

    def run(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.module(images)


@dataclass(frozen=True)
class IntegerRuntime:
    """Integer-only inference.

    Args:
        check: Look at every tensor that every operation reads and makes, and fail on the first that is not of integers.
    """

    check: bool = False
    name: ClassVar[str] = "integer"

    def supports(self, program: Program) -> str | None:
        try:
            lower(program)
        except MethodError as error:
            return str(error)
        return None

    def load(self, path: Path, *, threads: int) -> IntegerExecutable:
        torch.set_num_threads(threads)
        try:
            return self.prepare(load(path))
        except MethodError as error:
            raise RuntimeUnavailable(f"runtime=integer cannot run {path.name}: {error}") from error

    def prepare(self, program: Program) -> IntegerExecutable:
        """The executable of a program in memory, built as ``load`` builds it.

        Raises:
            MethodError: It cannot be computed with integers alone; names the node.
        """
        return IntegerExecutable(IntegerModule(lower(program), check=self.check), program.input_shape)
