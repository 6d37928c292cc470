"""Mean and standard deviation per channel, accumulated in float64 over batches."""

from __future__ import annotations

import torch
from torch import Tensor


class ChannelMoments:
    """Accumulates the first two moments of each channel of values [N, C, ...]; float64 on the device of the values."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: Tensor | None = None
        self._squares: Tensor | None = None

    def update(self, value: Tensor) -> None:
        """Add a batch, float [N, C, ...], not empty."""
        wide = value.detach().double()
        axes = [axis for axis in range(wide.dim()) if axis != 1]
        total, squares = wide.sum(axes), wide.square().sum(axes)
        self._sum = total if self._sum is None else self._sum + total
        self._squares = squares if self._squares is None else self._squares + squares
        self._count += wide.numel() // wide.shape[1]

    @property
    def mean(self) -> Tensor:
        """Mean of each channel, float64 [C].

        Raises:
            ValueError: No batch was added.
        """
        if self._sum is None:
            raise ValueError("no batch was added")
        return self._sum / self._count

    @property
    def variance(self) -> Tensor:
        """Mean squared deviation of each channel from its mean (population variance), float64 [C].

        What float64 cannot tell from a constant (a variance below 1e-12 of the mean square) is 0.

        Raises:
            ValueError: No batch was added.
        """
        mean = self.mean
        if self._squares is None:
            raise ValueError("no batch was added")
        mean_square = self._squares / self._count
        variance = mean_square - mean.square()
        return torch.where(variance > 1e-12 * mean_square, variance, torch.zeros_like(variance))

    @property
    def std(self) -> Tensor:
        """Square root of the variance, float64 [C]."""
        return self.variance.sqrt()
