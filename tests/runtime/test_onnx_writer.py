"""The graphs that are written: valid, of the types asked for, and clipped where a grid ends before its type does."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from program.test_lower import BODIES

from qbench.errors import RuntimeUnavailable
from qbench.methods.base import Context
from qbench.methods.ptq import PTQ
from qbench.program.encodings import Affine, Float
from qbench.program.graph import EdgeSpec, Node, Program
from qbench.runtime.onnx import OnnxOptions, save_onnx, to_onnx, why_not
from qbench.runtime.onnx.grids import Stored, landing, storable, stored
from qbench.runtime.onnx.weights import LayerCodes

from .deployed import baseline, body, float_twin

VARIANTS = [
    OnnxOptions(form, signedness, engine=engine)
    for form, engine in (("qdq", "onnxruntime"), ("qoperator", "onnxruntime"), ("qdq", "openvino"))
    for signedness in ("u8s8", "s8s8")
]
TYPES = {"u8s8": onnx.TensorProto.UINT8, "s8s8": onnx.TensorProto.INT8}


def named(options: OnnxOptions) -> str:
    return f"{options.form}-{options.signedness}-{options.engine}"


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}


def typed(model: onnx.ModelProto, op: str) -> set[int]:
    """Types of the zero points of every operator of that name."""
    types = {one.name: one.data_type for one in model.graph.initializer}
    return {types[node.input[2]] for node in model.graph.node if node.op_type == op}


@pytest.mark.parametrize("options", VARIANTS, ids=named)
@pytest.mark.parametrize("name", BODIES)
def test_every_graph_passes_the_checker(name: str, options: OnnxOptions) -> None:
    program = body(name)
    model = to_onnx(program, options)
    onnx.checker.check_model(model, full_check=True)
    assert typed(model, "QuantizeLinear") == {TYPES[options.signedness]}
    (read,), (made,) = model.graph.input, model.graph.output
    assert (read.name, made.name) == ("input", "logits")
    onnx.checker.check_model(to_onnx(float_twin(program), options), full_check=True)


@pytest.mark.parametrize("batch, expected", [(None, "batch"), (7, 7)], ids=["open", "fixed"])
def test_the_batch_is_fixed_or_open(batch: int | None, expected: str | int) -> None:
    model = to_onnx(body("relu"), OnnxOptions(batch=batch))
    for end in (*model.graph.input, *model.graph.output):
        first = end.type.tensor_type.shape.dim[0]
        assert (first.dim_param or first.dim_value) == expected
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]] == [3, 8, 8]


def test_weights_are_the_codes_of_the_file_and_biases_int32() -> None:
    program = body("relu")
    weight, edge = program.tensors["first.weight"], program.edges["input"]
    bias = program.tensors["first.bias"].decode().double().numpy()
    assert isinstance(weight, Affine) and edge.scale is not None
    found = constants(to_onnx(program))
    assert found["first.weight"].dtype == np.int8
    np.testing.assert_array_equal(found["first.weight"], weight.codes.numpy())
    np.testing.assert_array_equal(found["first.weight.scale"], weight.scale.numpy())
    assert found["first.bias"].dtype == np.int32
    unit = weight.scale.double().numpy() * edge.scale
    np.testing.assert_array_equal(found["first.bias"], np.rint(bias / unit))
    np.testing.assert_allclose(found["first.bias.scale"], unit, rtol=1e-7)


def test_one_scale_for_all_channels_is_written_as_one_number() -> None:
    found = constants(to_onnx(body("relu", granularity="per_tensor")))
    assert found["first.weight.scale"].shape == found["first.weight.zero_point"].shape == ()
    assert constants(to_onnx(body("relu")))["first.weight.scale"].shape == (4,)


def test_a_relu_that_the_type_sees_to_is_not_written() -> None:
    for options in VARIANTS:
        assert {"Relu", "Clip"} & set(ops(to_onnx(body("relu"), options))) == set()
    spec = EdgeSpec(8, -128, 127, 12 / 255, -43)
    program = body("relu6")
    wider = replace(program, edges={**program.edges, "relu6": spec})
    for options in VARIANTS:
        model = to_onnx(wider, options)
        (clip,) = [node for node in model.graph.node if node.op_type == "Clip"]
        low, high = (constants(model)[name] for name in clip.input[1:])
        grid = stored(spec, options.signed)
        if options.for_openvino:  # bounds of floats, to the half step within which they round to the codes meant
            assert abs(float(low)) <= 0.5 * grid.scale and abs(float(high) - 6.0) <= 0.51 * grid.scale
        else:
            assert (int(low), int(high)) == (grid.zero_point, grid.zero_point + round(6 * 255 / 12))
            assert low.dtype == grid.dtype


@pytest.mark.parametrize("options", VARIANTS, ids=named)
def test_grids_of_fewer_bits_start_where_the_type_does(options: OnnxOptions) -> None:
    model = to_onnx(body("no activation", act_bits=4), options)
    (clip,) = [node for node in model.graph.node if node.op_type == "Clip"]  # of the layer; the images have 8 bits
    found = constants(model)
    if not options.for_openvino:
        bottom = -128 if options.signed else 0
        assert clip.input[1] == "" and int(found[clip.input[2]]) == bottom + 15


def test_stored_grids_keep_their_values() -> None:
    for low, high, zero in ((-128, 127, -128), (-8, 7, 3), (0, 255, 17), (0, 15, 0)):
        spec = EdgeSpec((high - low).bit_length(), low, high, 0.25, zero)
        for signed in (False, True):
            grid = stored(spec, signed)
            assert isinstance(grid, Stored) and grid.bottom <= grid.zero_point <= grid.top <= grid.type_top
            ends = (grid.real(grid.bottom), grid.real(grid.top))
            assert ends == (0.25 * (low - zero), 0.25 * (high - zero))
    assert not storable(EdgeSpec(16, -32768, 32767, 0.1, 0)) and not storable(EdgeSpec(8, -128, 127, None, None))


def test_a_value_lands_behind_relus_that_alone_read_it() -> None:
    program = body("relu")
    first = program.nodes[0]
    found = landing(program, first, signed=False)
    assert found is not None and found.names == ("first", "relu") and found.low == found.stored.zero_point
    assert landing(program, program.nodes[-1], signed=False) is None  # the logits
    read_twice = replace(program, nodes=(*program.nodes, Node("also", "flatten", ("first",))))
    assert landing(read_twice, first, signed=False) is None


@pytest.mark.parametrize("low, high", [(-128, 127), (-255, 0), (0, 255), (-5, 250), (-255, 255)])
def test_weights_of_any_zero_point_are_int8_again(low: int, high: int) -> None:
    weight = np.array([[low, low // 2, 0], [high, high // 2, 0]], np.int32)
    one = np.ones(2, np.float32)
    layer = LayerCodes(weight, np.zeros(2, np.int32), one, one)
    together = layer.one_type()
    assert (together is None) == (high - low > 255)
    if together is not None:
        codes, zero_point = together
        assert codes.dtype == np.int8 and (zero_point == 0) == (low >= -128 and high <= 127)
        np.testing.assert_array_equal(codes.astype(np.int32) - zero_point, weight)
    codes, zero_points = layer.per_channel()
    np.testing.assert_array_equal(codes.astype(np.int32) - zero_points[:, None], weight)
    np.testing.assert_array_equal(sum(part.astype(np.int32) for part in layer.parts()), weight)


def test_a_linear_layer_that_reads_images_is_a_matrix_product() -> None:
    nodes = (Node("fc", "linear", ("input",)), Node("flat", "flatten", ("fc",)))
    generator = torch.Generator().manual_seed(0)
    tensors = {"fc.weight": Float(torch.randn(5, 4, generator=generator)), "fc.bias": Float(torch.ones(5))}
    model = to_onnx(Program((2, 3, 4), nodes, tensors))
    onnx.checker.check_model(model, full_check=True)
    assert ops(model) == ["MatMul", "Add", "Flatten"]


def test_a_program_of_nothing_hands_on_its_input() -> None:
    model = to_onnx(Program((1, 2, 2), (Node("same", "identity", ("input",)),), {}))
    onnx.checker.check_model(model, full_check=True)
    assert ops(model) == ["Identity"] and model.graph.node[0].output[0] == "logits"


def test_nodes_may_be_called_like_the_ends_of_the_graph() -> None:
    nodes = (Node("logits", "relu", ("input",)), Node("output", "sigmoid", ("logits",)))
    model = to_onnx(Program((1, 2, 2), nodes, {}))
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.output[0].name == "logits" and model.graph.node[-1].op_type == "Sigmoid"


def test_files_are_checked_and_say_how_they_were_written(tmp_path: Path) -> None:
    save_onnx(body("relu"), tmp_path / "model.onnx", OnnxOptions("qoperator"))
    model = onnx.load(str(tmp_path / "model.onnx"))
    facts = {one.key: one.value for one in model.metadata_props}
    assert facts == {"producer": "qbench", "form": "qoperator", "signedness": "u8s8", "engine": "onnxruntime"}
    assert {one.domain for one in model.opset_import} == {"", "com.microsoft"}
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_the_same_program_gives_the_same_bytes() -> None:
    one, other = (to_onnx(body("shortcut")).SerializeToString(deterministic=True) for _ in range(2))
    assert one == other


def test_ranges_found_while_running_have_no_onnx_form() -> None:
    program = PTQ(activations="dynamic").compress(baseline("mlp"), Context())
    reason = why_not(program)
    assert reason is not None and reason.startswith("input (images): its range is that of each image")
    with pytest.raises(ValueError, match="quantize activations statically"):
        to_onnx(program)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"form": "qlinear"}, "form='qlinear': allowed are qdq, qoperator"),
        ({"signedness": "u8u8"}, "signedness='u8u8': allowed are u8s8, s8s8"),
        ({"engine": "tensorrt"}, "engine='tensorrt': allowed are onnxruntime, openvino"),
        ({"batch": 0}, "batch=0: must be at least 1"),
        ({"form": "qoperator", "engine": "openvino"}, "form=qoperator: openvino reads the qdq form alone"),
    ],
    ids=["form", "signedness", "engine", "batch", "form of an engine"],
)
def test_unknown_options_are_refused(wrong: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OnnxOptions(**wrong)  # type: ignore[arg-type]


def test_without_onnx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(RuntimeUnavailable, match=r'pip install "qbench\[onnxruntime\]"'):
        to_onnx(body("relu"))
