"""What every method promises, whatever it does."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from qbench.artifact import save, size_report, to_bytes
from qbench.errors import ConfigError, MethodError
from qbench.methods.base import Context
from qbench.program.encodings import Encoding, Float
from qbench.program.graph import Node, Program
from qbench.program.materialize import materialize
from qbench.runtime.torch_runtime import TorchRuntime

from .conftest import METHODS, compress, compressed, context, images, make, network

BASELINE = "fp32"
# (method, parameter) -> what else has to be set for the parameter to matter
ONLY_WITH = {
    ("linear", "group_size"): {"granularity": "per_group"},
    ("linear", "percentile"): {"range": "percentile"},
}


def stored_as_float32(encoding: Encoding) -> bool:
    return isinstance(encoding, Float) and encoding.bits == 32


def quantizes(method: str) -> bool:
    """Whether the method works on layers (and has something to say where there are none)."""
    return "weight_bits" in METHODS[method].parameters()


def chosen_values(method: str) -> list[tuple[str, Any]]:
    """Each parameter with each value its limits list, or with both their ends."""
    found = []
    for key, limit in METHODS[method].load()["limits"].items():
        values = limit if isinstance(limit, list) else [limit[end] for end in ("min", "max") if end in limit]
        found += [(key, value) for value in values]
    return found


CHOSEN = [(method, key, value) for method in METHODS for key, value in chosen_values(method)]


def test_methods_are_found() -> None:
    assert set(METHODS) >= {"fp32", "fp16", "bf16", "linear", "kmeans"}
    assert len(CHOSEN) >= 30


def test_the_input_is_left_as_it_was(method: str, net: str) -> None:
    program = network(net)
    before = to_bytes(program)
    held = {name: encoding.decode().data_ptr() for name, encoding in program.tensors.items()}
    compress(make(method), program)
    assert to_bytes(program) == before
    assert {name: encoding.decode().data_ptr() for name, encoding in program.tensors.items()} == held


def test_the_output_differs_from_the_baselines(method: str, net: str) -> None:
    logits = materialize(compressed(method, net))(images())
    assert torch.equal(logits, materialize(network(net))(images())) == (method == BASELINE)


def test_the_same_seed_gives_the_same_bytes(method: str, net: str) -> None:
    assert to_bytes(compress(make(method), network(net))) == to_bytes(compressed(method, net))


def test_logits_keep_shape_and_type(method: str, net: str) -> None:
    logits = materialize(compressed(method, net))(images())
    assert logits.shape == (6, 5) and logits.dtype == torch.float32
    assert bool(torch.isfinite(logits).all())


def test_every_layer_is_compressed(method: str, net: str) -> None:
    program = compressed(method, net)
    left = [layer.name for layer in program.layers() if stored_as_float32(program.tensors[f"{layer.name}.weight"])]
    assert left == ([layer.name for layer in network(net).layers()] if method == BASELINE else [])
    assert [layer.name for layer in program.layers()] == [layer.name for layer in network(net).layers()]


def test_the_file_computes_the_same_logits(method: str, net: str, tmp_path: Path) -> None:
    program, path = compressed(method, net), tmp_path / "model.qbench"
    save(program, path)
    runtime = TorchRuntime()
    loaded = runtime.load(path, threads=torch.get_num_threads())
    assert torch.equal(loaded(images()), runtime.prepare(program)(images()))


def test_the_parts_of_the_size_add_up_to_the_file(method: str, net: str, tmp_path: Path) -> None:
    path = tmp_path / "model.qbench"
    save(compressed(method, net), path)
    report = size_report(path)
    parts = [getattr(report, field.name) for field in dataclasses.fields(report) if field.name.endswith("_bytes")]
    assert report.size_bytes == path.stat().st_size
    assert sum(parts) == 2 * report.size_bytes  # the total and its parts
    baseline = len(to_bytes(compressed(BASELINE, net)))
    assert method == BASELINE or report.size_bytes < baseline


def test_a_file_is_as_exact_as_it_claims(method: str, net: str) -> None:
    """The logits of the default settings resemble the baseline's in magnitude, not only in direction."""
    expected = materialize(network(net))(images())
    error = materialize(compressed(method, net))(images()) - expected
    assert float(error.square().mean().sqrt()) < 0.25 * float(expected.square().mean().sqrt())


