import math

import numpy as np
import pytest
import torch

from measure.programs import tiny
from qbench.measure.sqnr import sqnr_db, weight_sqnr
from qbench.program.encodings import Affine, Float
from qbench.program.graph import Node, Program

X = torch.tensor([3.0, -4.0])


@pytest.mark.parametrize(
    ("x", "x_hat", "expected"),
    [
        pytest.param(X, X.clone(), math.inf, id="equal"),
        pytest.param(X, 2 * X, 0.0, id="twice"),
        pytest.param(X, torch.zeros(2), 0.0, id="nothing left"),
        pytest.param(X, torch.tensor([3.0, -3.5]), 20.0, id="25 over 0.25"),
        pytest.param(X, -X, 10 * math.log10(1 / 4), id="sign flipped"),
        pytest.param(torch.zeros(2), torch.zeros(2), math.inf, id="zero kept"),
        pytest.param(torch.zeros(2), X, -math.inf, id="zero lost"),
        pytest.param(X, torch.tensor([3.0, math.inf]), -math.inf, id="infinite approximation"),
    ],
)
def test_sqnr_by_hand(x: torch.Tensor, x_hat: torch.Tensor, expected: float) -> None:
    assert sqnr_db(x, x_hat) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("x", [torch.tensor([1.0, math.nan]), torch.tensor([1.0, math.inf])], ids=["nan", "inf"])
def test_a_signal_that_is_not_finite_gives_nan(x: torch.Tensor) -> None:
    assert math.isnan(sqnr_db(x, torch.zeros(2)))


def test_sqnr_is_summed_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100_000, generator=generator) * 1e-25  # squares underflow float32
    x_hat = x * (1 + 1e-3)
    a, b = x.numpy().astype(np.float64), x_hat.numpy().astype(np.float64)
    assert sqnr_db(x, x_hat) == pytest.approx(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()), rel=1e-9)


def test_sqnr_refuses_shapes_that_would_broadcast() -> None:
    with pytest.raises(ValueError, match="one shape"):
        sqnr_db(torch.ones(2, 1), torch.ones(2))


def test_sqnr_refuses_nothing() -> None:
    with pytest.raises(ValueError, match="one shape"):
        sqnr_db(torch.ones(0), torch.ones(0))


def test_weight_sqnr_compares_layer_by_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    conv, fc = torch.randn(4, 3, 3, 3, generator=generator), torch.randn(10, 64, generator=generator)
    baseline = tiny().with_tensors({"conv.weight": Float(conv), "fc.weight": Float(fc)})
    codes = (conv / 0.25).round().to(torch.int8)
    rounded = Affine(codes, torch.tensor(0.25), torch.tensor(0, dtype=torch.int32), 8, -128, 127)
    found = weight_sqnr(baseline, baseline.with_tensors({"conv.weight": rounded}))
    assert list(found) == ["conv", "fc"]
    assert found["fc"] == math.inf
    # the noise of rounding to a step of 0.25 is uniform, 0.25^2 / 12 against a variance of 1: 22.8 dB in expectation;
    # of 108 samples the signal's power has a relative deviation of sqrt(2 / 108), 0.6 dB: four of those
    assert found["conv"] == pytest.approx(10 * math.log10(12 / 0.25**2), abs=2.5)


def test_weight_sqnr_leaves_out_layers_that_cannot_be_compared() -> None:
    nodes = (Node("flatten", "flatten", ("input",)), Node("fc", "linear", ("flatten",)), Node("new", "linear", ("fc",)))
    tensors = {"fc.weight": Float(torch.ones(5, 192)), "new.weight": Float(torch.ones(2, 5))}
    assert weight_sqnr(tiny(), Program((3, 8, 8), nodes, tensors)) == {}
