"""The artefact of a quantize stage as files: our own, or those of another library with a card beside them.

    model.qbench                        all that a run needs to know stands in its header
    model.onnx            model.json    the card says what that header would: normalisation, classes, where it came from
    model.xml  model.bin  model.json

The size of an artefact is that of its files without the card, which only qbench reads.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qbench.artifact import load
from qbench.errors import ArtifactError, MethodError
from qbench.files import ARTIFACT, CARD, write_atomic
from qbench.methods.base import External
from qbench.program.graph import Program

STEM = "model"
FORMAT = 1


@dataclass(frozen=True)
class Card:
    """What travels beside the files of another library.

    Args:
        files: Their names; the first is the one that is loaded.
        runtime: What loads it.
        packages: Version of each package that made them.
        input_shape: (C, H, W) of one image.
        provenance: As in the header of a ``.qbench`` file: dataset, model, method, params, seed, mean, std, classes.
        format: Of the card.
    """

    files: tuple[str, ...]
    runtime: str
    packages: Mapping[str, str]
    input_shape: tuple[int, int, int]
    provenance: Mapping[str, Any]
    format: int = FORMAT


@dataclass(frozen=True)
class ArtifactFiles:
    """The files of an artefact.

    Args:
        path: The one that runtimes load.
        files: All that its size counts, ``path`` first.
        card: None for a ``.qbench`` file.
    """

    path: Path
    files: tuple[Path, ...]
    card: Card | None

    @property
    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)

    @property
    def sha256(self) -> str:
        """Of the content, one file after the other."""
        digest = hashlib.sha256()
        for path in self.files:
            digest.update(path.read_bytes())
        return digest.hexdigest()

    @property
    def published(self) -> tuple[Path, ...]:
        """What a run's folder gets: the files, and the card if there is one."""
        return self.files if self.card is None else (*self.files, self.path.with_name(CARD))


@dataclass(frozen=True)
class Input:
    """What images an artefact takes.

    Args:
        path: The artefact, for messages.
        shape: (C, H, W).
        provenance: Of its header or card.
    """

    path: Path
    shape: tuple[int, int, int]
    provenance: Mapping[str, Any]

    @property
    def mean(self) -> tuple[float, ...]:
        """Of the pixels (0 to 1) it was trained on, per channel. Raises ArtifactError where nothing says it."""
        return self._per_channel("mean")

    @property
    def std(self) -> tuple[float, ...]:
        """Of the same pixels the standard deviation."""
        return self._per_channel("std")

    def _per_channel(self, key: str) -> tuple[float, ...]:
        values = self.provenance.get(key)
        if not isinstance(values, list | tuple) or len(values) != self.shape[0]:
            raise ArtifactError(f"{self.path}: nothing says its {key} per channel; qbench run writes files that do")
        return tuple(float(value) for value in values)


def keep(
    made: External,
    folder: Path,
    *,
    packages: Mapping[str, str],
    input_shape: tuple[int, int, int],
    provenance: Mapping[str, Any],
) -> ArtifactFiles:
    """Copy the files of another library into a stage's folder under names of our own, and write their card.

    Raises:
        MethodError: A file is not there, or would not have a name of its own.
    """
    targets = {made.file: STEM + made.file.suffix}
    for path in made.beside:
        targets[path] = STEM + path.name.removeprefix(made.file.stem)
    for path, name in targets.items():
        if not path.is_file():
            raise MethodError(path.name, "the library was to write this file, and did not")
        if path != made.file and not path.name.startswith(f"{made.file.stem}."):
            raise MethodError(path.name, f"the name of a file beside {made.file.name} must begin with it")
        if name in (STEM, CARD, ARTIFACT) or list(targets.values()).count(name) > 1:
            raise MethodError(path.name, f"cannot be kept as {name}; give it a suffix of its own")
    for path, name in targets.items():
        shutil.copyfile(path, folder / name)
    card = Card(tuple(targets.values()), made.runtime, dict(packages), input_shape, dict(provenance))
    write_atomic(folder / CARD, json.dumps(asdict(card), indent=1, sort_keys=True).encode() + b"\n")
    return artifact_of(folder)


def artifact_of(folder: Path) -> ArtifactFiles:
    """The artefact in the folder of a quantize stage, or of a run."""
    card = _read_card(folder / CARD) if (folder / CARD).is_file() else None
    names = (ARTIFACT,) if card is None else card.files
    files = tuple(folder / name for name in names)
    return ArtifactFiles(files[0], files, card)


def input_of(path: Path) -> Input:
    """What images an artefact takes, from its header or from the card beside it.

    Raises:
        ArtifactError: It is broken, or has no card.
    """
    ours = path.suffix == Path(ARTIFACT).suffix
    found: Program | Card = load(path) if ours else _read_card(path.with_name(CARD))
    return Input(path, found.input_shape, found.provenance)


def _read_card(path: Path) -> Card:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ArtifactError(f"{path}: card format {content['format']}; this qbench reads {FORMAT}")
        channels, height, width = content["input_shape"]
        names = tuple(str(name) for name in content["files"])
        if not names or any(Path(name).name != name for name in names):
            raise ArtifactError(f"{path}: {', '.join(names) or 'no file'}: plain names of files are needed")
        return Card(names, content["runtime"], content["packages"], (channels, height, width), content["provenance"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise ArtifactError(f"{path}: not the card of another library's file ({reason})") from error


__all__ = ["ArtifactFiles", "Card", "Input", "artifact_of", "input_of", "keep"]
