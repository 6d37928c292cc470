"""Initial weights and the checks on image size that several networks share."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from qbench.errors import ConfigError


def init_weights(module: nn.Module, linear_std: float = 0.01) -> None:
    """Draw the initial weights of every convolution and linear layer of ``module``, in place.

    Convolutions: normal, std = sqrt(2 / fan_in), fan_in = kernel height * kernel width * input channels / groups.
    Linear layers: normal with ``linear_std``, so that the first logits are near zero. Biases: zero.
    Batch norms keep PyTorch's (weight 1, bias 0).

    Source: He et al., "Delving Deep into Rectifiers", arXiv:1502.01852, eq. 10 (forward case). The backward case
        (fan_out) shrinks the signal wherever channels grow; VGG-16 without batch norm then stays on its first plateau.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, linear_std)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def named(**layers: nn.Module) -> nn.Sequential:
    """Chain ``layers`` in the order given, under names that tables and artefacts show (``conv``, not ``0``)."""
    return nn.Sequential(OrderedDict(layers))


def require_size(network: str, height: int, width: int, minimum: int) -> None:
    """Refuse images that pooling and strides would shrink to nothing.

    Raises:
        ConfigError: a side is shorter than ``minimum`` pixels.
    """
    if min(height, width) < minimum:
        raise ConfigError(
            f"model={network}: images of {height}x{width} are too small, each side needs at least {minimum} pixels; "
            "choose a smaller network or a data set with larger images"
        )


def scaled(channels: int, width: float) -> int:
    """``channels`` times the width multiplier, rounded, at least 1."""
    return max(1, round(channels * width))
