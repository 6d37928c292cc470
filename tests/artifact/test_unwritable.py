"""Programs that :func:`qbench.artifact.to_bytes` refuses, because no reader would accept their files."""

import math
from pathlib import Path

import pytest
import torch

from qbench.artifact import to_bytes
from qbench.program.encodings import Affine, Codebook, Encoding, Float, Sparse
from qbench.program.graph import EdgeSpec, Node, Program

from .programs import (
    CONV,
    affine,
    floats,
    linear_program,
)

NOTHING = torch.zeros(2, 3, dtype=torch.bool)


def with_weight(**changes: object) -> Program:
    """A linear layer whose 4-bit weight had some fields replaced after construction, past the constructor's checks."""
    weight = affine((3, 5), 4)
    for name, value in changes.items():
        object.__setattr__(weight, name, value)
    return linear_program(fc=weight)


def conv_with(weight: Encoding | None = None, bias: Encoding | None = None, **attrs: object) -> Program:
    node = Node("c", "conv2d", ("input",), {**CONV, **attrs})  # type: ignore[dict-item]
    tensors = {"c.weight": weight or floats(4, 2, 3, 3)} | ({"c.bias": bias} if bias else {})
    return Program((2, 8, 8), (node,), tensors)


def relu_with(**fields: object) -> Program:
    return Program(**{"input_shape": (1, 1, 1), "nodes": (Node("r", "relu", ("input",)),), "tensors": {}, **fields})  # type: ignore[arg-type]


def edge(*values: object) -> Program:
    return relu_with(edges={"r": EdgeSpec(*values)})  # type: ignore[arg-type]


