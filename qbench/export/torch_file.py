"""PyTorch: an exported program (``.pt2``), which runs where torch is, without qbench."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qbench.errors import RuntimeUnavailable
from qbench.program.graph import Program
from qbench.program.simulation import simulate
from qbench.runtime.torch_runtime import TorchRuntime

FACTS = "qbench.json"  # an extra file inside: classes, mean and deviation, method


@dataclass(frozen=True)
class TorchFile:
    """What ``runtime=torch`` computes, as ``torch.export`` writes it, for any number of images."""

    suffix: str = ".pt2"
    least_agreement_percent: float = 100.0

    def write(self, program: Program, folder: Path, name: str) -> None:
        dynamic = sorted(edge for edge, spec in program.edges.items() if spec.dynamic)
        if dynamic:
            reason = f"{dynamic[0]} finds its range while running, which torch.export cannot follow"
            raise RuntimeUnavailable(f"format=torch: {reason}; quantize activations statically")
        images = torch.zeros(2, *program.input_shape)
        batch = torch.export.Dim("batch", min=1)
        exported = torch.export.export(simulate(program), (images,), dynamic_shapes=({0: batch},))
        facts = {"input_shape": list(program.input_shape), **program.provenance}
        extra = {FACTS: json.dumps(facts, sort_keys=True)}
        torch.export.save(exported, folder / f"{name}{self.suffix}", extra_files=extra)

    def reload(self, program: Program, folder: Path, name: str) -> Callable[[Tensor], Tensor]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given buffer is not writable")  # torch's own reader
            module = torch.export.load(folder / f"{name}{self.suffix}").module()

        def run(images: Tensor) -> Tensor:
            with torch.inference_mode():
                logits: Tensor = module(images)
                return logits

        return run

    def reference(self, program: Program) -> Callable[[Tensor], Tensor]:
        return TorchRuntime(channels_last=False).prepare(program)
