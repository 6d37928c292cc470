"""What fixed point and dynamic fixed point add to what every method promises."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from qbench.errors import MethodError
from qbench.methods.base import Context
from qbench.methods.dynamic_fixed_point import DynamicFixedPoint
from qbench.methods.fixed_point import FixedPointNetwork
from qbench.program.encodings import Affine, Float
from qbench.program.graph import Node, Program
from qbench.program.integer.network import IntegerModule
from qbench.program.lower import lower
from qbench.program.materialize import materialize
from qbench.program.trace import trace
from qbench.program.transform import quantizable_edges
from qbench.quant.fixed_point import holding

from .conftest import compress, images, network

METHODS = {
    "fixed_point": FixedPointNetwork(),
    "fixed_point minmax": FixedPointNetwork(range="minmax"),
    "fixed_point w6a8": FixedPointNetwork(weight_bits=6, integer_bits=2),
    "dynamic_fixed_point": DynamicFixedPoint(),
    "dynamic_fixed_point mse": DynamicFixedPoint(range="mse"),
    "dynamic_fixed_point w4a6": DynamicFixedPoint(weight_bits=4, act_bits=6, first_last_bits=8),
}


def scales(program: Program) -> list[float]:
    """Of every weight and every edge."""
    weights = [program.tensors[f"{layer.name}.weight"] for layer in program.layers()]
    assert all(isinstance(weight, Affine) and weight.axis is None for weight in weights)
    edges = [edge.scale for edge in program.edges.values()]
    return [float(weight.scale) for weight in weights if isinstance(weight, Affine)] + [s for s in edges if s]


@pytest.mark.parametrize("case", METHODS)
def test_units_are_powers_of_two_without_zero_points(case: str, net: str) -> None:
    program = compress(METHODS[case], network(net))
    assert set(program.edges) == set(quantizable_edges(program))
    assert all(math.frexp(scale)[0] == 0.5 for scale in scales(program))
    assert all(edge.zero_point == 0 for edge in program.edges.values())


@pytest.mark.parametrize("case", METHODS)
def test_layers_follow_one_another_by_shifts_alone(case: str, net: str) -> None:
    integers = lower(compress(METHODS[case], network(net)))
    found = dict(integers.requantizers())
    assert set(found) == ({"1"} if net == "mlp" else {"stem.0", "depthwise.0", "add"})
    assert all(requantizer.is_shift for requantizer in found.values())
    assert math.frexp(float(integers.output_scale.flatten()[0]))[0] == 0.5


@pytest.mark.parametrize("size, divides", [(8, False), (7, True)])
def test_only_an_average_over_no_power_of_two_is_more_than_a_shift(size: int, divides: bool) -> None:
    pool = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        program = trace(pool, (3, size, size))
    seen = torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(6))
    made = DynamicFixedPoint().compress(program, Context(calibration=[seen]))
    found = [(name, one.is_shift) for name, one in lower(made).requantizers()]
    assert found == [("0", True), ("2", not divides)]


@pytest.mark.parametrize("case", METHODS)
def test_integers_and_simulation_differ_by_ties_only(case: str, net: str) -> None:
    """Powers of two make float32 exact here; what remains are ties, rounded up by integers and to even by floats."""
    program = compress(METHODS[case], network(net))
    simulated: dict[str, torch.Tensor] = {}
    module = materialize(program)
    module.observe = lambda name, value: simulated.update({name: value})
    integers = IntegerModule(lower(program), check=True)
    codes: dict[str, torch.Tensor] = {}
    integers.observe = lambda name, value: codes.update({name: value})
    x = images(16, seed=41)
    with torch.inference_mode():
        module(x)
        integers(x)
    first = next(iter(set(codes) & set(program.edges) - {"input"})) if net == "mlp" else "stem.2"
    scale = program.edges[first].scale
    assert scale is not None
    steps = simulated[first] / scale
    expected = torch.floor(steps + 0.5).clamp(program.edges[first].qmin, program.edges[first].qmax)
    got = codes[first] if codes[first].dim() == 2 else codes[first].permute(0, 3, 1, 2)
    assert torch.equal(got.float(), expected)


def test_one_format_for_the_whole_network(net: str) -> None:
    program = compress(FixedPointNetwork(), network(net))
    assert len(set(scales(program))) == 1
    weights, activations = FixedPointNetwork(weight_bits=6, act_bits=8, integer_bits=2), 2.0**-5
    program = compress(weights, network(net))
    assert set(scales(program)) == {2.0**-3, activations}  # m is shared: Q2.3 and Q2.5


def test_the_smallest_m_that_holds_every_value(net: str) -> None:
    program = network(net)
    largest = 0.0
    seen: list[float] = []
    module = materialize(program)
    chosen = compress(FixedPointNetwork(range="minmax"), program)
    module.observe = lambda name, value: seen.append(float(value.abs().max())) if name in chosen.edges else None
    for batch in (images(8, seed=11), images(4, seed=12)):  # what conftest calibrates on
        module(batch)
    largest = max([*seen, *(float(program.weight(layer.name).abs().max()) for layer in program.layers())])
    assert set(scales(chosen)) == {holding(largest, 8).scale}


def test_sqnr_trades_saturation_for_finer_steps() -> None:
    """The few activations beyond 4 cost less than a fifth fraction bit gains."""
    program = network("residual")
    whole, finer = (compress(FixedPointNetwork(range=chosen), program) for chosen in ("minmax", "sqnr"))
    assert set(scales(whole)) == {2.0**-4} and set(scales(finer)) == {2.0**-5}
    expected = materialize(program)(images(64, seed=51))
    errors = [float((materialize(one)(images(64, seed=51)) - expected).square().mean()) for one in (whole, finer)]
    assert errors[1] < errors[0]


def test_each_layer_and_edge_has_its_own_format() -> None:
    program = compress(DynamicFixedPoint(), network("residual"))
    found = {layer.name: program.tensors[f"{layer.name}.weight"] for layer in program.layers()}
    assert len({float(weight.scale) for weight in found.values() if isinstance(weight, Affine)}) == 3


def test_least_squares_never_loses_on_the_weights(net: str) -> None:
    errors = []
    for method in (DynamicFixedPoint(weight_bits=3, range="mse"), DynamicFixedPoint(weight_bits=3)):
        program = compress(method, network(net))
        float_weights = compress(DynamicFixedPoint(weight_bits=16, act_bits=None), network(net))
        errors.append(
            [float((program.weight(n.name) - float_weights.weight(n.name)).square().sum()) for n in program.layers()]
        )
    assert all(one <= other * 1.001 for one, other in zip(*errors))
    assert sum(errors[0]) < sum(errors[1])


@pytest.mark.parametrize("chosen", [FixedPointNetwork(16, 16), DynamicFixedPoint(16, 16)], ids=["one", "dynamic"])
def test_sixteen_bits_simulate_and_keep_float_biases(chosen: Any, net: str) -> None:
    program = compress(chosen, network(net))
    assert {type(program.tensors[f"{layer.name}.bias"]) for layer in program.layers()} == {Float}
    with pytest.raises(MethodError, match=r"^input: has 16 bits; integers alone need act_bits of at most 8"):
        lower(program)


@pytest.mark.parametrize(
    "chosen", [FixedPointNetwork(act_bits=None), DynamicFixedPoint(act_bits=None)], ids=["one", "dynamic"]
)
def test_weights_alone_need_no_images(chosen: Any) -> None:
    assert not chosen.needs.calibration
    program = compress(chosen, network("mlp"))
    assert program.edges == {} and isinstance(program.tensors["1.weight"], Affine)


def test_values_beyond_every_format_are_named() -> None:
    nodes = (Node("flat", "flatten", ("input",)), Node("fc", "linear", ("flat",)))
    program = Program((1, 1, 2), nodes, {"fc.weight": Float(torch.full((1, 2), 3e38))})
    for method in (FixedPointNetwork(2, None, range="minmax"), DynamicFixedPoint(2, None)):
        with pytest.raises(MethodError, match=r"^fc\.weight: 3e\+38 is too large for fixed point of 2 bits"):
            method.compress(program, Context())
