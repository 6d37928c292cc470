"""Cross-layer equalization: the same function, channels of like ranges."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qbench.program.encodings import Float
from qbench.program.equalize import equalizable_pairs, equalize
from qbench.program.graph import Program
from qbench.program.materialize import materialize
from qbench.program.trace import trace

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def spread(*modules: nn.Module) -> Program:
    """A chain whose channels differ in scale by up to a thousand, which the next layer makes up for."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = nn.Sequential(*modules)
        for part in network.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                nn.init.normal_(part.weight, std=0.3)
                factors = torch.logspace(-1.5, 1.5, len(part.weight))
                part.weight.data *= factors[torch.randperm(len(factors))].view([-1] + [1] * (part.weight.dim() - 1))
                if part.bias is not None:
                    nn.init.normal_(part.bias)
        return trace(network, (3, 8, 8))


CHAIN = (
    nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(),
    nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Flatten(),
    nn.Linear(96, 12), nn.ReLU(), nn.Linear(12, 5),
)  # fmt: skip


def test_pairs_are_neighbours_with_scalable_ops_between() -> None:
    pairs = equalizable_pairs(spread(*CHAIN))
    assert [(pair.first.name, pair.second.name) for pair in pairs] == [("0", "3"), ("3", "5"), ("5", "8"), ("8", "10")]


def test_the_function_stays_the_same() -> None:
    program = spread(*CHAIN)
    expected = materialize(program)(IMAGES)
    torch.testing.assert_close(
        materialize(equalize(program))(IMAGES), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
    )


def ranges(program: Program) -> tuple[torch.Tensor, torch.Tensor]:
    first = program.weight("8").abs().amax(1)
    second = program.weight("10").abs().amax(0)
    return first, second


def test_ranges_of_both_sides_meet() -> None:
    """At the fixed point each channel has one range, as an output of the first layer and as an input of the second."""
    program = equalize(spread(*CHAIN))
    first, second = ranges(program)
    torch.testing.assert_close(first, second, rtol=5e-3, atol=0.0)
    before = ranges(spread(*CHAIN))[0]
    assert float(first.max() / first.min()) < float(before.max() / before.min())


def test_equalizing_again_changes_nothing() -> None:
    once = equalize(spread(*CHAIN))
    twice = equalize(once)
    torch.testing.assert_close(twice.weight("5"), once.weight("5"), rtol=5e-3, atol=1e-6)


def test_a_dead_channel_stays_dead_and_finite() -> None:
    program = spread(*CHAIN)
    weight = program.weight("5").clone()
    weight[2] = 0.0
    changed = equalize(program.with_tensors({"5.weight": Float(weight)}))
    assert bool((changed.weight("5")[2] == 0).all())
    assert all(bool(torch.isfinite(encoding.decode()).all()) for encoding in changed.tensors.values())


def test_a_relu6_between_layers_becomes_a_relu() -> None:
    program = spread(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 4, 3), nn.ReLU6(), nn.Flatten())
    made = equalize(program)
    assert [node.op for node in made.nodes] == ["conv2d", "relu", "conv2d", "relu6", "flatten"]


class Shortcut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        out: torch.Tensor = self.c(torch.relu(self.b(x))) + x
        return out.flatten(1)


def test_a_value_read_twice_keeps_its_scale() -> None:
    pairs = equalizable_pairs(trace(Shortcut(), (3, 8, 8)))
    assert [(pair.first.name, pair.second.name) for pair in pairs] == [("b", "c")]


@pytest.mark.parametrize("curve", [nn.SiLU, nn.Sigmoid, nn.Hardswish], ids=lambda kind: kind.__name__)
def test_curves_end_a_pair(curve: type[nn.Module]) -> None:
    assert not equalizable_pairs(spread(nn.Conv2d(3, 8, 3), curve(), nn.Conv2d(8, 4, 3), nn.Flatten()))
