"""Trees of class folders (FOLDER/CLASS/image.png): decoded once with PIL, then kept as one checked uint8 tensor."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from qbench.data.base import ImageSet
from qbench.data.presence import path_problem
from qbench.errors import DataError

_LOG = logging.getLogger(__name__)
_EXTENSIONS = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_CHUNK = 256  # files per task: large enough to amortise the hand-over, small enough to keep all threads busy
_VERSION = 1  # of the decoding below; part of the cache key


@dataclass(frozen=True)
class Decoding:
    """How files become pixels.

    Attributes:
        channels: 1 (grey) or 3 (RGB).
        height: Pixels.
        width: Pixels.
        resize: Resize other sizes (bilinear, antialiased, aspect ratio not kept); False makes another size an error.
    """

    channels: int
    height: int
    width: int
    resize: bool


def class_folder_names(name: str, folder: Path) -> tuple[str, ...]:
    """List the sorted class folders of ``folder``.

    Raises:
        DataError: The folder is missing, unreadable, or has no class folder.
    """
    _require_readable(name, folder)
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"data set {name}: {folder} has no class folders (expected {folder.name}/CLASS/image.png)")
    return tuple(names)


def load_class_folders(name: str, folder: Path, classes: Sequence[str], decoding: Decoding, cache: Path) -> ImageSet:
    """Load FOLDER/CLASS/* in the order (class, file name), from the cache when the files have not changed.

    Args:
        name: The data set's name, for messages and the cache file.
        folder: Holds one folder per class.
        classes: Folder names; the position is the label.
        decoding: How files become pixels.
        cache: Where decoded images are kept. Two processes decode once: the second waits.

    Raises:
        DataError: A folder is unreadable, a class has no image, a file is not an image or has another size,
            or the cache cannot be written.
    """
    files, labels = _list_files(name, folder, classes)
    key = _key(folder, files, labels, decoding)
    stored = cache / f"{name}-{key[:32]}.safetensors"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(stored.with_suffix(".lock")):
            images = _read_cache(stored, (len(files), decoding.channels, decoding.height, decoding.width))
            if images is None:
                _LOG.info("decoding %d images of %s", len(files), folder)
                images = decode_files(name, files, decoding)
                _write_cache(stored, images)
    except (OSError, SafetensorError) as error:
        raise DataError(f"data set {name}: cannot keep decoded images in {cache}: {error}") from error
    return ImageSet(images, torch.tensor(labels, dtype=torch.int64))


def decode_files(name: str, files: Sequence[Path], decoding: Decoding) -> Tensor:
    """Decode image files in parallel threads into uint8 [N, C, H, W].

    Raises:
        DataError: A file cannot be decoded, or has another size while ``decoding.resize`` is False; names the file.
    """
    pixels = np.empty((len(files), decoding.channels, decoding.height, decoding.width), dtype=np.uint8)

    def decode_chunk(start: int) -> None:
        for row in range(start, min(start + _CHUNK, len(files))):
            pixels[row] = _decode(name, files[row], decoding)

    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        # list() re-raises the first failure in file order, so the file named does not depend on thread timing.
        list(pool.map(decode_chunk, range(0, len(files), _CHUNK)))
    return torch.from_numpy(pixels)


def decode_image(file: Path, decoding: Decoding) -> NDArray[np.uint8]:
    """Decode one image file into uint8 [C, H, W].

    Raises:
        DataError: It cannot be decoded, or has another size while ``decoding.resize`` is False; names the file.
    """
    try:
        with Image.open(file) as opened:
            image: Image.Image = opened.convert("RGB" if decoding.channels == 3 else "L")
    except Exception as error:  # PIL's decoders raise many types on damaged files (struct.error, SyntaxError, ...)
        raise DataError(f"{file} cannot be decoded: {error}") from error
    if image.size != (decoding.width, decoding.height):
        if not decoding.resize:
            raise DataError(f"{file} is {image.width}x{image.height}, not {decoding.width}x{decoding.height}")
        image = image.resize((decoding.width, decoding.height), Image.Resampling.BILINEAR)
    # [H, W] or [H, W, C] -> [C, H, W]
    return np.asarray(image).reshape(decoding.height, decoding.width, decoding.channels).transpose(2, 0, 1)


def _decode(name: str, file: Path, decoding: Decoding) -> NDArray[np.uint8]:
    try:
        return decode_image(file, decoding)
    except DataError as error:
        raise DataError(f"data set {name}: {error}") from error


def _require_readable(name: str, folder: Path) -> None:
    problem = path_problem(folder)
    if problem is None and not folder.is_dir():
        problem = f"{folder} is not a folder"
    if problem is not None:
        raise DataError(
            f"data set {name}: {folder} is missing" if problem == "missing" else f"data set {name}: {problem}"
        )


def _list_files(name: str, folder: Path, classes: Sequence[str]) -> tuple[list[Path], list[int]]:
    files: list[Path] = []
    labels: list[int] = []
    for label, class_name in enumerate(classes):
        _require_readable(name, folder / class_name)
        with os.scandir(folder / class_name) as entries:
            names = sorted(entry.name for entry in entries if Path(entry.name).suffix.lower() in _EXTENSIONS)
        names = [file for file in names if not file.startswith(".")]
        if not names:
            raise DataError(f"data set {name}: class folder {folder / class_name} has no images")
        files += [folder / class_name / file for file in names]
        labels += [label] * len(names)
    return files, labels


def _key(folder: Path, files: Sequence[Path], labels: Sequence[int], decoding: Decoding) -> str:
    """sha256 over what the decoded tensor depends on: names, sizes and times of the files, and the settings."""
    digest = hashlib.sha256(json.dumps([_VERSION, *vars(decoding).values()]).encode())
    for file, label in zip(files, labels):
        try:
            stat = file.stat()
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror}") from error
        relative = file.relative_to(folder).as_posix()
        digest.update(json.dumps([relative, label, stat.st_size, stat.st_mtime_ns]).encode() + b"\n")
    return digest.hexdigest()


def _read_cache(stored: Path, shape: tuple[int, ...]) -> Tensor | None:
    """Return the cached images, or None when there are none or the file is not exactly what was written."""
    if not stored.exists():
        return None
    try:
        with safe_open(stored, framework="pt") as opened:
            checksum = (opened.metadata() or {}).get("sha256")
            images: Tensor = opened.get_tensor("images")
    except (SafetensorError, OSError, ValueError) as error:
        _LOG.warning("decoding again, %s is damaged: %s", stored, error)
        return None
    if images.dtype != torch.uint8 or tuple(images.shape) != shape or checksum != _sha256(images):
        _LOG.warning("decoding again, %s is damaged: its checksum or shape does not match", stored)
        return None
    return images


def _write_cache(stored: Path, images: Tensor) -> None:
    """Write beside the target, then rename: a reader sees the whole file or none."""
    with tempfile.TemporaryDirectory(dir=stored.parent, prefix=".writing-") as folder:
        written = Path(folder) / stored.name
        save_file({"images": images}, written, metadata={"sha256": _sha256(images)})
        written.replace(stored)


def _sha256(images: Tensor) -> str:
    return hashlib.sha256(images.numpy().data).hexdigest()
