"""A program that does not add up cannot be made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from qbench.program.encodings import Float
from qbench.program.graph import OPS, EdgeSpec, Node, Program

WEIGHT = {"fc.weight": Float(torch.tensor([[1.0, 2.0]]))}
NODES = (Node("flat", "flatten", ("input",)), Node("fc", "linear", ("flat",)))
EDGE = EdgeSpec(8, -128, 127, 0.5, 3)


def program() -> Program:
    return Program((1, 1, 2), NODES, WEIGHT)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "an unknown op": (lambda: Node("a", "softmax", ("input",)), "unknown op 'softmax' in node 'a'; known: conv2d"),
    "too few inputs": (lambda: Node("a", "add", ("input",)), "add in node 'a' has 1 inputs"),
    "too many inputs": (lambda: Node("a", "relu", ("input", "input")), "relu in node 'a' has 2 inputs"),
    "a concat of nothing": (lambda: Node("a", "concat", ()), "concat in node 'a' has 0 inputs"),
    "no nodes": (lambda: Program((1, 1, 2), (), {}), "a program needs at least one node"),
    "two nodes of one name": (
        lambda: Program((1, 1, 2), (*NODES, Node("flat", "relu", ("fc",))), WEIGHT),
        "two nodes are called 'flat'",
    ),
    "a node called input": (
        lambda: Program((1, 1, 2), (Node("input", "relu", ("input",)),), {}),
        "two nodes are called 'input'",
    ),
    "a value nobody makes": (
        lambda: Program((1, 1, 2), (Node("a", "relu", ("b",)),), {}),
        "node 'a' reads 'b', which no earlier node makes",
    ),
    "a value made later": (
        lambda: Program((1, 1, 2), (Node("a", "relu", ("b",)), Node("b", "relu", ("input",))), {}),
        "node 'a' reads 'b', which no earlier node makes",
    ),
    "a missing weight": (lambda: Program((1, 1, 2), NODES, {}), "tensor 'fc.weight' is missing"),
    "a missing statistic": (
        lambda: Program((1, 1, 2), (Node("n", "batch_norm", ("input",)),), {"n.weight": Float(torch.ones(1))}),
        "tensor 'n.bias' is missing",
    ),
    "a tensor of no node": (
        lambda: Program((1, 1, 2), NODES, {**WEIGHT, "fc.scale": Float(torch.ones(1))}),
        "tensor 'fc.scale' belongs to no node",
    ),
    "an edge of no node": (
        lambda: Program((1, 1, 2), NODES, WEIGHT, {"other": EDGE}),
        "edge 'other' belongs to no node",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    build, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        build()


def test_every_op_takes_the_inputs_it_names() -> None:
    for op, (_, arity) in OPS.items():
        assert Node("a", op, ("input",) * (arity or 3)).op == op


def test_optional_tensors_may_be_there_or_not() -> None:
    with_bias = {**WEIGHT, "fc.bias": Float(torch.ones(1))}
    assert set(Program((1, 1, 2), NODES, with_bias).tensors) == {"fc.weight", "fc.bias"}
    assert set(program().tensors) == {"fc.weight"}


def test_layers_weights_and_readers() -> None:
    twice = Node("sum", "add", ("fc", "fc"))
    made = Program((1, 1, 2), (*NODES, twice), WEIGHT, {"input": EDGE, "fc": EDGE})
    assert [node.name for node in made.layers()] == ["fc"]
    assert made.weight("fc").tolist() == [[1.0, 2.0]]
    assert made.consumers("fc") == (twice,)
    assert made.consumers("input") == (NODES[0],)
    assert made.consumers("sum") == ()


def test_with_tensors_leaves_the_original_alone() -> None:
    original = program()
    changed = original.with_tensors({"fc.weight": Float(torch.tensor([[3.0, 4.0]]))})
    assert changed.weight("fc").tolist() == [[3.0, 4.0]]
    assert original.weight("fc").tolist() == [[1.0, 2.0]]
    assert changed.graph_digest() == original.graph_digest()


def test_an_edge_without_scale_is_dynamic() -> None:
    assert not EDGE.dynamic
    assert EdgeSpec(8, -128, 127, None, None).dynamic


def test_digest_sees_the_graph_and_nothing_else() -> None:
    base = program()
    conv = Node("c", "conv2d", ("input",), {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1})
    tensors = {"c.weight": Float(torch.ones(1, 1, 1, 1))}
    graphs = [
        base,
        replace(base, input_shape=(1, 2, 1)),
        Program((1, 1, 2), (Node("flat", "identity", ("input",)), NODES[1]), WEIGHT),
        Program((1, 1, 2), (*NODES, Node("out", "relu", ("fc",))), WEIGHT),
        Program((1, 1, 2), (conv,), tensors),
        Program((1, 1, 2), (replace(conv, attrs={**conv.attrs, "stride": (2, 1)}),), tensors),
    ]
    assert len({graph.graph_digest() for graph in graphs}) == len(graphs)
    same = replace(
        base, edges={"fc": EDGE}, provenance={"method": "x"}, tensors={"fc.weight": Float(torch.zeros(1, 2))}
    )
    assert same.graph_digest() == base.graph_digest()
