"""OpenVINO on the CPU: programs through our own ONNX writer, and ONNX and OpenVINO files of others as they are."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from qbench.artifact import load
from qbench.errors import ArtifactError, RuntimeUnavailable
from qbench.program.graph import Program
from qbench.runtime.base import ImageExecutable
from qbench.runtime.extras import import_extra, missing_extra
from qbench.runtime.onnx import OnnxOptions, to_parts, why_not
from qbench.runtime.onnx.graph import ROUNDED
from qbench.runtime.onnx.kernels import Kernel, verdict
from qbench.runtime.pairs import as_floats, may_be_wrong, overflowing, tensor_fits
from qbench.runtime.threads import at_most, check_max_threads

EXTRA = "openvino"
PRECISIONS = ("f32", "bf16", "f16")
_FOREIGN = (".onnx", ".xml")
_LAYERS = ("Convolution", "FullyConnected", "MatMul", "Deconvolution", "RNNCell", "RNNSeq", "ScaledDotProductAttention")
_QUANTIZED = {"FakeQuantize", "FakeConvert"}
_INTEGER_TYPES = {"i8", "u8"}


class OpenVinoExecutable(ImageExecutable):
    """A model, compiled for the batch size it was last called with: fixed shapes are what its kernels are fastest on.

    Attributes:
        kind: integer only if every convolution and matrix product runs as an 8-bit kernel.
        precision: What those kernels multiply: "int8", "f32", "bf16" or several.
        fallbacks: Those of a quantized network that multiply floats, each "layers (kernel)".
        warnings: What a reader of the results should know.
        sums_rounded_once: Sums that a layer computes with its own unrounded result, see :func:`sums_within_layers`.
    """

    def __init__(
        self,
        core: Any,
        model: Any,
        settings: dict[str, Any],
        *,
        quantized: bool,
        warnings: Sequence[str] = (),
        sums: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        self.warnings, self._sums = tuple(warnings), sums
        self._core, self._model, self._settings, self._quantized = core, model, settings, quantized
        self._shape: tuple[int, ...] | None = None
        self._request: Any = None
        sizes = [size.get_length() if size.is_static else None for size in model.input(0).get_partial_shape()]
        super().__init__("openvino", (None, *sizes[1:]))  # the number of images may be another at each call
        self._compile(tuple(size or 1 for size in sizes))

    def run(self, images: Tensor) -> Tensor:
        array = np.ascontiguousarray(images.detach().numpy(), dtype=np.float32)
        if array.shape != self._shape:
            self._compile(array.shape)
        outputs = self._request.infer({0: array}, share_inputs=True, share_outputs=True)
        return torch.from_numpy(outputs[0].copy())  # the next call writes where this one did

    def _compile(self, shape: tuple[int, ...]) -> None:
        self._request = None  # the kernels of another batch size go before those of this one come
        model = self._model
        if model.input(0).get_partial_shape().is_dynamic or tuple(model.input(0).get_shape()) != shape:
            model.reshape(list(shape))
        self.compiled = self._core.compile_model(model, "CPU", self._settings)
        self._request, self._shape = self.compiled.create_infer_request(), shape
        found = verdict(compiled_kernels(self.compiled), quantized=self._quantized)
        self.kind, self.precision, self.fallbacks = found.kind, found.precision, found.fallbacks
        self.sums_rounded_once = sums_within_layers(self.compiled, self._sums)


@dataclass(frozen=True)
class OpenVinoRuntime:
    """OpenVINO's CPU plugin.

    Args:
        precision: Of what is not quantized: f32, bf16 or f16. Left to itself OpenVINO takes bf16 where the processor
            has it, which is another network than the one that was measured.
        pin_threads: Tie each thread to a core.
        max_threads: Most threads to use of those a run has; None: all of them.
        exact: Where the processor adds pairs of 8-bit products in 16 bits (:mod:`qbench.runtime.pairs`), compute layers
            whose pairs could overflow with floats. False leaves them to kernels whose sums may be wrong.
    """

    precision: str = "f32"
    pin_threads: bool = True
    max_threads: int | None = None
    exact: bool = True
    name: ClassVar[str] = "openvino"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r}: allowed are {', '.join(PRECISIONS)}")
        check_max_threads(self.max_threads)

    @property
    def options(self) -> OnnxOptions:
        """How programs are written: uint8, because int8 activations with a zero point run as floats."""
        return OnnxOptions("qdq", "u8s8", None, "openvino", overflowing(saturates), self.exact)

    def supports(self, program: Program) -> str | None:
        return missing_extra(("onnx", "openvino"), EXTRA) or why_not(program)

    def load(self, path: Path, *, threads: int) -> OpenVinoExecutable:
        """Load a ``.qbench``, ``.onnx`` or ``.xml`` file.

        Raises:
            ArtifactError: It is none of them, or broken.
            RuntimeUnavailable: OpenVINO is not installed, or the file holds what it cannot run.
        """
        if path.suffix in _FOREIGN:
            return self._load_foreign(path, threads)
        program = load(path)
        reason = self.supports(program)
        if reason is not None:
            raise RuntimeUnavailable(f"runtime=openvino cannot run {path.name}: {reason}")
        return self.prepare(program, threads=threads)

    def prepare(self, program: Program, *, threads: int = 1) -> OpenVinoExecutable:
        """The executable of a program in memory, built as ``load`` builds it.

        Raises:
            ValueError: The program has no ONNX form, see ``supports``.
        """
        core = import_extra("openvino", EXTRA).Core()
        parts = to_parts(program, replace(self.options, batch=1))  # what is compiled first
        model, warn = _read(core, parts.pieces()), as_floats if self.exact else may_be_wrong
        warnings = [warn(parts.overflowing)] if parts.overflowing else []
        quantized = bool(program.edges)
        sums = {node.name: node.inputs for node in program.nodes if node.op == "add" and quantized}
        settings = self._settings(threads)
        return OpenVinoExecutable(core, model, settings, quantized=quantized, warnings=warnings, sums=sums)

    def _load_foreign(self, path: Path, threads: int) -> OpenVinoExecutable:
        core = import_extra("openvino", EXTRA).Core()
        if not path.is_file():
            raise ArtifactError(f"{path.name}: no such file")
        try:
            model = core.read_model(str(path))
            quantized = any(op.get_type_name() in _QUANTIZED for op in model.get_ordered_ops())
            warnings = _overflow_warnings(model) if quantized else []
            settings = self._settings(threads)
            return OpenVinoExecutable(core, model, settings, quantized=quantized, warnings=warnings)
        except RuntimeError as error:
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise ArtifactError(f"{path.name}: OpenVINO cannot load it: {lines[-1].strip()}") from error

    def _settings(self, threads: int) -> dict[str, Any]:
        return {
            "INFERENCE_NUM_THREADS": at_most(threads, self.max_threads),
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": self.precision,
            "ENABLE_CPU_PINNING": self.pin_threads,
        }


def _overflow_warnings(model: Any) -> list[str]:
    """What to say of the integer weights of a model that is not ours."""
    if not overflowing(saturates):
        return []
    constants = [op for op in model.get_ordered_ops() if op.get_type_name() == "Constant"]
    int8 = [op for op in constants if op.get_element_type().get_type_name() == "i8" and len(op.get_output_shape(0)) > 1]
    names = [op.get_friendly_name() for op in int8 if not tensor_fits(op.data)]
    return [may_be_wrong(names)] if names else []


def saturates() -> bool:
    """Whether OpenVINO's sums of products of uint8 and int8 overflow on this machine: seen, not looked up."""
    onnx = import_extra("onnx", EXTRA)
    size, helper, types = 64, onnx.helper, onnx.TensorProto
    constants = {
        "one": np.array(1.0, np.float32),
        "zero": np.array(0, np.uint8),
        "codes": np.full((16, size, 1, 1), 127, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "one", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["x", "one", "zero"], ["real"]),
        helper.make_node("DequantizeLinear", ["codes", "one"], ["weight"]),
        helper.make_node("Conv", ["real", "weight"], ["sums"]),
    ]
    ends = (("images", [1, size, 4, 4]), ("sums", [1, 16, 4, 4]))
    given, made = ([helper.make_tensor_value_info(name, types.FLOAT, shape)] for name, shape in ends)
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "saturation", given, made, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    core = import_extra("openvino", EXTRA).Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model.SerializeToString(), b""), "CPU", settings)
    (sums,) = compiled(np.full((1, size, 4, 4), 255, np.float32)).values()
    return bool(np.abs(sums - size * 255 * 127).max() > 1)


