"""The checks that methods share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from qbench.errors import ConfigError, MethodError
from qbench.methods.base import check_effect, check_finite, require_one_of, require_within
from qbench.methods.float_storage import FloatStorage
from qbench.methods.layer_bits import bits_by_layer
from qbench.program.encodings import Affine, Codebook, Encoding, Float, Sparse
from qbench.program.graph import EdgeSpec, Node, Program

from .conftest import compress, make, network

NOTHING = "^the network: the method changed nothing"
HALVES = torch.tensor([[0.5, 1.0], [0.0, -1.0]])


def program(weight: Encoding) -> Program:
    nodes = (Node("flat", "flatten", ("input",)), Node("fc", "linear", ("flat",)))
    return Program((1, 1, 2), nodes, {"fc.weight": weight, "fc.bias": Float(torch.zeros(2))})


def halves(bits: int = 8) -> Affine:
    """The same numbers, on a grid."""
    zero = torch.tensor(0, dtype=torch.int32)
    return Affine((HALVES * 2).to(torch.int8), torch.tensor(0.5), zero, bits, -2, 2)


CHANGES: dict[str, Encoding] = {
    "other values": Float(HALVES + 1),
    "other storage of the same values": Float(HALVES.bfloat16()),
    "a grid of the same values": halves(),
    "a codebook of the same values": Codebook(
        torch.tensor([[1, 2], [0, 3]], dtype=torch.uint8), Float(torch.tensor([0.0, 0.5, 1.0, -1.0])), 2
    ),
    "a mask of the same values": Sparse(HALVES != 0, Float(HALVES[HALVES != 0])),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_tensor_that_is_stored_otherwise_is_an_effect(case: str) -> None:
    before = program(Float(HALVES))
    check_effect(before, before.with_tensors({"fc.weight": CHANGES[case]}))


def test_a_quantized_edge_is_an_effect() -> None:
    before = program(Float(HALVES))
    check_effect(before, replace(before, edges={"input": EdgeSpec(8, -128, 127, 0.1, 0)}))


@pytest.mark.parametrize("weight", [Float(HALVES), halves()], ids=["float", "affine"])
def test_no_effect_is_an_error(weight: Encoding) -> None:
    before = program(weight)
    with pytest.raises(MethodError, match=NOTHING):
        check_effect(before, before)


def test_a_copy_is_no_effect() -> None:
    before = program(halves())
    with pytest.raises(MethodError, match=NOTHING):
        check_effect(before, before.with_tensors({"fc.weight": halves(), "fc.bias": Float(torch.zeros(2))}))


def test_edges_that_were_there_are_no_effect() -> None:
    before = replace(program(halves()), edges={"input": EdgeSpec(8, -128, 127, 0.1, 0)})
    with pytest.raises(MethodError, match=NOTHING):
        check_effect(before, before.with_tensors({}))


def test_a_network_without_layers_has_nothing_to_quantize() -> None:
    flat = Program((1, 1, 2), (Node("flat", "flatten", ("input",)),), {})
    with pytest.raises(MethodError, match=r"^the network: has no convolution and no linear layer to quantize"):
        check_effect(flat, replace(flat, edges={"input": EdgeSpec(8, -128, 127, 0.1, 0)}))


def test_check_finite_names_the_first_bad_tensor() -> None:
    good = network("residual")
    check_finite(good)
    bad = good.with_tensors({"stem.1.running_mean": Float(torch.full((8,), float("nan")))})
    with pytest.raises(MethodError, match=r"^stem\.1\.running_mean: holds NaN or infinite values"):
        check_finite(bad)


def test_requirements_name_parameter_value_and_what_is_allowed() -> None:
    require_one_of("range", "mse", ("minmax", "mse"))
    with pytest.raises(ValueError, match="range='best': allowed are minmax, mse"):
        require_one_of("range", "best", ("minmax", "mse"))
    for value in (None, 1, 4):
        require_within("bits", value, 1, 4)
    for value in (0, 5):
        with pytest.raises(ValueError, match=f"bits={value}: allowed are 1 to 4"):
            require_within("bits", value, 1, 4)


@pytest.mark.parametrize(
    "name, parameter, value",
    [
        ("linear", "scheme", "asymmetric"),
        ("linear", "granularity", "per_row"),
        ("linear", "range", "entropy"),
        ("linear", "rounding", "up"),
        ("linear", "act_bits", 1),
        ("linear", "first_last_bits", 17),
        ("linear", "group_size", 0),
        ("linear", "percentile", 101.0),
        ("kmeans", "granularity", "per_tensor"),
        ("kmeans", "first_last_bits", 9),
        ("fp16", "dtype", "float8"),
    ],
    ids=str,
)
def test_a_value_without_a_form_is_refused_before_anything_runs(name: str, parameter: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^method={name}: .*{parameter}={value!r}: allowed are"):
        make(name, **{parameter: value})


def test_float16_refuses_what_overflows() -> None:
    with pytest.raises(MethodError, match=r"^fc\.weight: holds values too large for float16; use bfloat16"):
        compress(FloatStorage("float16"), program(Float(HALVES * 70_000)))
    stored = compress(FloatStorage("bfloat16"), program(Float(HALVES * 65_536)))
    assert stored.weight("fc").tolist() == (HALVES * 65_536).tolist()


def test_bits_by_layer() -> None:
    names = ["stem.0", "depthwise.0", "head.3"]
    net = network("residual")
    assert bits_by_layer(net, 4, {}, None, 8) == dict(zip(names, (4, 4, 4)))
    assert bits_by_layer(net, 4, {}, 8, 8) == dict(zip(names, (8, 4, 8)))
    assert bits_by_layer(net, 4, {"*": 3, "head*": 0}, 8, 8) == dict(zip(names, (3, 3, 0)))  # the last match wins
    assert bits_by_layer(net, 4, {"head*": 0, "*": 3}, 8, 8) == dict(zip(names, (3, 3, 3)))
