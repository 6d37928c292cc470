"""Graphs whose large constants lie apart: the same model, in whatever form it is handed on."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from program.networks import images
from program.test_lower import SHAPE

from qbench.runtime.onnx import OnnxOptions, to_onnx, to_parts
from qbench.runtime.onnx import graph as graphs
from qbench.runtime.onnx.parts import varint
from qbench.runtime.onnxruntime import OnnxRuntime
from qbench.runtime.openvino import OpenVinoRuntime
from runtime.deployed import body

OPTIONS = [OnnxOptions(), OnnxOptions("qoperator"), OnnxOptions(engine="openvino", batch=1)]


@pytest.fixture(params=[1, 1 << 40], ids=["all apart", "none apart"])
def large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether constants lie apart, by their size."""
    monkeypatch.setattr(graphs, "LARGE_BYTES", request.param)
    return bool(request.param == 1)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_pieces_parse_as_the_whole(options: OnnxOptions, large: bool) -> None:
    program = body("shortcut")
    whole = to_onnx(program, options)
    parts = to_parts(program, options)
    assert bool(parts.large) == large
    assert all(not tensor.raw_data for tensor in parts.model.graph.initializer if tensor.name in parts.large)
    assert onnx.ModelProto.FromString(b"".join(parts.pieces())) == whole
    onnx.checker.check_model(whole, full_check=True)


def test_an_engine_is_handed_the_constants_by_name(large: bool, tmp_path: Path) -> None:
    program = body("shortcut")
    parts = to_parts(program)
    model = onnx.ModelProto.FromString(parts.external())
    apart = {tensor.name for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL}
    assert apart == {*parts.large} and bool(apart) == large
    before = onnx.ModelProto.FromString(parts.external())
    assert before == model  # asked for twice


@pytest.mark.parametrize("name", ["shortcut", "silu"])
@pytest.mark.parametrize("runtime", [OnnxRuntime(), OnnxRuntime("qoperator"), OpenVinoRuntime()], ids=str)
def test_engines_compute_the_same_from_either(
    runtime: OnnxRuntime | OpenVinoRuntime, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, x = body(name), images(3, *SHAPE)
    monkeypatch.setattr(graphs, "LARGE_BYTES", 1 << 40)
    expected = runtime.prepare(program)(x)
    monkeypatch.setattr(graphs, "LARGE_BYTES", 1)
    executable = runtime.prepare(program)
    del program
    _ = [np.full(1 << 20, 7, np.int8) for _ in range(20)]  # memory that nobody holds on to is used again
    assert torch.equal(executable(x), expected)


def test_without_room_for_a_file_openvino_reads_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    program, x = body("relu"), images(2, *SHAPE)
    expected = OpenVinoRuntime().prepare(program)(x)

    def full(*_: object, **__: object) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("qbench.runtime.openvino.tempfile.TemporaryDirectory", full)
    assert torch.equal(OpenVinoRuntime().prepare(program)(x), expected)


@pytest.mark.parametrize(
    "number, expected",
    [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02"), (1 << 21, b"\x80\x80\x80\x01")],
)
def test_lengths_are_written_as_protobuf_does(number: int, expected: bytes) -> None:
    """The worked example of its documentation is 300 -> ac 02."""
    assert varint(number) == expected