def _read(core: Any, pieces: Sequence[bytes | memoryview]) -> Any:
    """The model whose bytes are given in pieces: from a file, because OpenVINO is slower to read from memory."""
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "model.onnx"
            with path.open("wb") as file:
                file.writelines(pieces)
            return core.read_model(str(path))
    except OSError:  # no room for it
        return core.read_model(b"".join(pieces), b"")


def compiled_kernels(compiled: Any) -> list[Kernel]:
    """The convolutions and matrix products of a compiled model, by the kernels that were chosen for them.

    The name of a kernel ends in the type it multiplies: brgconv_avx512_amx_I8, jit_avx2_f32. The field runtimePrecision
    is no witness: it says i8 of a convolution that reads int8 and computes in float32.
    """
    found = []
    for op in compiled.get_runtime_model().get_ordered_ops():
        layer, kernel = _fact(op, "layerType"), _fact(op, "primitiveType")
        if layer in _LAYERS:
            name = _fact(op, "originalLayersNames") or op.get_friendly_name()
            found.append(_kernel(name, kernel, kernel.rpartition("_")[2].lower()))
        elif layer == "Subgraph":
            found += _fused_products(op, kernel)
    return found


def _fused_products(op: Any, kernel: str) -> list[Kernel]:
    """The matrix products in a Subgraph, into which OpenVINO fuses all of a small network of linear layers.

    Neither its kernel nor its precision tells: both are those of its first input. But every product in it reads its
    weights as an input, a constant matrix, of the type that is multiplied: layers that could not be quantized have had
    theirs turned into float32 before. Scales and biases have one long axis.
    """
    found = []
    for port in op.inputs():
        source, shape = port.get_source_output().get_node(), port.get_shape()
        kind = port.get_element_type().get_type_name()
        matrix = len(shape) == 2 and (min(shape) > 1 or kind in _INTEGER_TYPES)
        if matrix and _fact(source, "layerType") == "Const":
            found.append(_kernel(_fact(source, "originalLayersNames") or source.get_friendly_name(), kernel, kind))
    return found


def sums_within_layers(compiled: Any, sums: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The sums that were fused into the layer which makes one of their terms.

    Such a layer adds the other term to its sum of products and rounds the result alone: the grid that the file gives to
    the layer itself is passed over.

    Args:
        compiled: The model.
        sums: The terms of each sum, all by their names in the program.
    """
    if not sums:
        return ()
    found: list[str] = []
    for op in compiled.get_runtime_model().get_ordered_ops():
        fused = set(_fact(op, "originalLayersNames").split(",")) if _fact(op, "layerType") in _LAYERS else set()
        found += [name for name in fused & sums.keys() if any(f"{term}{ROUNDED}" in fused for term in sums[name])]
    return tuple(name for name in sums if name in found)


def _kernel(name: str, kernel: str, multiplied: str) -> Kernel:
    integer = multiplied in _INTEGER_TYPES
    return Kernel(name, kernel, integer, "int8" if integer else multiplied)


def _fact(op: Any, key: str) -> str:
    """Of what the compiled model says about an operation; empty where it says nothing."""
    facts = op.get_rt_info()
    return str(facts[key].astype(str)) if key in facts else ""


__all__ = ["OpenVinoExecutable", "OpenVinoRuntime", "compiled_kernels"]
