"""The verb export: an artefact as a file of another format, checked before it is there."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.console import make_console
from qbench.errors import ConfigError, ExportError, MethodError, RuntimeUnavailable
from qbench.export.base import FORMATS, load_format
from qbench.locate import find_artifact
from qbench.words import take_option, whole_number

if TYPE_CHECKING:
    from qbench.export.base import Format
    from qbench.export.checking import Comparison
    from qbench.program.graph import Program

CHECKED = 128  # images
USAGE = f"export: give one artefact or run and --format {'|'.join(FORMATS)}; also --output PATH, --images N."


def export(words: Sequence[str]) -> int:
    """``qbench export RUN_OR_FILE --format NAME [--output PATH] [--images N]``: write a deployable file."""
    name, rest = take_option("--format", words, "a format")
    output, rest = take_option("--output", rest)
    count, rest = take_option("--images", rest, "a number")
    if name is None or len(rest) != 1 or rest[0].startswith("-"):
        raise ConfigError(USAGE)
    if name not in FORMATS:
        load_format(name)  # refuses, before torch is imported
    images = whole_number("--images", count, CHECKED)
    path = find_artifact("export", rest[0])
    target, checked = export_file(path, name, Path(output) if output else None, images)
    _print_result(target, checked)
    return 0


def export_file(path: Path, name: str, output: Path | None, images: int) -> tuple[Path, Comparison]:
    """Write an artefact in another format, check it, and only then put it in its place.

    Args:
        path: The artefact.
        name: Of the format.
        output: The file or, for formats of several files, the folder; None puts it beside the artefact.
        images: To check on.

    Returns:
        Where it is, and how it compares with the artefact.

    Raises:
        ConfigError: The place is taken, or cannot be written to.
        RuntimeUnavailable: The artefact has no such form, or what the format needs is not there.
        ExportError: The re-loaded file does not predict what the artefact predicts.
    """
    made = load_format(name)
    target = output or path.with_name(f"{path.stem}{made.suffix}" if made.suffix else f"{path.stem}_{name}")
    check_target(target, made.suffix)
    from qbench.artifact import load

    program = load(path)
    stem = path.stem if output is None else target.stem if made.suffix else target.name
    working = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    try:
        working.mkdir()
        checked = _written_and_checked(program, path, made, working, stem, name, images)
        _put_in_place(working, target, f"{stem}{made.suffix}" if made.suffix else None)
    except OSError as error:
        raise ConfigError(f"export: {target} cannot be written ({error.strerror}); give --output PATH.") from error
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return target, checked


def check_target(target: Path, suffix: str) -> None:
    """Refuse a place that is taken or cannot be written to.

    Raises:
        ConfigError: Names the place and what is wrong with it.
    """
    if suffix and target.exists():
        what = "is a folder; name a file" if target.is_dir() else "is there already; name another or remove it"
        raise ConfigError(f"export: {target} {what}.")
    if target.is_dir() and any(target.iterdir()):
        raise ConfigError(f"export: {target} is not empty; name another folder or empty it.")
    if target.exists() and not target.is_dir():
        raise ConfigError(f"export: {target} is a file; this format needs a folder.")
    if not target.parent.is_dir():
        raise ConfigError(f"export: {target.parent} is no folder; make it, or give another --output PATH.")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"export: {target.parent} cannot be written to; give --output PATH.")


def _written_and_checked(
    program: Program, path: Path, made: Format, folder: Path, stem: str, name: str, images: int
) -> Comparison:
    from qbench.export.checking import check_images, compare

    try:
        made.write(program, folder, stem)
        written = sorted(each.name for each in folder.iterdir())
        reloaded, reference = made.reload(program, folder, stem), made.reference(program)
    except MethodError as error:
        raise RuntimeUnavailable(f"format={name} cannot hold {path}: {error}") from error
    batch, source = check_images(program, path, images)
    checked = replace(compare(reference, reloaded, batch), source=source)
    if checked.agreement_percent < made.least_agreement_percent:
        raise ExportError(
            f"format={name}: re-loaded, the file predicts what {path} predicts on {checked.agreement_percent:.1f} % of "
            f"{checked.images} images ({source}), not on {made.least_agreement_percent:g} %; nothing was written."
        )
    for extra in (each for each in folder.iterdir() if each.name not in written):
        extra.unlink()  # what the check itself has made
    return checked


def _put_in_place(working: Path, target: Path, file: str | None) -> None:
    """One step that succeeds or leaves everything as it was."""
    if file is not None:
        (working / file).replace(target)
    else:
        working.replace(target)  # also onto an empty folder


def _print_result(target: Path, checked: Comparison) -> None:
    files = sorted(target.iterdir()) if target.is_dir() else [target]
    console = make_console()
    alike = f"class {checked.agreement_percent:.1f} %, logits {checked.identical_percent:.1f} % the same"
    text = f"{checked.images} images ({checked.source}): {alike}, largest difference {checked.largest_difference:.3g}"
    lines = [f"checked: {text}"]
    lines += [f"written: {file}, {file.stat().st_size:,} bytes" for file in files]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
