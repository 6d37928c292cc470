"""Small networks without batch norm: for students, smoke tests and two of the published comparisons."""

from __future__ import annotations

from torch import nn

from qbench.models.init import named, require_size


def small_cnn(channels: int, height: int, width: int, num_classes: int, *, filters: int = 12) -> nn.Module:
    """Build convolution, pooling, dense: 20,410 parameters for 1x28x28 images and 10 classes.

    [N, channels, height, width] float32 -> logits [N, num_classes] float32.

    Args:
        channels: Of the input images.
        height: Of the images, in pixels, at least 4.
        width: Of the images, in pixels, at least 4.
        num_classes: Number of logits.
        filters: Output channels of the 3x3 convolution (no padding).

    Raises:
        ConfigError: the images are too small.
    """
    require_size("small_cnn", height, width, 4)
    return named(
        conv=nn.Conv2d(channels, filters, 3),
        relu=nn.ReLU(),
        pool=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        dense=nn.Linear(filters * ((height - 2) // 2) * ((width - 2) // 2), num_classes),
    )


def cnn_282k(channels: int, height: int, width: int, num_classes: int, *, hidden: int = 64) -> nn.Module:
    """Build two convolutions and two dense layers: 282,250 parameters for 3x32x32 images and 10 classes.

    [N, channels, height, width] float32 -> logits [N, num_classes] float32.

    Args:
        channels: Of the input images.
        height: Of the images, in pixels, at least 4.
        width: Of the images, in pixels, at least 4.
        num_classes: Number of logits.
        hidden: Units of the first dense layer.

    Raises:
        ConfigError: the images are too small.
    """
    require_size("cnn_282k", height, width, 4)
    return named(
        conv1=nn.Conv2d(channels, 32, 3, padding=1),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(32, 64, 3, padding=1),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        dense1=nn.Linear(64 * (height // 4) * (width // 4), hidden),
        relu3=nn.ReLU(),
        dense2=nn.Linear(hidden, num_classes),
    )


def mlp(channels: int, height: int, width: int, num_classes: int, *, hidden: int = 128) -> nn.Module:
    """Build one hidden layer: 784-128-10, 101,770 parameters, for 1x28x28 images and 10 classes.

    [N, channels, height, width] float32 -> logits [N, num_classes] float32.

    Args:
        channels: Of the input images.
        height: Of the images, in pixels.
        width: Of the images, in pixels.
        num_classes: Number of logits.
        hidden: Units of the hidden layer.
    """
    return named(
        flatten=nn.Flatten(),
        dense1=nn.Linear(channels * height * width, hidden),
        relu=nn.ReLU(),
        dense2=nn.Linear(hidden, num_classes),
    )
