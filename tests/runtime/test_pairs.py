"""Processors that add pairs of 8-bit products in 16 bits: what could overflow there is found and not left to them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from calling import QUICK, Bench
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from program.networks import images
from program.test_lower import SHAPE

from qbench.machine import sums_in_32_bits
from qbench.program.encodings import Affine
from qbench.program.graph import Program
from qbench.record import load_records
from qbench.runtime import exported, onnxruntime, openvino
from qbench.runtime.onnx import OnnxOptions, to_onnx
from qbench.runtime.onnxruntime import OnnxRuntime
from qbench.runtime.openvino import OpenVinoRuntime
from qbench.runtime.pairs import as_floats, fits_int16_pairs, may_be_wrong, overflowing, tensor_fits

from .deployed import body, reference

PROBES = {"onnxruntime": onnxruntime.saturates, "openvino": openvino.saturates, "exported": exported.saturates}


@pytest.fixture
def without_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose engines overflow, wherever the test runs."""
    monkeypatch.setattr("qbench.runtime.pairs.sums_in_32_bits", lambda: False)
    monkeypatch.setattr(openvino, "saturates", lambda: True)
    monkeypatch.setattr(onnxruntime, "saturates", lambda: True)


def at_the_ends(program: Program) -> Program:
    """Every weight at the highest code."""
    found = {f"{node.name}.weight": program.tensors[f"{node.name}.weight"] for node in program.layers()}
    extreme = {}
    for name, weight in found.items():
        assert isinstance(weight, Affine)
        extreme[name] = replace(weight, codes=torch.full_like(weight.codes, weight.qmax))
    return program.with_tensors(extreme)


@given(
    arrays(np.int8, st.tuples(st.integers(1, 3), st.integers(1, 5), st.just(1), st.integers(1, 2))),
    st.integers(0, 255),
)
def test_a_layer_fits_if_every_pair_of_a_channel_does(codes: NDArray[np.int8], top: int) -> None:
    flat = codes.reshape(len(codes), -1).astype(int).tolist()
    sums = [
        a * x + b * y
        for row in flat
        for a, b in itertools.combinations([*row, 0], 2)  # a weight without a neighbour is added to nothing
        for x, y in itertools.product((0, top), repeat=2)
    ]
    assert fits_int16_pairs(codes, top) == all(-(2**15) <= total < 2**15 for total in sums)


def test_seven_bits_of_either_fit_and_eight_of_both_do_not() -> None:
    full, narrow = (np.full((4, 8, 3, 3), end, np.int8) for end in (127, 64))
    assert fits_int16_pairs(narrow) and fits_int16_pairs(full, 127) and fits_int16_pairs(np.zeros((0, 3), np.int8))
    assert not fits_int16_pairs(full) and not fits_int16_pairs(-full)
    assert not tensor_fits(full) and tensor_fits(narrow) and tensor_fits(full, 127)


def test_pairs_of_a_tensor_count_across_channels_where_the_axis_is_not_known() -> None:
    one_each = np.array([[127, 0], [0, 127]], np.int8)
    assert fits_int16_pairs(one_each) and not tensor_fits(one_each)


@pytest.mark.parametrize("engine", PROBES)
def test_processors_that_say_they_have_vnni_do_not_overflow(engine: str) -> None:
    assert not (sums_in_32_bits() and PROBES[engine]())


def test_nothing_is_tried_where_the_processor_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[bool] = []

    def probe() -> bool:
        tried.append(True)
        return True

    monkeypatch.setattr("qbench.runtime.pairs.sums_in_32_bits", lambda: True)
    assert not overflowing(probe) and not tried
    monkeypatch.setattr("qbench.runtime.pairs.sums_in_32_bits", lambda: False)
    assert overflowing(probe) and overflowing(probe) and len(tried) == 1


