"""A network as data: a small graph over a closed set of ops, the encodings of its tensors, its quantized edges.

Everything else in qbench is a view of a :class:`Program`: the module that runs it (``materialize``), the file on disk
(:mod:`qbench.artifact`), its size, its operations, its energy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from qbench.program.encodings import Encoding

Attr = int | float | bool | str | tuple[int, ...]

# op -> (roles of its tensors; a trailing "?" marks an optional one, number of inputs or None for one or more)
OPS: dict[str, tuple[tuple[str, ...], int | None]] = {
    "conv2d": (("weight", "bias?"), 1),  # attrs: stride, padding, dilation (pairs), groups
    "linear": (("weight", "bias?"), 1),
    "batch_norm": (("weight", "bias", "running_mean", "running_var"), 1),  # attrs: eps
    "relu": ((), 1),
    "relu6": ((), 1),
    "hard_swish": ((), 1),
    "hard_sigmoid": ((), 1),
    "sigmoid": ((), 1),
    "silu": ((), 1),
    "gelu": ((), 1),
    "add": ((), 2),
    "mul": ((), 2),
    "concat": ((), None),  # attrs: dim
    "max_pool2d": ((), 1),  # attrs: kernel_size, stride, padding (pairs), ceil_mode
    "avg_pool2d": ((), 1),  # attrs: kernel_size, stride, padding (pairs), ceil_mode, count_include_pad
    "adaptive_avg_pool2d": ((), 1),  # attrs: output_size (pair); (1, 1) is global pooling
    "flatten": ((), 1),  # from axis 1 on
    "identity": ((), 1),
}
WEIGHTED = ("conv2d", "linear")  # the ops whose weights a method quantizes


@dataclass(frozen=True)
class Node:
    """One operation. ``name`` is the module path in the traced network (``features.0``) and names its output too."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attrs: Mapping[str, Attr] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.op not in OPS:
            raise ValueError(f"unknown op {self.op!r} in node {self.name!r}; known: {', '.join(OPS)}")
        arity = OPS[self.op][1]
        if (arity is None and not self.inputs) or (arity is not None and len(self.inputs) != arity):
            raise ValueError(f"{self.op} in node {self.name!r} has {len(self.inputs)} inputs")


@dataclass(frozen=True, eq=False)
class EdgeSpec:
    """How the output of a node (or the network's input) is quantized.

    Static: on a uniform grid whose ``scale`` and ``zero_point`` are numbers fixed at calibration. Dynamic: they are
    None and chosen from each batch element's own range at run time. Shared: ``levels`` are the values, ascending and
    exact in float32, of which each activation takes the nearest (the lower of two equally near ones); its code is the
    level's position, so ``qmin`` is 0 and ``qmax`` the number of levels less one.
    """

    bits: int
    qmin: int
    qmax: int
    scale: float | None
    zero_point: int | None
    levels: tuple[float, ...] | None = None

    @property
    def dynamic(self) -> bool:
        return self.scale is None and self.levels is None


@dataclass(frozen=True, eq=False)
class Program:
    """A network: nodes in execution order, encoded tensors, quantized edges.

    Args:
        input_shape: (channels, height, width) of one image.
        nodes: In execution order; the last node's output is the network's output, [N, num_classes] logits.
        tensors: "NODE.ROLE" -> encoding, e.g. "features.0.weight"; roles as listed in ``OPS``.
        edges: Node name (or "input") -> how its output is quantized. Nodes not named stay float.
        provenance: JSON-able facts that travel in the artefact's header: method, parameters, normalisation, classes.
        entropy_coding: Whether the file stores codes, indices and masks at their entropy where that is smaller. It
            changes no value.
    """

    INPUT = "input"

    input_shape: tuple[int, int, int]
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Encoding]
    edges: Mapping[str, EdgeSpec] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    entropy_coding: bool = False

    def __post_init__(self) -> None:
        known = {self.INPUT}
        expected: set[str] = set()
        for node in self.nodes:
            if node.name in known:
                raise ValueError(f"two nodes are called {node.name!r}")
            missing = [name for name in node.inputs if name not in known]
            if missing:
                raise ValueError(f"node {node.name!r} reads {missing[0]!r}, which no earlier node makes")
            known.add(node.name)
            for role in OPS[node.op][0]:
                key = f"{node.name}.{role.rstrip('?')}"
                if key in self.tensors:
                    expected.add(key)
                elif not role.endswith("?"):
                    raise ValueError(f"tensor {key!r} is missing")
        if not self.nodes:
            raise ValueError("a program needs at least one node")
        unused = sorted(set(self.tensors) - expected)
        if unused:
            raise ValueError(f"tensor {unused[0]!r} belongs to no node")
        stray = sorted(set(self.edges) - known)
        if stray:
            raise ValueError(f"edge {stray[0]!r} belongs to no node")

    def layers(self) -> tuple[Node, ...]:
        """The nodes whose weights a method quantizes, in execution order."""
        return tuple(node for node in self.nodes if node.op in WEIGHTED)

    def weight(self, layer: str) -> Tensor:
        """The decoded weight of a layer, float32."""
        return self.tensors[f"{layer}.weight"].decode()

    def with_tensors(self, changed: Mapping[str, Encoding]) -> Program:
        """The same program with some tensors encoded otherwise."""
        return replace(self, tensors={**self.tensors, **changed})

    def consumers(self, name: str) -> tuple[Node, ...]:
        """The nodes that read the output of ``name``."""
        return tuple(node for node in self.nodes if name in node.inputs)

    def graph_digest(self) -> str:
        """sha256 of the graph alone (nodes and input shape), to see whether two programs are the same network."""
        content = [
            list(self.input_shape),
            [[n.name, n.op, list(n.inputs), sorted(n.attrs.items())] for n in self.nodes],
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
