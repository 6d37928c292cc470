"""MobileNet v1 and v2, each with a stem for small images or the one of the paper."""

from __future__ import annotations

from typing import Literal, cast

from torch import nn
from torchvision import models

from qbench.models.init import init_weights, named, require_size, scaled

Stem = Literal["small", "imagenet"]

# (output channels, stride) of each depthwise-separable block of MobileNet v1; table 1 of its paper.
V1_BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1)),
)
# (expansion, output channels, repeats, stride) of each stage of MobileNet v2; table 2 of its paper.
V2_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet(
    channels: int,
    height: int,
    width: int,
    num_classes: int,
    *,
    width_multiplier: float = 1.0,
    stem: Stem = "small",
) -> nn.Module:
    """Build MobileNet v1: 3,217,226 parameters at 3 channels and 10 classes.

    [N, channels, height, width] float32 -> logits [N, num_classes] float32.

    Args:
        channels: Of the input images.
        height: Of the images, in pixels, at least 32.
        width: Of the images, in pixels, at least 32.
        num_classes: Number of logits.
        width_multiplier: Factor on the channels of every layer, alpha in the paper.
        stem: "small" keeps the resolution in the first convolution, for 32x32 images; "imagenet" halves it.

    Raises:
        ConfigError: the images are too small.

    Source: Howard et al., "MobileNets", arXiv:1704.04861, table 1. Deviation: the "small" stem; no resolution
        multiplier (the data set decides the resolution).
    """
    require_size("mobilenet", height, width, 32)
    in_channels = scaled(32, width_multiplier)
    layers = _conv_bn_relu(channels, in_channels, kernel=3, stride=1 if stem == "small" else 2)
    for block_channels, stride in V1_BLOCKS:
        out_channels = scaled(block_channels, width_multiplier)
        layers += _conv_bn_relu(in_channels, in_channels, kernel=3, stride=stride, groups=in_channels)
        layers += _conv_bn_relu(in_channels, out_channels, kernel=1)
        in_channels = out_channels
    model = named(
        features=nn.Sequential(*layers),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(in_channels, num_classes),
    )
    init_weights(model)
    return model


def mobilenet_v2(
    channels: int,
    height: int,
    width: int,
    num_classes: int,
    *,
    width_multiplier: float = 1.0,
    stem: Stem = "small",
    dropout: float = 0.2,
) -> nn.Module:
    """Build torchvision's MobileNet v2: 2,236,682 parameters at 3 channels and 10 classes.

    [N, channels, height, width] float32 -> logits [N, num_classes] float32.

    Args:
        channels: Of the input images.
        height: Of the images, in pixels, at least 32.
        width: Of the images, in pixels, at least 32.
        num_classes: Number of logits.
        width_multiplier: Factor on the channels of every layer but the last (which only grows), rounded to 8.
        stem: "small" keeps the resolution in the first convolution and the second stage, for 32x32 images (its last
            feature maps are 4x4); "imagenet" is the paper's, which divides the resolution by 32.
        dropout: Probability of dropping an input of the classifier while training.

    Raises:
        ConfigError: the images are too small.

    Source: Sandler et al., "MobileNetV2", arXiv:1801.04381, table 2. Deviation: the "small" stem.
    """
    require_size("mobilenet_v2", height, width, 32)
    stages = [list(stage) for stage in V2_STAGES]
    if stem == "small":
        stages[1][3] = 1
    model: nn.Module = models.MobileNetV2(
        num_classes=num_classes, width_mult=width_multiplier, inverted_residual_setting=stages, dropout=dropout
    )
    if stem == "small" or channels != 3:
        out_channels = cast(nn.Conv2d, model.get_submodule("features.0.0")).out_channels
        convolution = nn.Conv2d(channels, out_channels, 3, 1 if stem == "small" else 2, padding=1, bias=False)
        init_weights(convolution)
        model.set_submodule("features.0.0", convolution)
    return model


def _conv_bn_relu(
    in_channels: int, out_channels: int, *, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]
