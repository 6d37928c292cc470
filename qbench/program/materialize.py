"""From a :class:`Program` to the module that runs it in float: decoded tensors, simulated edges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qbench.program.graph import EdgeSpec, Node, Program
from qbench.quant.affine import choose_qparams, fake_quantize

Observer = Callable[[str, Tensor], None]


class ProgramModule(nn.Module):
    """Runs a program: float [N, C, H, W] -> logits [N, K].

    ``observe(name, value)``, when set, is told the value of every node (and of "input") before it is quantized: that is
    how calibration sees a network.
    """

    def __init__(self, program: Program, *, channels_last: bool = False) -> None:
        super().__init__()
        self.nodes = program.nodes
        self.edges = dict(program.edges)
        self.observe: Observer | None = None
        self.channels_last = channels_last
        self._keys: dict[str, str] = {}
        for index, (name, encoding) in enumerate(program.tensors.items()):
            value = encoding.decode()
            # Codes that come out of training may lie in memory otherwise than those of a file, and kernels add up in
            # the order of the layout: the same program must give the same bits.
            layout = torch.channels_last if channels_last and value.dim() == 4 else torch.contiguous_format
            value = value.contiguous(memory_format=layout)
            self._keys[name] = f"t{index}"
            self.register_buffer(f"t{index}", value)
        self._dead = last_readers(program.nodes)

    def tensor(self, node: Node, role: str) -> Tensor | None:
        """The decoded tensor of a node, None where an optional one is absent."""
        key = self._keys.get(f"{node.name}.{role}")
        return None if key is None else getattr(self, key)

    def forward(self, images: Tensor) -> Tensor:
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        values = {Program.INPUT: self._edge(Program.INPUT, images)}
        del images
        for node in self.nodes:
            values[node.name] = self._run(node, [values[name] for name in node.inputs])
            for name in self._dead.get(node.name, ()):
                del values[name]
        return values[self.nodes[-1].name]

    def _run(self, node: Node, inputs: list[Tensor]) -> Tensor:
        return self._edge(node.name, self.compute(node, inputs))

    def compute(self, node: Node, inputs: list[Tensor]) -> Tensor:
        """The op of a node on the values it reads, before its edge is quantized."""
        return _OPS[node.op](self, node, *inputs)

    def _edge(self, name: str, value: Tensor) -> Tensor:
        if self.observe is not None:
            self.observe(name, value)
        spec = self.edges.get(name)
        return value if spec is None else simulate_edge(value, spec)


def materialize(program: Program, *, channels_last: bool = False) -> ProgramModule:
    """The module that runs ``program``, in evaluation mode, on the CPU.

    Args:
        program: What to run.
        channels_last: Memory layout of images and convolution weights; a matter of speed (and of the last bits).
    """
    return ProgramModule(program, channels_last=channels_last).eval()


def simulate_edge(value: Tensor, spec: EdgeSpec) -> Tensor:
    """Quantize and dequantize an edge in float; a dynamic one by the range of each image, as a device would see it."""
    if spec.levels is not None:
        levels = torch.tensor(spec.levels, dtype=torch.float32, device=value.device)
        return levels[torch.bucketize(value, between(levels))]
    if spec.scale is not None and spec.zero_point is not None:
        scale = torch.tensor(spec.scale, dtype=torch.float32, device=value.device)
        zero_point = torch.tensor(spec.zero_point, dtype=torch.int32, device=value.device)
        return fake_quantize(value, scale, zero_point, spec.qmin, spec.qmax)
    rows = value.reshape(len(value), -1)
    qparams = choose_qparams(rows.amin(1), rows.amax(1), spec.qmin, spec.qmax, symmetric=False)
    shape = [-1] + [1] * (value.dim() - 1)
    return fake_quantize(value, qparams.scale.view(shape), qparams.zero_point.view(shape), spec.qmin, spec.qmax)


def between(levels: Tensor) -> Tensor:
    """The middles between neighbours of ascending levels, [K] -> [K - 1]; halved first, so that no sum overflows."""
    return levels[:-1] / 2 + levels[1:] / 2


class _Reads(Protocol):
    """A step that makes a value of its name out of others."""

    @property
    def name(self) -> str: ...

    @property
    def inputs(self) -> tuple[str, ...]: ...


def last_readers(nodes: Sequence[_Reads]) -> dict[str, list[str]]:
    """Node -> the values nobody reads after it, so that memory is freed as it would be by a planner."""
    last = {node.name: node.name for node in nodes[:-1]}  # what nobody reads at all is freed at once
    for node in nodes:
        for name in node.inputs:
            last[name] = node.name
    dead: dict[str, list[str]] = {}
    for name, reader in last.items():
        dead.setdefault(reader, []).append(name)
    return dead


def _conv2d(m: ProgramModule, node: Node, x: Tensor) -> Tensor:
    a: Any = node.attrs
    weight = m.tensor(node, "weight")
    assert weight is not None
    return F.conv2d(x, weight, m.tensor(node, "bias"), a["stride"], a["padding"], a["dilation"], a["groups"])


def _linear(m: ProgramModule, node: Node, x: Tensor) -> Tensor:
    weight = m.tensor(node, "weight")
    assert weight is not None
    return F.linear(x, weight, m.tensor(node, "bias"))


def _batch_norm(m: ProgramModule, node: Node, x: Tensor) -> Tensor:
    eps: Any = node.attrs["eps"]
    mean, var = m.tensor(node, "running_mean"), m.tensor(node, "running_var")
    return F.batch_norm(x, mean, var, m.tensor(node, "weight"), m.tensor(node, "bias"), eps=eps)


def _max_pool2d(m: ProgramModule, node: Node, x: Tensor) -> Tensor:
    a: Any = node.attrs
    return F.max_pool2d(x, a["kernel_size"], a["stride"], a["padding"], ceil_mode=a["ceil_mode"])


def _avg_pool2d(m: ProgramModule, node: Node, x: Tensor) -> Tensor:
    a: Any = node.attrs
    return F.avg_pool2d(x, a["kernel_size"], a["stride"], a["padding"], a["ceil_mode"], a["count_include_pad"])


def _adaptive_avg_pool2d(m: ProgramModule, node: Node, x: Tensor) -> Tensor:
    size: Any = node.attrs["output_size"]
    return F.adaptive_avg_pool2d(x, size)


def _concat(m: ProgramModule, node: Node, *xs: Tensor) -> Tensor:
    dim: Any = node.attrs["dim"]
    return torch.cat(xs, dim)


_OPS: dict[str, Callable[..., Tensor]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "relu": lambda m, n, x: F.relu(x),
    "relu6": lambda m, n, x: F.relu6(x),
    "hard_swish": lambda m, n, x: F.hardswish(x),
    "hard_sigmoid": lambda m, n, x: F.hardsigmoid(x),
    "sigmoid": lambda m, n, x: torch.sigmoid(x),
    "silu": lambda m, n, x: F.silu(x),
    "gelu": lambda m, n, x: F.gelu(x),
    "add": lambda m, n, x, y: x + y,
    "mul": lambda m, n, x, y: x * y,
    "concat": _concat,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "flatten": lambda m, n, x: x.flatten(1),
    "identity": lambda m, n, x: x,
}
