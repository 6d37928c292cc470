"""ONNX Runtime on the CPU: programs through our own ONNX writer, and ONNX files of others as they are."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
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
from qbench.runtime.onnx.kernels import Verdict, graph_kernels, is_quantized, read_graph, verdict
from qbench.runtime.onnx.parts import EXTRA
from qbench.runtime.pairs import may_be_wrong, overflowing, tensor_fits
from qbench.runtime.threads import at_most, check_max_threads

_ERRORS_ONLY = 3
_PROVIDERS = ["CPUExecutionProvider"]
_OWN_QUANTIZERS = ["WeightBiasQuantization"]  # rounds float weights between quantizers to int8, asked or not


class OnnxRuntimeExecutable(ImageExecutable):
    """A session.

    Attributes:
        kind: integer only if every convolution and matrix product of the optimized graph is an integer operator.
        precision: Of those operators: "int8", "f32" or both.
        fallbacks: Those of a quantized network that are not, each "node (operator)".
        warnings: What a reader of the results should know.
        constants: What the session reads in memory that is not its own, and must outlive it.
    """

    def __init__(self, session: Any, found: Verdict) -> None:
        images = session.get_inputs()[0]
        super().__init__("onnxruntime", [size if isinstance(size, int) else None for size in images.shape])
        self.constants: list[Any] = []
        self.warnings: tuple[str, ...] = ()
        self.session = session
        self.kind, self.precision, self.fallbacks = found.kind, found.precision, found.fallbacks
        self._input = images.name
        self._output = session.get_outputs()[0].name

    def run(self, images: Tensor) -> Tensor:
        array = np.ascontiguousarray(images.detach().numpy(), dtype=np.float32)
        (logits,) = self.session.run([self._output], {self._input: array})
        return torch.from_numpy(logits)


@dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime's CPU kernels.

    Args:
        form: qdq (quantizers around float operators, which ONNX Runtime fuses) or qoperator (integer operators).
        signedness: u8s8 or s8s8: the types of activations and weights.
        allow_spinning: Threads wait for work within a call by spinning, which is faster and burns their cores; between
            calls they sleep either way.
        max_threads: Most threads to use of those a run has; None: all of them.
    """

    form: str = "qdq"
    signedness: str = "u8s8"
    allow_spinning: bool = True
    max_threads: int | None = None
    name: ClassVar[str] = "onnxruntime"

    def __post_init__(self) -> None:
        _ = self.options  # checks form and signedness
        check_max_threads(self.max_threads)

    @property
    def options(self) -> OnnxOptions:
        """How programs are written."""
        return OnnxOptions(self.form, self.signedness)

    def supports(self, program: Program) -> str | None:
        return missing_extra(("onnx", "onnxruntime"), EXTRA) or why_not(program)

    def load(self, path: Path, *, threads: int) -> OnnxRuntimeExecutable:
        """Load a ``.qbench`` or ``.onnx`` file.

        Raises:
            ArtifactError: It is neither, or broken.
            RuntimeUnavailable: ONNX Runtime is not installed, or the file holds what it cannot run.
        """
        if path.suffix == ".onnx":
            return self._load_onnx(path, threads)
        program = load(path)
        reason = self.supports(program)
        if reason is not None:
            raise RuntimeUnavailable(f"runtime=onnxruntime cannot run {path.name}: {reason}")
        return self.prepare(program, threads=threads)

    def prepare(self, program: Program, *, threads: int = 1) -> OnnxRuntimeExecutable:
        """The executable of a program in memory, built as ``load`` builds it.

        Raises:
            ValueError: The program has no ONNX form, see ``supports``.
        """
        runtime = import_extra("onnxruntime", EXTRA)
        parts = to_parts(program, self.options)
        settings = self._settings(runtime, threads)
        values = [runtime.OrtValue.ortvalue_from_numpy(array) for array in parts.large.values()]  # without a copy
        settings.add_external_initializers(list(parts.large), values)
        for key, value in _faithful(self.signedness).items():
            settings.add_session_config_entry(key, value)
        made = _open(parts.external(), settings, quantized=bool(program.edges), without=_OWN_QUANTIZERS)
        made.constants = values
        return made

    def _load_onnx(self, path: Path, threads: int) -> OnnxRuntimeExecutable:
        """A file of others, with the defaults of ONNX Runtime but for threads; one of ours as :meth:`prepare` does."""
        runtime = import_extra("onnxruntime", EXTRA)
        import_extra("onnx", EXTRA)
        try:
            graph = read_graph(path)
            quantized, facts = is_quantized(graph), {one.key: one.value for one in graph.metadata_props}
            settings, ours = self._settings(runtime, threads), facts.get("producer") == "qbench"
            for key, value in _faithful(facts["signedness"]).items() if ours else ():
                settings.add_session_config_entry(key, value)
            made = _open(str(path), settings, quantized=quantized, without=_OWN_QUANTIZERS if ours else ())
            made.warnings = _overflow_warnings(graph) if quantized and not ours else ()
            return made
        except Exception as error:  # protobuf and ONNX Runtime each raise classes of their own, without a common base
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise ArtifactError(f"{path.name}: ONNX Runtime cannot load it: {first}") from error

    def _settings(self, runtime: Any, threads: int) -> Any:
        settings = runtime.SessionOptions()
        settings.intra_op_num_threads = at_most(threads, self.max_threads)
        settings.inter_op_num_threads = 1
        settings.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
        settings.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        settings.log_severity_level = _ERRORS_ONLY
        settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(self.allow_spinning)))
        settings.add_session_config_entry("session.inter_op.allow_spinning", "0")
        # between calls threads sleep, so that they take nothing from the engine next to this one
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        return settings


