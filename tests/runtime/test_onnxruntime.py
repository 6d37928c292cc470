"""ONNX Runtime on our own graphs: float ones compute what PyTorch does, integer ones what the reference does."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from calling import QUICK, Bench
from program.networks import Network, images
from program.test_lower import BODIES, SHAPE

from qbench.artifact import save
from qbench.errors import ArtifactError, ConfigError, RuntimeUnavailable
from qbench.methods.base import Context
from qbench.methods.integer import Integer
from qbench.methods.kmeans import KMeans
from qbench.methods.linear import Linear
from qbench.methods.ptq import PTQ
from qbench.program.encodings import Affine, Codebook
from qbench.program.graph import EdgeSpec, Program
from qbench.program.materialize import materialize
from qbench.program.trace import trace
from qbench.record import load_records
from qbench.runtime import load_runtime
from qbench.runtime.onnx import OnnxOptions, save_onnx
from qbench.runtime.onnxruntime import OnnxRuntime, saturates

from .deployed import (
    NETWORKS,
    UNUSUAL,
    agreement_percent,
    baseline,
    body,
    compressed,
    float_twin,
    largest_step,
    layers_on_grids,
    optimized_ops,
    reference,
)

TARGET = "qbench.runtime.onnxruntime.OnnxRuntime"
VARIANTS = [(form, signedness) for form in ("qdq", "qoperator") for signedness in ("u8s8", "s8s8")]
METHODS = {"integer": Integer(), "ptq": PTQ(), "linear": Linear(act_bits=8)}
CURVES = {"hard_swish", "hard_sigmoid", "sigmoid", "silu", "gelu"}
FLOAT_LAYERS = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}


@pytest.mark.parametrize("form, signedness", VARIANTS)
@pytest.mark.parametrize("name", BODIES)
def test_small_networks_compute_what_the_reference_does(name: str, form: str, signedness: str) -> None:
    """Sums are exact, so a code may differ on a tie alone; or where the reference rounds what a curve reads to 16 bits,
    and floats do not."""
    program = body(name)
    x = images(32, *SHAPE, seed=5)
    executable = OnnxRuntime(form, signedness).prepare(program)
    assert (executable.kind, executable.precision, executable.fallbacks) == ("integer", "int8", ())
    logits, expected = executable(x), reference(program, x)
    assert logits.dtype == torch.float32 and logits.shape == expected.shape
    different = ((logits - expected).abs() > 1e-5 * expected.abs().max()).double().mean()
    assert float(different) <= (0.5 if CURVES & {node.op for node in program.nodes} else 0.05)
    assert float((logits - expected).abs().max()) <= 0.01 * float(expected.std())


@pytest.mark.parametrize("form, signedness", VARIANTS)
@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_settings_compute_what_the_reference_does(name: str, form: str, signedness: str) -> None:
    program = UNUSUAL[name]()
    x = 2 * images(32, *SHAPE, seed=5)
    executable = OnnxRuntime(form, signedness).prepare(program)
    logits, expected = executable(x), reference(program, x)
    assert executable.kind == "integer"
    different = (logits - expected).abs() > 1e-5 * expected.abs().max()
    assert float(different.double().mean()) <= 0.05
    torch.testing.assert_close(logits, expected, rtol=0.0, atol=0.02 * float(expected.std()))
    with torch.inference_mode():
        exact = materialize(float_twin(program))(x)
    torch.testing.assert_close(OnnxRuntime().prepare(float_twin(program))(x), exact, rtol=1e-4, atol=1e-5)


def test_a_batch_norm_that_stayed_leaves_the_convolution_an_integer_one(tmp_path: Path) -> None:
    program = body("batch norm", fold_batch_norm=False)
    assert "batch_norm" in {node.op for node in program.nodes}
    executable = OnnxRuntime().prepare(program)
    assert executable.kind == "integer"
    assert optimized_ops(program, tmp_path, OnnxOptions())["ConvInteger"] == 1
    x = images(8, *SHAPE, seed=5)
    with torch.inference_mode():
        torch.testing.assert_close(executable(x), materialize(program)(x), rtol=0.0, atol=2e-3)


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_a_max_pool_may_have_a_grid_of_its_own(form: str) -> None:
    program = body("max pool")
    own = replace(program, edges={**program.edges, "max_pool2d": EdgeSpec(6, -32, 31, 0.05, 3)})
    x = images(8, *SHAPE, seed=5)
    with torch.inference_mode():
        expected = materialize(own)(x)
        assert float((expected - materialize(program)(x)).abs().max()) > 0.01
    torch.testing.assert_close(OnnxRuntime(form).prepare(own)(x), expected, rtol=0.0, atol=2e-3)


def test_weights_scaled_in_groups_run_as_floats() -> None:
    executable = OnnxRuntime().prepare(body("relu", granularity="per_group", group_size=9))
    assert executable.kind == "simulated" and len(executable.fallbacks) == 2


@pytest.mark.parametrize("name", BODIES)
def test_float_graphs_compute_what_pytorch_does(name: str) -> None:
    program = float_twin(body(name))
    executable = OnnxRuntime().prepare(program)
    assert (executable.kind, executable.precision, executable.fallbacks) == ("float", "f32", ())
    x = images(4, *SHAPE, seed=5)
    with torch.inference_mode():
        torch.testing.assert_close(executable(x), materialize(program)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", NETWORKS)
def test_networks_run_on_integers_and_agree(network: str, method: str, tmp_path: Path) -> None:
    program = compressed(network, METHODS[method])
    executable = OnnxRuntime().prepare(program)
    assert (executable.kind, executable.fallbacks) == ("integer", ())
    counted = optimized_ops(program, tmp_path, OnnxOptions())
    assert counted["QLinearConv"] + counted["QGemm"] == len(program.layers())
    assert not FLOAT_LAYERS & set(counted)
    x = images(200, *NETWORKS[network][0], seed=6)
    assert agreement_percent(executable(x), reference(program, x)) >= 99.0


@pytest.mark.parametrize("form, signedness", VARIANTS)
def test_every_layer_is_within_one_code_on_equal_inputs(form: str, signedness: str) -> None:
    program = compressed("mobilenet_v2", Integer())
    layers = layers_on_grids(program)
    assert len(layers) == len(program.layers()) - 1  # all but the one that makes the logits
    x = images(8, *program.input_shape, seed=6)
    runtime = OnnxRuntime(form, signedness)
    for layer in layers[::6]:
        assert largest_step(program, layer, runtime.prepare, x) <= 1.001, layer.name


@pytest.mark.parametrize("form, signedness", VARIANTS)
@pytest.mark.parametrize("act_bits", [4, 7])
def test_fewer_bits_are_clipped_where_the_grid_ends(act_bits: int, form: str, signedness: str) -> None:
    """Calibrated on small images and run on large ones, so that codes beyond the grid would come up."""
    for name in ("relu", "no activation", "shortcut without activation", "concat"):
        program = body(name, act_bits=act_bits)
        x = 8 * images(16, *SHAPE, seed=5)
        executable = OnnxRuntime(form, signedness).prepare(program)
        assert executable.kind == "integer"
        expected = reference(program, x)
        torch.testing.assert_close(executable(x), expected, rtol=0.0, atol=0.01 * float(expected.std()))


@pytest.mark.parametrize("signedness", ["u8s8", "s8s8"])
def test_a_grid_that_reaches_beyond_the_relu6_is_clipped_at_its_ends(signedness: str) -> None:
    program = body("relu6")
    wider = replace(program, edges={**program.edges, "relu6": EdgeSpec(8, -128, 127, 12 / 255, -43)})
    x = 30 * images(16, *SHAPE)
    executable = OnnxRuntime(signedness=signedness).prepare(wider)
    assert executable.kind == "integer"
    expected = reference(wider, x)
    torch.testing.assert_close(executable(x), expected, rtol=0.0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_weights_with_zero_points_are_integers_too(granularity: str, form: str, tmp_path: Path) -> None:
    program = body("shortcut", scheme="affine", granularity=granularity)
    x = images(16, *SHAPE, seed=5)
    executable = OnnxRuntime(form).prepare(program)
    assert executable.kind == "integer"
    expected = reference(program, x)
    torch.testing.assert_close(executable(x), expected, rtol=0.0, atol=0.01 * float(expected.std()))
    assert not FLOAT_LAYERS & set(optimized_ops(program, tmp_path, OnnxOptions(form)))


def test_one_float_layer_is_not_called_integer() -> None:
    program = Linear(act_bits=8, overrides={"second": 0}).compress(
        trace(Network(BODIES["batch norm"]).eval(), SHAPE), Context(calibration=[images(8, *SHAPE)])
    )
    executable = OnnxRuntime().prepare(program)
    assert (executable.kind, executable.precision) == ("simulated", "f32+int8")
    assert len(executable.fallbacks) == 1 and executable.fallbacks[0].startswith("second")
    x = images(8, *SHAPE, seed=5)
    with torch.inference_mode():
        torch.testing.assert_close(executable(x), materialize(program)(x), rtol=0.0, atol=2e-3)


def test_wide_activations_are_simulated_bit_for_bit() -> None:
    program = body("relu", act_bits=16, weight_bits=16)
    executable = OnnxRuntime().prepare(program)
    assert executable.kind == "simulated" and len(executable.fallbacks) == 2
    x = images(8, *SHAPE, seed=5)
    with torch.inference_mode():
        torch.testing.assert_close(executable(x), materialize(program)(x), rtol=1e-4, atol=1e-5)


def test_codebooks_run_as_floats_and_as_integers_where_their_centroids_are() -> None:
    shared = KMeans(weight_bits=4).compress(baseline("small_cnn"), Context())
    assert OnnxRuntime().prepare(shared).kind == "float"
    program = body("relu")
    weight = program.tensors["first.weight"]
    assert isinstance(weight, Affine)
    steps = torch.linspace(-120, 127, 16).round().to(torch.int8)
    centroids = Affine(steps, weight.scale[0], weight.zero_point[0], 8, -128, 127)
    indices = ((weight.codes.to(torch.int32) + 128) // 16).to(torch.uint8)
    snapped = program.with_tensors({"first.weight": Codebook(indices, centroids, 4)})
    executable = OnnxRuntime().prepare(snapped)
    x = images(16, *SHAPE, seed=5)
    expected = reference(snapped, x)
    assert executable.kind == "integer"
    torch.testing.assert_close(executable(x), expected, rtol=0.0, atol=1e-5 * float(expected.abs().max()))


def test_products_do_not_saturate_at_the_ends_of_the_types() -> None:
    """Codes and weights at the ends, against NumPy int64: without VNNI two products of 255 and 127 leave 16 bits."""
    program = body("relu")
    weight = program.tensors["wide.weight"]
    assert isinstance(weight, Affine) and isinstance(saturates(), bool)
    extreme = program.with_tensors({"wide.weight": replace(weight, codes=torch.full_like(weight.codes, 127))})
    edge = extreme.edges["relu"]
    x = 1e4 * images(2, *SHAPE)
    logits = OnnxRuntime().prepare(extreme)(x)
    assert edge.scale is not None and edge.zero_point is not None
    codes = _relu_codes(extreme, x)
    sums = codes.reshape(2, -1).astype(np.int64).sum(1)[:, None] * 127
    unit = edge.scale * weight.scale.double().numpy()
    bias = extreme.tensors["wide.bias"].decode().double().numpy()
    np.testing.assert_allclose(logits.numpy(), sums * unit + bias, rtol=1e-5, atol=1e-3)
    assert int(codes.max()) == 255


def _relu_codes(program: Program, x: torch.Tensor) -> np.ndarray:
    """Codes behind the first layer, counted from its zero point."""
    seen: dict[str, torch.Tensor] = {}
    module = materialize(program)
    module.observe = lambda name, value: seen.update({name: value})
    with torch.inference_mode():
        module(x)
    edge = program.edges["relu"]
    assert edge.scale is not None and edge.zero_point is not None
    steps = np.rint(seen["relu"].double().numpy() / edge.scale) + edge.zero_point
    return np.clip(steps, edge.qmin, edge.qmax) - edge.zero_point


def test_files_of_both_kinds_are_loaded(tmp_path: Path) -> None:
    runtime = load_runtime(TARGET, {"form": "qoperator", "allow_spinning": False})
    assert runtime == OnnxRuntime("qoperator", allow_spinning=False) and runtime.name == "onnxruntime"
    program = body("shortcut")
    save(program, tmp_path / "model.qbench")
    save_onnx(program, tmp_path / "model.onnx", OnnxOptions("qoperator"))
    x = images(3, *SHAPE)
    loaded = [runtime.load(tmp_path / f"model.{kind}", threads=2) for kind in ("qbench", "onnx")]
    assert [one.kind for one in loaded] == ["integer", "integer"]
    assert torch.equal(loaded[0](x), loaded[1](x))


def test_foreign_files_are_judged_by_their_graph(tmp_path: Path) -> None:
    program = body("relu")
    save_onnx(float_twin(program), tmp_path / "float.onnx")
    assert OnnxRuntime().load(tmp_path / "float.onnx", threads=1).kind == "float"
    save_onnx(program, tmp_path / "fixed.onnx", OnnxOptions(batch=2))
    fixed = OnnxRuntime().load(tmp_path / "fixed.onnx", threads=1)
    assert fixed.kind == "integer" and fixed(images(2, *SHAPE)).shape == (2, 5)


def test_a_written_file_runs_where_only_onnxruntime_is(tmp_path: Path) -> None:
    """In a process that cannot import torch, onnx or qbench."""
    program = body("shortcut")
    save_onnx(program, tmp_path / "model.onnx")
    x = images(4, *SHAPE)
    np.save(tmp_path / "images.npy", x.numpy())
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'qbench'): sys.modules[name] = None\n"
        "import numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession('model.onnx', providers=['CPUExecutionProvider'])\n"
        "numpy.save('logits.npy', session.run(['logits'], {'input': numpy.load('images.npy')})[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    logits = torch.from_numpy(np.load(tmp_path / "logits.npy"))
    assert torch.equal(logits, OnnxRuntime().prepare(program)(x))


def test_threads_are_those_asked_for() -> None:
    session = OnnxRuntime(allow_spinning=False).prepare(body("relu"), threads=3).session
    settings = session.get_session_options()
    assert (settings.intra_op_num_threads, settings.inter_op_num_threads) == (3, 1)
    assert settings.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert settings.get_session_config_entry("session.force_spinning_stop") == "1"


def test_broken_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match=r"^broken\.onnx: ONNX Runtime cannot load it: "):
        OnnxRuntime().load(tmp_path / "broken.onnx", threads=1)
    with pytest.raises(ArtifactError, match=r"^missing\.onnx: ONNX Runtime cannot load it: "):
        OnnxRuntime().load(tmp_path / "missing.onnx", threads=1)


def test_ranges_of_each_image_are_refused(tmp_path: Path) -> None:
    program = PTQ(activations="dynamic").compress(baseline("mlp"), Context())
    reason = OnnxRuntime().supports(program)
    assert reason is not None and reason.startswith("input (images): its range is that of each image")
    assert OnnxRuntime().supports(body("relu")) is None
    save(program, tmp_path / "model.qbench")
    with pytest.raises(RuntimeUnavailable, match=r"^runtime=onnxruntime cannot run model\.qbench: input \(images\): "):
        OnnxRuntime().load(tmp_path / "model.qbench", threads=1)


@pytest.mark.parametrize("module", ["onnx", "onnxruntime"])
def test_a_missing_library_is_named_with_its_extra(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(body("relu"), tmp_path / "model.qbench")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RuntimeUnavailable, match=rf'{module} .*pip install "qbench\[onnxruntime\]"'):
        OnnxRuntime().load(tmp_path / "model.qbench", threads=1)


def test_unknown_parameters_are_refused() -> None:
    with pytest.raises(ConfigError, match="form='tensorrt': allowed are qdq, qoperator"):
        load_runtime(TARGET, {"form": "tensorrt"})


def test_a_run_records_the_integers(bench: Bench) -> None:
    done = bench("run", *QUICK, "method=integer", "runtime=onnxruntime")
    assert done.code == 0, done.err
    (record,), _ = load_records(bench.outputs / "records")
    assert (record.status, record.runtime, record.latency_kind) == ("ok", "onnxruntime", "integer")
    done = bench("run", *QUICK, "method=integer", "runtime=integer")
    assert done.code == 0, done.err
    found = {one.runtime: one.top1_percent for one in load_records(bench.outputs / "records")[0]}
    assert abs((found["integer"] or 0.0) - (found["onnxruntime"] or 0.0)) <= 1.0


def test_the_model_reader_knows_graphs_inside_nodes() -> None:
    from qbench.runtime.onnx.kernels import graph_kernels, is_quantized

    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    out = helper.make_tensor_value_info("y", kind, [1])
    inner = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["y"], name="deep")], "inner", [], [out])
    choice = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    model = helper.make_model(helper.make_graph([choice], "outer", [], [out]))
    assert [str(kernel) for kernel in graph_kernels(model)] == ["deep (MatMul)", "deep (MatMul)"]
    assert not is_quantized(model)
