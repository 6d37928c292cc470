"""Formats: what is written computes, re-loaded, what the artefact computes; what cannot be written is said."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from qbench.errors import ExportError, MethodError, RuntimeUnavailable
from qbench.export.base import FORMATS, load_format
from qbench.export.c_source import identifier, pixel_codes
from qbench.export.checking import check_images, compare
from qbench.program.graph import EdgeSpec, Program
from qbench.program.integer.network import IntegerModule
from qbench.program.lower import lower
from qbench.program.materialize import materialize
from qbench.runtime.integer import IntegerRuntime
from qbench.runtime.torch_runtime import TorchRuntime

from .programs import MEAN, STD, float_program, integer_program, saved


def images(count: int = 20, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(6))


def test_every_format_can_be_loaded() -> None:
    for name in FORMATS:
        made = load_format(name)
        assert 99.0 <= made.least_agreement_percent <= 100.0 and made.suffix in ("", f".{name}", ".pt2")


@pytest.mark.parametrize("name", ["c", "torch"])
def test_files_of_our_own_compute_the_same_logits(name: str, tmp_path: Path) -> None:
    program, made = integer_program(), load_format(name)
    made.write(program, tmp_path, "toy")
    found, expected = made.reload(program, tmp_path, "toy"), made.reference(program)
    checked = compare(expected, found, images())
    assert (checked.agreement_percent, checked.identical_percent, checked.largest_difference) == (100.0, 100.0, 0.0)
    runtime = IntegerRuntime() if name == "c" else TorchRuntime(channels_last=False)
    assert torch.equal(found(images()), runtime.prepare(program)(images()))  # type: ignore[attr-defined]
    alone = found(images()[:1])  # any number of images; matrix products of one row are summed in another order
    torch.testing.assert_close(alone, found(images())[:1], rtol=1e-5, atol=1e-4)


def test_files_of_pytorch_hold_float_networks_and_their_facts(tmp_path: Path) -> None:
    made, program = load_format("torch"), float_program(size=8)
    made.write(program, tmp_path, "toy")
    assert torch.equal(made.reload(program, tmp_path, "toy")(images(size=8)), materialize(program)(images(size=8)))
    facts = {"qbench.json": ""}
    torch.export.load(tmp_path / "toy.pt2", extra_files=facts)
    assert '"input_shape": [1, 8, 8]' in facts["qbench.json"] and '"kind j"' in facts["qbench.json"]


def test_ranges_found_while_running_have_no_form_in_files_of_pytorch(tmp_path: Path) -> None:
    program = replace(float_program(), edges={"relu": EdgeSpec(8, -128, 127, None, None)})
    with pytest.raises(RuntimeUnavailable, match=r"^format=torch: relu finds its range while running"):
        load_format("torch").write(program, tmp_path, "toy")


def test_a_float_network_has_no_form_in_c(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match=r"^input: has no grid; quantize activations statically"):
        load_format("c").write(float_program(), tmp_path, "toy")


def test_pixels_become_codes_as_in_the_data_pipeline() -> None:
    """Oracle: the formula in float64, which agrees but where a value falls between two codes."""
    program = integer_program()
    table = pixel_codes(program)
    grid = lower(program).input
    steps = (np.arange(256) / 255 - MEAN[0]) / STD[0] / grid.scale
    near_tie = np.abs(steps - np.floor(steps) - 0.5) < 1e-3
    expected = np.clip(np.round(steps) + grid.zero_point, grid.qmin, grid.qmax)
    assert table is not None and table.shape == (1, 256) and table.dtype == torch.int8
    assert np.array_equal(table.numpy()[0][~near_tie], expected[~near_tie]) and near_tie.mean() < 0.05
    assert pixel_codes(replace(program, provenance={})) is None


@pytest.mark.parametrize(
    "name, prefix",
    [("toy", "toy"), ("my-net.v2", "my_net_v2"), ("2nets", "net_2nets"), ("_x", "net__x"), ("qb_x", "net_qb_x")],
)
def test_names_of_files_become_prefixes(name: str, prefix: str) -> None:
    assert identifier(name) == prefix


# --- the formats of engines, with stand-ins for what another package brings


class Settings(dict[str, str]):
    """Stands in for ONNX Runtime's settings of a session."""

    add_session_config_entry = dict.__setitem__