def _faithful(signedness: str) -> dict[str, str]:
    """Settings that make ONNX Runtime compute what a graph of ours says."""
    return {
        "session.qdqisint8allowed": str(int(signedness == "s8s8")),  # else it makes uint8 of some int8
        "session.disable_double_qdq_remover": "1",  # it replaces two grids in a row by one that rounds otherwise
        # for uint8 alone: ONNX Runtime has no kernel for int8 by the uint8 it makes of weights
        "session.x64quantprecision": str(int(signedness == "u8s8" and overflowing(saturates))),
    }


def _open(model: bytes | str, settings: Any, *, quantized: bool, without: Sequence[str] = ()) -> OnnxRuntimeExecutable:
    """Build a session, and look at the graph it runs where there is something to find out.

    Args:
        model: Its bytes, or the path of its file.
        settings: Of the session.
        quantized: Whether there are integers to look for.
        without: Optimizers to leave out.
    """
    runtime = import_extra("onnxruntime", EXTRA)
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        if quantized:
            settings.optimized_model_filepath = str(optimized)
            # the weights apart: only the nodes are read
            settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
        session = runtime.InferenceSession(model, settings, providers=_PROVIDERS, disabled_optimizers=list(without))
        if quantized:
            found = verdict(graph_kernels(read_graph(optimized)), quantized=True)
        else:
            found = Verdict("float", "f32", ())
    return OnnxRuntimeExecutable(session, found)


def _overflow_warnings(graph: Any) -> tuple[str, ...]:
    """What to say of the integer weights of a graph that is not ours, and runs with the engine's own settings."""
    if not overflowing(saturates):
        return ()
    onnx = import_extra("onnx", EXTRA)
    int8 = [one for one in graph.graph.initializer if one.data_type == onnx.TensorProto.INT8 and len(one.dims) > 1]
    inside = [one for one in int8 if one.data_location != onnx.TensorProto.EXTERNAL]
    names = [one.name for one in inside if not tensor_fits(onnx.numpy_helper.to_array(one))]
    return (may_be_wrong(names),) if names else ()


def saturates() -> bool:
    """Whether ONNX Runtime's sums of products of uint8 and int8 overflow on this machine: seen, not looked up.

    It has slower kernels that do not, which our graphs ask for there.
    """
    onnx, runtime = import_extra("onnx", EXTRA), import_extra("onnxruntime", EXTRA)
    size, helper, types = 64, onnx.helper, onnx.TensorProto
    weight = onnx.numpy_helper.from_array(np.full((size, 16), 127, np.int8), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "saturation",
        [helper.make_tensor_value_info("x", types.UINT8, [4, size])],
        [helper.make_tensor_value_info("y", types.INT32, [4, 16])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), settings, providers=_PROVIDERS)
    (sums,) = session.run(None, {"x": np.full((4, size), 255, np.uint8)})
    return bool((sums != size * 255 * 127).any())
