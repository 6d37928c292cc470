"""From the ``model`` group of a configuration to an untrained network."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from qbench.errors import ConfigError
from qbench.models.dotted import import_dotted


def build_model(
    target: str,
    params: Mapping[str, Any],
    channels: int,
    height: int,
    width: int,
    num_classes: int,
    seed: int,
) -> nn.Module:
    """Build the network ``target`` names, in training mode, on the CPU, with initial weights that follow from ``seed``.

    The network is tried on two zero images, so that a size it cannot take is an error here and not an hour later. The
    caller's random state is left as it was. A builder of the user's own that draws from another generator than
    PyTorch's (``random``, NumPy) is outside the promise about ``seed``.

    Args:
        target: Dotted path of a builder ``(channels, height, width, num_classes, **params) -> nn.Module``.
        params: The builder's own keyword parameters.
        channels: Of the input images.
        height: Of the images, in pixels.
        width: Of the images, in pixels.
        num_classes: Number of logits.
        seed: Of PyTorch's CPU generator while the network is built.

    Returns:
        The network, mapping float32 [N, channels, height, width] to float32 [N, num_classes].

    Raises:
        ConfigError: the target cannot be imported, does not know a parameter, cannot be built for these images, or
            does not return [N, num_classes].
    """
    builder = import_dotted(target, "model._target_")
    if not callable(builder):
        raise ConfigError(f"model._target_={target}: is not a function or class that builds a network")
    keywords = {"channels": channels, "height": height, "width": width, "num_classes": num_classes, **params}
    _check_keywords(target, inspect.signature(builder), keywords)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            model = builder(**keywords)
        except ConfigError:
            raise
        except Exception as err:  # a network of the user's own may raise anything
            raise ConfigError(
                f"model: {target} cannot be built for {channels}x{height}x{width} images with {dict(params)}: {err}"
            ) from err
        if not isinstance(model, nn.Module):
            raise ConfigError(f"model: {target} returned {type(model).__name__}, not a torch.nn.Module")
        _try_out(model, target, (channels, height, width), num_classes)
    return model


def _check_keywords(target: str, signature: inspect.Signature, keywords: Mapping[str, Any]) -> None:
    """Refuse a parameter the builder does not have, and list those it has."""
    try:
        signature.bind(**keywords)
    except TypeError as err:
        own = [name for name in signature.parameters if name not in ("channels", "height", "width", "num_classes")]
        raise ConfigError(f"model: {target}: {err}; its parameters are: {', '.join(own) or 'none'}") from err


def _try_out(model: nn.Module, target: str, image: tuple[int, int, int], num_classes: int) -> None:
    """Run two zero images through ``model`` in evaluation mode; leaves it in training mode."""
    size = "x".join(map(str, image))
    model.eval()
    try:
        with torch.no_grad():
            output = model(torch.zeros(2, *image))
    except Exception as err:  # timm's networks assert the image size; others raise as they like
        raise ConfigError(f"model: {target} cannot process {size} images: {err}") from err
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if shape != (2, num_classes):
        raise ConfigError(f"model: {target} returned {shape} for 2 images of {size}, not (2, {num_classes})")
    model.train()
