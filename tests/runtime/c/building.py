"""Networks of integers for the tests of the C writer, and the comparison with the reference executor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from qbench.program.integer import ops
from qbench.program.integer.network import IntegerModule, IntegerNode, IntegerProgram
from qbench.runtime.c import CompiledNetwork, CSource, to_c

GRID = ops.Grid(0.05, 3, -128, 127)


def random_codes(program: IntegerProgram, count: int, seed: int = 0) -> Tensor:
    """Codes [N, H, W, C] over the whole grid, and first all its lowest, all its highest, and both in turns."""
    channels, height, width = program.input_shape
    low, high = program.input.qmin, program.input.qmax
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(low, high + 1, (count, height, width, channels), generator=generator).to(torch.int8)
    codes[0], codes[1] = low, high
    codes[2] = torch.where(torch.arange(height * width * channels) % 2 == 0, low, high).view(height, width, channels)
    return codes


def reference(program: IntegerProgram, codes: Tensor) -> Tensor:
    """What the reference executor makes of codes, int32 [N, K]."""
    module = IntegerModule(program)
    output = torch.cat([module.run(part) for part in codes.split(16)])
    return output.to(torch.int32).reshape(len(codes), -1) - program.output_zero_point


def built(source: CSource, folder: Path, classes: int, options: Sequence[str] = ()) -> CompiledNetwork:
    folder.mkdir(parents=True, exist_ok=True)
    source.write(folder)
    return CompiledNetwork(folder, source.name, classes, options)


def assert_same(
    program: IntegerProgram, codes: Tensor, folder: Path, *, weights: str = "arrays", options: Sequence[str] = ("-O1",)
) -> CSource:
    """The network in C makes of every image what the reference executor makes of it.

    ``options`` follow the usual ones; the last -O counts, and -O1 compiles twice as fast as the -O2 of them.
    """
    expected = reference(program, codes)
    assert len(expected.unique()) > 1  # a network that says the same of everything would prove nothing
    source = to_c(program, name="net", weights=weights)
    found = built(source, folder, expected.shape[1], options)(codes)
    assert torch.equal(found, expected)
    return source


def chain(shape: tuple[int, int, int], *steps: ops.IntegerOp, grid: ops.Grid = GRID) -> IntegerProgram:
    """Operations one after the other on images (channels, height, width)."""
    nodes: list[IntegerNode] = []
    for index, op in enumerate(steps):
        source = nodes[-1].name if nodes else IntegerProgram.INPUT
        nodes.append(IntegerNode(f"n{index}", f"n{index}", (source,), op))
    return IntegerProgram(shape, grid, tuple(nodes), torch.tensor(1.0), 0)


def factors(
    *shape: int, shift: int = 9, seed: int = 0, low: int = -128, high: int = 127, zero_point: int = 5
) -> ops.Requantizer:
    """Factors in [0.5, 1) / 2^shift, of any shape."""
    generator = torch.Generator().manual_seed(seed)
    multiplier = torch.randint(1 << 30, (1 << 31) - 1, shape, generator=generator, dtype=torch.int64)
    return ops.Requantizer(
        multiplier.to(torch.int32), torch.full(shape, shift, dtype=torch.int32), zero_point, low, high
    )


def without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
