"""What an engine made of a graph: which convolutions and matrix products compute with integers, and which do not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qbench.runtime.extras import import_extra
from qbench.runtime.onnx.parts import EXTRA

INTEGER_OPS = {
    *("QLinearConv", "QLinearConvTranspose", "ConvInteger", "ConvTransposeInteger"),
    *("QLinearMatMul", "QGemm", "MatMulInteger", "MatMulInteger16", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"),
    *("QAttention", "QOrderedMatMul", "DynamicQuantizeLSTM"),
}
"""Operators of ONNX and of ``com.microsoft`` that multiply integers."""

FLOAT_OPS = {
    *("Conv", "ConvTranspose", "FusedConv", "NhwcFusedConv", "NhwcConv"),
    *("Gemm", "FusedGemm", "MatMul", "FusedMatMul", "TransposeMatMul", "FusedMatMulActivation", "GemmFastGelu"),
    *("Einsum", "MatMulNBits", "MatMulBnb4", "SparseToDenseMatMul", "Attention", "MultiHeadAttention"),
    *("LSTM", "GRU", "RNN"),
}
"""Operators that multiply floats, those of fused and blocked layouts included."""

QUANTIZED_OPS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", *INTEGER_OPS}


@dataclass(frozen=True)
class Kernel:
    """A convolution or matrix product as an engine runs it.

    Args:
        name: Of the node, or of the layers fused into it.
        op: Operator, or the engine's kernel.
        integer: Whether it multiplies integers.
        precision: Of the numbers it multiplies: "int8", "f32", "bf16", "f16".
    """

    name: str
    op: str
    integer: bool
    precision: str

    def __str__(self) -> str:
        return f"{self.name} ({self.op})"


@dataclass(frozen=True)
class Verdict:
    """What really runs.

    Args:
        kind: float, simulated or integer, as in :class:`qbench.runtime.base.Executable`.
        precision: Of convolutions and matrix products; several are joined by "+".
        fallbacks: Those of a quantized network that compute with floats.
    """

    kind: str
    precision: str
    fallbacks: tuple[str, ...]


def verdict(kernels: Iterable[Kernel], *, quantized: bool) -> Verdict:
    """Judge an engine's kernels: integer only if there are some and every one of them is.

    Args:
        kernels: All convolutions and matrix products.
        quantized: Whether the network was meant to compute with integers.
    """
    found = list(kernels)
    precision = "+".join(sorted({kernel.precision for kernel in found})) or "f32"
    if not quantized:
        return Verdict("float", precision, ())
    fallbacks = tuple(str(kernel) for kernel in found if not kernel.integer)
    kind = "integer" if found and not fallbacks else "simulated"
    return Verdict(kind, precision, fallbacks)


def graph_kernels(model: Any) -> list[Kernel]:
    """The convolutions and matrix products of an ``onnx.ModelProto``, in graphs inside its nodes too."""
    return [
        Kernel(node.name or (node.output[0] if node.output else node.op_type), node.op_type, integer, precision)
        for node in _nodes(model.graph)
        for integer, precision in [(node.op_type in INTEGER_OPS, "int8" if node.op_type in INTEGER_OPS else "f32")]
        if integer or node.op_type in FLOAT_OPS
    ]


def is_quantized(model: Any) -> bool:
    """Whether a model has quantizers or integer operators: whether it is meant to compute with integers."""
    return any(node.op_type in QUANTIZED_OPS for node in _nodes(model.graph))


def read_graph(path: Path) -> Any:
    """The ``onnx.ModelProto`` of a file, without tensors that lie in files beside it."""
    return import_extra("onnx", EXTRA).load(str(path), load_external_data=False)


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)
