"""Whole networks in C against the reference runtime: a thousand images each, bit for bit."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from program.networks import randomised
from torch import Tensor, nn

from qbench.data.augment import normalise
from qbench.data.digits import Digits
from qbench.methods.base import Context
from qbench.methods.integer import Integer
from qbench.models.mobilenet import mobilenet, mobilenet_v2
from qbench.models.resnet import resnet20
from qbench.models.small import mlp, small_cnn
from qbench.program.graph import Program
from qbench.program.integer.network import IntegerModule
from qbench.program.lower import lower
from qbench.program.trace import trace
from qbench.runtime.c import to_c
from qbench.runtime.integer import IntegerRuntime

from .building import built, random_codes, reference

MEAN, STD = (0.3,), (0.37,)


def integer_program(network: nn.Module, images: Tensor) -> Program:
    made = Integer().compress(trace(network.eval(), tuple(images.shape[1:])), Context(calibration=[images[:64]]))
    assert isinstance(made, Program)
    return made


@cache
def digits() -> Tensor:
    """All 1,797 images of the embedded data set, uint8 [N, 1, 32, 32]."""
    nowhere = Path()
    return torch.cat([Digits().load_train(nowhere, nowhere).images, Digits().load_test(nowhere, nowhere).images])


def trained(network: nn.Module, images: Tensor, steps: int = 60) -> nn.Module:
    """A few steps of descent, so that the codes are those of a network that has learned something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        labels = images.mean(dim=(1, 2, 3)).argsort().argsort() * 10 // len(images)  # ten classes of brightness
        for step in range(steps):
            part = slice(step * 64 % 1024, step * 64 % 1024 + 64)
            loss = nn.functional.cross_entropy(network(images[part]), labels[part])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network


@pytest.mark.parametrize("weights", ["arrays", "blob"])
@pytest.mark.parametrize("builder", [small_cnn, mlp], ids=["small_cnn", "mlp"])
def test_networks_for_digits(builder: object, weights: str, tmp_path: Path) -> None:
    """From pixels to logits: what the runtime of integers says of all images of a data set."""
    pixels = digits()
    images = normalise(pixels, MEAN, STD)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = trained(builder(1, 32, 32, 10), images)  # type: ignore[operator]
    program = integer_program(network, images)
    lowered = lower(program)
    every_pixel = normalise(torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 256), MEAN, STD)
    table = IntegerModule(lowered).quantize(every_pixel).view(1, 256)
    compiled = built(to_c(lowered, name="net", weights=weights, pixel_codes=table), tmp_path, 10)
    sums = compiled(compiled.quantize(pixels.permute(0, 2, 3, 1)))
    logits = IntegerRuntime().prepare(program)(images)
    assert len(logits) == 1797 and torch.equal(sums.to(torch.float32) * lowered.output_scale, logits)
    assert len(logits.argmax(1).unique()) >= 5
    assert torch.equal(compiled.top1(sums), logits.argmax(1))


LARGE = {
    "resnet20": (lambda: resnet20(3, 32, 32, 10), (3, 12, 12)),
    "mobilenet": (lambda: mobilenet(3, 32, 32, 10, width_multiplier=0.125), (3, 32, 32)),
    "mobilenet_v2": (lambda: mobilenet_v2(3, 32, 32, 10, width_multiplier=0.1), (3, 16, 16)),
}


@pytest.mark.parametrize("name", LARGE)
def test_networks_for_photographs(name: str, tmp_path: Path) -> None:
    """Random weights, and codes that reach both ends of the grid."""
    make, shape = LARGE[name]
    with torch.random.fork_rng():
        torch.manual_seed(2)
        network = randomised(make())
        images = torch.randn(64, *shape)
    lowered = lower(integer_program(network, images))
    codes = random_codes(lowered, 1000)
    expected = reference(lowered, codes)
    assert float(expected.to(torch.float64).std(dim=0).min()) > 0.0  # every logit depends on the image
    source = to_c(lowered, name="net")
    assert torch.equal(built(source, tmp_path, 10, ["-O3"])(codes), expected)


def test_large_networks_keep_their_weights_in_a_file() -> None:
    network = mlp(1, 32, 32, 10, hidden=990)
    source = to_c(lower(integer_program(network, torch.randn(64, 1, 32, 32))), name="net")
    assert source.blob is not None and source.constant_bytes > 1_000_000
    assert f"#define NET_WEIGHTS_FILE_BYTES ({len(source.blob)})" in source.header
    small = to_c(lower(integer_program(mlp(1, 32, 32, 10), torch.randn(64, 1, 32, 32))), name="net")
    assert small.blob is None and "weights_file" not in small.header + small.source