def test_yaml_parameters_are_the_fields_of_the_class(method: str) -> None:
    option = METHODS[method]
    module, _, name = option.load()["_target_"].rpartition(".")
    fields = {field.name: field for field in dataclasses.fields(getattr(importlib.import_module(module), name))}
    parameters, limits = option.parameters(), option.load()["limits"]
    assert set(parameters) == set(fields)
    for key, value in parameters.items():
        field = fields[key]
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        preset = limits.get(key) == [value]  # one setting of a class under a name of its own
        assert preset or (value == default and type(value) is type(default)), key


def test_limits_bound_every_parameter_but_the_overrides(method: str) -> None:
    option = METHODS[method]
    assert set(option.load()["limits"]) == set(option.parameters()) - {"overrides"}


def test_methods_are_frozen_and_print_their_parameters(method: str) -> None:
    made = make(method)
    assert dataclasses.is_dataclass(made)
    assert made == make(method)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, next(iter(METHODS[method].parameters())), None)


def settings(method: str, key: str, value: Any) -> dict[str, Any]:
    return {**ONLY_WITH.get((method, key), {}), key: value}


@pytest.mark.parametrize("name, key, value", CHOSEN, ids=[f"{name} {key}={value}" for name, key, value in CHOSEN])
def test_every_allowed_value_runs_and_matters(name: str, key: str, value: Any, tmp_path: Path) -> None:
    """Each value the limits allow gives a program that can be written, and another one than the default value gives."""
    default = METHODS[name].parameters()[key]
    program = compress(make(name, **settings(name, key, value)), network("residual"))
    content = to_bytes(program)
    assert bool(torch.isfinite(materialize(program)(images())).all())
    usual = to_bytes(compress(make(name, **settings(name, key, default)), network("residual")))
    assert (content == usual) == (value == default)


@pytest.mark.parametrize("bits", [0, -1, 17, 32])
def test_bits_without_a_form_are_refused(method: str, bits: int) -> None:
    if not quantizes(method):
        assert "bits" not in "".join(METHODS[method].parameters())
        return
    with pytest.raises(ConfigError, match=rf"weight_bits={bits}: allowed are 1 to \d+"):
        make(method, weight_bits=bits)


def with_weight(net: str, values: torch.Tensor | float, layer: int = 0) -> Program:
    """The network with one layer's weight replaced, or filled with a number."""
    program = network(net)
    key = f"{program.layers()[layer].name}.weight"
    shape = program.tensors[key].shape
    return program.with_tensors({key: Float(torch.broadcast_to(torch.as_tensor(values), shape).float().clone())})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_a_weight_that_is_not_finite_is_named(method: str, net: str, bad: float) -> None:
    program = network(net)
    layer = program.layers()[-1].name
    weight = program.weight(layer).clone()
    weight[0, 1] = bad
    broken = program.with_tensors({f"{layer}.weight": Float(weight)})
    with pytest.raises(MethodError, match=rf"^{layer}\.weight: holds NaN or infinite values; train the baseline again"):
        compress(make(method), broken)


@pytest.mark.parametrize("value", [0.0, 0.5, -3.0], ids=["zeros", "one value", "one negative value"])
def test_constant_weights_survive(method: str, net: str, value: float) -> None:
    program = with_weight(net, value)
    weight = compress(make(method), program).weight(program.layers()[0].name)
    expected = program.weight(program.layers()[0].name)
    if "fold_batch_norm" in METHODS[method].parameters() and net == "residual":
        assert bool(torch.isfinite(weight).all())  # the folded channels are constant, each at its own value
        assert bool((weight.flatten(1) == weight.flatten(1)[:, :1]).all())
        assert bool((weight == 0).all()) == (value == 0.0)
    else:
        torch.testing.assert_close(weight, expected, rtol=2**-8, atol=0.0)  # bfloat16 has eight bits


