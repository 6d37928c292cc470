"""Any network of timm (PyTorch Image Models), untrained."""

from __future__ import annotations

import difflib

from torch import nn

from qbench.errors import ConfigError


def timm_model(
    channels: int, height: int, width: int, num_classes: int, *, architecture: str = "resnet18"
) -> nn.Module:
    """Build timm's ``architecture`` with random weights; nothing is downloaded.

    [N, channels, height, width] float32 -> logits [N, num_classes] float32. timm's networks take the size of the images
    as it comes, except those built for one size, which refuse others when they run.

    Args:
        channels: Of the input images.
        height: Of the images, in pixels; not passed on.
        width: Of the images, in pixels; not passed on.
        num_classes: Number of logits.
        architecture: A name from ``timm.list_models()``.

    Raises:
        ConfigError: timm is not installed, or has no such architecture.
    """
    try:
        import timm
    except ImportError as err:
        raise ConfigError("model=timm needs the package timm: pip install 'qbench[timm]'") from err
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "python -c 'import timm; print(timm.list_models())'"
        raise ConfigError(f"model.architecture={architecture}: timm has no such network; {hint}")
    model: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=num_classes, in_chans=channels)
    return model
