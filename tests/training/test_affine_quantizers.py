"""Trainable uniform quantizers: a batch norm's factor in the scale is that factor around the quantizer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qbench.methods.affine_weights import AffineWeights
from qbench.program.encodings import Affine
from qbench.training.affine_quantizers import SteppedWeight
from qbench.training.trainable import WeightQuantizer

WEIGHT = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(3))
FACTORS = {"all signs": [0.5, -2.0, 1.0, 3.0], "one is zero": [0.5, 0.0, -1.0, 3.0]}


@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("step", ["frozen", "moving", "learned"])
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_a_factor_in_the_scale_is_a_factor_around_the_quantizer(granularity: str, step: str, factors: str) -> None:
    factor = torch.tensor(FACTORS[factors]).view(4, 1, 1, 1)
    encoding = AffineWeights(granularity=granularity, narrow_range=False).encode(WEIGHT * factor, 3)

    def outcome(unfolded: object) -> list[Tensor]:
        quantizer = SteppedWeight(encoding, step).train()
        latent = WEIGHT.clone().requires_grad_()
        made = unfolded(quantizer, latent, factor)  # type: ignore[operator]
        (made * torch.linspace(-1, 1, made.numel()).view_as(made)).sum().backward()
        gradients = [parameter.grad for parameter in quantizer.parameters()]
        return [made.detach(), *(g for g in (latent.grad, *gradients) if g is not None)]

    plain, short = outcome(WeightQuantizer.unfolded), outcome(SteppedWeight.unfolded)
    assert len(plain) == len(short) == (3 if step == "learned" else 2)
    for expected, got in zip(plain, short):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("step", ["frozen", "learned"])
def test_moving_statistics_leave_the_codes_of_a_channel_alone(step: str, factors: str) -> None:
    factor = torch.tensor(FACTORS[factors])
    encoding = AffineWeights(granularity="per_channel", narrow_range=False).encode(WEIGHT * factor.view(4, 1, 1, 1), 3)
    quantizer = SteppedWeight(encoding, step, factor)
    for share in (0.1, 1.0, 10.0):
        now = (share * factor).view(4, 1, 1, 1)
        stored = quantizer.encode_folded(WEIGHT, now)
        assert isinstance(stored, Affine)
        moving = factor != 0  # of the other nothing is left
        assert torch.equal(stored.codes[moving], encoding.codes[moving])
        torch.testing.assert_close(stored.decode(), quantizer.unfolded(WEIGHT, now) * now)


@pytest.mark.parametrize("step", ["frozen", "learned"])
def test_the_step_of_a_tensor_is_of_the_weight_as_it_is_stored(step: str) -> None:
    factor = torch.tensor(FACTORS["all signs"])
    encoding = AffineWeights(granularity="per_tensor", narrow_range=False).encode(WEIGHT * factor.view(4, 1, 1, 1), 3)
    now = 2 * factor.view(4, 1, 1, 1)
    stored = SteppedWeight(encoding, step, factor).encode_folded(WEIGHT, now)
    assert isinstance(stored, Affine)
    assert torch.equal(stored.scale, encoding.scale)
