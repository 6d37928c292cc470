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
from qbench.steps import flat, steps

from .conftest import METHODS, compress, compressed, context, images, make, network

BASELINE = "fp32"
# (method, parameter) -> what else has to be set for the parameter to matter
ONLY_WITH = {
    ("linear", "group_size"): {"granularity": "per_group"},
    ("linear", "percentile"): {"range": "percentile"},
    **{
        (name, "entropy_coding"): {"prune": {"_target_": "qbench.methods.prune.Prune", "sparsity": 0.95}}
        for name in ("prune_linear", "prune_kmeans")
    },
    ("hybrid", "candidates"): {"budget": "avg_bits:8"},
    ("hybrid", "first_last_bits"): {"budget": "avg_bits:8"},
    ("hybrid", "sparsity"): {"encodings": ["pruned"], "budget": "avg_bits:9"},
    ("kmeans", "act_levels"): {"act_bits": 3},
    ("integer", "percentile"): {"range": "percentile"},
    ("integer", "act_range"): {"act_percentile": 99.0},
    ("integer", "act_percentile"): {"act_range": "percentile"},
    ("integer", "first_last_bits"): {"weight_bits": 4},
    ("ptq", "group_size"): {"granularity": "per_group"},
    ("ptq", "percentile"): {"range": "percentile"},
    ("ptq", "act_percentile"): {"act_range": "percentile"},
    ("ptq", "act_momentum"): {"act_range": "moving_average"},
    ("ptq", "iterations"): {"rounding": "adaround"},
    ("ptq", "block_layers"): {"rounding": "adaround_blocks", "iterations": 20},
    ("ptq", "rounding"): {"iterations": 20},
    ("ptq", "act_range"): {"act_percentile": 99.0},
}

# methods whose name or budget says how many bits weights have
PRUNING = {"prune", "prune_linear", "prune_kmeans", "deep_compression"}
OF_NO_WIDTH = {"binary", "ternary", "hybrid", *PRUNING}
# methods whose codes are a sign bit longer than their bits, on a grid no weight was asked to fit: the step at 8 bits
WITHOUT_SCALE = {"standard": 1 / 255, "octization": 1 / 255}
# methods too coarse to give the logits of an untrained network back: a layer of evenly spread weights keeps an error
# of 1/2 (two levels: 1 - E|w|^2 / E w^2 = 1/4) or 1/3 (three levels: 1/9) of its length
COARSE = {"binary": 0.5, "ternary": 0.5, **dict.fromkeys(("prune", "prune_linear", "prune_kmeans"), 0.5)}


def stored_as_float32(encoding: Encoding) -> bool:
    return isinstance(encoding, Float) and encoding.bits == 32


def quantizes(method: str) -> bool:
    """Whether the method works on layers (and has something to say where there are none)."""
    return method in PRUNING or bool({"weight_bits", "overrides"} & set(METHODS[method].parameters()))


def described(method: str) -> list[dict[str, Any]]:
    """The content of its YAML, or of its steps."""
    content = METHODS[method].load()
    return [dict(step) for step in steps(content).values()] or [content]


def chosen_values(method: str) -> list[tuple[str, Any]]:
    """Each parameter with each value its limits list, or with both their ends."""
    found = []
    for key, limit in METHODS[method].load()["limits"].items():
        values = limit if isinstance(limit, list) else [limit[end] for end in ("min", "max") if end in limit]
        many = isinstance(METHODS[method].parameters()[key], list)
        found += [(key, [value] if many else value) for value in values]
    return found


# (method, parameter) -> the network on which it matters, where it is not the one with batch norm and a shortcut
ONLY_ON = {("ptq", "equalize"): "mlp"}
# (method, parameter, value) that gives what the default gives on a few small images
AS_THE_DEFAULT = {
    ("ptq", "act_percentile", 100.0),
    ("integer", "act_percentile", 100.0),
}
# how long and how fast a method trains or searches: its extremes are hours, or no training any more
EFFORT = {"epochs", "iterations", "lr", "batch_size", "weight_decay", "reassign_steps", "ramp_fraction"}
CHOSEN = [(method, key, value) for method in METHODS for key, value in chosen_values(method) if key not in EFFORT]


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
    names = {field.name for field in dataclasses.fields(report) if field.name.endswith("_bytes")}
    parts = [getattr(report, name) for name in names - {"fixed_width_bytes", "pruned_bytes"}]
    assert report.size_bytes == path.stat().st_size
    assert sum(parts) == 2 * report.size_bytes  # the total and its parts
    baseline = len(to_bytes(compressed(BASELINE, net)))
    assert method == BASELINE or report.size_bytes < baseline


def test_a_file_is_as_exact_as_it_claims(method: str, net: str) -> None:
    """The logits of the default settings resemble the baseline's in magnitude, not only in direction."""
    expected = materialize(network(net))(images())
    error = materialize(compressed(method, net))(images()) - expected
    # training on noise moves the batch-norm statistics, which are not those of noise to begin with
    bound = 1.0 if make(method).needs.training else COARSE.get(method, 0.25)
    assert float(error.square().mean().sqrt()) < bound * float(expected.square().mean().sqrt())