UNWRITABLE = {
    "levels and a scale": (lambda: edge(2, 0, 1, 1.0, 0, (0.0, 1.0)), "levels as well as a scale"),
    "levels off the grid": (lambda: edge(2, 0, 3, None, None, (0.0, 1.0)), "has 2 levels, which its grid must number"),
    "nine-bit levels": (lambda: edge(9, 0, 1, None, None, (0.0, 1.0)), "within 8 bits"),
    "a level of nan": (lambda: edge(2, 0, 1, None, None, (0.0, math.nan)), "no finite float32 number"),
    "code off grid": (
        lambda: with_weight(codes=torch.full((3, 5), 8, dtype=torch.int8)),
        "codes of tensor 'fc.weight'",
    ),
    "zero scale": (lambda: with_weight(scale=torch.tensor([1.0, 0.0, 1.0])), "not a finite number above 0"),
    "nan scale": (lambda: with_weight(scale=torch.tensor([1.0, math.nan, 1.0])), "not a finite number above 0"),
    "zero point off grid": (lambda: with_weight(zero_point=torch.tensor([0, 9, 0], dtype=torch.int32)), "zero points"),
    "grid far away": (lambda: linear_program(fc=affine((2, 2), 4, grid=(70000, 70010), zero=True)), "qmin of"),
    "32 bits, beyond int32": (
        lambda: with_weight(bits=32, qmin=0, qmax=15, codes=torch.zeros(3, 5, dtype=torch.int32)),
        "qmin of tensor",
    ),
    "huge group": (lambda: linear_program(fc=affine((2, 2), 4, group=10**9)), "out of proportion"),
    "index beyond K": (
        lambda: linear_program(fc=Codebook(torch.full((2, 2), 3, dtype=torch.uint8), floats(3), 2)),
        "indices of tensor",
    ),
    "nan centroid": (
        lambda: linear_program(fc=Codebook(torch.zeros(2, 2, dtype=torch.uint8), Float(torch.tensor([math.nan])), 2)),
        "centroid of tensor 'fc.weight' is not finite",
    ),
    "no centroids": (
        lambda: linear_program(fc=Sparse(NOTHING, Codebook(torch.zeros(0, dtype=torch.uint8), floats(0, 2), 2, 0))),
        "no centroids",
    ),
    "empty groups": (
        lambda: linear_program(fc=Sparse(NOTHING, _empty_groups())),
        "groups but no elements",
    ),
    "conv axes": (lambda: conv_with(floats(4, 2)), "expected 4 axes"),
    "linear axes": (lambda: linear_program(fc=floats(4, 2, 1)), "expected 2 axes"),
    "empty weight": (lambda: linear_program(fc=floats(0, 2)), "none empty"),
    "bias length": (lambda: conv_with(bias=floats(3)), "bias of node 'c' has shape"),
    "groups": (lambda: conv_with(groups=3), "groups 3 of node 'c' do not divide 4 channels"),
    "zero stride": (lambda: conv_with(stride=(0, 1)), "stride of node 'c' must be an integer in"),
    "list stride": (lambda: conv_with(stride=[1, 1]), "must be a pair"),
    "bool groups": (lambda: conv_with(groups=True), "groups of node 'c' must be an integer"),
    "unknown attribute": (lambda: conv_with(mode="same"), "has attributes"),
    "int eps": (lambda: _batch_norm(1), "eps of node 'b' must be a finite float"),
    "infinite eps": (lambda: _batch_norm(math.inf), "eps of node 'b' must be a finite float"),
    "pool padding": (lambda: _pool(padding=(2, 2)), "exceeds half the kernel"),
    "int ceil_mode": (lambda: _pool(ceil_mode=1), "ceil_mode of node 'p' must be true or false"),
    "input shape": (lambda: relu_with(input_shape=(1, 1, 0)), "the input shape must be an integer"),
    "input axes": (lambda: relu_with(input_shape=(1, 1)), "the input shape must be an array of 3"),
    "empty name": (lambda: relu_with(nodes=(Node("", "relu", ("input",)),)), "empty name"),
    "unencodable name": (lambda: linear_program(**{"\ud800": floats(2, 2)}), "surrogates not allowed"),
    "huge header": (lambda: relu_with(provenance={"a": "x" * (1 << 24)}), "are the most"),
    "nan provenance": (lambda: relu_with(provenance={"a": [math.nan]}), r"provenance.a\[0\] is nan"),
    "int key": (lambda: relu_with(provenance={"a": {1: 2}}), "provenance.a has the key 1"),
    "object": (lambda: relu_with(provenance={"a": Path("x")}), "provenance.a is a"),
    "edge bits": (lambda: edge(0, 0, 0, None, None), "bits of edge 'r'"),
    "edge of 17 bits": (lambda: edge(17, 0, 16, None, None), r"bits of edge 'r' must be an integer in \[1, 16\]"),
    "edge grid": (lambda: edge(4, 0, 16, None, None), "qmax of edge 'r'"),
    "half static edge": (lambda: edge(4, 0, 15, 1.0, None), "only one of scale and zero point"),
    "negative edge scale": (lambda: edge(4, 0, 15, -1.0, 0), "scale of edge 'r' is -1.0"),
    "nan edge scale": (lambda: edge(4, 0, 15, math.nan, 0), "scale of edge 'r' must be a finite number"),
    "tiny edge scale": (lambda: edge(4, 0, 15, 1e-40, 0), "outside the normal float32 range"),
    "edge zero point": (lambda: edge(4, 0, 15, 1.0, 16), "zero point of edge 'r'"),
    "foreign encoding": (lambda: linear_program(fc=_Foreign()), "which this format cannot hold"),  # type: ignore[arg-type]
}


class _Foreign:
    shape = (2, 2)


def _empty_groups() -> Affine:
    weight = affine((2, 2), 4, group=1)
    object.__setattr__(weight, "codes", torch.zeros(0, dtype=torch.int8))
    return weight


def _batch_norm(eps: float) -> Program:
    tensors = {f"b.{role}": floats(2) for role in ("weight", "bias", "running_mean", "running_var")}
    return Program((2, 1, 1), (Node("b", "batch_norm", ("input",), {"eps": eps}),), tensors)


def _pool(**changes: object) -> Program:
    attrs = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0), "ceil_mode": False, **changes}
    return relu_with(nodes=(Node("p", "max_pool2d", ("input",), attrs),))  # type: ignore[arg-type]


@pytest.mark.parametrize(("make", "message"), UNWRITABLE.values(), ids=UNWRITABLE)
def test_programs_that_no_reader_would_accept_are_not_written(make, message: str) -> None:
    program = make()
    with pytest.raises(ValueError, match=message):
        to_bytes(program)
