"""What has become of each value of a program while its graph is written: codes, a float tensor, or both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qbench.program.graph import EdgeSpec, Node, Program
from qbench.program.shapes import Shape, shapes
from qbench.runtime.onnx.graph import Graph
from qbench.runtime.onnx.grids import Landing, Stored, landing, storable, stored
from qbench.runtime.onnx.options import OnnxOptions


class Values:
    """The values of a program by name. A value on a grid is there as codes, as their dequantized floats, or both.

    Attributes:
        grids: The grid of every value that is on one.
        shapes: Of every value, without the batch axis.
        overflowing: Layers whose integer sums could overflow on the engine, see :class:`~.options.OnnxOptions`.
    """

    def __init__(self, program: Program, options: OnnxOptions) -> None:
        self.program = program
        self.options = options
        self.graph = Graph()
        self.shapes: Mapping[str, Shape] = shapes(program)
        self.grids: dict[str, Stored] = {}
        self.overflowing: list[str] = []
        self._codes: dict[str, str] = {}
        self._reals: dict[str, str] = {}
        self._quantized(Program.INPUT, "input")

    def __contains__(self, name: str) -> bool:
        return name in self._codes or name in self._reals

    def real(self, name: str) -> str:
        """The tensor that holds a value in float32."""
        if name not in self._reals:
            self._reals[name] = self.graph.dequantize(self._codes[name], self.grids[name], name)
        return self._reals[name]

    def codes(self, name: str) -> str:
        """The tensor that holds the codes of a value on a grid."""
        if name not in self._codes:
            self._codes[name] = self.graph.quantize(self._reals[name], self.grids[name], name)
        return self._codes[name]

    def landing(self, node: Node) -> Landing | None:
        """Where the value of a node is quantized, see :class:`~qbench.runtime.onnx.grids.Landing`."""
        return landing(self.program, node, self.options.signed)

    def finish(self, node: Node, tensor: str) -> None:
        """Take in the float result of a node: quantized where it lands on a grid, else as it is."""
        found = self.landing(node)
        if found is None:
            self._quantized(node.name, tensor)
            return
        if self.options.for_openvino:
            tensor = self._clipped(found, tensor)
        self.land(found, self.graph.quantize(tensor, found.stored, found.names[-1]))

    def land(self, found: Landing, codes: str) -> None:
        """Take in the result of a node as codes of the grid it lands on, and put the bounds of its ReLUs on them."""
        grid, name = found.stored, found.names[-1]
        clips = (found.low > grid.bottom, found.high < grid.type_top)
        if any(clips) and not self.options.for_openvino:
            ends = [
                self.graph.scalar(end, grid.dtype) if clip else "" for end, clip in zip((found.low, found.high), clips)
            ]
            codes = self.graph.node("Clip", (codes, *ends), name, suffix=".clip")
        for each in found.names:
            self.keep_codes(each, codes, grid)

    def keep_codes(self, name: str, codes: str, grid: Stored) -> None:
        """Take in a value that is there as codes."""
        self._codes[name], self.grids[name] = codes, grid

    def keep_grid(self, name: str, tensor: str, grid: Stored) -> None:
        """Take in a float result that lies on a grid already."""
        self._reals[name], self.grids[name] = tensor, grid

    def alias(self, name: str, source: str) -> None:
        """A value that is another one."""
        for known in (self._codes, self._reals):
            if source in known:
                known[name] = known[source]
        if source in self.grids:
            self.grids[name] = self.grids[source]

    def passing(self, node: Node, op: str, **attributes: Any) -> None:
        """Write an operator that picks values and makes none: its result is on the grid of what it reads.

        ONNX Runtime wants it between quantizers of its own. OpenVINO moves the scale behind it.
        """
        source = node.inputs[0]
        grid = self.grids.get(source)
        if grid is not None and self.options.qoperator:
            self.keep_codes(node.name, self.graph.node(op, (self.codes(source),), node.name, **attributes), grid)
        else:
            tensor = self.graph.node(op, (self.real(source),), node.name, **attributes)
            if grid is None:
                self._reals[node.name] = tensor
            elif self.options.for_openvino:
                self.keep_grid(node.name, tensor, grid)
            else:
                self.keep_codes(node.name, self.graph.quantize(tensor, grid, node.name), grid)
        if node.name in self.program.edges:
            self._requantized(node.name)

    def _requantized(self, name: str) -> None:
        """A value that has an edge of its own although what it reads is on a grid."""
        tensor = self.real(name)
        for known in (self._codes, self._reals):
            known.pop(name, None)
        self.grids.pop(name, None)
        self._quantized(name, tensor)

    def _quantized(self, name: str, tensor: str) -> None:
        """Take in a float tensor, quantized where the value has an edge."""
        spec = self.program.edges.get(name)
        if spec is None:
            self._reals[name] = tensor
        elif storable(spec):
            grid = stored(spec, self.options.signed)
            whole = Landing((name,), grid, grid.bottom, grid.top)
            if self.options.for_openvino:
                tensor = self._clipped(whole, tensor)
            self.land(whole, self.graph.quantize(tensor, grid, name))
        else:
            self._reals[name] = self._simulated(name, tensor, spec)

    def _clipped(self, found: Landing, tensor: str) -> str:
        """A float result within the bounds that saturation does not see to."""
        grid = found.stored
        if (found.low, found.high) == (grid.bottom, grid.type_top):
            return tensor
        ends = [self.graph.scalar(grid.real(end), np.float32) for end in (found.low, found.high)]
        return self.graph.node("Clip", (tensor, *ends), found.names[-1], suffix=".clip")

    def _simulated(self, name: str, tensor: str, spec: EdgeSpec) -> str:
        """An edge of more than 8 bits in float: the same four operations as on the torch runtime."""
        assert spec.scale is not None and spec.zero_point is not None  # static: why_not refuses the others
        scale = self.graph.scalar(spec.scale, np.float32)
        ends = [self.graph.scalar(end - spec.zero_point, np.float32) for end in (spec.qmin, spec.qmax)]
        steps = self.graph.node("Div", (tensor, scale), name, suffix=".steps")
        whole = self.graph.node("Round", (steps,), name, suffix=".round")
        kept = self.graph.node("Clip", (whole, *ends), name, suffix=".clip")
        return self.graph.node("Mul", (kept, scale), name, suffix=".value")
