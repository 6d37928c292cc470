"""Any data set of the user's own: FOLDER/{train,test}/CLASS/image."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from qbench.data.base import ImageSet
from qbench.data.class_folders import Decoding, class_folder_names, load_class_folders
from qbench.data.presence import missing_message, path_problem
from qbench.errors import DataError


@dataclass(frozen=True)
class ImageFolder:
    """Class folders below ``data_dir/folder/train`` and ``data_dir/folder/test``, with the same classes in both.

    Attributes:
        folder: Relative to ``data_dir``, or absolute.
        channels: 1 decodes to grey, 3 to RGB.
        height: Pixels every image is resized to (bilinear, antialiased, aspect ratio not kept).
        width: Likewise.
        num_classes: Number of class folders there must be.
    """

    folder: str = "images"
    channels: int = 3
    height: int = 32
    width: int = 32
    num_classes: int = 10
    # The names are in the tree, not in the configuration: filled by the first load.
    _found: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise DataError(f"dataset.channels={self.channels} must be 1 (grey) or 3 (RGB)")

    @property
    def class_names(self) -> tuple[str, ...]:
        """The sorted folder names.

        Raises:
            ValueError: Neither split has been loaded yet.
        """
        if not self._found:
            raise ValueError("the class names of an image folder are known once one of its splits has been loaded")
        return tuple(self._found)

    def load_train(self, root: Path, cache: Path) -> ImageSet:
        """Load ``folder/train``, uint8 [N, channels, height, width]."""
        return self._load(root, cache, "train")

    def load_test(self, root: Path, cache: Path) -> ImageSet:
        """Load ``folder/test``, uint8 [N, channels, height, width]."""
        return self._load(root, cache, "test")

    def _load(self, root: Path, cache: Path, split: str) -> ImageSet:
        classes = self._classes(root)
        decoding = Decoding(self.channels, self.height, self.width, resize=True)
        images = load_class_folders("image_folder", root / self.folder / split, classes, decoding, cache)
        self._found[:] = classes
        return images

    def _classes(self, root: Path) -> tuple[str, ...]:
        """List the classes of both splits and require that they agree."""
        base = root / self.folder
        for split in ("train", "test"):
            problem = path_problem(base / split)
            if problem is not None:
                problem = f"{base / split} is missing" if problem == "missing" else problem
                layout = f"{self.folder}/{{train,test}}/CLASS/*"
                raise DataError(missing_message("image_folder", root, [layout], None, problem=problem))
        train, test = (class_folder_names("image_folder", base / split) for split in ("train", "test"))
        if train != test:
            only = f"only in train: {sorted(set(train) - set(test))}, only in test: {sorted(set(test) - set(train))}"
            raise DataError(f"data set image_folder: {base} has different classes in its splits; {only}")
        if len(train) != self.num_classes:
            raise DataError(
                f"data set image_folder: {base} has {len(train)} class folders, not {self.num_classes}; "
                f"set dataset.num_classes={len(train)}"
            )
        return train
