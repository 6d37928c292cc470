"""Batch norm folding keeps the function; activation quantizers sit where a kernel would put them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qbench.program.encodings import Affine, Float
from qbench.program.graph import EdgeSpec, Node, Program
from qbench.program.materialize import materialize
from qbench.program.trace import trace
from qbench.program.transform import fold_batch_norm, quantizable_edges

from .networks import Network, images, randomised

Body = Callable[[Any, Tensor], Tensor]
EDGE = EdgeSpec(8, -128, 127, 0.1, 0)


def traced(body: Body) -> Program:
    return trace(Network(body), (3, 8, 8))


def ops(program: Program) -> list[str]:
    return [node.op for node in program.nodes]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("groups", [1, 3], ids=["dense", "depthwise"])
def test_folding_keeps_the_function_of_a_convolution(bias: bool, groups: int) -> None:
    conv, norm = nn.Conv2d(3, 6, 3, padding=1, groups=groups, bias=bias), nn.BatchNorm2d(6)
    nn.init.normal_(conv.weight, generator=torch.Generator().manual_seed(1))
    program = trace(randomised(nn.Sequential(conv, norm, nn.Flatten())), (3, 8, 8))
    folded = fold_batch_norm(program)
    assert [(node.name, node.op, node.inputs) for node in folded.nodes] == [
        ("0", "conv2d", ("input",)),
        ("2", "flatten", ("0",)),
    ]
    assert set(folded.tensors) == {"0.weight", "0.bias"}
    x = images(4, 3, 8, 8)
    # Every term of either sum is rounded at most n + 4 times by 2^-24 (n products, the norm's four steps, the folded
    # weight); the bound is that share of the sum of all terms' magnitudes, for both sums.
    factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).abs().detach().view(-1, 1, 1)
    terms = F.conv2d(x.abs(), conv.weight.detach().abs(), padding=1, groups=groups) + norm.running_mean.abs().view(
        -1, 1, 1
    )
    terms = (terms + (conv.bias.detach().abs().view(-1, 1, 1) if bias else 0)) * factor + norm.bias.detach().abs().view(
        -1, 1, 1
    )
    bound = 2 * (27 // groups + 4) * 2**-24 * terms.flatten(1)
    assert bool(((materialize(folded)(x) - materialize(program)(x)).abs() <= bound).all())


def test_folding_by_hand() -> None:
    nodes = (
        Node("flat", "flatten", ("input",)),
        Node("fc", "linear", ("flat",)),
        Node("n", "batch_norm", ("fc",), {"eps": 1.0}),
    )
    values = {"fc.weight": [[1.0, 2.0], [3.0, 4.0]], "fc.bias": [1.0, -1.0]}
    norm = {"n.weight": [2.0, 4.0], "n.bias": [10.0, 20.0], "n.running_mean": [3.0, 5.0], "n.running_var": [3.0, 15.0]}
    program = Program((1, 1, 2), nodes, {k: Float(torch.tensor(v)) for k, v in {**values, **norm}.items()})
    folded = fold_batch_norm(program)
    assert folded.weight("fc").tolist() == [[1.0, 2.0], [3.0, 4.0]]  # both factors are 2 / sqrt(4) = 4 / sqrt(16) = 1
    assert folded.tensors["fc.bias"].decode().tolist() == [8.0, 14.0]
    assert ops(folded) == ["flatten", "linear"]
    assert len(program.nodes) == 3 and program.tensors["fc.bias"].decode().tolist() == [1.0, -1.0]


def test_folding_in_a_residual_network() -> None:
    def body(n: Any, x: Tensor) -> Tensor:
        stem = n.relu(n.norm(n.first(x)))
        return n.wide(n.flat(n.relu(n.norm(n.second(stem)) + stem)))

    program = traced(body)
    folded = fold_batch_norm(program)
    assert ops(program).count("batch_norm") == 2 and "batch_norm" not in ops(folded)
    assert [node.inputs for node in folded.nodes if node.op == "add"] == [("second", "relu")]
    x = images(4, 3, 8, 8)
    before, after = materialize(program)(x), materialize(folded)(x)
    # three layers of at most 256 terms each: 3 * 2 * (256 + 4) roundings of 2^-24 of outputs of order one
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


UNFOLDABLE: dict[str, Body] = {
    "a layer that something else reads too": lambda n, x: _shared(n, n.first(x)),
    "behind an activation": lambda n, x: n.wide(n.flat(n.norm(n.relu(n.first(x))))),
    "behind a pooling": lambda n, x: n.narrow(n.flat(n.norm(n.pool(n.first(x))))),
}


def _shared(n: Any, x: Tensor) -> Tensor:
    out: Tensor = n.wide(n.flat(n.norm(x) + x))
    return out


@pytest.mark.parametrize("case", UNFOLDABLE)
def test_other_batch_norms_stay(case: str) -> None:
    program = traced(UNFOLDABLE[case])
    folded = fold_batch_norm(program)
    assert folded.nodes == program.nodes
    assert all(folded.tensors[name] is program.tensors[name] for name in program.tensors)


def test_of_two_batch_norms_in_a_row_the_first_is_folded() -> None:
    program = traced(lambda n, x: n.wide(n.flat(n.norm(n.norm(n.first(x))))))
    folded = fold_batch_norm(program)
    assert ops(folded) == ["conv2d", "batch_norm", "flatten", "linear"]
    assert folded.nodes[1].inputs == ("first",)
    x = images(2, 3, 8, 8)
    torch.testing.assert_close(materialize(folded)(x), materialize(program)(x), rtol=1e-4, atol=1e-4)


def test_a_batch_norm_behind_a_quantized_weight_or_edge_stays() -> None:
    program = traced(lambda n, x: n.wide(n.flat(n.norm(n.first(x)))))
    codes = torch.ones(4, 3, 3, 3, dtype=torch.int8)
    encoded = Affine(codes, torch.tensor(0.5), torch.tensor(0, dtype=torch.int32), 8, -128, 127)
    assert "batch_norm" in ops(fold_batch_norm(program.with_tensors({"first.weight": encoded})))
    assert "batch_norm" in ops(fold_batch_norm(replace(program, edges={"first": EDGE})))


def test_an_edge_on_a_folded_batch_norm_moves_to_its_layer() -> None:
    program = replace(traced(lambda n, x: n.wide(n.flat(n.norm(n.first(x))))), edges={"norm": EDGE, "input": EDGE})
    assert dict(fold_batch_norm(program).edges) == {"first": EDGE, "input": EDGE}


EDGES: dict[str, tuple[Body, list[str]]] = {
    "the input, and no logits": (lambda n, x: n.wide(n.first(x).flatten(1)), ["input", "first"]),
    "an activation is fused with its layer": (
        lambda n, x: n.wide(n.flat(n.relu(n.norm(n.first(x))))),
        ["input", "relu"],
    ),
    "max pooling keeps the grid": (
        lambda n, x: n.narrow(n.flat(n.pool(F.max_pool2d(n.relu(n.first(x)), 2)))),
        ["input", "relu", "pool"],
    ),
    "an activation behind max pooling keeps it too": (
        lambda n, x: n.wide(n.flat(n.relu(F.max_pool2d(n.first(x), 3, 1, 1)))),
        ["input", "first"],
    ),
    "relu6 behind max pooling does not": (
        lambda n, x: n.wide(n.flat(F.relu6(F.max_pool2d(n.first(x), 3, 1, 1)))),
        ["input", "first", "relu6"],
    ),
    "relu6 is fused with its layer": (lambda n, x: n.wide(n.flat(F.relu6(n.first(x)))), ["input", "relu6"]),
    "a curve makes new values": (
        lambda n, x: n.wide(n.flat(F.silu(F.max_pool2d(n.first(x), 3, 1, 1)))),
        ["input", "first", "silu"],
    ),
    "residual: both operands and the sum": (
        lambda n, x: _residual(n, n.relu(n.first(x))),
        ["input", "relu", "second", "add"],
    ),
    "residual: the activation after the sum takes its place": (
        lambda n, x: n.wide(n.flat(n.relu(n.first(x) + n.second(n.first(x))))),
        ["input", "first", "first#2", "second", "relu"],
    ),
    "a value that is read twice": (
        lambda n, x: _read_twice(n, n.first(x)),
        ["input", "first", "second", "add"],
    ),
    "concat": (
        lambda n, x: n.narrow(n.flat(n.pool(torch.cat([n.relu(n.first(x)), n.second(n.first(x))], 3)))),
        ["input", "relu", "first#2", "second", "cat", "pool"],
    ),
    "a gate": (
        lambda n, x: n.narrow(n.flat(n.pool(n.first(x) * n.pool(n.first(x)).sigmoid()))),
        ["input", "first", "first#2", "sigmoid", "mul", "pool#2"],
    ),
}


def _residual(n: Any, stem: Tensor) -> Tensor:
    out: Tensor = n.wide(n.flat(n.second(stem) + stem))
    return out


def _read_twice(n: Any, x: Tensor) -> Tensor:
    out: Tensor = n.wide(n.flat(n.relu(x) + n.second(x)))
    return out


@pytest.mark.parametrize("case", EDGES)
def test_quantizable_edges(case: str) -> None:
    body, expected = EDGES[case]
    assert list(quantizable_edges(traced(body))) == expected


def test_folding_does_not_move_the_edges() -> None:
    program = traced(lambda n, x: n.wide(n.flat(n.relu(n.norm(n.second(n.relu(n.norm(n.first(x)))))))))
    assert quantizable_edges(program) == quantizable_edges(fold_batch_norm(program)) == ("input", "relu", "relu#2")
