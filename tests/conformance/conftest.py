"""Every method of configs/method on two small networks. A new YAML is found by itself.

Those that hand in another library's file are ``PEERS``, with promises of their own (``test_peers.py``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench.assets import instantiate
from qbench.catalog import options
from qbench.config import Choice
from qbench.methods.base import Context, Method, Tuning
from qbench.program.graph import Program
from qbench.program.trace import trace
from qbench.training.objective import distillation_loss

PEERS = {name: option for name, option in options("method").items() if "peer" in option.load()}
METHODS = {name: option for name, option in options("method").items() if name not in PEERS}
IMAGE = (3, 8, 8)


class Residual(nn.Module):
    """Convolutions with batch norm, one depthwise, a shortcut, pooling, a dense layer of 128 inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8))
        self.head = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out: Tensor = self.head(self.depthwise(x) + x)
        return out


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 5))


@cache
def network(name: str) -> Program:
    """A network with statistics of its own, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        module = mlp() if name == "mlp" else Residual()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                for values in (part.running_mean, part.bias.data):
                    values.normal_(0.0, 0.3)
                for values in (part.running_var, part.weight.data):
                    values.uniform_(0.5, 1.5)
    return trace(module, IMAGE)


@cache
def images(count: int = 6, seed: int = 1) -> Tensor:
    return torch.randn(count, *IMAGE, generator=torch.Generator().manual_seed(seed))


def make(name: str, **changed: Any) -> Method:
    """The method of a YAML with some of its parameters changed, built as a run builds it."""
    option = options("method")[name]
    choice = Choice(name, option.load()["_target_"], {**option.parameters(), **changed})
    method: Method = instantiate("method", choice)
    return method


class Untouchable(Sequence[Tensor]):
    """Calibration images for a method that does not need any."""

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("a method that says it needs no calibration images took one")

    def __len__(self) -> int:
        raise AssertionError("a method that says it needs no calibration images counted them")

    def __iter__(self) -> Iterator[Tensor]:
        raise AssertionError("a method that says it needs no calibration images iterated over them")


def context(method: Method, seed: int = 3) -> Context:
    """What the method asks for, and nothing else."""
    batches = [images(8, seed=11), images(4, seed=12)] if method.needs.calibration else Untouchable()
    return Context(seed=seed, calibration=batches, fine_tune=fine_tune if method.needs.training else None)


def fine_tune(
    module: nn.Module,
    tuning: Tuning,
    *,
    teacher: nn.Module | None = None,
    before_step: Callable[[int, int], None] | None = None,
) -> None:
    """A few steps on noise: enough to see that a method learns something and stores what it learned."""
    batches = [(images(8, seed=21 + step), torch.arange(8) % 5) for step in range(3)]
    optimizer = torch.optim.SGD(module.parameters(), lr=tuning.lr)
    total = len(batches) * tuning.epochs
    module.train()
    for step in range(total):
        if before_step is not None:
            before_step(step, total)
        pictures, labels = batches[step % len(batches)]
        logits = module(pictures)
        loss = nn.functional.cross_entropy(logits, labels)
        if tuning.distillation > 0:
            assert teacher is not None
            distance = distillation_loss(logits, teacher(pictures).detach(), tuning.temperature)
            loss = (1 - tuning.distillation) * loss + tuning.distillation * distance
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    module.eval()


def compress(method: Method, program: Program, seed: int = 3) -> Program:
    compressed = method.compress(program, context(method, seed))
    assert isinstance(compressed, Program)
    return compressed


@cache
def compressed(name: str, network_name: str) -> Program:
    """The method with its own defaults on a network."""
    return compress(make(name), network(network_name))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``method``, ``peer`` and ``net`` run over everything there is."""
    if "method" in metafunc.fixturenames:
        metafunc.parametrize("method", METHODS)
    if "peer" in metafunc.fixturenames:
        metafunc.parametrize("peer", PEERS)
    if "net" in metafunc.fixturenames:
        metafunc.parametrize("net", ["mlp", "residual"])
