"""torch.compile on a program that torch.export wrote (``.pt2``): the files of ``method=torchao``.

Inductor merges quantizers around a convolution or matrix product into one int8 kernel of oneDNN where it recognises
their pattern, and computes in float32 where it does not. Which of the two happened is read from the calls in the code
that it writes: ``kind`` is integer only if each convolution and product of the program became a call of an int8 kernel.
It is known once a batch has been compiled; until then a quantized program counts as simulated.

A file may hold no pickled objects: it is refused before PyTorch, whose loader would run them, gets to see it.

Source: J. Ansel et al., "PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and Graph
    Compilation", ASPLOS 2024.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from qbench.errors import ArtifactError, RuntimeUnavailable
from qbench.program.graph import Program
from qbench.runtime.base import ImageExecutable
from qbench.runtime.extras import import_extra, quietly
from qbench.runtime.inductor import missing_compiler
from qbench.runtime.onnx.kernels import Kernel, Verdict, verdict
from qbench.runtime.pairs import may_be_wrong, overflowing, tensor_fits

EXTRA = "torchao"
_MOST_SIZES = 8  # batch sizes that torch compiles for one module before it refuses
_QUANTIZERS = ("quantized_decomposed.", "torchao.")
_PRODUCT = re.compile(r"conv|linear|(^|\.|_)(b|add|badd)?mm")  # operators that multiply matrices, ours and oneDNN's
_INTEGER = re.compile(r"^onednn\.q|_int_mm")
_CALL = re.compile(r"^\s*(?:\w+ = )?(?:torch\.ops|extern_kernels)\.([\w.]+)\(", re.MULTILINE)


class ExportedExecutable(ImageExecutable):
    """A compiled program. Each batch size is compiled at its first call, which takes seconds to minutes.

    Attributes:
        kind: integer only if every convolution and matrix product of the program is a call of an int8 kernel.
        precision: What those kernels multiply: "int8", "f32" or both.
        fallbacks: Those of a quantized program that multiply floats, each "product NUMBER (operator)".
        warnings: What a reader of the results should know.
    """

    def __init__(self, module: torch.fx.GraphModule, *, freezing: bool, quant_lift_up: Any) -> None:
        super().__init__("exported", _input_shape(module))
        operators = [str(node.target) for node in module.graph.nodes if node.op == "call_function"]
        self._quantized = any(name.startswith(_QUANTIZERS) for name in operators)
        self._products = sum(_PRODUCT.search(name) is not None for name in operators)
        self._found = Verdict("simulated" if self._quantized else "float", "f32", ())
        # set while it compiles, not handed to torch.compile: what captures the graph asks for freezing too
        self.warnings = _overflow_warnings(module) if self._quantized else ()
        self._settings: dict[str, Any] = {
            "freezing": freezing,
            "compile_threads": 1,  # a pool of compilers would outlive the call, and disturb what is timed next
            "pre_grad_custom_pass": quant_lift_up,
            "fx_graph_cache": False,  # laid out weights are part of the code, and do not go to a cache
        }
        self._compiled = torch.compile(module, dynamic=False, fullgraph=True, backend="inductor")
        self._sizes: set[int] = set()

    @property
    def kind(self) -> str:
        return self._found.kind

    @property
    def precision(self) -> str:
        return self._found.precision

    @property
    def fallbacks(self) -> tuple[str, ...]:
        return self._found.fallbacks

    def run(self, images: Tensor) -> Tensor:
        """Run a batch.

        Raises:
            RuntimeUnavailable: It cannot be compiled here.
        """
        images = images.contiguous()
        if len(images) not in self._sizes:
            self._compile(images)
        with torch.inference_mode(False), torch.no_grad():
            logits: Tensor = self._compiled(images)
        return logits

    def _compile(self, images: Tensor) -> None:
        """Make the first call with batches of a size."""
        if len(self._sizes) == _MOST_SIZES:
            torch.compiler.reset()
            self._sizes.clear()
        try:
            with (
                quietly(),
                torch._inductor.config.patch(self._settings),
                torch.inference_mode(False),
                torch.no_grad(),
                _written_code() as texts,
            ):
                self._compiled(images)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = " ".join(str(error).split())
            raise RuntimeUnavailable(f"runtime=exported: torch.compile failed: {reason[:300]}") from error
        kernels = [kernel for text in texts for kernel in called_kernels(text)]
        self._found = verdict(kernels, quantized=self._quantized)
        if self._quantized and (hidden := self._products - len(kernels)) > 0:
            # one of a single row, for instance, is written out as loops over floats
            precision = "+".join(sorted({*(kernel.precision for kernel in kernels), "f32"}))
            without = f"{hidden} of {self._products} products (no kernel of their own)"
            self._found = Verdict("simulated", precision, (*self._found.fallbacks, without))
        self._sizes.add(len(images))


@dataclass(frozen=True)
class ExportedRuntime:
    """torch.compile with inductor on ``.pt2`` files, on the CPU. Needs torchao and a C++ compiler.

    Args:
        freezing: Treat weights as constants, without which no int8 kernel is found.
    """

    freezing: bool = True
    name: ClassVar[str] = "exported"

    def supports(self, program: Program) -> str | None:
        return "it runs .pt2 files that torch.export wrote; runtime=inductor compiles programs"

    def load(self, path: Path, *, threads: int) -> ExportedExecutable:
        """Load a ``.pt2`` file.

        Raises:
            ArtifactError: It is none, broken, or holds pickled objects.
            RuntimeUnavailable: torchao or a C++ compiler is missing.
        """
        if path.suffix != ".pt2":
            raise ArtifactError(f"{path.name}: runtime=exported runs .pt2 files that torch.export wrote, and no other")
        if (reason := missing_compiler()) is not None:
            raise RuntimeUnavailable(f"runtime=exported {reason}")
        _refuse_pickles(path)
        x86 = import_x86_quantizer()  # registers the operators the file names, and inductor's patterns for them
        torch.set_num_threads(threads)
        try:
            with quietly():
                module = torch.export.load(path).module()
        except Exception as error:  # the loader raises whatever its parts do
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise ArtifactError(f"{path.name}: PyTorch cannot load it: {first[:300]}") from error
        return ExportedExecutable(module, freezing=self.freezing, quant_lift_up=x86.quant_lift_up)


def _input_shape(module: torch.fx.GraphModule) -> list[int | None]:
    """Of the images that an exported graph was written for, None where it leaves a size open."""
    images = next(node for node in module.graph.nodes if node.op == "placeholder")
    return [size if isinstance(size, int) else None for size in images.meta["val"].shape]


def _overflow_warnings(module: torch.fx.GraphModule) -> tuple[str, ...]:
    """What to say of the integer weights of a quantized program."""
    if not overflowing(saturates):
        return ()
    quantizers = [node for node in module.graph.nodes if "quantize_per_tensor" in str(node.target)]
    top = max((end for node in quantizers if isinstance(end := node.args[4], int)), default=255)
    weights = {name: value for name, value in module.state_dict().items() if value.dtype is torch.int8}
    names = [name for name, value in weights.items() if value.dim() > 1 and not tensor_fits(value.numpy(), top)]
    return (may_be_wrong(names),) if names else ()


def saturates() -> bool:
    """Whether the sums of oneDNN's int8 kernels in PyTorch overflow on this machine: seen, not looked up."""
    size, onednn = 64, torch.ops.onednn
    images = torch.full((1, size, 4, 4), 255, dtype=torch.uint8)
    weight, unit = torch.full((16, size, 1, 1), 127, dtype=torch.int8), torch.ones(16)
    window = ([1, 1], [0, 0], [1, 1], 1)  # stride, padding, dilation, groups
    try:
        packed = onednn.qconv_prepack(weight, unit, 1.0, 0, *window, list(images.shape))
        weights = (packed, unit, torch.zeros(16, dtype=torch.int32), None)
        sums = onednn.qconv2d_pointwise(images, 1.0, 0, *weights, *window, 1.0, 0, torch.float32, "none", [], "")
    except (RuntimeError, AttributeError):  # a build without these kernels: inductor computes with floats there
        return False
    return bool((sums != size * 255 * 127).any())