class Session:
    """Stands in for ONNX Runtime: runs the program that the stand-in of the writer has put aside."""

    spoil = 0.0

    def __init__(self, path: str, settings: Settings, providers: list[str]) -> None:
        assert Path(path).read_bytes() == b"a model" and providers == ["CPUExecutionProvider"]
        assert settings == {"session.x64quantprecision": "1"}  # without which a processor without VNNI overflows

    def get_inputs(self) -> list[Any]:
        return [type("Given", (), {"name": "pixels"})()]

    def run(self, outputs: None, feed: dict[str, Any]) -> list[Any]:
        logits = IntegerRuntime().prepare(integer_program())(torch.from_numpy(feed["pixels"]))
        return [(logits + Session.spoil * torch.arange(10)).numpy()]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    asked: list[Any] = []

    def to_onnx(program: Program, options: dict[str, Any]) -> Any:
        if program.input_shape[1] != 32:
            raise ValueError("fc: too small")
        asked.append(options)
        return type("Model", (), {"SerializeToString": lambda self: b"a model"})()

    def compile_model(self: Any, path: Path, device: str, options: dict[str, str]) -> Callable[[Any], list[Any]]:
        assert path.read_text() == "a graph" and (device, options) == ("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        settings = Settings({"session.x64quantprecision": "1"})
        session = Session(str(path.with_suffix(".made")), settings, ["CPUExecutionProvider"])
        return lambda feed: session.run(None, {"pixels": feed})

    def save_model(model: bytes, path: Path, compress_to_fp16: bool) -> None:
        assert model == b"a model" and not compress_to_fp16
        path.write_text("a graph")
        path.with_suffix(".made").write_bytes(b"a model")

    parts = {
        "qbench.runtime.onnx": {"to_onnx": to_onnx, "OnnxOptions": dict},
        "onnxruntime": {"InferenceSession": Session, "SessionOptions": Settings},
        "openvino": {
            "convert_model": lambda path: Path(path).read_bytes(),
            "save_model": save_model,
            "Core": type("Core", (), {"compile_model": compile_model}),
        },
    }
    for name, content in parts.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(Session, "spoil", 0.0)
    monkeypatch.setattr("qbench.export.onnx_file.overflowing", lambda probe: True)
    return asked


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_files_of_engines(name: str, engines: list[Any], tmp_path: Path) -> None:
    program, made = integer_program(), load_format(name)
    made.write(program, tmp_path, "toy")
    assert engines == [{"form": "qdq", "batch": None, "engine": {"onnx": "onnxruntime"}.get(name, name)}]
    left = {"onnx": ["toy.onnx"], "openvino": ["toy.made", "toy.xml"]}[name]
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    found = made.reload(program, tmp_path, "toy")
    assert compare(made.reference(program), found, images()).identical_percent == 100.0
    Session.spoil = 1000.0
    assert compare(made.reference(program), found, images()).agreement_percent < made.least_agreement_percent


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_program_without_a_form_in_onnx(name: str, engines: list[Any], tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match=r"^the program has no form in ONNX: fc: too small$"):
        load_format(name).write(integer_program(size=8), tmp_path, "toy")


def test_what_engines_are_compared_with() -> None:
    """Integers where the program has such a form, simulation elsewhere."""
    made = load_format("onnx")
    assert torch.equal(
        made.reference(integer_program())(images()), IntegerRuntime().prepare(integer_program())(images())
    )
    assert torch.equal(made.reference(float_program())(images()), TorchRuntime().prepare(float_program())(images()))


@pytest.mark.parametrize(
    "name, missing, message",
    [
        ("onnx", "qbench.runtime.onnx", r'^format=onnx: .* is not installed; pip install "qbench\[onnxruntime\]"$'),
        ("openvino", "openvino", r'^format=openvino: openvino is not installed; pip install "qbench\[openvino\]"$'),
    ],
)
def test_a_missing_library_is_named(
    name: str, missing: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(RuntimeUnavailable, match=message):
        load_format(name).write(integer_program(), tmp_path, "toy")


# --- images to check on


def test_images_of_the_data_set_that_the_header_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QBENCH_OUTPUTS", str(tmp_path))
    path = saved(integer_program(), tmp_path)
    found, source = check_images(integer_program(), path, 40)
    assert source == "test images of digits" and found.shape == (40, 1, 32, 32)
    few, _ = check_images(integer_program(), path, 3)
    assert len(few) == 3


@pytest.mark.parametrize("dataset", ["cifar10", "of my own", None], ids=str)
def test_generated_images_where_those_are_not_at_hand(
    dataset: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QBENCH_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("QBENCH_DATA", str(tmp_path))
    program = integer_program(size=8)
    program = replace(program, provenance={**program.provenance, "dataset": dataset})
    found, source = check_images(program, tmp_path / "toy.qbench", 7)
    assert source == "generated" and found.shape == (7, 1, 8, 8)
    assert torch.equal(found, check_images(program, tmp_path / "toy.qbench", 7)[0])
    low, high = -MEAN[0] / STD[0], (1 - MEAN[0]) / STD[0]
    assert float(found.min()) >= low - 1e-6 and float(found.max()) <= high + 1e-6 and float(found.std()) > 0.3


def test_a_network_of_another_size_is_no_match() -> None:
    program = integer_program()
    expected = IntegerModule(lower(program))
    with pytest.raises(ExportError, match=r"makes \(20, 9\) of 20 images"):
        compare(expected, lambda batch: expected(batch)[:, :9], images())
