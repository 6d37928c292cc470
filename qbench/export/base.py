"""The protocol of a format, and the formats there are. No torch: a typing error must not wait for it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from qbench.catalog import nearest
from qbench.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from qbench.program.graph import Program

FORMATS = {
    "onnx": "qbench.export.onnx_file.OnnxFile",
    "openvino": "qbench.export.openvino_ir.OpenVinoIr",
    "c": "qbench.export.c_source.CSourceFiles",
    "torch": "qbench.export.torch_file.TorchFile",
}

if TYPE_CHECKING:
    Run = Callable[[Tensor], Tensor]  # normalised float32 images [N, C, H, W] -> float32 logits [N, K]


class Format(Protocol):
    """One format.

    ``suffix`` is that of its single file; empty where it is a folder of files. ``least_agreement_percent`` is the share
    of images on which the re-loaded file must predict what the artefact predicts: 100 where the arithmetic is the same,
    less where an engine of others rounds in its own way.
    """

    suffix: str
    least_agreement_percent: float

    def write(self, program: Program, folder: Path, name: str) -> None:
        """Write the files into an empty folder; a single file is called ``name`` and the suffix.

        Raises:
            MethodError, RuntimeUnavailable: The program has no such form, or a library is missing.
        """
        ...

    def reload(self, program: Program, folder: Path, name: str) -> Run:
        """What was written, loaded anew by its own engine."""
        ...

    def reference(self, program: Program) -> Run:
        """The artefact on the runtime whose arithmetic the format has."""
        ...


def load_format(name: str) -> Format:
    """The format of that name.

    Raises:
        ConfigError: There is none.
    """
    if name not in FORMATS:
        raise ConfigError(
            f"--format {name}: unknown format.{nearest(name, list(FORMATS))} Known: {', '.join(FORMATS)}."
        )
    module_name, _, attribute = FORMATS[name].rpartition(".")
    made: Format = getattr(importlib.import_module(module_name), attribute)()
    return made
