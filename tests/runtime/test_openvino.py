"""OpenVINO on our own graphs: float ones compute what PyTorch does, integer ones what the reference does."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import openvino
import pytest
import torch
from calling import QUICK, Bench
from program.networks import Network, images
from program.test_lower import BODIES, SHAPE
from torch import nn

import qbench.runtime.openvino
from qbench.artifact import save
from qbench.errors import ArtifactError, ConfigError, RuntimeUnavailable
from qbench.methods.base import Context
from qbench.methods.integer import Integer
from qbench.methods.linear import Linear
from qbench.methods.ptq import PTQ
from qbench.program.graph import EdgeSpec, Program
from qbench.program.materialize import materialize
from qbench.program.trace import trace
from qbench.record import load_records
from qbench.runtime import load_runtime
from qbench.runtime.onnx import OnnxOptions, save_onnx, to_onnx
from qbench.runtime.openvino import OpenVinoExecutable, OpenVinoRuntime, saturates
from qbench.runtime.pairs import overflowing

from . import deployed
from .deployed import (
    NETWORKS,
    UNUSUAL,
    agreement_percent,
    baseline,
    compressed,
    float_twin,
    largest_step,
    layers_on_grids,
    reference,
)

# Where sums of 8 by 8 bits overflow, layers of 8 bits are computed with floats (test_pairs.py); 7 bits never are.
BITS = 7 if overflowing(saturates) else 8
body = partial(deployed.body, weight_bits=BITS)
TARGET = "qbench.runtime.openvino.OpenVinoRuntime"


def kernels(executable: OpenVinoExecutable) -> list[str]:
    """Kernels of layers, read from the compiled model apart from the production code."""
    facts = [op.get_rt_info() for op in executable.compiled.get_runtime_model().get_ordered_ops()]
    layers = ("Convolution", "FullyConnected", "MatMul")
    return [str(f["primitiveType"].astype(str)) for f in facts if f["layerType"].astype(str) in layers]


@pytest.mark.parametrize("name", BODIES)
def test_small_networks_compute_what_the_reference_does(name: str) -> None:
    program = body(name)
    x = images(16, *SHAPE, seed=5)
    executable = OpenVinoRuntime().prepare(program)
    assert (executable.kind, executable.precision, executable.fallbacks) == ("integer", "int8", ())
    logits, expected = executable(x), reference(program, x)
    assert logits.dtype == torch.float32 and logits.shape == expected.shape
    assert float((logits - expected).abs().max()) <= 0.01 * float(expected.std())


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_settings_compute_what_the_reference_does(name: str) -> None:
    program = UNUSUAL[name](weight_bits=BITS)
    x = 2 * images(16, *SHAPE, seed=5)
    executable = OpenVinoRuntime().prepare(program)
    expected = reference(program, x)
    assert executable.kind == "integer"
    torch.testing.assert_close(executable(x), expected, rtol=0.0, atol=0.02 * float(expected.std()))


@pytest.mark.parametrize("name", ["relu6", "gelu", "squeeze and excitation", "shortcut", "concat", "average pool"])
def test_float_graphs_compute_what_pytorch_does(name: str) -> None:
    program = float_twin(body(name))
    executable = OpenVinoRuntime().prepare(program)
    assert (executable.kind, executable.precision, executable.fallbacks) == ("float", "f32", ())
    x = images(4, *SHAPE, seed=5)
    with torch.inference_mode():
        torch.testing.assert_close(executable(x), materialize(program)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "network, method", [(name, Integer(BITS)) for name in NETWORKS] + [("mobilenet_v2", PTQ(BITS))]
)
def test_networks_run_on_integers_and_agree(network: str, method: Integer | PTQ) -> None:
    program = compressed(network, method)
    executable = OpenVinoRuntime().prepare(program)
    x = images(200, *NETWORKS[network][0], seed=6)
    logits = executable(x)
    assert (executable.kind, executable.fallbacks) == ("integer", ())
    found = kernels(executable)
    assert len(found) == len(program.layers()) and all(one.lower().endswith(("_i8", "_u8")) for one in found)
    # of random networks many images have two classes that are nearly alike: a code more or less decides between those
    expected = reference(program, x)
    first, second = expected.topk(2, dim=1).values.unbind(1)
    decided = first - second > 0.02 * expected.std()
    assert decided.float().mean() > 0.8 and agreement_percent(logits[decided], expected[decided]) >= 99.0
    assert float((logits - expected).abs().mean()) <= 0.02 * float(expected.std())


def test_every_layer_is_within_one_code_on_equal_inputs() -> None:
    program = compressed("mobilenet_v2", Integer(BITS))
    x = images(8, *program.input_shape, seed=6)
    for layer in layers_on_grids(program)[::9]:
        assert largest_step(program, layer, OpenVinoRuntime().prepare, x) <= 1.001, layer.name


def test_sums_within_a_layer_are_told_and_are_those_that_are_rounded_once() -> None:
    """The engine passes over the grid of the last layer of a residual block; where it does not, nothing is told."""
    program = compressed("resnet20", Integer(BITS))
    sums = {node.name: node.inputs[0] for node in program.nodes if node.op == "add"}
    executable = OpenVinoRuntime().prepare(program)
    assert executable.sums_rounded_once == tuple(sums) and len(sums) == 9
    x = images(16, *program.input_shape, seed=6)
    logits = executable(x)
    passed_over = {name: edge for name, edge in program.edges.items() if name not in sums.values()}
    with torch.inference_mode():
        once = materialize(replace(program, edges=passed_over))(x)
    far, near = ((logits - other).abs().mean() for other in (reference(program, x), once))
    assert near < 0.2 * far
    assert OpenVinoRuntime().prepare(body("shortcut")).sums_rounded_once == ()


def test_fewer_bits_and_wider_grids_are_clipped() -> None:
    for program in (body("no activation", act_bits=4), body("relu", act_bits=7)):
        x = 8 * images(16, *SHAPE, seed=5)
        executable = OpenVinoRuntime().prepare(program)
        expected = reference(program, x)
        assert executable.kind == "integer"
        torch.testing.assert_close(executable(x), expected, rtol=0.0, atol=0.01 * float(expected.std()))
    program = body("relu6")
    wider = replace(program, edges={**program.edges, "relu6": EdgeSpec(8, -128, 127, 12 / 255, -43)})
    expected = reference(wider, 30 * images(16, *SHAPE))
    found = OpenVinoRuntime().prepare(wider)(30 * images(16, *SHAPE))
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.01 * float(expected.std()))


def test_one_float_layer_is_not_called_integer() -> None:
    program = Linear(BITS, act_bits=8, overrides={"second": 0}).compress(
        trace(Network(BODIES["batch norm"]).eval(), SHAPE), Context(calibration=[images(8, *SHAPE)])
    )
    executable = OpenVinoRuntime().prepare(program)
    assert (executable.kind, executable.precision) == ("simulated", "f32+int8")
    assert len(executable.fallbacks) == 1 and "second" in executable.fallbacks[0]


def linear_layers(*sizes: int, kept_float: str | None = None) -> Program:
    """Linear layers and ReLUs on images of 4x4 pixels, W8A8 but for one."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in zip((16, *sizes), sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        baseline = trace(nn.Sequential(*layers[:-1]).eval(), (1, 4, 4))
    context = Context(calibration=[images(16, 1, 4, 4)])
    if kept_float is None:
        return Integer(BITS).compress(baseline, context)
    return Linear(BITS, act_bits=8, overrides={kept_float: 0}).compress(baseline, context)


