"""What binary and ternary weights add to what every method promises; their optima have tests of their own."""

from __future__ import annotations

import copy

import pytest
import torch

from qbench.errors import MethodError
from qbench.methods.base import Context
from qbench.methods.binary import REACH, Binary
from qbench.methods.few_levels import FewLevels
from qbench.methods.in_loop import hold_inside
from qbench.methods.ternary import Ternary
from qbench.program.encodings import Affine, Codebook

from .conftest import compress, images, make, network

BOTH: dict[str, FewLevels] = {"binary": Binary(), "ternary": Ternary()}
WEIGHT = torch.tensor([[1.0, -3.0, 0.5, 2.0], [-0.25, 0.25, 0.0, 0.5]])


def test_binary_weights_are_a_sign_and_a_mean() -> None:
    channel = Binary().encode(WEIGHT, 1)
    assert channel.decode().tolist() == [[1.625, -1.625, 1.625, 1.625], [-0.25, 0.25, 0.25, 0.25]]
    assert isinstance(channel, Codebook) and (channel.bits, channel.axis, channel.centroids.shape) == (1, 0, (2, 2))
    layer = Binary(granularity="per_layer").encode(WEIGHT, 1)
    assert isinstance(layer, Codebook) and layer.axis is None
    assert layer.centroids.decode().tolist() == [-0.9375, 0.9375]


def test_ternary_weights_are_minus_a_zero_and_a() -> None:
    channel = Ternary().encode(WEIGHT, 2)
    assert channel.decode()[0].tolist() == [0.0, -2.5, 0.0, 2.5]
    assert isinstance(channel, Codebook) and (channel.bits, channel.axis, channel.centroids.shape) == (2, 0, (2, 3))
    layer = Ternary(granularity="per_layer").encode(WEIGHT, 2)
    assert layer.decode().unique().tolist() == [-2.5, 0.0, 2.5]


@pytest.mark.parametrize("name", BOTH)
def test_other_widths_are_uniform_grids(name: str) -> None:
    encoding = BOTH[name].encode(WEIGHT, 8)
    assert isinstance(encoding, Affine) and encoding.bits == 8 and encoding.axis == 0
    program = compress(make(name, first_last_bits=8, granularity="per_layer"), network("residual"))
    kinds = [type(program.tensors[f"{node.name}.weight"]) for node in program.layers()]
    assert kinds == [Affine, Codebook, Affine]
    stem = program.tensors["stem.0.weight"]
    assert isinstance(stem, Affine) and stem.axis is None


@pytest.mark.parametrize("name", BOTH)
def test_a_network_left_without_few_levels_is_told_of(name: str) -> None:
    program = compress(make(name, first_last_bits=8), network("mlp"))  # it has a first and a last layer only
    assert program.provenance["warnings"] == [f"no layer is {name}: first_last_bits and overrides cover all of them"]
    assert "warnings" not in compress(make(name, first_last_bits=8), network("residual")).provenance


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "as it is"])
@pytest.mark.parametrize("name", BOTH)
def test_fine_tuning_ends_in_few_levels(name: str, fold: bool) -> None:
    trained = compress(make(name, epochs=2, fold_batch_norm=fold), network("residual"))
    post = compress(make(name, fold_batch_norm=fold), network("residual"))
    assert trained.graph_digest() == post.graph_digest()
    for node in trained.layers():
        own, before = trained.tensors[f"{node.name}.weight"], post.tensors[f"{node.name}.weight"]
        assert isinstance(own, Codebook) and isinstance(before, Codebook)
        assert own.centroids.shape == before.centroids.shape
        assert not torch.equal(own.centroids.decode(), before.centroids.decode())


@pytest.mark.parametrize("granularity", ["per_layer", "per_channel"])
@pytest.mark.parametrize("name", BOTH)
def test_the_trained_forward_is_what_is_stored(name: str, granularity: str) -> None:
    method = (Binary if name == "binary" else Ternary)(granularity=granularity)
    weight = images(4, seed=2)
    quantizer = method.quantizer(weight, method.own_bits)
    quantizer.train()
    moved = weight + 0.1 * images(4, seed=3)
    quantizer(moved)
    twin = copy.deepcopy(quantizer).eval()
    assert torch.equal(twin(moved), quantizer.eval().encode(moved).decode())
    exact = method.encode(moved, method.own_bits).decode()
    error = (quantizer(moved) - moved).square().sum()
    assert error <= 1.01 * (exact - moved).square().sum()  # a Lloyd step from the old optimum is near the new one


def test_steps_outwards_end_far_out() -> None:
    latent = torch.tensor([0.5, 5.0, -5.0, 5.0, -5.0], requires_grad=True)
    gradient = torch.tensor([-1.0, -1.0, 1.0, 1.0, -1.0])  # descent moves against it
    held = hold_inside(latent, torch.tensor(4.0))
    assert torch.equal(held, latent)
    held.backward(gradient)
    assert latent.grad is not None and latent.grad.tolist() == [-1.0, 0.0, 0.0, 1.0, -1.0]


def test_the_bound_follows_the_channel() -> None:
    weight = torch.ones(2, 64)
    weight[1] = 0.01
    weight[:, 0] = torch.tensor([REACH * 1.2, REACH * 0.012])  # further out than four mean magnitudes, just
    latent = weight.clone().requires_grad_(True)
    Binary().quantizer(weight, 1)(latent).backward(-torch.ones(2, 64))
    assert latent.grad is not None
    assert latent.grad[:, 0].tolist() == [0.0, 0.0] and bool((latent.grad[:, 1:] == -1).all())


@pytest.mark.parametrize("name", BOTH)
def test_fine_tuning_needs_labelled_images(name: str) -> None:
    assert not BOTH[name].needs.training and make(name, epochs=1).needs.training
    with pytest.raises(MethodError, match=r"^epochs=1: needs labelled training images"):
        make(name, epochs=1).compress(network("mlp"), Context())
