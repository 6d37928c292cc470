"""C99: a folder with a source file, its header and, for large networks, a file of weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qbench.data.augment import normalise
from qbench.deployed import num_logits
from qbench.errors import ArtifactError
from qbench.program.graph import Program
from qbench.program.integer.network import IntegerModule
from qbench.program.lower import lower
from qbench.runtime.c import CompiledNetwork, to_c
from qbench.runtime.integer import IntegerRuntime


@dataclass(frozen=True)
class CSourceFiles:
    """Integers alone; see :mod:`qbench.runtime.c`."""

    suffix: str = ""
    least_agreement_percent: float = 100.0

    def write(self, program: Program, folder: Path, name: str) -> None:
        lowered = lower(program)
        made = program.provenance
        facts = [f"{key} {made[key]}" for key in ("model", "dataset", "method", "seed") if key in made]
        about = [
            ", ".join(facts),
            *[f"class {index}: {text}" for index, text in enumerate(made.get("classes") or [])],
        ]
        source = to_c(lowered, name=identifier(name), pixel_codes=pixel_codes(program), about=about)
        source.write(folder)

    def reload(self, program: Program, folder: Path, name: str) -> Callable[[Tensor], Tensor]:
        """Compile what was written; the library does not stay in the folder."""
        compiled = CompiledNetwork(folder, identifier(name), num_logits(program), ["-O3"])
        module = IntegerModule(lower(program))

        def run(images: Tensor) -> Tensor:
            sums = compiled(module.quantize(images))
            return sums.to(torch.float32) * module.program.output_scale

        return run

    def reference(self, program: Program) -> Callable[[Tensor], Tensor]:
        return IntegerRuntime().prepare(program)


def pixel_codes(program: Program) -> Tensor | None:
    """The codes of the 256 values of a pixel, int8 [C, 256]; None where the header has no mean and deviation."""
    from qbench.deployed import normalisation

    try:
        mean, std = normalisation(program, Path())
    except ArtifactError:
        return None
    every = torch.arange(256, dtype=torch.uint8).expand(1, len(mean), 1, 256)
    codes = IntegerModule(lower(program)).quantize(normalise(every, mean, std))  # [1, 1, 256, C]
    return codes[0, 0].t().contiguous()


def identifier(name: str) -> str:
    """A file's name as the prefix of C functions."""
    letters = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return (
        letters
        if re.match(r"[A-Za-z]", letters) and not letters.lower().startswith(("qb_", "qbench_"))
        else f"net_{letters}"
    )
