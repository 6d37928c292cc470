"""A network of the user's own, named by its dotted path."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from qbench.errors import ConfigError
from qbench.models.dotted import import_dotted

NO_KWARGS: Mapping[str, Any] = MappingProxyType({})


def custom(
    channels: int,
    height: int,
    width: int,
    num_classes: int,
    *,
    target: str | None = None,
    kwargs: Mapping[str, Any] = NO_KWARGS,
) -> nn.Module:
    """Build the network that ``target`` names, e.g. ``model.target=my_package.my_module.MyNet``.

    The class or function is called with those of channels, height, width and num_classes that its signature names, and
    with ``kwargs``, which win. It must return a ``torch.nn.Module`` from float32 images [N, channels, height, width]
    to float32 logits [N, num_classes]; :func:`qbench.models.build.build_model` checks that.

    Trust: this imports the module and runs its code with the rights of the user who called qbench. The path comes from
    that user's own configuration, never from an artefact.

    Args:
        channels: Of the input images.
        height: Of the images, in pixels.
        width: Of the images, in pixels.
        num_classes: Number of logits.
        target: Dotted path of a class or function; required.
        kwargs: Further keyword arguments for it, e.g. ``model.kwargs={depth: 3}``.

    Raises:
        ConfigError: ``target`` is missing, cannot be imported or is not callable, or does not take the arguments.
    """
    if target is None:
        raise ConfigError("model.target is missing: name your network, model.target=my_package.my_module.MyNet")
    factory = import_dotted(target, "model.target")
    if not callable(factory):
        raise ConfigError(f"model.target={target}: is a {type(factory).__name__}, not a class or function")
    facts = {"channels": channels, "height": height, "width": width, "num_classes": num_classes}
    signature = inspect.signature(factory)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    accepted = {name for name, parameter in signature.parameters.items() if parameter.kind in by_name}
    arguments = {**{name: value for name, value in facts.items() if name in accepted}, **kwargs}
    try:
        signature.bind(**arguments)
    except TypeError as err:
        raise ConfigError(
            f"model.target={target}: {err}; it takes {signature}, give what qbench does not supply with "
            "model.kwargs={name: value}"
        ) from err
    model = factory(**arguments)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model.target={target}: returned {type(model).__name__}, not a torch.nn.Module")
    return model
