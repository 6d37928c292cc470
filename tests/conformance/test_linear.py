"""What linear quantization adds to what every method promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from qbench.artifact import from_bytes, to_bytes
from qbench.errors import MethodError
from qbench.methods.base import Context
from qbench.methods.linear import Linear
from qbench.methods.static_edges import with_dynamic_edges
from qbench.program.encodings import Affine, Float
from qbench.program.graph import Program
from qbench.program.materialize import materialize
from qbench.program.trace import trace
from qbench.program.transform import fold_batch_norm, quantizable_edges

from .conftest import compress, images, network


def encode(weight: Tensor, bits: int, **parameters: object) -> Affine:
    return Linear(**parameters).weights.encode(weight, bits)  # type: ignore[arg-type]


def calibrated(*batches: Tensor) -> Context:
    return Context(calibration=batches)


WEIGHT = torch.tensor([[[1.0, -2.0], [7.0, 0.0]], [[0.5, 0.0], [-3.5, 2.0]]])


def test_one_scale_per_tensor_channel_or_group() -> None:
    tensor = encode(WEIGHT, 4, granularity="per_tensor")
    assert (tensor.scale.tolist(), tensor.axis, tensor.group_size) == (1.0, None, None)
    assert tensor.codes.tolist() == [[[1, -2], [7, 0]], [[0, 0], [-4, 2]]]
    channel = encode(WEIGHT, 4)
    assert (channel.scale.tolist(), channel.axis, channel.group_size) == ([1.0, 0.5], 0, None)
    assert channel.codes.tolist() == [[[1, -2], [7, 0]], [[1, 0], [-7, 4]]]
    group = encode(WEIGHT, 4, granularity="per_group", group_size=3)
    # groups 1, -2, 7 and 0; 0.5, 0, -3.5 and 2; a group of zeros has scale 1
    torch.testing.assert_close(group.scale, torch.tensor([[1.0, 1.0], [0.5, 2 / 7]]), rtol=2**-23, atol=0.0)
    assert group.codes.tolist() == [[[1, -2], [7, 0]], [[1, 0], [-7, 7]]]
    assert (group.axis, group.group_size) == (0, 3)


def test_every_channel_of_its_own_group_is_per_channel() -> None:
    """A group never exceeds a channel: files refuse groups out of proportion to their tensor."""
    by_group = encode(WEIGHT, 4, granularity="per_group", group_size=65536)
    assert by_group.group_size == 4
    assert torch.equal(by_group.decode(), encode(WEIGHT, 4).decode())


def test_the_largest_groups_of_a_wide_depthwise_layer_can_be_written() -> None:
    wide = trace(nn.Sequential(nn.Conv2d(512, 512, 3, groups=512), nn.Flatten()), (512, 3, 3))
    program = compress(Linear(granularity="per_group", group_size=65536), wide)
    assert torch.equal(from_bytes(to_bytes(program), "it").weight("0"), program.weight("0"))


def test_affine_uses_all_codes_of_a_one_sided_channel() -> None:
    rising = torch.linspace(0.0, 3.0, 16).reshape(1, 16)
    assert encode(rising, 4, scheme="affine").codes.flatten().tolist() == list(range(-8, 8))
    assert encode(rising, 4).codes.unique().tolist() == list(range(0, 8))


def test_truncation_never_leaves_the_value() -> None:
    weight = images(4, seed=5).flatten(1)
    nearest, truncated = encode(weight, 5).decode(), encode(weight, 5, rounding="truncate").decode()
    assert bool((truncated.abs() <= weight.abs() * (1 + 2**-22)).all())  # towards zero, up to float32 rounding
    assert float((nearest - weight).square().sum()) < float((truncated - weight).square().sum())


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel", "per_group"])
def test_the_error_is_at_most_half_a_step(granularity: str) -> None:
    weight = images(4, seed=6).flatten(1)
    encoding = encode(weight, 6, granularity=granularity)
    step = encoding.broadcast(encoding.scale)
    assert bool(((encoding.decode() - weight).abs() <= step * (0.5 + 2**-16)).all())


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_least_squares_range_is_no_worse_than_minmax(bits: int) -> None:
    weight = images(4, seed=7).flatten(1) ** 3  # heavy tails
    error = {kind: (encode(weight, bits, range=kind).decode() - weight).square().sum(1) for kind in ("mse", "minmax")}
    assert bool((error["mse"] <= error["minmax"] * (1 + 2**-20)).all())  # sums of 192 float32 terms
    assert float(error["mse"].sum()) < float(error["minmax"].sum())


def test_batch_norms_are_folded_before_quantizing() -> None:
    program = compress(Linear(), network("residual"))
    folded = fold_batch_norm(network("residual"))
    assert [node.name for node in program.nodes] == [node.name for node in folded.nodes]
    assert torch.equal(program.tensors["stem.0.bias"].decode(), folded.tensors["stem.0.bias"].decode())
    kept = compress(Linear(fold_batch_norm=False), network("residual"))
    assert [node.name for node in kept.nodes] == [node.name for node in network("residual").nodes]


def test_activations_get_the_range_they_showed() -> None:
    program = Linear(act_bits=8).compress(network("residual"), calibrated(images(4, seed=1), images(3, seed=2)))
    assert tuple(program.edges) == quantizable_edges(fold_batch_norm(network("residual")))
    seen: dict[str, list[float]] = {}
    module = materialize(replace(program, edges={}))  # on the network with quantized weights
    module.observe = lambda name, value: seen.setdefault(name, []).extend([float(value.min()), float(value.max())])
    for batch in (images(4, seed=1), images(3, seed=2)):
        module(batch)
    for name, edge in program.edges.items():
        low, high = min(*seen[name], 0.0), max(*seen[name], 0.0)
        assert (edge.qmin, edge.qmax) == (-128, 127)
        assert edge.scale == pytest.approx((high - low) / 255, rel=2**-22)
        assert edge.zero_point == round(-128 - low / edge.scale)


def test_the_order_of_the_images_does_not_matter() -> None:
    first, second = images(4, seed=1), images(3, seed=2)
    programs = [
        Linear(act_bits=4).compress(network("residual"), calibrated(*b)) for b in ((first, second), (second, first))
    ]
    assert to_bytes(programs[0]) == to_bytes(programs[1])


def test_more_activation_bits_come_closer() -> None:
    expected = materialize(network("residual"))(images())
    errors = []
    for bits in (2, 4, 8, 16):
        program = Linear(weight_bits=16, act_bits=bits).compress(network("residual"), calibrated(images()))
        errors.append(float((materialize(program)(images()) - expected).square().sum()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 1e4


@pytest.mark.parametrize("bits", [2, 4, 8, 12])
def test_images_keep_the_eight_bits_they_come_with(bits: int) -> None:
    static = Linear(act_bits=bits).compress(network("residual"), calibrated(images())).edges
    dynamic = with_dynamic_edges(network("residual"), bits).edges
    for edges in (static, dynamic):
        assert {edge.bits for name, edge in edges.items() if name != Program.INPUT} == {bits}
        assert edges[Program.INPUT].bits == max(bits, 8)


def test_activations_alone_can_be_quantized() -> None:
    program = Linear(act_bits=8, overrides={"*": 0}).compress(network("mlp"), calibrated(images()))
    assert program.edges and all(isinstance(encoding, Float) for encoding in program.tensors.values())


@pytest.mark.parametrize("position", ["first batch", "last batch"])
def test_activations_that_are_not_finite_name_their_edge(position: str) -> None:
    bad = images(2).clone()
    bad[1, 0, 0, 0] = float("nan")
    batches = (bad, images()) if position == "first batch" else (images(), bad)
    with pytest.raises(MethodError, match=r"^input: on the calibration images, the range to quantize is not finite"):
        Linear(act_bits=8).compress(network("mlp"), calibrated(*batches))


def test_weights_that_leave_float32_name_their_layer() -> None:
    program: Program = network("mlp")
    huge = program.with_tensors({"1.weight": Float(torch.full((16, 192), 3e38))})
    for kind in ("minmax", "mse"):
        with pytest.raises(MethodError, match=r"^1\.weight: the range to quantize, .* is too wide"):
            compress(Linear(range=kind), huge)
