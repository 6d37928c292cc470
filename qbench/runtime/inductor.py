"""torch.compile: the materialized program as C++ that inductor generates and the system's compiler builds.

Elementwise operations, simulated edges among them, are fused into loops; convolutions and products stay float32 calls
to oneDNN, with weights laid out for it once. So ``kind`` is float or simulated, never integer. Inductor's int8 kernels
are out of reach from here: they are found by matching patterns that PyTorch's own quantizer leaves behind, which has
moved to torchao and chooses its own scales; whether a pattern matched shows only in the generated code, so that a row
could not say with certainty that it computed in integers.

Source: J. Ansel et al., "PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and Graph
    Compilation", ASPLOS 2024.
"""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from qbench.artifact import load
from qbench.errors import RuntimeUnavailable
from qbench.program.graph import Program
from qbench.program.materialize import ProgramModule, materialize
from qbench.runtime.base import ImageExecutable

_MOST_SIZES = 8  # batch sizes that torch compiles for one module before it refuses


class InductorExecutable(ImageExecutable):
    """A compiled program. Each batch size is compiled at its first call, which takes seconds to minutes."""

    def __init__(self, module: ProgramModule, input_shape: tuple[int, int, int], *, freezing: bool) -> None:
        super().__init__("inductor", (None, *input_shape))
        self.kind = "simulated" if module.edges else "float"
        # one process: a pool of compilers would outlive the call, and disturb what is timed next
        options: dict[str, Any] = {"freezing": freezing, "compile_threads": 1}
        self._compiled = torch.compile(module, dynamic=False, fullgraph=True, backend="inductor", options=options)
        self._sizes: set[int] = set()

    def run(self, images: Tensor) -> Tensor:
        """Run a batch.

        Raises:
            RuntimeUnavailable: It cannot be compiled here.
        """
        if len(images) not in self._sizes:
            self._compile(images)
        with torch.inference_mode(False), torch.no_grad():
            logits: Tensor = self._compiled(images)
        return logits

    def _compile(self, images: Tensor) -> None:
        """Make the first call with batches of a size."""
        if len(self._sizes) == _MOST_SIZES:
            torch.compiler.reset()
            self._sizes.clear()
        try:
            with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
                warnings.simplefilter("ignore", DeprecationWarning)  # torch's own modules, about one another
                self._compiled(images)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = " ".join(str(error).split())
            raise RuntimeUnavailable(f"runtime=inductor: torch.compile failed: {reason[:300]}") from error
        self._sizes.add(len(images))


@dataclass(frozen=True)
class InductorRuntime:
    """torch.compile with inductor, on the CPU. Needs a C++ compiler.

    Args:
        channels_last: Memory layout of images and convolution weights.
        freezing: Treat weights as constants: lay them out for the kernels at compile time.
    """

    channels_last: bool = True
    freezing: bool = True
    name: ClassVar[str] = "inductor"

    def supports(self, program: Program) -> str | None:
        return missing_compiler()

    def load(self, path: Path, *, threads: int) -> InductorExecutable:
        if (reason := missing_compiler()) is not None:
            raise RuntimeUnavailable(f"runtime=inductor {reason}")
        torch.set_num_threads(threads)
        return self.prepare(load(path))

    def prepare(self, program: Program) -> InductorExecutable:
        """The executable of a program in memory, built as ``load`` builds it."""
        module = materialize(program, channels_last=self.channels_last)
        return InductorExecutable(module, program.input_shape, freezing=self.freezing)


def missing_compiler() -> str | None:
    """Why nothing can be compiled here; None if there is a compiler. Inductor takes ``CXX`` or the system's own."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    command = os.environ.get("CXX") or usual
    if shutil.which(command) is not None:
        return None
    return f"needs a C++ compiler, and {command} is not on the PATH; install one, or name it in the variable CXX"
