"""Residual networks: 18 and 50 layers after torchvision, and the 20-layer one for CIFAR.

Source: He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385.
"""

from __future__ import annotations

from typing import Literal

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from qbench.models.init import init_weights, named, require_size

Stem = Literal["small", "imagenet"]

# (output channels, stride of the first block) of each stage of the CIFAR network; section 4.2 of the paper.
CIFAR_STAGES = ((16, 1), (32, 2), (64, 2))
CIFAR_BLOCKS_PER_STAGE = 3


def resnet18(channels: int, height: int, width: int, num_classes: int, *, stem: Stem = "small") -> nn.Module:
    """Build torchvision's ResNet-18: 11,173,962 parameters with the small stem, 3 channels and 10 classes.

    [N, channels, height, width] float32 -> logits [N, num_classes] float32.

    Args:
        channels: Of the input images.
        height: Of the images, in pixels, at least 32.
        width: Of the images, in pixels, at least 32.
        num_classes: Number of logits.
        stem: "small" is a 3x3 convolution of stride 1 without pooling, for 32x32 images; "imagenet" the paper's 7x7
            convolution and max pooling, which divide the resolution by 4.

    Raises:
        ConfigError: the images are too small.
    """
    require_size("resnet18", height, width, 32)
    return _with_stem(ResNet(BasicBlock, [2, 2, 2, 2], num_classes=num_classes), channels, stem)


def resnet50(channels: int, height: int, width: int, num_classes: int, *, stem: Stem = "small") -> nn.Module:
    """Build torchvision's ResNet-50: 25,557,032 parameters with the imagenet stem, 3 channels and 1000 classes.

    23,520,842 with the small stem, 3 channels and 10 classes. [N, channels, height, width] float32 -> logits
    [N, num_classes] float32.

    Args:
        channels: Of the input images.
        height: Of the images, in pixels, at least 32.
        width: Of the images, in pixels, at least 32.
        num_classes: Number of logits.
        stem: "small" is a 3x3 convolution of stride 1 without pooling, for 32x32 images; "imagenet" the paper's 7x7
            convolution and max pooling, which divide the resolution by 4.

    Raises:
        ConfigError: the images are too small.
    """
    require_size("resnet50", height, width, 32)
    return _with_stem(ResNet(Bottleneck, [3, 4, 6, 3], num_classes=num_classes), channels, stem)


def resnet20(channels: int, height: int, width: int, num_classes: int) -> nn.Module:
    """Build the 20-layer network for CIFAR: 272,474 parameters at 3 channels and 10 classes.

    [N, channels, height, width] float32 -> logits [N, num_classes] float32.

    Args:
        channels: Of the input images.
        height: Of the images, in pixels, at least 32.
        width: Of the images, in pixels, at least 32.
        num_classes: Number of logits.

    Raises:
        ConfigError: the images are too small.

    Source: section 4.2 of the paper. Deviation: where the shape changes, the shortcut is a 1x1 convolution (option B)
        instead of zero padding (option A, 269,722 parameters): padded channels are no op of ours.
    """
    require_size("resnet20", height, width, 32)
    in_channels = CIFAR_STAGES[0][0]
    blocks: list[nn.Module] = []
    for out_channels, first_stride in CIFAR_STAGES:
        for index in range(CIFAR_BLOCKS_PER_STAGE):
            stride = first_stride if index == 0 else 1
            blocks.append(BasicBlock(in_channels, out_channels, stride, _shortcut(in_channels, out_channels, stride)))
            in_channels = out_channels
    model = named(
        conv=nn.Conv2d(channels, CIFAR_STAGES[0][0], 3, padding=1, bias=False),
        bn=nn.BatchNorm2d(CIFAR_STAGES[0][0]),
        relu=nn.ReLU(),
        blocks=nn.Sequential(*blocks),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(in_channels, num_classes),
    )
    init_weights(model)
    return model


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """Build the projection a block needs where the shape changes; None keeps the identity."""
    if in_channels == out_channels and stride == 1:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def _with_stem(model: nn.Module, channels: int, stem: Stem) -> nn.Module:
    """Replace the first convolution of torchvision's network, in place, where the stem or the channels ask for it."""
    if stem == "small":
        convolution = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        model.set_submodule("maxpool", nn.Identity())
    elif channels != 3:
        convolution = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    else:
        return model
    init_weights(convolution)
    model.set_submodule("conv1", convolution)
    return model
