"""ONNX: one file, checked with ONNX Runtime."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qbench.errors import RuntimeUnavailable
from qbench.program.graph import Program
from qbench.runtime.integer import IntegerRuntime
from qbench.runtime.onnxruntime import saturates
from qbench.runtime.pairs import overflowing
from qbench.runtime.torch_runtime import TorchRuntime

WRITER = "qbench.runtime.onnx"


@dataclass(frozen=True)
class OnnxFile:
    """Quantize and dequantize nodes around float operations, which engines fuse to integer kernels; any batch size."""

    suffix: str = ".onnx"
    least_agreement_percent: float = 99.0  # engines requantize in float: a tie may round the other way

    def write(self, program: Program, folder: Path, name: str) -> None:
        (folder / f"{name}{self.suffix}").write_bytes(onnx_model(program, "onnxruntime").SerializeToString())

    def reload(self, program: Program, folder: Path, name: str) -> Callable[[Tensor], Tensor]:
        engine = extra_module("onnxruntime", "onnx", "onnxruntime")
        path = str(folder / f"{name}{self.suffix}")
        settings = engine.SessionOptions()
        if overflowing(saturates):  # as docs/runtimes.md tells those to who run the file on such a processor
            settings.add_session_config_entry("session.x64quantprecision", "1")
        session = engine.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()

        def run(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {given.name: images.numpy()})[0])

        return run

    def reference(self, program: Program) -> Callable[[Tensor], Tensor]:
        """Integers where the program has such a form: that is what engines make of it."""
        integer = IntegerRuntime()
        if integer.supports(program) is None:
            return integer.prepare(program)
        return TorchRuntime().prepare(program)


def onnx_model(program: Program, engine: str) -> Any:
    """The program as an ``onnx.ModelProto``, with quantize and dequantize nodes and an open batch size.

    Args:
        program: What to write.
        engine: Whose fusions the graph is for: onnxruntime or openvino. It runs on both.

    Raises:
        RuntimeUnavailable: The ONNX writer or a library it needs is not there, or the program has no such form.
    """
    writer = extra_module(WRITER, "onnx", "onnxruntime")
    try:
        return writer.to_onnx(program, writer.OnnxOptions(form="qdq", batch=None, engine=engine))
    except ValueError as error:
        raise RuntimeUnavailable(f"the program has no form in ONNX: {error}") from error


def extra_module(name: str, wanted_for: str, extra: str) -> Any:
    """A module that is installed with an extra of qbench.

    Raises:
        RuntimeUnavailable: It is not there; names the extra.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        reason = f"{error.name or name} is not installed"
        raise RuntimeUnavailable(f'format={wanted_for}: {reason}; pip install "qbench[{extra}]"') from error
