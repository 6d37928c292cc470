"""Learned rounding."""

from __future__ import annotations

import pytest
import torch

from qbench.quant.adaround import (
    BETA,
    WARMUP,
    annealed_beta,
    initial_logits,
    rounding_penalty,
    soft_rounding,
    softly_rounded,
)


def test_it_starts_at_the_fraction_of_the_weight() -> None:
    steps = torch.tensor([0.25, -0.25, 3.5, -2.9, 0.01, 0.99])
    torch.testing.assert_close(soft_rounding(initial_logits(steps)), steps - steps.floor(), atol=2e-4, rtol=0.0)


def test_whole_steps_stay_finite() -> None:
    assert bool(torch.isfinite(initial_logits(torch.tensor([0.0, 1.0, -7.0, 7.0]))).all())


def test_rounding_reaches_both_ends() -> None:
    assert soft_rounding(torch.tensor([-9.0, 9.0])).tolist() == [0.0, 1.0]


def test_the_penalty_is_nothing_for_decided_weights_and_most_in_the_middle() -> None:
    decided, open_ = torch.tensor([-9.0, 9.0]), torch.zeros(2)
    assert float(rounding_penalty(decided, 3.0)) == 0.0
    assert float(rounding_penalty(open_, 3.0)) == pytest.approx(2.0)


def test_the_penalty_tightens_after_a_warm_up() -> None:
    assert annealed_beta(0.0) is None and annealed_beta(WARMUP / 2) is None
    exponents = [annealed_beta(progress) for progress in (WARMUP, 0.5, 0.9, 1.0)]
    assert exponents[0] == BETA[0] and exponents[-1] == BETA[1]
    assert exponents == sorted(exponents, reverse=True)  # type: ignore[type-var]
    undecided = torch.tensor([0.5, -1.0])
    early, late = (rounding_penalty(undecided, beta) for beta in BETA)
    assert float(late) < float(early)  # a high exponent leaves all but the middle alone


@pytest.mark.parametrize("block", [7, 1 << 16])
@pytest.mark.parametrize("pull", [0.0, 0.3])
def test_the_gradient_is_that_of_the_loss_and_the_penalty(
    monkeypatch: pytest.MonkeyPatch, pull: float, block: int
) -> None:
    monkeypatch.setattr("qbench.quant.adaround.BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    logits, offset, wanted = (torch.randn(5, 2, 3, generator=generator) for _ in range(3))
    logits[0], logits[1] = -5.0, 5.0  # beyond both ends of the stretched sigmoid
    gain = torch.rand(5, 2, 3, generator=generator) * (torch.rand(5, 2, 3, generator=generator) > 0.2)

    fast, slow = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    made = softly_rounded(fast, offset, gain, pull, 4.0)
    expected = offset + gain * soft_rounding(slow)
    torch.testing.assert_close(made, expected)
    (made * wanted).sum().backward()  # type: ignore[no-untyped-call]
    ((expected * wanted).sum() + pull * rounding_penalty(slow, 4.0)).backward()  # type: ignore[no-untyped-call]
    assert fast.grad is not None and slow.grad is not None
    torch.testing.assert_close(fast.grad, slow.grad)
