"""The matrix-product weight gradient equals the convolution's, and leaves the network as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from qbench.training.small_maps import MAX_PIXELS, MIN_CHANNELS, fast_small_maps


def network(**changes: object) -> nn.Conv2d:
    torch.manual_seed(0)
    settings = {"in_channels": 128, "out_channels": 160, "kernel_size": 3, "padding": 1, **changes}
    return nn.Conv2d(**settings).train()  # type: ignore[arg-type]


def images(height: int, width: int, channels: int = 128) -> Tensor:
    return torch.randn(6, channels, height, width, generator=torch.Generator().manual_seed(1))


def gradients(conv: nn.Conv2d, x: Tensor, enabled: bool, autocast: bool = True) -> dict[str, Tensor]:
    """Output and gradients of a weighted sum of the output; the weights are exact in bfloat16."""
    x = x.clone().requires_grad_()
    conv.zero_grad()
    with fast_small_maps(conv, enabled), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = conv(x)
    coefficients = torch.randint(-4, 5, out.shape, generator=torch.Generator().manual_seed(2)).float()
    (out.float() * coefficients).sum().backward()
    assert x.grad is not None and conv.weight.grad is not None
    found = {"out": out.detach().float(), "x": x.grad, "weight": conv.weight.grad.clone(), "coefficients": coefficients}
    return found | ({"bias": conv.bias.grad.clone()} if conv.bias is not None and conv.bias.grad is not None else {})


def weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """By autograd in float64: [O, C, 3, 3]."""
    weight = torch.zeros(grad.shape[1], x.shape[1], 3, 3, dtype=torch.float64, requires_grad=True)
    (conv2d(x.double(), weight, padding=1) * grad.double()).sum().backward()
    assert weight.grad is not None
    return weight.grad


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 4), (2, 5), (3, 1)], ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
def test_gradient_is_the_convolutions_within_bfloat16(size: tuple[int, int], channels_last: bool) -> None:
    conv, x = network(), images(*size)
    if channels_last:
        conv, x = conv.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    fast, plain = gradients(conv, x, enabled=True), gradients(conv, x, enabled=False)
    exact = weight_gradient(x, fast["coefficients"])
    # bfloat16 has 8 significant bits: rounding an input is off by 2**-8 of it, rounding the result by 2**-8 of that;
    # the coefficients are exact. Both are at most that share of the sum of magnitudes.
    bound = 2 * 2**-8 * weight_gradient(x.abs(), fast["coefficients"].abs())
    assert bool(((fast["weight"] - exact).abs() <= bound).all())
    assert not bool(((1.05 * fast["weight"] - exact).abs() <= bound).all())  # it does not admit anything
    # output plus bias is rounded once more than inside the convolution, which may end one step of 2**-7 away
    torch.testing.assert_close(fast["out"], plain["out"], rtol=2**-7, atol=1e-3)
    torch.testing.assert_close(fast["x"], plain["x"], rtol=2**-7, atol=1e-2)
    torch.testing.assert_close(fast["bias"], plain["bias"], rtol=2**-7, atol=1e-2)


def test_the_network_is_left_as_it_was() -> None:
    conv = network()
    before = {name: value.clone() for name, value in conv.state_dict().items()}
    with fast_small_maps(conv, True):
        assert "forward" in conv.__dict__
        assert set(conv.state_dict()) == set(before)
    assert "forward" not in conv.__dict__
    with pytest.raises(RuntimeError, match="interrupted"), fast_small_maps(conv, True):
        raise RuntimeError("interrupted")
    assert "forward" not in conv.__dict__
    assert all(torch.equal(value, before[name]) for name, value in conv.state_dict().items())


@pytest.mark.parametrize(
    "changes",
    [
        {"stride": 2},
        {"padding": 0},
        {"dilation": 2, "padding": 2},
        {"kernel_size": 1, "padding": 0},
        {"groups": 2},
        {"padding_mode": "reflect"},
        {"in_channels": MIN_CHANNELS - 1},
        {"out_channels": MIN_CHANNELS - 1},
    ],
    ids=str,
)
def test_other_convolutions_are_left_alone(changes: dict[str, object]) -> None:
    conv = network(**changes)
    with fast_small_maps(conv, True):
        assert "forward" not in conv.__dict__


def test_disabled_changes_nothing() -> None:
    conv = network()
    with fast_small_maps(conv, False):
        assert "forward" not in conv.__dict__


@pytest.mark.parametrize("case", ["large map", "float32", "evaluation"])
def test_where_it_does_not_pay_the_convolution_runs(case: str) -> None:
    conv = network()
    if case == "evaluation":
        conv.eval()
    x = images(5, 5) if case == "large map" else images(2, 2)
    assert (x.shape[2] * x.shape[3] > MAX_PIXELS) == (case == "large map")
    fast, plain = (gradients(conv, x, enabled, autocast=case != "float32") for enabled in (True, False))
    assert all(torch.equal(fast[name], plain[name]) for name in plain)


def test_without_a_bias() -> None:
    conv = network(bias=False)
    fast, plain = gradients(conv, images(2, 2), True), gradients(conv, images(2, 2), False)
    torch.testing.assert_close(fast["out"], plain["out"], rtol=2**-7, atol=1e-3)
    assert "bias" not in fast
