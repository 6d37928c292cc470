"""Post-training quantization: what each of its switches does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from qbench.errors import MethodError
from qbench.methods.base import Context
from qbench.methods.linear import Linear
from qbench.methods.ptq import PTQ
from qbench.methods.reconstruction import block_segments, layer_segments
from qbench.methods.static_edges import ActivationRange, with_static_edges
from qbench.program.encodings import Affine
from qbench.program.graph import Program
from qbench.program.materialize import materialize
from qbench.program.transform import fold_batch_norm, quantizable_edges

from .conftest import images, network

CALIBRATION = [images(32, seed=31), images(32, seed=32)]


def ptq(net: str = "residual", **parameters: Any) -> Program:
    made = PTQ(**parameters).compress(network(net), Context(calibration=CALIBRATION))
    assert isinstance(made, Program)
    return made


def error(program: Program, net: str = "residual") -> float:
    """Mean squared error of the logits on the calibration images."""
    pictures = torch.cat(CALIBRATION)
    return float((materialize(program)(pictures) - materialize(network(net))(pictures)).square().mean())


def scales(program: Program) -> dict[str, tuple[Any, int]]:
    return {name: (spec.scale, spec.zero_point) for name, spec in program.edges.items()}


def test_the_defaults_are_those_of_linear_with_activations() -> None:
    linear = Linear(weight_bits=8, act_bits=8).compress(network("residual"), Context(calibration=CALIBRATION))
    made = ptq()
    assert torch.equal(made.weight("stem.0"), linear.weight("stem.0"))
    assert scales(made) == scales(linear)


def test_dynamic_edges_are_where_static_ones_would_be_and_need_no_images() -> None:
    made = PTQ(activations="dynamic").compress(network("residual"), Context())
    assert set(made.edges) == set(quantizable_edges(made)) == set(ptq().edges)
    assert all(spec.dynamic for spec in made.edges.values())


def test_weights_only() -> None:
    assert not ptq(activations="none").edges


def test_learned_rounding_only_goes_to_a_neighbour() -> None:
    learned, nearest = ptq(weight_bits=3, rounding="adaround", iterations=50), ptq(weight_bits=3)
    for node in nearest.layers():
        weight, grid = fold_batch_norm(network("residual")).weight(node.name), nearest.tensors[f"{node.name}.weight"]
        moved = learned.tensors[f"{node.name}.weight"]
        assert isinstance(grid, Affine) and isinstance(moved, Affine)
        assert torch.equal(moved.scale, grid.scale)
        steps = weight / grid.broadcast(grid.scale)
        inside = (steps > grid.qmin) & (steps < grid.qmax)
        assert bool(((moved.codes - steps).abs() < 1.0 + 1e-4)[inside].all())


@pytest.mark.parametrize("rounding", ["adaround", "adaround_blocks"])
def test_learned_rounding_brings_the_logits_nearer(net: str, rounding: str) -> None:
    settings: dict[str, Any] = {"weight_bits": 3, "activations": "none", "range": "mse"}
    assert error(ptq(net, rounding=rounding, iterations=300, **settings), net) < 0.7 * error(ptq(net, **settings), net)


@pytest.mark.parametrize("correction", ["bias", "statistics"])
def test_corrections_bring_the_logits_nearer(correction: str) -> None:
    settings: dict[str, Any] = {"weight_bits": 3, "activations": "none"}
    assert error(ptq(correction=correction, **settings)) < error(ptq(**settings))


@pytest.mark.parametrize("correction", ["bias", "statistics"])
def test_ranges_are_those_of_the_corrected_network(correction: str) -> None:
    """Corrections move and stretch channels: ranges of before would cut them off, or be too wide."""
    made = ptq(weight_bits=2, correction=correction)
    bare = replace(made, edges={})
    again = with_static_edges(bare, Context(calibration=CALIBRATION), 8, ActivationRange())
    assert scales(made) == scales(again) != scales(ptq(weight_bits=2))


def test_segments_cover_each_layer_once_in_order() -> None:
    folded = fold_batch_norm(network("residual"))
    names = [node.name for node in folded.layers()]
    for segments in (layer_segments(folded), *(block_segments(folded, count) for count in (1, 2, 10))):
        nodes = [node.name for segment in segments for node in segment.nodes]
        assert [name for name in nodes if name in names] == names
        assert nodes == [node.name for node in folded.nodes if node.name in nodes]
    assert len(block_segments(folded, 10)) == 1


def test_a_shortcut_is_never_cut() -> None:
    """The value behind the stem is read by the depthwise convolution and by the addition: both are in one block."""
    folded = fold_batch_norm(network("residual"))
    blocks = block_segments(folded, 1)
    inside = next(block for block in blocks if any(node.op == "add" for node in block.nodes))
    assert any(node.name == "depthwise.0" for node in inside.nodes)
    for block in blocks:
        made = {node.name for node in block.nodes}
        read = {name for node in block.nodes for name in node.inputs} - made
        assert read == {block.source}


def constant(*ends: tuple[float, float]) -> Tensor:
    return torch.tensor(ends)


def test_ranges_from_batches() -> None:
    ends = constant((-1.0, 2.0), (-3.0, 1.0))
    assert ActivationRange().from_batches(ends) == (-3.0, 2.0)
    assert ActivationRange("moving_average", momentum=0.25).from_batches(ends) == (-1.5, 1.75)


@pytest.mark.parametrize("act_range", ["minmax", "moving_average", "percentile", "mse", "entropy"])
def test_every_range_covers_the_bulk_of_an_edge(act_range: str) -> None:
    made = ptq(act_range=act_range)
    for name, spec in made.edges.items():
        assert spec.scale is not None and spec.scale > 0, name
    assert error(made) < 0.02


def test_images_with_a_constant_edge() -> None:
    """A network whose edges are zero everywhere has ranges with nothing in them."""
    black = [torch.zeros(4, 3, 8, 8)]
    for act_range in ("minmax", "percentile", "mse", "entropy"):
        made = PTQ(act_range=act_range).compress(network("mlp"), Context(calibration=black))
        assert made.edges["input"].scale == 1.0


def test_repairs_need_images() -> None:
    for settings in ({"rounding": "adaround"}, {"correction": "bias"}):
        method = PTQ(activations="none", **settings)  # type: ignore[arg-type]
        assert method.needs.calibration
        with pytest.raises(MethodError, match="needs calibration images"):
            method.compress(network("mlp"), Context())