def test_yaml_parameters_are_the_fields_of_the_class(method: str) -> None:
    contents = described(method)
    step_of_pipeline = contents != [METHODS[method].load()]
    for content in contents:
        module, _, name = content["_target_"].rpartition(".")
        fields = {field.name: field for field in dataclasses.fields(getattr(importlib.import_module(module), name))}
        assert set(flat(content)) == set(fields)
        for key, value in flat(content).items():
            factory = fields[key].default_factory
            default = fields[key].default if factory is dataclasses.MISSING else factory()
            preset = content["limits"].get(key) == [value]  # one setting of a class under a name of its own
            assert preset or step_of_pipeline or value == default, key
            assert preset or type(value) is type(default), key


def test_limits_bound_every_parameter_but_the_overrides(method: str) -> None:
    for content in described(method):
        assert set(content["limits"]) == set(flat(content)) - {"overrides"}


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
    net = network(ONLY_ON.get((name, key), "residual"))
    program = compress(make(name, **settings(name, key, value)), net)
    content = to_bytes(program)
    assert bool(torch.isfinite(materialize(program)(images())).all())
    usual = to_bytes(compress(make(name, **settings(name, key, default)), net))
    assert (content == usual) == (value == default or (name, key, value) in [*AS_THE_DEFAULT])


@pytest.mark.parametrize("bits", [0, -1, 17, 32])
def test_bits_without_a_form_are_refused(method: str, bits: int) -> None:
    if "weight_bits" not in METHODS[method].parameters():
        assert not quantizes(method) or method in OF_NO_WIDTH
        return
    with pytest.raises(ConfigError, match=rf"weight_bits={bits}: allowed are [12] to \d+"):
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
    made = compress(make(method), program)
    weight = made.weight(program.layers()[0].name)
    expected = program.weight(program.layers()[0].name)
    if method in PRUNING:
        expected = torch.where(weight == 0, weight, expected)  # what is not removed stays
    if make(method).needs.training:
        assert bool(torch.isfinite(weight).all())  # and no longer constant
    elif len(made.nodes) < len(program.nodes):
        assert bool(torch.isfinite(weight).all())  # the folded channels are constant, each at its own value
        assert bool((weight.flatten(1) == weight.flatten(1)[:, :1]).all())
        assert bool((weight == 0).all()) == (value == 0.0)
    else:
        # bfloat16 has eight bits
        torch.testing.assert_close(weight, expected, rtol=2**-8, atol=WITHOUT_SCALE.get(method, 0.0))


def test_a_constant_channel_survives(method: str, net: str) -> None:
    program = network(net)
    layer = program.layers()[-1].name
    weight = program.weight(layer).clone()
    weight[0], weight[1] = 0.25, 0.0
    if make(method).needs.training:
        broken = compress(make(method), program.with_tensors({f"{layer}.weight": Float(weight)}))
        assert bool(torch.isfinite(materialize(broken)(images())).all())
        return
    got = compress(make(method), program.with_tensors({f"{layer}.weight": Float(weight)})).weight(layer)
    step = float((got - weight).abs().max())
    assert bool((got[:2].amax(1) == got[:2].amin(1)).all())  # still constant
    assert float(got[1].abs().max()) <= step and float((got[0] - 0.25).abs().max()) <= step < 0.25


def test_few_distinct_weights_are_kept(method: str, net: str) -> None:
    """Three values fit every method's default grid or codebook exactly: -1, 0 and 1 per channel (two for binary)."""
    program = network(net)
    layer = program.layers()[-1].name
    weight = torch.sign(program.weight(layer)) * (program.weight(layer).abs() > 0.02)
    assert len(weight.unique()) == 3
    if method == "binary":
        weight = torch.where(weight == 0, torch.ones_like(weight), weight)
    if make(method).needs.training:
        return  # training moves them
    got = compress(make(method), program.with_tensors({f"{layer}.weight": Float(weight)})).weight(layer)
    if method in PRUNING:
        weight = torch.where(got == 0, got, weight)
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


# those of pruning are sparsities and have tests of their own
WITH_OVERRIDES = [n for n, option in METHODS.items() if "overrides" in option.parameters() and n not in PRUNING]


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
        weights_only = {"activations": "none", "act_bits": None}
        off = {key: value for key, value in weights_only.items() if key in METHODS[name].parameters()}
        if "activations" in off:
            del off["act_bits"]
        compress(make(name, overrides={"*": 0}, **off), network("residual"))


@pytest.mark.parametrize("name", WITH_OVERRIDES)
def test_overrides_and_first_last_bits_reach_their_layers(name: str) -> None:
    overrides = {"depthwise*": 0, "*.3": 2}
    own = {"weight_bits": 4} if "weight_bits" in METHODS[name].parameters() else {}
    if "budget" in METHODS[name].parameters():
        own = {"budget": "avg_bits:32"}
    sign = 1 if name in WITHOUT_SCALE else 0
    program = compress(make(name, **own, first_last_bits=6, overrides=overrides), network("residual"))
    assert program.tensors["stem.0.weight"].bits == 6 + sign
    assert program.tensors["head.3.weight"].bits == 2 + sign  # overrides win
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
