"""A small network as an artefact, whose header has what a run writes into it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from qbench.artifact import save
from qbench.methods.base import Context
from qbench.methods.integer import Integer
from qbench.program.encodings import Float
from qbench.program.graph import Node, Program

MEAN, STD = [0.4], [0.3]
CLASSES = [f"kind {letter}" for letter in "abcdefghij"]


def float_program(size: int = 32, channels: int = 1, classes: int = 10) -> Program:
    """Convolution, pooling, linear layer: weights that no training made."""
    generator = torch.Generator().manual_seed(4)
    attrs = {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    window = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0), "ceil_mode": False}
    nodes = (
        Node("conv", "conv2d", ("input",), attrs),
        Node("relu", "relu", ("conv",)),
        Node("pool", "max_pool2d", ("relu",), window),
        Node("flat", "flatten", ("pool",)),
        Node("fc", "linear", ("flat",)),
    )
    tensors = {
        "conv.weight": Float(torch.randn(6, channels, 3, 3, generator=generator)),
        "conv.bias": Float(torch.randn(6, generator=generator)),
        "fc.weight": Float(torch.randn(classes, 6 * (size // 4) ** 2, generator=generator)),
        "fc.bias": Float(torch.randn(classes, generator=generator)),
    }
    made = {"dataset": "digits", "model": "toy", "method": "fp32", "mean": MEAN * channels, "std": STD * channels}
    return Program((channels, size, size), nodes, tensors, provenance={**made, "classes": CLASSES[:classes]})


def integer_program(size: int = 32, channels: int = 1, classes: int = 10) -> Program:
    program = float_program(size, channels, classes)
    images = torch.randn(32, channels, size, size, generator=torch.Generator().manual_seed(5))
    made = Integer().compress(program, Context(calibration=[images]))
    assert isinstance(made, Program)
    return replace(made, provenance={**program.provenance, "method": "integer"})


def saved(program: Program, folder: Path, name: str = "toy.qbench") -> Path:
    save(program, folder / name)
    return folder / name
