"""Gradients through rounding: straight-through and learned steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qbench.quant.affine import fake_quantize
from qbench.quant.ste import learned_step, straight_through

ZERO = torch.tensor(0, dtype=torch.int32)
X = torch.linspace(-3.0, 3.0, 25)
QMIN, QMAX = -2, 1


def test_forward_is_fake_quantization() -> None:
    scale = torch.tensor(0.7)
    expected = fake_quantize(X, scale, ZERO, QMIN, QMAX)
    assert torch.equal(straight_through(X, scale, ZERO, QMIN, QMAX), expected)
    assert torch.equal(learned_step(X, scale, ZERO, QMIN, QMAX, 25), expected)


def test_gradients_pass_where_values_are_on_the_grid() -> None:
    x = X.clone().requires_grad_()
    straight_through(x, torch.tensor(1.0), ZERO, QMIN, QMAX).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(x.grad, ((X >= -2.5) & (X <= 1.5)).float())


@pytest.mark.parametrize(
    "value, expected",
    # d q(x, s) / ds with s = 1: inside, round(x) - x; outside, the end of the grid (Esser et al., eq. 3)
    [(0.3, -0.3), (0.6, 0.4), (-1.2, 0.2), (5.0, 1.0), (-5.0, -2.0)],
)
def test_the_gradient_of_a_step_by_hand(value: float, expected: float) -> None:
    scale = torch.tensor(1.0, requires_grad=True)
    learned_step(torch.tensor([value]), scale, ZERO, QMIN, QMAX, 4).sum().backward()  # type: ignore[no-untyped-call]
    assert scale.grad is not None
    assert float(scale.grad) == pytest.approx(expected / (4 * 1) ** 0.5, abs=1e-6)  # 4 values, largest level 1


def test_steps_per_channel_have_gradients_of_their_own() -> None:
    weight = torch.tensor([[0.3, 5.0], [-5.0, -1.2]])
    scale = torch.ones(2, 1, requires_grad=True)
    zero = torch.zeros(2, 1, dtype=torch.int32)
    learned_step(weight, scale, zero, QMIN, QMAX, 2).sum().backward()  # type: ignore[no-untyped-call]
    assert scale.grad is not None
    torch.testing.assert_close(scale.grad * 2**0.5, torch.tensor([[0.7], [-1.8]]))


def test_the_zero_point_shifts_the_grid() -> None:
    """An unsigned range: zero point at the lowest code."""
    zero = torch.tensor(-8, dtype=torch.int32)
    x = torch.tensor([-1.0, 0.2, 7.0, 20.0], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    out = learned_step(x, scale, zero, -8, 7, 4)
    assert out.tolist() == [0.0, 0.0, 7.0, 7.5]
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]
    by_step = torch.tensor([0.0, -0.4, 0.0, 15.0])
    assert scale.grad is not None and float(scale.grad) == pytest.approx(float(by_step.sum()) / (4 * 15) ** 0.5)


def test_learning_a_step_lowers_the_error() -> None:
    values: Tensor = torch.randn(4000, generator=torch.Generator().manual_seed(1))
    scale = torch.tensor(3.0, requires_grad=True)
    optimizer = torch.optim.SGD([scale], lr=0.5)
    errors = []
    for _ in range(60):
        error = (learned_step(values, scale, ZERO, -8, 7, 1) - values).square().mean()
        errors.append(float(error.detach()))
        optimizer.zero_grad()
        error.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert errors[-1] < 0.2 * errors[0]


SCALES = {
    "per tensor": (torch.tensor(0.3), torch.tensor(1, dtype=torch.int32)),
    "per channel": (torch.tensor([0.2, 0.4, -0.3]).view(3, 1, 1, 1), torch.zeros(3, 1, 1, 1, dtype=torch.int32)),
    "own zero points": (
        torch.tensor([0.2, 0.4, 0.3]).view(3, 1, 1, 1),
        torch.tensor([0, 1, -2], dtype=torch.int32).view(3, 1, 1, 1),
    ),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("block", [5, 40, 1 << 20])
def test_blocks_are_no_part_of_the_result(
    monkeypatch: pytest.MonkeyPatch, kind: str, layout: torch.memory_format, block: int
) -> None:
    monkeypatch.setattr("qbench.quant.ste.BLOCK", block)
    scale, zero_point = SCALES[kind]
    x = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(2)).contiguous(memory_format=layout)
    grad = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(3))
    steps = x / scale
    low, high = -4 - zero_point, 3 - zero_point
    codes = steps.round().clamp(low, high)

    leaf, step = x.clone().requires_grad_(), scale.clone().requires_grad_()
    made = learned_step(leaf, step, zero_point, -4, 3, 1)
    assert made.stride() == x.stride() and torch.equal(made, codes * scale)
    made.backward(grad)  # type: ignore[no-untyped-call]
    inside = (steps >= low) & (steps <= high)
    assert leaf.grad is not None and torch.equal(leaf.grad, grad * inside)
    by_step = (grad * (codes - steps * inside)).sum_to_size(scale.shape)
    assert step.grad is not None
    torch.testing.assert_close(step.grad, by_step / max(3 - int(zero_point.min()), 1) ** 0.5, rtol=1e-5, atol=1e-5)

    leaf = x.clone().requires_grad_()
    straight_through(leaf, scale, zero_point, -4, 3).backward(grad)  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, grad * ((steps >= low - 0.5) & (steps <= high + 0.5)))


def test_half_precision_is_computed_in_single() -> None:
    x = torch.linspace(-1, 1, 1001).bfloat16()
    made = straight_through(x, torch.tensor(0.0131), ZERO, -128, 127)
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, fake_quantize(x.float(), torch.tensor(0.0131), ZERO, -128, 127).bfloat16())
