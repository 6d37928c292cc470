"""What the data sets read through torchvision share: finding the files, downloading once, and clear errors."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from qbench.data.base import ImageSet
from qbench.data.presence import missing_message, path_problem
from qbench.errors import DataError

# What torchvision, pickle and the idx reader raise on damaged files (the reader checks lengths with `assert`).
_DAMAGE = (RuntimeError, OSError, ValueError, AssertionError, EOFError, KeyError, IndexError, pickle.UnpicklingError)


@dataclass(frozen=True)
class Source:
    """Where a data set's files are.

    Attributes:
        name: The data set's name in messages.
        files: Paths relative to ``data_dir``, all of which torchvision needs.
        shown: The layouts the data set accepts, as named in messages.
        host: ``host:port`` of the download.
        archives: Downloads a user may already have, relative to ``data_dir``; torchvision checks their md5 sums.
    """

    name: str
    files: tuple[str, ...]
    shown: tuple[str, ...]
    host: str
    archives: tuple[str, ...] = ()


def files_present(source: Source, root: Path) -> bool:
    """Whether all of the source's files are there.

    Raises:
        DataError: One of them is there but cannot be read.
    """
    problems = [path_problem(root / file) for file in source.files]
    for problem in problems:
        if problem not in (None, "missing"):
            raise DataError(missing_message(source.name, root, source.shown, source.host, problem=str(problem)))
    return all(problem is None for problem in problems)


def open_torchvision(source: Source, factory: Callable[..., Any], root: Path, *, train: bool, download: bool) -> Any:
    """Open one split of a torchvision data set, downloading it first when that is allowed and needed.

    Args:
        source: Where the files are.
        factory: The torchvision class; called with ``(root, train=..., download=...)``.
        root: The user's ``data_dir``.
        train: The training split, else the test split.
        download: Whether the files may be downloaded when missing.

    Raises:
        DataError: The files are missing and may not or cannot be downloaded, unreadable, or damaged.
    """
    if not files_present(source, root):
        if not download:
            raise DataError(missing_message(source.name, root, source.shown, source.host))
        _download(source, factory, root, train=train)
    try:
        return factory(str(root), train=train, download=False)
    except _DAMAGE as error:
        folder = (root / source.files[0]).parent
        raise DataError(
            f"data set {source.name}: the files in {folder} are damaged or incomplete ({error}); "
            "delete that folder and run again to fetch them anew, or copy the official files there"
        ) from error


def _download(source: Source, factory: Callable[..., Any], root: Path, *, train: bool) -> None:
    """Let torchvision download beside the final place, then move complete files there.

    A process that is killed leaves nothing that looks complete; a second process waits and then finds the files.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{source.name}.lock"):
            if files_present(source, root):
                return
            with tempfile.TemporaryDirectory(dir=root, prefix=".downloading-") as folder:
                for archive in source.archives:
                    if (root / archive).is_file():
                        (Path(folder) / archive).parent.mkdir(parents=True, exist_ok=True)
                        (Path(folder) / archive).symlink_to((root / archive).resolve())
                factory(folder, train=train, download=True)
                for file in source.files:
                    (root / file).parent.mkdir(parents=True, exist_ok=True)
                    (Path(folder) / file).replace(root / file)
    except _DAMAGE as error:
        lines = str(error).strip().splitlines()
        problem = f"and the download failed: {lines[-1] if lines else type(error).__name__}"
        raise DataError(missing_message(source.name, root, source.shown, source.host, problem=problem)) from error


def checked_images(
    name: str, images: Tensor, labels: Tensor | Sequence[int], num_classes: int, shape: tuple[int, int, int]
) -> ImageSet:
    """Pair images and labels after checking that they are what the data set claims.

    Args:
        name: The data set's name in messages.
        images: uint8 [N, C, H, W].
        labels: Integers [N] in [0, num_classes).
        num_classes: Number of classes.
        shape: The (C, H, W) every image must have.

    Raises:
        DataError: No image, another shape or dtype, another number of labels, or a label out of range.
    """
    labels = torch.as_tensor(labels, dtype=torch.int64)
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != shape or len(images) == 0:
        found = f"{images.dtype} {tuple(images.shape)}"
        raise DataError(f"data set {name}: images must be uint8 [N, {', '.join(map(str, shape))}], found {found}")
    if labels.shape != images.shape[:1]:
        raise DataError(f"data set {name}: {len(images)} images but {labels.numel()} labels")
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        found = f"{int(labels.min())}..{int(labels.max())}"
        raise DataError(f"data set {name}: labels must lie in 0..{num_classes - 1}, found {found}")
    return ImageSet(images.contiguous(), labels)