def test_linear_layers_fused_into_one_node_are_told_apart_by_their_weights() -> None:
    """On some processors one node for all of them at batch 1, and a kernel for each at batch 32: of the same kind."""
    for program, kind, precision, fallbacks in (
        (linear_layers(32, 16, 8), "integer", "int8", 0),
        (linear_layers(32, 16, 1), "integer", "int8", 0),
        (linear_layers(32, 16, 8, kept_float="3"), "simulated", "f32+int8", 1),
    ):
        executable = OpenVinoRuntime().prepare(program)
        for count in (1, 32):
            x = images(count, 1, 4, 4, seed=3)
            logits = executable(x)
            assert (executable.kind, executable.precision) == (kind, precision)
            assert len(executable.fallbacks) == fallbacks and all("3" in name for name in executable.fallbacks)
            if kind == "integer":
                expected = reference(program, x)
                torch.testing.assert_close(logits, expected, rtol=0.0, atol=0.02 * float(expected.abs().max()))
    assert OpenVinoRuntime().prepare(float_twin(linear_layers(32, 16, 8))).kind == "float"


def test_int8_with_a_zero_point_is_seen_to_fall_back_to_floats(tmp_path: Path) -> None:
    """The reason for uint8, on some processors with VNNI. The field runtimePrecision of such a convolution says i8."""
    save_onnx(body("relu"), tmp_path / "signed.onnx", OnnxOptions(signedness="s8s8", engine="openvino"))
    executable = OpenVinoRuntime().load(tmp_path / "signed.onnx", threads=1)
    floats = [one for one in kernels(executable) if one.endswith("_f32")]
    assert (executable.kind, len(executable.fallbacks)) == ("simulated" if floats else "integer", len(floats))
    assert all("first" in name for name in executable.fallbacks[:1])


