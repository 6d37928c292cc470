"""MNIST and Fashion-MNIST: 60,000 + 10,000 grey images of 28x28 pixels, ten classes, in idx files.

Sources: LeCun et al., "Gradient-based learning applied to document recognition", 1998; Xiao, Rasul and Vollgraf,
"Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms", arXiv:1708.07747.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torchvision import datasets

from qbench.data.base import ImageSet
from qbench.data.vision import Source, checked_images, open_torchvision

_IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _idx_source(name: str, folder: str, host: str) -> Source:
    files = tuple(f"{folder}/raw/{file}" for file in _IDX_FILES)
    return Source(name, files, (files[0],), host, archives=tuple(f"{file}.gz" for file in files))


@dataclass(frozen=True)
class Mnist:
    """Handwritten digits, read by ``torchvision.datasets.MNIST`` from ``data_dir/MNIST/raw``.

    Attributes:
        download: Download the files into ``data_dir`` when they are not there.
    """

    download: bool = True

    _source: ClassVar[Source] = _idx_source("mnist", "MNIST", "ossci-datasets.s3.amazonaws.com:443")
    _factory: ClassVar[Any] = datasets.MNIST

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(str(digit) for digit in range(10))

    def load_train(self, root: Path, cache: Path) -> ImageSet:
        """Load the 60,000 training images, uint8 [60000, 1, 28, 28], in official order."""
        return self._load(root, train=True)

    def load_test(self, root: Path, cache: Path) -> ImageSet:
        """Load the 10,000 test images, uint8 [10000, 1, 28, 28]."""
        return self._load(root, train=False)

    def _load(self, root: Path, *, train: bool) -> ImageSet:
        split = open_torchvision(self._source, self._factory, root, train=train, download=self.download)
        images = split.data.unsqueeze(1)
        return checked_images(self._source.name, images, split.targets, len(self.class_names), (1, 28, 28))


@dataclass(frozen=True)
class FashionMnist(Mnist):
    """Zalando's clothes, read by ``torchvision.datasets.FashionMNIST`` from ``data_dir/FashionMNIST/raw``."""

    _source: ClassVar[Source] = _idx_source(
        "fashion_mnist", "FashionMNIST", "fashion-mnist.s3-website.eu-central-1.amazonaws.com:80"
    )
    _factory: ClassVar[Any] = datasets.FashionMNIST

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(datasets.FashionMNIST.classes)
