"""VGG-16: the CIFAR form with batch norm, the form without, and the 138-million-parameter ImageNet network.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv:1409.1556,
    table 1, column D. The CIFAR forms keep its 13 convolutions and shrink its head, as is usual for 32x32 images.
"""

from __future__ import annotations

from torch import nn
from torchvision import models

from qbench.models.init import init_weights, named, require_size, scaled

# Output channels of each 3x3 convolution (padding 1); every inner tuple ends in a 2x2 max pooling.
VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
SHRINKAGE = 2 ** len(VGG16_STAGES)


def vgg16(channels: int, height: int, width: int, num_classes: int, *, width_multiplier: float = 1.0) -> nn.Module:
    """Build VGG-16 with batch norm, bias-free convolutions and one linear head.

    14,724,042 parameters at 3 channels and 10 classes. [N, channels, height, width] float32 -> logits [N, num_classes]
    float32. Feature maps left larger than one pixel (images of 64 pixels and more) are averaged before the head.

    Args:
        channels: Of the input images.
        height: Of the images, in pixels, at least 32.
        width: Of the images, in pixels, at least 32.
        num_classes: Number of logits.
        width_multiplier: Factor on the channels of every convolution.

    Raises:
        ConfigError: the images are too small.
    """
    require_size("vgg16", height, width, SHRINKAGE)
    features, out_channels = _features(channels, batch_norm=True, width_multiplier=width_multiplier)
    if max(height, width) >= 2 * SHRINKAGE:
        features.append(nn.AdaptiveAvgPool2d(1))
    model = named(
        features=nn.Sequential(*features),
        flatten=nn.Flatten(),
        classifier=nn.Linear(out_channels, num_classes),
    )
    init_weights(model)
    return model


def vgg16_plain(
    channels: int,
    height: int,
    width: int,
    num_classes: int,
    *,
    width_multiplier: float = 1.0,
    hidden: int = 128,
    dropout: float = 0.0,
) -> nn.Module:
    """Build VGG-16 without batch norm, with two dense layers after the convolutions.

    14,781,642 parameters for 3x32x32 images and 10 classes. [N, channels, height, width] float32 -> logits
    [N, num_classes] float32.

    Args:
        channels: Of the input images.
        height: Of the images, in pixels, at least 32.
        width: Of the images, in pixels, at least 32.
        num_classes: Number of logits.
        width_multiplier: Factor on the channels of every convolution.
        hidden: Units of the first dense layer.
        dropout: Probability of dropping an input of the dense layers while training; 0 leaves dropout out.

    Raises:
        ConfigError: the images are too small.
    """
    require_size("vgg16_plain", height, width, SHRINKAGE)
    features, out_channels = _features(channels, batch_norm=False, width_multiplier=width_multiplier)
    units = out_channels * (height // SHRINKAGE) * (width // SHRINKAGE)
    head = [nn.Linear(units, hidden), nn.ReLU(), nn.Linear(hidden, num_classes)]
    if dropout > 0:
        head = [nn.Dropout(dropout), *head[:2], nn.Dropout(dropout), head[2]]
    model = named(features=nn.Sequential(*features), flatten=nn.Flatten(), classifier=nn.Sequential(*head))
    init_weights(model, linear_std=0.03)  # two linear layers in a row at 0.01 would leave almost no gradient
    return model


def vgg16_imagenet(channels: int, height: int, width: int, num_classes: int, *, dropout: float = 0.5) -> nn.Module:
    """Build torchvision's VGG-16, untrained: 138,357,544 parameters at 3 channels and 1000 classes.

    [N, channels, height, width] float32 -> logits [N, num_classes] float32. Images of any size from 32 pixels on: the
    network pools to 7x7 itself; it was designed for 224x224.

    Args:
        channels: Of the input images.
        height: Of the images, in pixels, at least 32.
        width: Of the images, in pixels, at least 32.
        num_classes: Number of logits.
        dropout: Probability of dropping a unit of the dense layers while training.

    Raises:
        ConfigError: the images are too small.
    """
    require_size("vgg16_imagenet", height, width, SHRINKAGE)
    model: nn.Module = models.vgg16(weights=None, num_classes=num_classes, dropout=dropout, init_weights=False)
    if channels != 3:
        model.set_submodule("features.0", nn.Conv2d(channels, 64, 3, padding=1))
    init_weights(model)
    return model


def _features(in_channels: int, *, batch_norm: bool, width_multiplier: float) -> tuple[list[nn.Module], int]:
    """Build the convolutional part; returns it with the channels that leave it.

    Before a batch norm a bias would be redundant: the norm subtracts it again.
    """
    layers: list[nn.Module] = []
    for stage in VGG16_STAGES:
        for channels in stage:
            out_channels = scaled(channels, width_multiplier)
            layers.append(nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm2d(out_channels))
            layers.append(nn.ReLU())
            in_channels = out_channels
        layers.append(nn.MaxPool2d(2))
    return layers, in_channels
