"""An ONNX graph that grows node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qbench.runtime.extras import import_extra
from qbench.runtime.onnx.grids import Stored
from qbench.runtime.onnx.parts import EXTRA, LARGE_BYTES, Array, Parts

OPSET = 17  # has every operator used here, and is read by runtimes from 2022 on
IR_VERSION = 8
MICROSOFT = "com.microsoft"  # the domain of ONNX Runtime's integer operators that ONNX itself does not have
_MICROSOFT_VERSION = 1
ROUNDED = ".q"  # behind the name of a value: its quantizer


class Graph:
    """Nodes and constants so far. Methods that add a node return the name of its output."""

    def __init__(self) -> None:
        self._onnx = import_extra("onnx", EXTRA)
        # grows in place: put together from parts, every weight would be copied three times over
        self._model = self._onnx.ModelProto()
        self._graph = self._model.graph
        self._large: dict[str, Array] = {}
        self._scalars: dict[tuple[np.dtype[Any], float], str] = {}
        self._taken: set[str] = set()

    def node(
        self, op: str, inputs: Sequence[str], name: str, *, domain: str = "", suffix: str = "", **attributes: Any
    ) -> str:
        """Append a node, named after the program's node it belongs to. An empty input is one left out."""
        output = self._unused(f"{name}{suffix}")
        made = self._graph.node.add(op_type=op, name=output, domain=domain, input=inputs, output=[output])
        made.attribute.extend(self._onnx.helper.make_attribute(*one) for one in sorted(attributes.items()))
        return output

    def constant(self, name: str, values: Array) -> str:
        """Append a constant tensor."""
        unused = self._unused(name)
        dtype = values.dtype
        tensor = self._graph.initializer.add(name=unused, dims=values.shape)
        tensor.data_type = self._onnx.helper.np_dtype_to_tensor_dtype(dtype)
        little = np.asarray(values, dtype.newbyteorder("<"), order="C")
        if little.nbytes >= LARGE_BYTES:
            self._large[unused] = little
        else:
            tensor.raw_data = little.tobytes()
        return unused

    def scalar(self, value: float, dtype: Any) -> str:
        """A constant of no axes; equal ones are stored once."""
        key = (np.dtype(dtype), float(value))
        if key not in self._scalars:
            self._scalars[key] = self.constant(f"{key[0].name}_{len(self._scalars)}", np.array(value, dtype))
        return self._scalars[key]

    def grid(self, grid: Stored) -> tuple[str, str]:
        """The constants scale and zero point of activations."""
        return self.scalar(grid.scale, np.float32), self.scalar(grid.zero_point, grid.dtype)

    def quantize(self, tensor: str, grid: Stored, name: str) -> str:
        return self.node("QuantizeLinear", (tensor, *self.grid(grid)), name, suffix=ROUNDED)

    def dequantize(self, codes: str, grid: Stored, name: str) -> str:
        return self.node("DequantizeLinear", (codes, *self.grid(grid)), name, suffix=".dq")

    def model(
        self, shapes: Mapping[str, Sequence[int]], output: str, batch: int | None, metadata: Mapping[str, str]
    ) -> Parts:
        """The finished model.

        Args:
            shapes: "input" and "logits" -> shape of one image.
            output: The tensor that becomes "logits".
            batch: Images per call, or None.
            metadata: Facts stored beside the graph.
        """
        helper, float32 = self._onnx.helper, self._onnx.TensorProto.FLOAT
        self._name_output(output)
        model, graph = self._model, self._graph
        for name, ends in (("input", graph.input), ("logits", graph.output)):
            ends.append(helper.make_tensor_value_info(name, float32, [batch or "batch", *shapes[name]]))
        graph.name, model.producer_name, model.ir_version = "qbench", "qbench", IR_VERSION
        model.opset_import.append(helper.make_opsetid("", OPSET))
        if any(node.domain == MICROSOFT for node in graph.node):
            model.opset_import.append(helper.make_opsetid(MICROSOFT, _MICROSOFT_VERSION))
        helper.set_model_props(model, dict(metadata))
        return Parts(model, self._large)

    def _name_output(self, tensor: str) -> None:
        """Call a tensor "logits", by the node that makes it: one that only renames would be one more to run."""
        if not any(tensor in node.output for node in self._graph.node):  # the program hands on its input
            tensor = self.node("Identity", (tensor,), "output")
        for node in self._graph.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == tensor:
                        names[index] = "logits"

    def _unused(self, name: str) -> str:
        candidate, count = name, 1
        while candidate in self._taken or candidate in ("input", "logits", ""):
            candidate, count = f"{name}_{count}", count + 1
        self._taken.add(candidate)
        return candidate
