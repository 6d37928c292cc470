"""Eager PyTorch: decoded weights or, where activations are quantized, a simulation. The accuracy reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from qbench.artifact import load
from qbench.program.graph import Program
from qbench.program.materialize import ProgramModule
from qbench.program.simulation import simulate
from qbench.runtime.base import ImageExecutable

SIMULATED_AT_ONCE = 8  # images: intermediate values stay in the caches, which makes up for their float64


class TorchExecutable(ImageExecutable):
    """A program as a module, without autocast."""

    def __init__(self, module: ProgramModule, input_shape: tuple[int, int, int]) -> None:
        super().__init__("torch", (None, *input_shape))
        self.module = module
        self.kind = "simulated" if module.edges else "float"

    def run(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            if self.kind == "simulated":
                return torch.cat([self.module(part) for part in torch.split(images, SIMULATED_AT_ONCE)])
            logits: Tensor = self.module(images)
            return logits


@dataclass(frozen=True)
class TorchRuntime:
    """Eager PyTorch.

    Args:
        channels_last: Memory layout of images and convolution weights.
    """

    channels_last: bool = True
    name: ClassVar[str] = "torch"

    def supports(self, program: Program) -> str | None:
        return None

    def load(self, path: Path, *, threads: int) -> TorchExecutable:
        torch.set_num_threads(threads)
        return self.prepare(load(path))

    def prepare(self, program: Program) -> TorchExecutable:
        """The executable of a program in memory, built as ``load`` builds it."""
        return TorchExecutable(simulate(program, channels_last=self.channels_last), program.input_shape)
