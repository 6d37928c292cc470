"""ONNX Runtime on our own graphs: float ones compute what PyTorch does, integer ones what the reference does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from program.networks import Network, images
from program.test_lower import BODIES, SHAPE

from qbench.methods.base import Context
from qbench.methods.integer import Integer
from qbench.methods.kmeans import KMeans
from qbench.methods.linear import Linear
from qbench.methods.ptq import PTQ
from qbench.program.encodings import Affine, Codebook
from qbench.program.graph import EdgeSpec, Program
from qbench.program.materialize import materialize
from qbench.program.trace import trace
from qbench.runtime.onnx import OnnxOptions
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


def test_where_products_saturate_the_kernels_that_do_not_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    program, x = body("shortcut"), images(16, *SHAPE, seed=5)
    monkeypatch.setattr("qbench.runtime.pairs.sums_in_32_bits", lambda: False)
    monkeypatch.setattr("qbench.runtime.onnxruntime.saturates", lambda: True)
    for signedness, asked in (("u8s8", "1"), ("s8s8", "0")):
        executable = OnnxRuntime(signedness=signedness).prepare(program)
        settings = executable.session.get_session_options()
        assert settings.get_session_config_entry("session.x64quantprecision") == asked
        assert executable.kind == "integer"
        torch.testing.assert_close(executable(x), reference(program, x), rtol=0.0, atol=2e-3)


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


@pytest.mark.parametrize(("max_threads", "used"), [(None, 2), (1, 1), (5, 2)])
def test_threads_are_at_most_those_of_the_run(max_threads: int | None, used: int) -> None:
    program = trace(Network(BODIES["relu"]).eval(), SHAPE)
    executable = OnnxRuntime(max_threads=max_threads).prepare(program, threads=2)
    assert executable.session.get_session_options().intra_op_num_threads == used


@pytest.mark.parametrize("max_threads", [0, -1, True])
def test_no_threads_are_refused(max_threads: int) -> None:
    with pytest.raises(ValueError, match=f"max_threads={max_threads}: allowed are null"):
        OnnxRuntime(max_threads=max_threads)
