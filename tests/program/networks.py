"""Small networks with statistics that are not those of an untrained one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms with means, variances and slopes of their own, so that mixing them up shows."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for values, low, high in ((part.running_mean, -0.5, 0.5), (part.running_var, 0.5, 2.0)):
                if values is not None:
                    values.uniform_(low, high, generator=generator)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5, generator=generator)
                nn.init.uniform_(part.bias, -0.5, 0.5, generator=generator)
    return module


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Network(nn.Module):
    """Parts for a forward that the test gives: image [N, 3, 8, 8] -> logits [N, 5]."""

    def __init__(self, body: Callable[[Network, Tensor], Tensor]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Conv2d(3, 4, 3, padding=1)
            self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(4)
            self.relu = nn.ReLU()
            self.in_place = nn.ReLU(inplace=True)
            self.drop = nn.Dropout(0.5)
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.flat = nn.Flatten()
            self.wide = nn.Linear(4 * 8 * 8, 5)
            self.narrow = nn.Linear(4, 5)
            self.gain = nn.Parameter(torch.full((1, 4, 1, 1), 2.0))
        self.body = body
        randomised(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)