def test_every_batch_size_has_its_own_shapes() -> None:
    program = body("shortcut")
    executable = OpenVinoRuntime().prepare(program)
    expected = reference(program, images(5, *SHAPE))
    for count in (5, 2, 5):
        logits = executable(images(5, *SHAPE)[:count])
        torch.testing.assert_close(logits, expected[:count], rtol=0.0, atol=1e-4)
        assert tuple(executable.compiled.input(0).get_shape()) == (count, *SHAPE)


def test_logits_of_one_call_survive_the_next() -> None:
    executable = OpenVinoRuntime().prepare(body("relu"))
    first = executable(images(2, *SHAPE, seed=1))
    kept = first.clone()
    executable(images(2, *SHAPE, seed=2))
    assert torch.equal(first, kept)


def test_files_of_three_kinds_are_loaded(tmp_path: Path) -> None:
    program, x = body("shortcut"), images(3, *SHAPE)
    chosen = OnnxOptions(engine="openvino")
    save(program, tmp_path / "model.qbench")
    save_onnx(program, tmp_path / "model.onnx", chosen)
    model = openvino.Core().read_model(to_onnx(program, chosen).SerializeToString(), b"")
    openvino.save_model(model, str(tmp_path / "model.xml"), compress_to_fp16=False)
    runtime = load_runtime(TARGET)
    logits = []
    for kind in ("qbench", "onnx", "xml"):
        executable = runtime.load(tmp_path / f"model.{kind}", threads=1)
        assert executable.kind == "integer"
        logits.append(executable(x))
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])
    save_onnx(float_twin(program), tmp_path / "float.onnx", chosen)
    assert runtime.load(tmp_path / "float.onnx", threads=1).kind == "float"


def test_threads_streams_and_precision_are_those_asked_for() -> None:
    compiled = OpenVinoRuntime(precision="f32", pin_threads=False).prepare(body("relu"), threads=2).compiled
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 2 and str(compiled.get_property("NUM_STREAMS")) == "1"
    assert compiled.get_property("ENABLE_CPU_PINNING") is False
    assert "float" in str(compiled.get_property("INFERENCE_PRECISION_HINT")).lower()
    single = OpenVinoRuntime(max_threads=1).prepare(body("relu"), threads=2).compiled
    assert single.get_property("INFERENCE_NUM_THREADS") == 1


def test_broken_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match=r"^broken\.onnx: OpenVINO cannot load it: "):
        OpenVinoRuntime().load(tmp_path / "broken.onnx", threads=1)
    with pytest.raises(ArtifactError, match=r"^missing\.xml: no such file"):
        OpenVinoRuntime().load(tmp_path / "missing.xml", threads=1)


def test_what_it_cannot_run_is_said(tmp_path: Path) -> None:
    program = PTQ(activations="dynamic").compress(baseline("mlp"), Context())
    assert (OpenVinoRuntime().supports(program) or "").startswith("input (images): its range is that of each image")
    save(program, tmp_path / "model.qbench")
    with pytest.raises(RuntimeUnavailable, match=r"^runtime=openvino cannot run model\.qbench: input \(images\): "):
        OpenVinoRuntime().load(tmp_path / "model.qbench", threads=1)
    with pytest.raises(ConfigError, match="precision='int8': allowed are f32, bf16, f16"):
        load_runtime(TARGET, {"precision": "int8"})


@pytest.mark.parametrize("module", ["onnx", "openvino"])
def test_a_missing_library_is_named_with_its_extra(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(body("relu"), tmp_path / "model.qbench")
    monkeypatch.setitem(sys.modules, module, None)
    assert (OpenVinoRuntime().supports(body("relu")) or "").startswith(f"{module} is not installed; pip install ")
    with pytest.raises(RuntimeUnavailable, match=rf'{module} .*pip install "qbench\[openvino\]"'):
        OpenVinoRuntime().load(tmp_path / "model.qbench", threads=1)


def test_a_run_records_the_integers(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qbench.runtime.openvino, "sums_within_layers", lambda *_: ("add",))
    run = ("run", *QUICK, "method=integer", f"bits={BITS}", "runtime=openvino", "measure.agreement=always")
    done = bench(*run)
    assert done.code == 0, done.err
    (record,), _ = load_records(bench.outputs / "records")
    assert record.sums_rounded_once == ("add",)
    assert (record.status, record.runtime, record.latency_kind) == ("ok", "openvino", "integer")
