"""Learned rounding."""

from __future__ import annotations

import pytest
import torch

from qbench.quant.adaround import WARMUP, initial_logits, rounding_penalty, soft_rounding


def test_it_starts_at_the_fraction_of_the_weight() -> None:
    steps = torch.tensor([0.25, -0.25, 3.5, -2.9, 0.01, 0.99])
    torch.testing.assert_close(soft_rounding(initial_logits(steps)), steps - steps.floor(), atol=2e-4, rtol=0.0)


def test_whole_steps_stay_finite() -> None:
    assert bool(torch.isfinite(initial_logits(torch.tensor([0.0, 1.0, -7.0, 7.0]))).all())


def test_rounding_reaches_both_ends() -> None:
    assert soft_rounding(torch.tensor([-9.0, 9.0])).tolist() == [0.0, 1.0]


def test_the_penalty_is_nothing_for_decided_weights_and_most_in_the_middle() -> None:
    decided, open_ = torch.tensor([-9.0, 9.0]), torch.zeros(2)
    assert float(rounding_penalty(decided, 0.9)) == 0.0
    assert float(rounding_penalty(open_, 0.9)) == pytest.approx(2.0)
    assert float(rounding_penalty(open_, WARMUP / 2)) == 0.0


def test_the_penalty_tightens() -> None:
    undecided = torch.tensor([0.5, -1.0])
    early, late = rounding_penalty(undecided, 0.25), rounding_penalty(undecided, 1.0)
    assert float(late) < float(early)  # a high exponent leaves all but the middle alone ...
    gradients = []
    for progress in (0.25, 1.0):
        v = torch.tensor([2.0], requires_grad=True)
        rounding_penalty(v, progress).backward()  # type: ignore[no-untyped-call]
        assert v.grad is not None
        gradients.append(abs(float(v.grad)))
    assert gradients[0] != gradients[1]
