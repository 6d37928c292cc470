"""CIFAR-10: 50,000 + 10,000 colour images of 32x32 pixels, ten classes.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision import datasets

from qbench.data.base import ImageSet
from qbench.data.class_folders import Decoding, class_folder_names, load_class_folders
from qbench.data.presence import missing_message, path_problem
from qbench.data.vision import Source, checked_images, files_present, open_torchvision
from qbench.errors import DataError

_FOLDER = "cifar10"
_BATCHES = "cifar-10-batches-py"
_SOURCE = Source(
    "cifar10",
    tuple(f"{_BATCHES}/{file}" for file in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")),
    (_BATCHES, f"{_FOLDER}/{{train,test}}/CLASS/*"),
    "www.cs.toronto.edu:443",
    archives=("cifar-10-python.tar.gz",),
)


@dataclass(frozen=True)
class Cifar10:
    """CIFAR-10 from torchvision's pickled batches, or from class folders ``cifar10/{train,test}/CLASS/*``.

    The pickled batches win when both are there; they are only unpickled after torchvision checked their md5 sums.
    The two layouts hold the images in different orders, so seeded splits differ between them.

    Attributes:
        download: Download the pickled batches into ``data_dir`` when neither layout is there.
    """

    download: bool = True

    @property
    def class_names(self) -> tuple[str, ...]:
        return ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def load_train(self, root: Path, cache: Path) -> ImageSet:
        """Load the training images, uint8 [50000, 3, 32, 32]."""
        return self._load(root, cache, train=True)

    def load_test(self, root: Path, cache: Path) -> ImageSet:
        """Load the test images, uint8 [10000, 3, 32, 32]."""
        return self._load(root, cache, train=False)

    def _load(self, root: Path, cache: Path, *, train: bool) -> ImageSet:
        # One split found as folders means both are read as folders: never train from one layout and test from another.
        no_folders = all(path_problem(root / _FOLDER / split) == "missing" for split in ("train", "test"))
        if files_present(_SOURCE, root) or no_folders:
            return self._load_batches(root, train=train)
        return self._load_folders(root, root / _FOLDER / ("train" if train else "test"), cache)

    def _load_batches(self, root: Path, *, train: bool) -> ImageSet:
        split = open_torchvision(_SOURCE, datasets.CIFAR10, root, train=train, download=self.download)
        # [N, H, W, C] -> [N, C, H, W]
        images = torch.from_numpy(split.data).permute(0, 3, 1, 2)
        return checked_images("cifar10", images, split.targets, len(self.class_names), (3, 32, 32))

    def _load_folders(self, root: Path, folder: Path, cache: Path) -> ImageSet:
        problem = path_problem(folder)
        if problem is not None:
            problem = f"{folder} is missing" if problem == "missing" else problem
            raise DataError(missing_message("cifar10", root, _SOURCE.shown, _SOURCE.host, problem=problem))
        found = class_folder_names("cifar10", folder)
        if found != self.class_names:
            missing = sorted(set(self.class_names) - set(found))
            extra = sorted(set(found) - set(self.class_names))
            raise DataError(
                f"data set cifar10: {folder} lacks the classes {missing} and has the unknown classes {extra}"
            )
        return load_class_folders("cifar10", folder, found, Decoding(3, 32, 32, resize=False), cache)
