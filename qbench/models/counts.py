"""Counting what a network learns."""

from __future__ import annotations

from torch import nn


def count_parameters(module: nn.Module) -> int:
    """Count the trainable parameters of ``module``; a shared one counts once, batch-norm statistics never.

    >>> count_parameters(nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
