"""A lowered network, and the reference executor that runs it without a single float in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from qbench.program.integer.ops import Grid, IntegerOp, Requantizer
from qbench.program.materialize import last_readers
from qbench.quant.affine import quantize

_TOGETHER = 16  # images run at once: their patches and sums stay in the processor's caches
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)


@dataclass(frozen=True, eq=False)
class IntegerNode:
    """One operation; ``name`` is the node of the program whose value it makes, ``source`` the one that computes it.

    They differ where an activation is fused: ``source`` is the convolution, ``name`` its ReLU.
    """

    name: str
    source: str
    inputs: tuple[str, ...]
    op: IntegerOp


@dataclass(frozen=True, eq=False)
class IntegerProgram:
    """A network of integers between one quantizer and one dequantizer.

    Args:
        input_shape: (channels, height, width) of one image.
        input: The grid images are quantized to.
        nodes: In execution order; the last one's output is the network's.
        output_scale: Float32 [] or [K]: what the output's integers, less ``output_zero_point``, are multiplied by.
        output_zero_point: 0 where the output are a layer's sums.
    """

    INPUT = "input"

    input_shape: tuple[int, int, int]
    input: Grid
    nodes: tuple[IntegerNode, ...]
    output_scale: Tensor
    output_zero_point: int

    def requantizers(self) -> Iterator[tuple[str, Requantizer]]:
        """(name of the computing node, requantizer), in execution order."""
        for node in self.nodes:
            for field in fields(node.op):  # type: ignore[arg-type]  # every op is a dataclass
                value = getattr(node.op, field.name)
                for one in value if isinstance(value, tuple) else (value,):
                    if isinstance(one, Requantizer):
                        yield node.source, one


class IntegerModule:
    """Runs an integer program on the CPU: float images [N, C, H, W] -> float32 logits [N, K].

    Args:
        program: What to run.
        check: Raise RuntimeError as soon as an operation between quantizer and dequantizer, inside a node too, reads or
            makes a tensor that is not of integers.

    ``observe(name, value)``, when set, is told the integers of every node (and of "input").
    """

    def __init__(self, program: IntegerProgram, *, check: bool = False) -> None:
        self.program = program
        self.check = check
        self.observe: Callable[[str, Tensor], None] | None = None
        self._dead = last_readers(program.nodes)

    def __call__(self, images: Tensor) -> Tensor:
        parts = torch.split(images, _TOGETHER)
        return torch.cat([self.dequantize(self.run(self.quantize(part))) for part in parts])

    def quantize(self, images: Tensor) -> Tensor:
        """The first of two float operations: images -> codes [N, H, W, C]."""
        grid = self.program.input
        scale, zero_point = torch.tensor(grid.scale), torch.tensor(grid.zero_point)
        codes = quantize(images.float(), scale, zero_point, grid.qmin, grid.qmax)
        return codes.permute(0, 2, 3, 1).contiguous()

    def run(self, codes: Tensor) -> Tensor:
        """Codes [N, H, W, C] -> integers [N, K]: everything between the two float operations."""
        guard: AbstractContextManager[Any] = nullcontext()
        if self.check:
            guard = IntegersOnly()  # type: ignore[no-untyped-call]
        values = {IntegerProgram.INPUT: codes}
        if self.observe is not None:
            self.observe(IntegerProgram.INPUT, codes)
        with guard:
            for node in self.program.nodes:
                values[node.name] = node.op(*[values[name] for name in node.inputs])
                if self.observe is not None:
                    self.observe(node.name, values[node.name])
                for name in self._dead.get(node.name, ()):
                    del values[name]
        return values[self.program.nodes[-1].name]

    def dequantize(self, output: Tensor) -> Tensor:
        """The second: integers of the last node -> logits, one multiplication each."""
        steps = output.to(torch.int32) - self.program.output_zero_point
        logits = steps.to(torch.float32) * self.program.output_scale
        return logits.permute(0, 3, 1, 2) if logits.dim() == 4 else logits


class IntegersOnly(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, every operation torch dispatches must have integer (or bool) tensors alone, and no float scalars."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter((args, kwargs, result)):
            if isinstance(value, float) or (isinstance(value, Tensor) and value.dtype not in INTEGERS):
                what = "a float" if isinstance(value, float) else f"a tensor of {value.dtype}"
                raise RuntimeError(f"{func} has {what} between the quantizer and the dequantizer")
        return result
