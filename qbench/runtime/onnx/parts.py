"""A written graph whose large constants lie apart, in memory that nobody has copied, and the forms it is handed on in.

As an ``onnx.ModelProto`` and its bytes, weights are copied once each; at tens of megabytes that takes longer than
decoding them. :meth:`Parts.pieces` and :meth:`Parts.external` leave those copies out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qbench.runtime.extras import import_extra

EXTRA = "onnxruntime"
LARGE_BYTES = 1 << 16
# protobuf's tags of the fields ModelProto.graph, GraphProto.initializer and TensorProto.raw_data, all length-delimited
_GRAPH, _INITIALIZER, _RAW_DATA = (bytes([field << 3 | 2]) for field in (7, 5, 9))

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Parts:
    """A graph in parts.

    Args:
        model: ``onnx.ModelProto``; of a large constant it has name, type and shape, at its place among the others.
        large: Their values by name, little-endian and in row-major order.
        overflowing: Layers whose integer sums could overflow on the engine the graph is for.
    """

    model: Any
    large: Mapping[str, Array]
    overflowing: tuple[str, ...] = ()

    def whole(self) -> Any:
        """The model with all its constants; fills them in, so that the parts are used up."""
        for tensor in self.model.graph.initializer:
            if tensor.name in self.large:
                tensor.raw_data = self.large[tensor.name].tobytes()
        return self.model

    def pieces(self) -> list[bytes | memoryview]:
        """What parses as ``whole().SerializeToString()`` does, cut in pieces; large constants are pieces of their own.

        Parsers merge what they read of the same field, so that a graph may come in two parts.

        Source: Protocol Buffers, "Encoding", section "Last One Wins".
        """
        rest = import_extra("onnx", EXTRA).ModelProto()
        rest.CopyFrom(self.model)
        del rest.graph.initializer[:]
        pieces: list[bytes | memoryview] = []
        for tensor in self.model.graph.initializer:
            head, values = tensor.SerializeToString(), self.large.get(tensor.name)
            if values is None:
                pieces += [_INITIALIZER, varint(len(head)), head]
                continue
            content: list[bytes | memoryview] = [
                _RAW_DATA,
                varint(values.nbytes),
                values.reshape(-1).view(np.uint8).data,
            ]
            length = len(head) + sum(map(len, content))
            pieces += [_INITIALIZER, varint(length), head, *content]
        return [rest.SerializeToString(), _GRAPH, varint(sum(map(len, pieces))), *pieces]

    def external(self) -> bytes:
        """The bytes of the model without its large constants, which an engine is handed apart, by name."""
        for tensor in self.model.graph.initializer:
            if tensor.name in self.large:
                tensor.data_location = import_extra("onnx", EXTRA).TensorProto.EXTERNAL
                del tensor.external_data[:]
                tensor.external_data.add(key="location", value="memory")
        found: bytes = self.model.SerializeToString()
        return found


def varint(number: int) -> bytes:
    """A number >= 0 as protobuf writes lengths: seven bits a byte, the lowest first, all but the last marked."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])
