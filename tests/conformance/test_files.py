"""What every method writes is read by a second reader, which knows docs/format.md and no line of qbench."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from artifact import independent_reader

from qbench.artifact import to_bytes
from qbench.program.graph import Program
from qbench.program.materialize import materialize

from .conftest import compress, compressed, make, network

PRUNE = {"_target_": "qbench.methods.prune.Prune", "sparsity": 0.95}
# Encodings, and streams coded at their entropy, that no method has by default.
ALSO: dict[str, Callable[[], Program]] = {
    "groups": lambda: compress(make("linear", granularity="per_group", group_size=10, scheme="affine"), network("mlp")),
    "per tensor": lambda: compress(make("linear", granularity="per_tensor"), network("residual")),
    "a codebook per channel": lambda: compress(make("kmeans", granularity="per_channel"), network("residual")),
    "centroids on a grid": lambda: compress(make("kmeans", snap="int8"), network("residual")),
    "shared activations": lambda: compress(make("kmeans", act_bits=3, act_levels="kmeans"), network("residual")),
    "dynamic ranges": lambda: compress(make("ptq", activations="dynamic"), network("mlp")),
    "entropy-coded": lambda: compress(make("prune_kmeans", prune=PRUNE, entropy_coding=True), network("mlp")),
}


def test_every_file_is_read_exactly(method: str, net: str) -> None:
    agree(compressed(method, net))


@pytest.mark.parametrize("made", ALSO.values(), ids=ALSO)
def test_so_are_the_encodings_that_are_no_default(made: Callable[[], Program]) -> None:
    agree(made())


def test_among_them_is_every_format_and_kind() -> None:
    contents = [independent_reader.read(to_bytes(made()))[0] for made in ALSO.values()]
    assert {content["format"] for content in contents} == {1, 2, 3}
    specs = [spec for content in contents for spec in content["tensors"].values()]
    assert {kind for spec in specs for kind in spec} == {"affine", "codebook", "sparse"}


def agree(program: Program) -> None:
    """Weights are those of the module that runs the program, to the last bit; edges those of the program."""
    content, decoded = independent_reader.read(to_bytes(program))
    module = materialize(program)
    of_node = {node.name: node for node in program.nodes}
    assert set(decoded) == set(program.tensors)
    for name, values in decoded.items():
        node, _, role = name.rpartition(".")
        expected = module.tensor(of_node[node], role)
        assert expected is not None and values.dtype == np.float32
        np.testing.assert_array_equal(values, expected.numpy())
    edges = {name: edge(spec) for name, spec in content.get("edges", {}).items()}
    assert edges == {name: dataclasses.astuple(spec) for name, spec in program.edges.items()}


def edge(spec: list) -> tuple[object, ...]:
    """An edge as docs/format.md describes it: bits, qmin, qmax, scale, zero point, levels."""
    if len(spec) == 2:
        return spec[0], 0, len(spec[1]) - 1, None, None, tuple(spec[1])
    return (*spec, *[None] * (6 - len(spec)))