def test_a_constant_channel_survives(method: str, net: str) -> None:
    program = network(net)
    layer = program.layers()[-1].name
    weight = program.weight(layer).clone()
    weight[0], weight[1] = 0.25, 0.0
    got = compress(make(method), program.with_tensors({f"{layer}.weight": Float(weight)})).weight(layer)
    step = float((got - weight).abs().max())
    assert bool((got[:2].amax(1) == got[:2].amin(1)).all())  # still constant
    assert float(got[1].abs().max()) <= step and float((got[0] - 0.25).abs().max()) <= step < 0.25


def test_few_distinct_weights_are_kept(method: str, net: str) -> None:
    """Three values fit every method's default grid or codebook exactly: -1, 0 and 1 per channel."""
    program = network(net)
    layer = program.layers()[-1].name
    weight = torch.sign(program.weight(layer)) * (program.weight(layer).abs() > 0.02)
    assert len(weight.unique()) == 3
    got = compress(make(method), program.with_tensors({f"{layer}.weight": Float(weight)})).weight(layer)
    torch.testing.assert_close(got, weight, rtol=2**-23, atol=0.0)


def no_layers() -> Program:
    node = Node("flat", "flatten", ("input",))
    return Program((3, 8, 8), (node,), {})


def test_a_network_without_layers_is_refused(method: str) -> None:
    if not quantizes(method):
        assert compress(make(method), no_layers()).nodes == no_layers().nodes
        return
    with pytest.raises(MethodError, match=r"^the network: has no convolution and no linear layer to quantize"):
        compress(make(method), no_layers())


WITH_OVERRIDES = [name for name, option in METHODS.items() if "overrides" in option.parameters()]


def test_methods_with_overrides_are_found() -> None:
    assert {"linear", "kmeans"} <= set(WITH_OVERRIDES)


@pytest.mark.parametrize("name", WITH_OVERRIDES)
def test_an_override_of_no_layer_is_refused(name: str) -> None:
    with pytest.raises(
        MethodError, match=r"overrides\['conv7\*'\]: matches no layer; layers are stem.0, depthwise.0, head.3"
    ):
        compress(make(name, overrides={"conv7*": 4}), network("residual"))


@pytest.mark.parametrize("bits", [-1, 17, True, 4.0, "4", None], ids=repr)
@pytest.mark.parametrize("name", WITH_OVERRIDES)
def test_an_override_out_of_range_is_refused(name: str, bits: Any) -> None:
    with pytest.raises(MethodError, match=r"overrides\['head\.\*'\]: is .*; allowed are 0 \(float\) to \d+"):
        compress(make(name, overrides={"head.*": bits}), network("residual"))


@pytest.mark.parametrize("name", WITH_OVERRIDES)
def test_overrides_that_leave_everything_float_are_refused(name: str) -> None:
    with pytest.raises(MethodError, match=r"^the network: the method changed nothing; check overrides and bits"):
        compress(make(name, overrides={"*": 0}), network("residual"))


@pytest.mark.parametrize("name", WITH_OVERRIDES)
def test_overrides_and_first_last_bits_reach_their_layers(name: str) -> None:
    overrides = {"depthwise*": 0, "*.3": 2}
    program = compress(make(name, weight_bits=4, first_last_bits=6, overrides=overrides), network("residual"))
    assert program.tensors["stem.0.weight"].bits == 6
    assert program.tensors["head.3.weight"].bits == 2  # overrides win
    assert stored_as_float32(program.tensors["depthwise.0.weight"])


def test_a_method_says_truly_whether_it_needs_images(method: str) -> None:
    """Those that say no have run on a context that raises when touched; those that say yes must notice its absence."""
    made = make(method)
    assert context(made).calibration.__class__.__name__ == ("list" if made.needs.calibration else "Untouchable")
    if made.needs.calibration:
        with pytest.raises(MethodError, match="needs calibration images"):
            made.compress(network("mlp"), Context())


@pytest.mark.parametrize("name", [name for name, option in METHODS.items() if "act_bits" in option.parameters()])
def test_activation_bits_need_images(name: str) -> None:
    made = make(name, act_bits=8)
    assert made.needs.calibration
    with pytest.raises(MethodError, match=r"^act_bits=8: quantizing activations needs calibration images"):
        made.compress(network("mlp"), Context())
