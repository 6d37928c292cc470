"""Corrections: after them the channels have the float network's statistics, whatever form the weights are in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qbench.errors import MethodError
from qbench.methods.base import Context, Method
from qbench.methods.corrections import correct_biases, match_statistics, reestimate_batch_norm
from qbench.methods.kmeans import KMeans
from qbench.methods.linear import Linear
from qbench.program.encodings import Affine, Float, Sparse
from qbench.program.graph import EdgeSpec, Program
from qbench.program.materialize import materialize
from qbench.program.transform import fold_batch_norm
from qbench.quant.moments import ChannelMoments

from .conftest import compress, images, network

BATCHES = (images(24, seed=31), images(8, seed=32))
CONTEXT = Context(calibration=BATCHES)
UNFOLDED, FOLDED = ("stem.1", "depthwise.1", "head.3"), ("stem.0", "depthwise.0", "head.3")
"""What is corrected: the batch norm behind a layer, else the layer."""
AFFINE_GROUPS = Linear(weight_bits=3, granularity="per_group", group_size=7)
PER_CHANNEL_CODEBOOK = KMeans(weight_bits=2, granularity="per_channel", fold_batch_norm=True)
RESCALABLE: dict[str, Method] = {
    "unfolded, one codebook": KMeans(weight_bits=2),
    "folded, codebook per channel": PER_CHANNEL_CODEBOOK,
    "folded, scale per channel": Linear(weight_bits=3),
    "folded, scale per group": AFFINE_GROUPS,
}


def statistics(program: Program) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and deviation of every value before its edge is quantized, by torch's own functions in one batch."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def observe(name: str, value: Tensor) -> None:
        rows = value.double().transpose(0, 1).flatten(1)
        seen[name] = (rows.mean(1), rows.std(1, correction=0))

    module = materialize(program)
    module.observe = observe
    with torch.no_grad():
        module(torch.cat(BATCHES))
    return seen


def edges() -> dict[str, EdgeSpec]:
    """One that is static, one that is dynamic; both in the folded and the unfolded network."""
    return {"input": EdgeSpec(4, -8, 7, 0.4, 0), "add": EdgeSpec(4, -8, 7, None, None)}


@pytest.mark.parametrize("quantized_edges", [False, True], ids=["float edges", "quantized edges"])
@pytest.mark.parametrize("kind", RESCALABLE)
def test_matched_channels_have_the_float_networks_mean_and_deviation(kind: str, quantized_edges: bool) -> None:
    plain = compress(RESCALABLE[kind], network("residual"))
    plain = replace(plain, edges=edges() if quantized_edges else {})
    matched = match_statistics(plain, network("residual"), CONTEXT)
    assert matched.edges == plain.edges and matched.nodes == plain.nodes
    folded = fold_batch_norm(network("residual"))
    wanted = statistics(network("residual") if "unfolded" in kind else folded)
    got, before = statistics(matched), statistics(plain)
    for name in UNFOLDED[:2] if "unfolded" in kind else FOLDED:
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-4, atol=1e-4)
        assert float((before[name][1] - wanted[name][1]).abs().max()) > 1e-3
    # one codebook for all channels cannot be rescaled: of the last layer only the mean is right
    torch.testing.assert_close(got["head.3"][0], wanted["head.3"][0], rtol=1e-4, atol=1e-4)


def test_folded_and_unfolded_references_are_the_same_reference() -> None:
    plain = compress(PER_CHANNEL_CODEBOOK, network("residual"))
    one, other = (
        match_statistics(plain, reference, CONTEXT)
        for reference in (network("residual"), fold_batch_norm(network("residual")))
    )
    for name, encoding in one.tensors.items():
        torch.testing.assert_close(encoding.decode(), other.tensors[name].decode(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [*RESCALABLE, "scale per tensor", "pruned"])
def test_corrected_biases_give_every_layer_the_float_networks_mean(kind: str) -> None:
    plain = compress(RESCALABLE.get(kind, Linear(weight_bits=3, granularity="per_tensor")), network("residual"))
    if kind == "pruned":
        weight = plain.weight("depthwise.0")
        mask = weight.abs() > weight.abs().mean()
        plain = plain.with_tensors({"depthwise.0.weight": Sparse(mask, Float(weight[mask]))})
    fixed = correct_biases(plain, network("residual"), CONTEXT)
    unfolded = "stem.1" in {node.name for node in fixed.nodes}
    wanted = statistics(network("residual") if unfolded else fold_batch_norm(network("residual")))
    got = statistics(fixed)
    for name in UNFOLDED if unfolded else FOLDED:
        torch.testing.assert_close(got[name][0], wanted[name][0], rtol=1e-4, atol=1e-4)
    changed = {name for name in fixed.tensors if fixed.tensors[name] is not plain.tensors.get(name)}
    assert changed == {f"{name}.bias" for name in (UNFOLDED if unfolded else FOLDED)}


def test_a_layer_without_a_bias_gets_one() -> None:
    program = network("mlp")
    bare = replace(program, tensors={name: e for name, e in program.tensors.items() if name != "1.bias"})
    plain = KMeans(weight_bits=1).compress(bare, Context())
    fixed = correct_biases(plain, bare, CONTEXT)
    assert "1.bias" not in plain.tensors and fixed.tensors["1.bias"].shape == (16,)
    torch.testing.assert_close(statistics(fixed)["1"][0], statistics(bare)["1"][0], rtol=1e-4, atol=1e-4)


def test_reestimated_statistics_are_those_of_the_images() -> None:
    plain = compress(KMeans(weight_bits=2), network("residual"))
    fresh = reestimate_batch_norm(plain, CONTEXT)
    seen = statistics(fresh)  # each norm standardises what it reads, behind the norms before it
    for norm, source in (("stem.1", "stem.0"), ("depthwise.1", "depthwise.0")):
        mean, std = seen[source]
        torch.testing.assert_close(fresh.tensors[f"{norm}.running_mean"].decode().double(), mean, rtol=1e-4, atol=1e-5)
        variance = fresh.tensors[f"{norm}.running_var"].decode().double()
        torch.testing.assert_close(variance, std.square(), rtol=1e-4, atol=1e-5)
        gamma, beta = (plain.tensors[f"{norm}.{role}"].decode().double() for role in ("weight", "bias"))
        torch.testing.assert_close(seen[norm][0], beta, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(seen[norm][1], gamma, rtol=1e-3, atol=1e-3)  # but for eps


@pytest.mark.parametrize("correction", [match_statistics, correct_biases])
def test_the_float_network_itself_is_left_as_good_as_it_is(
    correction: Callable[[Program, Program, Context], Program],
) -> None:
    corrected = correction(network("residual"), network("residual"), CONTEXT)
    expected = materialize(network("residual"))(images())
    torch.testing.assert_close(materialize(corrected)(images()), expected, rtol=1e-4, atol=1e-4)


def test_the_inputs_are_left_as_they_were() -> None:
    plain, reference = compress(KMeans(weight_bits=2), network("residual")), network("residual")
    held = [(program, {n: e.decode().clone() for n, e in program.tensors.items()}) for program in (plain, reference)]
    batches = [batch.clone() for batch in BATCHES]
    for _ in (match_statistics(plain, reference, CONTEXT), reestimate_batch_norm(plain, CONTEXT)):
        for program, before in held:
            assert all(torch.equal(program.tensors[name].decode(), value) for name, value in before.items())
    assert all(torch.equal(one, other) for one, other in zip(batches, BATCHES))


def test_constant_channels_are_only_shifted() -> None:
    """A channel whose weights are all zero says nothing to amplify, and a dead channel of the reference stays dead."""
    reference = fold_batch_norm(network("residual"))
    weight = reference.weight("stem.0").clone()
    weight[3] = 0.0
    dead = reference.with_tensors({"stem.0.weight": Float(weight)})
    for compressed, goal in ((Linear().compress(dead, Context()), reference), (reference, dead)):
        matched = match_statistics(compressed, goal, CONTEXT)
        encoding, old = matched.tensors["stem.0.weight"], compressed.tensors["stem.0.weight"]
        assert torch.equal(encoding.decode()[3], old.decode()[3])
        got, wanted = statistics(matched)["stem.0"], statistics(goal)["stem.0"]
        torch.testing.assert_close(got[0], wanted[0], rtol=1e-4, atol=1e-4)
        assert not isinstance(encoding, Affine) or bool((encoding.scale > 0).all())


def test_a_reference_of_another_network_is_refused() -> None:
    with pytest.raises(MethodError, match=r"^1: the float network to compare with has no value of this name"):
        match_statistics(network("mlp"), network("residual"), CONTEXT)


def test_missing_images_and_missing_norms_are_refused() -> None:
    program = network("residual")
    with pytest.raises(MethodError, match=r"^correction: needs calibration images"):
        match_statistics(program, program, Context())
    with pytest.raises(MethodError, match=r"^correction: needs calibration images"):
        correct_biases(program, program, Context())
    with pytest.raises(MethodError, match=r"^correction: needs calibration images"):
        reestimate_batch_norm(program, Context())
    with pytest.raises(MethodError, match="no batch norm left to re-estimate; set fold_batch_norm=false"):
        reestimate_batch_norm(fold_batch_norm(program), CONTEXT)


def test_moments_are_those_of_torch_and_of_nothing_are_refused() -> None:
    values = torch.randn(12, 3, 5, 4, generator=torch.Generator().manual_seed(4)) * 0.01 + 1000.0
    values[:, 1] = 0.1
    moments = ChannelMoments()
    for batch in (values[:5], values[5:]):
        moments.update(batch)
    rows = values.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(moments.mean, rows.mean(1))
    torch.testing.assert_close(moments.variance, rows.var(1, correction=0), rtol=1e-4, atol=0.0)
    assert float(moments.std[1]) == 0.0
    with pytest.raises(ValueError, match="no batch was added"):
        _ = ChannelMoments().mean