def import_x86_quantizer() -> Any:
    """The module of ``X86InductorQuantizer``, without the pass it sets for every later ``torch.compile``.

    Raises:
        RuntimeUnavailable: torchao is not installed.
    """
    import torch._inductor.config as settings

    usual = settings.pre_grad_custom_pass
    with quietly():
        module = import_extra("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer", EXTRA)
    settings.pre_grad_custom_pass = usual
    return module


def called_kernels(code: str) -> list[Kernel]:
    """The convolutions and matrix products among the calls in what inductor wrote, in their order."""
    operators = [name for name in _CALL.findall(code) if _PRODUCT.search(name)]
    return [
        Kernel(f"product {number}", name, integer, "int8" if integer else "f32")
        for number, name in enumerate(operators, 1)
        for integer in [_INTEGER.search(name) is not None]
    ]


@contextmanager
def _written_code() -> Iterator[list[str]]:
    """Collect what inductor writes, the way its own ``torch._inductor.utils.run_and_get_code`` does."""
    from torch._inductor.graph import GraphLowering

    texts: list[str] = []
    usual = GraphLowering.save_output_code
    GraphLowering.save_output_code = texts.append
    try:
        yield texts
    finally:
        GraphLowering.save_output_code = usual


def _refuse_pickles(path: Path) -> None:
    """Raise ArtifactError if a file is no archive, or one with members that PyTorch would unpickle."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [entry.filename for entry in archive.infolist() if entry.file_size]
            listed = [json.loads(archive.read(name)) for name in members if name.endswith("_config.json")]
            pickled = [name for name in members if name.endswith((".pt", ".pkl"))]
            pickled += [key for one in listed for key, facts in one["config"].items() if facts["use_pickle"]]
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path.name}: not a .pt2 file of this PyTorch ({error})") from error
    if pickled or not listed:
        what = f"holds pickled objects ({', '.join(pickled)})" if pickled else "has no list of its tensors"
        raise ArtifactError(f"{path.name}: {what}; it is not loaded, because that could run code")
