"""Images of a wrong size or number of channels: every runtime says the same, and its engine never sees them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from qbench.artifact import save
from qbench.errors import DataError
from qbench.identity import ENGINES
from qbench.methods.base import Context
from qbench.methods.integer import Integer
from qbench.runtime import Executable, load_runtime
from qbench.runtime.base import ImageExecutable
from qbench.runtime.onnx import OnnxOptions, to_onnx
from runtime.test_exported import exported
from runtime.test_integer_runtime import float_program, images

TARGETS = {
    "torch": "qbench.runtime.torch_runtime.TorchRuntime",
    "integer": "qbench.runtime.integer.IntegerRuntime",
    "onnxruntime": "qbench.runtime.onnxruntime.OnnxRuntime",
    "openvino": "qbench.runtime.openvino.OpenVinoRuntime",
    "inductor": "qbench.runtime.inductor.InductorRuntime",
    "exported": "qbench.runtime.exported.ExportedRuntime",
}
WRONG = {
    "size": (2, 3, 5, 4),
    "channels": (2, 1, 4, 4),
    "no batch": (3, 4, 4),
    "channels last": (2, 4, 4, 3),
}


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """``load`` sets the threads of the process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    torch.compiler.reset()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network as a file of each kind."""
    place = tmp_path_factory.mktemp("shapes")
    program = Integer().compress(float_program(), Context(calibration=[images()]))
    save(program, place / "model.qbench")
    exported(place / "model.pt2")
    for batch in (None, 2):
        model = to_onnx(program, OnnxOptions(batch=batch))
        (place / f"batch_{batch}.onnx").write_bytes(model.SerializeToString())
    return place


def loaded(runtime: str, path: Path) -> Executable:
    return load_runtime(TARGETS[runtime]).load(path, threads=1)


@pytest.mark.parametrize("runtime", TARGETS)
def test_each_runtime_names_both_shapes(runtime: str, folder: Path) -> None:
    executable = loaded(runtime, folder / ("model.pt2" if runtime == "exported" else "model.qbench"))
    count = 2 if runtime == "exported" else "N"  # that file was written for two images
    for shape in WRONG.values():
        with pytest.raises(DataError) as refused:
            executable(torch.zeros(shape))
        assert str(refused.value) == (
            f"runtime={runtime}: the file takes images of shape [{count}, 3, 4, 4], not {list(shape)}; "
            "resize them, or take the file of a network for such images"
        )
    if runtime not in ("inductor", "exported"):  # which would compile
        assert executable(images()[:2]).shape == (2, 5)
        with pytest.raises(DataError):
            executable(torch.zeros(2, 3, 5, 4))  # also behind images that fit


@pytest.mark.parametrize("runtime", ENGINES)
def test_files_of_others_say_what_they_take(runtime: str, folder: Path) -> None:
    executable = loaded(runtime, folder / "batch_None.onnx")
    with pytest.raises(DataError, match=r"takes images of shape \[N, 3, 4, 4\], not \[2, 3, 8, 8\]; "):
        executable(torch.zeros(2, 3, 8, 8))
    assert executable(torch.zeros(3, 3, 4, 4)).shape == (3, 5)


def test_a_file_for_one_number_of_images(folder: Path) -> None:
    """OpenVINO compiles anew for another number, ONNX Runtime cannot."""
    with pytest.raises(DataError, match=r"shape \[2, 3, 4, 4\], not \[5, 3, 4, 4\]"):
        loaded("onnxruntime", folder / "batch_2.onnx")(torch.zeros(5, 3, 4, 4))
    assert loaded("openvino", folder / "batch_2.onnx")(torch.zeros(5, 3, 4, 4)).shape == (5, 5)


def test_open_sizes_take_any_image(folder: Path) -> None:
    """Of a network without a fixed size only the number of channels is known."""
    model: Any = onnx.load(str(folder / "batch_None.onnx"))
    node = onnx.helper.make_node("GlobalAveragePool", ["input"], ["logits"])
    ends = [onnx.helper.make_tensor_value_info(name, 1, ["n", 3, "h", "w"]) for name in ("input", "logits")]
    model.graph.CopyFrom(onnx.helper.make_graph([node], "pool", ends[:1], ends[1:]))
    onnx.save(model, str(folder / "open.onnx"))
    for runtime in ENGINES:
        executable = loaded(runtime, folder / "open.onnx")
        assert executable(torch.zeros(1, 3, 7, 9)).shape == (1, 3, 1, 1)
        with pytest.raises(DataError, match=r"shape \[N, 3, any, any\], not \[1, 4, 7, 9\]"):
            executable(torch.zeros(1, 4, 7, 9))


def test_an_unknown_shape_is_no_reason_to_refuse() -> None:
    class Anything(ImageExecutable):
        def run(self, images: torch.Tensor) -> torch.Tensor:
            return images

    assert Anything("any", ())(torch.zeros(7)).shape == (7,)
