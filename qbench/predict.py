"""The verb predict: what an artefact sees in image files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.catalog import options
from qbench.console import make_console
from qbench.errors import ConfigError, DataError
from qbench.evaluate import configure
from qbench.locate import find_artifact
from qbench.words import take_option, whole_number

if TYPE_CHECKING:
    from torch import Tensor

    from qbench.config import RunConfig
    from qbench.program.graph import Program

KEYS = ("runtime", "threads")
SHOWN = 3  # classes per image
USAGE = "predict: give one artefact and image files; also --json, --top N, runtime=NAME, threads=N."


def predict(words: Sequence[str]) -> int:
    """``qbench predict FILE IMAGE... [--json] [--top N] [runtime=NAME]``: classes of images, with probabilities."""
    shown, rest = take_option("--top", words, "a number")
    top = whole_number("--top", shown, SHOWN)
    as_json = "--json" in rest
    rest = [word for word in rest if word != "--json"]
    overrides = [word for word in rest if word.partition("=")[0].split(".")[0] in KEYS and "=" in word]
    names = [word for word in rest if word not in overrides]
    if len(names) < 2 or any(name.startswith("-") for name in names):
        raise ConfigError(USAGE)
    path, images = find_artifact("predict", names[0]), [Path(name) for name in names[1:]]
    _check_files(images)
    config = configure("predict", overrides, None)
    found = _classes(path, images, config, top)
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        _print_table(path, found)
    return 0


def _check_files(images: Sequence[Path]) -> None:
    """Refuse what is no file, all at once, before anything heavy is imported."""
    problems = []
    for image in images:
        if not image.exists():
            problems.append(f"{image}: no such file.")
        elif not image.is_file():
            problems.append(f"{image}: is not a file; give single images.")
    if problems:
        raise ConfigError(problems)


def _classes(path: Path, images: Sequence[Path], config: RunConfig, top: int) -> list[dict[str, Any]]:
    """Each image with its most probable classes, the first of them first."""
    import torch

    from qbench.artifact import load
    from qbench.data.augment import normalise
    from qbench.deployed import class_names, normalisation
    from qbench.runtime import load_runtime

    program = load(path)
    mean, std = normalisation(program, path)
    pixels = torch.stack([_pixels(image, program, path) for image in images])
    executable = load_runtime(config.runtime.target, config.runtime.params).load(path, threads=config.threads)
    shares = torch.softmax(executable(normalise(pixels, mean, std)).double(), dim=1)
    names = class_names(program)
    found = []
    for image, row in zip(images, shares):
        best = row.sort(descending=True, stable=True)  # of equal ones the first class, as everywhere
        pairs = list(zip(best.indices.tolist(), best.values.tolist()))[:top]
        ranked = [{"class": names[index], "index": index, "probability": share} for index, share in pairs]
        found.append({"image": str(image), "predictions": ranked})
    return found


def _pixels(file: Path, program: Program, path: Path) -> Tensor:
    """An image as the data set's pipeline would make it: uint8 [C, H, W].

    It is resized to the images of the data set the network was trained on, and padded as those were; to the network's
    own input where that data set is not known here.
    """
    import torch

    from qbench.data.base import ImageSet
    from qbench.data.class_folders import Decoding, decode_image
    from qbench.deployed import fitted

    channels, height, width = _decoded_shape(program)
    if channels not in (1, 3):
        raise DataError(f"{path}: takes images of {channels} channels; files have 1 (grey) or 3 (RGB)")
    decoded = torch.from_numpy(decode_image(file, Decoding(channels, height, width, resize=True)).copy())[None]
    label = torch.zeros(1, dtype=torch.int64)
    return fitted(ImageSet(decoded, label), program, path, str(file)).images[0]


def _decoded_shape(program: Program) -> tuple[int, int, int]:
    """The shape to decode to: that of the data set's images where padding makes of it what the network takes."""
    wanted = program.input_shape
    name = program.provenance.get("dataset")
    known = options("dataset").get(name) if isinstance(name, str) else None
    native = (known.load().get("images") or {}) if known is not None else {}
    channels, height, width = (native.get(key) for key in ("channels", "height", "width"))
    if not (isinstance(channels, int) and isinstance(height, int) and isinstance(width, int)):
        return wanted
    least = min(wanted[1:])
    fits = channels in (1, wanted[0]) and (max(height, least), max(width, least)) == wanted[1:]
    return (channels, height, width) if fits else wanted


def _print_table(path: Path, found: Sequence[dict[str, Any]]) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right", no_wrap=True)
    for one in found:
        for index, prediction in enumerate(one["predictions"]):
            image = one["image"] if index == 0 else ""
            table.add_row(escape(image), escape(prediction["class"]), f"{prediction['probability']:.4f}")
    console = make_console()
    console.print(str(path), markup=False, highlight=False, soft_wrap=True)
    console.print(table)
