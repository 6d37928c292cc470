"""A program with quantized edges, run in floats as near to integers as floats come."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qbench.program.graph import WEIGHTED, Node, Program
from qbench.program.integer.layers import integer_weight, stored_bias
from qbench.program.materialize import ProgramModule, materialize, simulate_edge

# ops that choose among values, or cut them at zero, which is a code: what they make is on the grid that they read
_ON_THE_SAME_GRID = ("relu", "max_pool2d", "flatten", "identity")
_FLOAT32_TENSORS = (*WEIGHTED, "batch_norm")


class Simulation(ProgramModule):
    """Runs a program whose edges are quantized: float32 [N, C, H, W] -> logits float32 [N, K].

    What a device computes with integers is exact up to the rounding at the end of each layer. Floats that stand for
    those integers are not: a sum of products of decoded values is off by some 2^-24 of its terms, one code in 100,000
    rounds the other way, and a deep network makes another answer of that. So here

    - a layer whose weights are codes of at most 8 bits and whose input is on a static, uniform grid adds up products of
      codes. In float32 those sums are exact up to 2^24, in any order: neither memory layout nor threads matter. Larger
      ones are rounded as any float32 is;
    - from the sum to the next edge values are float64, where they are rounded to a code once;
    - other operations read the exact value of each code.

    Ties go to the even code, as in training and in the engines; integers alone round them up
    (:mod:`qbench.quant.requantize`). Edges with a range of their own per image, or with shared values, are float32.
    """

    def __init__(self, program: Program, *, channels_last: bool = False) -> None:
        super().__init__(program, channels_last=channels_last)
        self._steps = _static_steps(program)
        self._units: dict[str, str] = {}
        for node in program.layers():
            step = self._steps.get(node.inputs[0])
            if step is not None:
                self._take_codes(program, node, step)

    def _take_codes(self, program: Program, node: Node, step: float) -> None:
        """Keep codes instead of decoded weights, and what 1 in their sums stands for; nothing if there are no codes."""
        try:
            codes, scale = integer_weight(program.tensors[f"{node.name}.weight"])
        except ValueError:
            return
        shape = (-1, 1, 1) if node.op == "conv2d" else (-1,)
        unit = scale.double() * step
        weight_key = self._keys[f"{node.name}.weight"]
        setattr(self, weight_key, torch.empty_like(getattr(self, weight_key)).copy_(codes))  # in the same layout
        self._units[node.name] = f"unit_of_{weight_key}"
        self.register_buffer(self._units[node.name], unit.view(shape))
        bias = program.tensors.get(f"{node.name}.bias")
        if bias is not None:
            whole = stored_bias(bias, step, scale)
            value = bias.decode().double() if whole is None else whole.double() * unit
            setattr(self, self._keys[f"{node.name}.bias"], value.view(shape))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).float()

    def compute(self, node: Node, inputs: list[Tensor]) -> Tensor:
        if node.name in self._units:
            return self._from_codes(node, inputs[0])
        if node.op in _ON_THE_SAME_GRID:
            return super().compute(node, inputs)
        if node.op in _FLOAT32_TENSORS:
            return super().compute(node, [value.float() for value in inputs])
        return super().compute(node, [self._exact(name, value) for name, value in zip(node.inputs, inputs)])

    def _from_codes(self, node: Node, value: Tensor) -> Tensor:
        """The result of a layer in float64, from sums of products of codes."""
        codes = value.div(self._steps[node.inputs[0]]).round_()
        weight = self.tensor(node, "weight")
        assert weight is not None
        if node.op == "conv2d":
            a: Any = node.attrs
            sums = F.conv2d(codes, weight, None, a["stride"], a["padding"], a["dilation"], a["groups"])
        else:
            sums = F.linear(codes, weight)
        real = torch.mul(sums, getattr(self, self._units[node.name]))
        bias = self.tensor(node, "bias")
        return real if bias is None else real.add_(bias)

    def _exact(self, name: str, value: Tensor) -> Tensor:
        """A value in float64; where it is on a grid, what its code stands for."""
        step = self._steps.get(name)
        return value.double() if step is None else value.div(step).round_().double().mul_(step)

    def _edge(self, name: str, value: Tensor) -> Tensor:
        if self.observe is not None:
            self.observe(name, value)
        spec = self.edges.get(name)
        if spec is None:
            return value
        if spec.scale is None or spec.zero_point is None:
            return simulate_edge(value.float(), spec)
        codes = value.double().div(spec.scale).round_()
        return codes.clamp_(spec.qmin - spec.zero_point, spec.qmax - spec.zero_point).float().mul_(spec.scale)


def simulate(program: Program, *, channels_last: bool = False) -> ProgramModule:
    """The module that accuracy is measured with, in evaluation mode: a simulation where edges are quantized."""
    if not program.edges:
        return materialize(program, channels_last=channels_last)
    return Simulation(program, channels_last=channels_last).eval()


def _static_steps(program: Program) -> dict[str, float]:
    """Value -> the step of the static, uniform grid that it is on; others are not in it."""
    steps: dict[str, float] = {}
    sources = {node.name: node.inputs[0] for node in program.nodes if node.op in _ON_THE_SAME_GRID}
    for name in (Program.INPUT, *(node.name for node in program.nodes)):
        spec = program.edges.get(name)
        if spec is not None:
            if spec.scale is not None:
                steps[name] = spec.scale
        elif name in sources and sources[name] in steps:
            steps[name] = steps[sources[name]]
    return steps