@pytest.mark.parametrize(
    "engine", [OpenVinoRuntime(), OnnxRuntime(), OnnxRuntime("qoperator"), OnnxRuntime("qdq", "s8s8")]
)
@pytest.mark.parametrize("name", ["relu", "shortcut"])
def test_codes_and_weights_at_their_ends_are_summed_right(name: str, engine: OpenVinoRuntime | OnnxRuntime) -> None:
    """On the processor this runs on, whatever it is: half of the sum is lost where pairs overflow."""
    program = at_the_ends(body(name))
    x = 1e3 * images(4, *SHAPE).abs()
    expected = reference(program, x)
    logits = engine.prepare(program)(x)
    assert float((logits - expected).abs().max()) <= 0.01 * float(expected.abs().max())


@pytest.mark.usefixtures("without_vnni")
def test_layers_that_could_overflow_are_floats_and_the_row_says_so() -> None:
    program, x = body("shortcut"), images(16, *SHAPE, seed=5)
    executable = OpenVinoRuntime().prepare(program)
    layers = [node.name for node in program.layers()]
    assert (executable.kind, executable.precision) == ("simulated", "f32")
    assert executable.warnings == (as_floats(layers),)
    expected = reference(program, x)
    assert float((executable(x) - expected).abs().max()) <= 0.02 * float(expected.std())


@pytest.mark.usefixtures("without_vnni")
@pytest.mark.parametrize(("weight_bits", "act_bits", "floats"), [(7, 8, []), (8, 4, ["first"])])
def test_layers_that_cannot_overflow_stay_integers(weight_bits: int, act_bits: int, floats: list[str]) -> None:
    """Narrow weights, or narrow activations: images keep 8 bits, so the layer that reads them is not safe."""
    program, x = body("shortcut", weight_bits=weight_bits, act_bits=act_bits), images(16, *SHAPE, seed=5)
    executable = OpenVinoRuntime().prepare(program)
    assert executable.precision == ("f32+int8" if floats else "int8")
    assert executable.warnings == ((as_floats(floats),) if floats else ())
    expected = reference(program, x)
    torch.testing.assert_close(executable(x), expected, rtol=0.0, atol=0.02 * float(expected.std()))


@pytest.mark.usefixtures("without_vnni")
def test_who_asks_for_the_integers_gets_them_with_a_warning() -> None:
    program = body("shortcut")
    executable = OpenVinoRuntime(exact=False).prepare(program)
    assert executable.kind == "integer"
    assert executable.warnings == (may_be_wrong([node.name for node in program.layers()]),)


@pytest.mark.usefixtures("without_vnni")
@pytest.mark.parametrize("load", [OnnxRuntime().load, OpenVinoRuntime().load], ids=["onnxruntime", "openvino"])
def test_files_of_others_are_warned_of_unless_their_weights_are_narrow(
    load: Callable[..., onnxruntime.OnnxRuntimeExecutable], tmp_path: Path
) -> None:
    for bits, warned in ((8, True), (7, False)):
        path = tmp_path / f"{bits}.onnx"
        model = to_onnx(at_the_ends(body("relu", weight_bits=bits)))
        del model.metadata_props[:]  # which say that it is ours
        onnx.save(model, path)
        warnings = load(path, threads=1).warnings
        assert len(warnings) == int(warned)
        assert all("may overflow on this processor" in text and "first" in text for text in warnings)


@pytest.mark.usefixtures("without_vnni")
def test_the_row_of_a_run_names_the_layers(bench: Bench) -> None:
    done = bench("run", *QUICK, "method=integer", "runtime=openvino")
    assert done.code == 0, done.err
    (record,), _ = load_records(bench.outputs / "records")
    assert record.latency_kind == "simulated"
    assert "no VNNI: conv, dense computed with floats" in (record.warning or "")


def test_graphs_for_processors_with_vnni_are_as_before() -> None:
    program = body("shortcut")
    usual, told = (to_onnx(program, OnnxOptions(engine="openvino", int16_pairs=pairs)) for pairs in (False, True))

    def int8_weights(model: onnx.ModelProto) -> Iterator[str]:
        kind = onnx.TensorProto.INT8
        return (one.name for one in model.graph.initializer if one.data_type == kind and len(one.dims) > 1)

    assert len(list(int8_weights(usual))) == len(program.layers())
    assert not list(int8_weights(told))
