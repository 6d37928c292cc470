"""OpenVINO: its intermediate representation, a folder with ``NAME.xml`` and ``NAME.bin``, made from the ONNX model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qbench.export.onnx_file import OnnxFile, extra_module, onnx_model
from qbench.program.graph import Program


@dataclass(frozen=True)
class OpenVinoIr:
    """The graph of :mod:`qbench.export.onnx_file`, converted and stored by OpenVINO without changing its precision."""

    suffix: str = ""
    least_agreement_percent: float = 99.0

    def write(self, program: Program, folder: Path, name: str) -> None:
        openvino = extra_module("openvino", "openvino", "openvino")
        path = folder / f"{name}.onnx"
        path.write_bytes(onnx_model(program, "openvino").SerializeToString())
        model = openvino.convert_model(path)
        openvino.save_model(model, folder / f"{name}.xml", compress_to_fp16=False)
        path.unlink()

    def reload(self, program: Program, folder: Path, name: str) -> Callable[[Tensor], Tensor]:
        openvino = extra_module("openvino", "openvino", "openvino")
        precise = {"INFERENCE_PRECISION_HINT": "f32"}  # the plugin's own choice can be bf16
        compiled = openvino.Core().compile_model(folder / f"{name}.xml", "CPU", precise)

        def run(images: Tensor) -> Tensor:
            return torch.from_numpy(compiled(images.numpy())[0].copy())

        return run

    def reference(self, program: Program) -> Callable[[Tensor], Tensor]:
        return OnnxFile().reference(program)
