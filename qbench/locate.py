"""Which file is meant by a path, the folder of a run, or the id of a run. No torch."""

from __future__ import annotations

import os
from pathlib import Path

from qbench.errors import ConfigError
from qbench.files import ARTIFACT, CARD

_SHORTEST_ID = 4  # letters of a run's id that may stand for the whole


def find_artifact(verb: str, given: str) -> Path:
    """The artefact a word of the command line means.

    Args:
        verb: For the messages.
        given: A file, a folder that holds ``model.qbench``, or the id (or first letters of it, or the folder's name) of
            a run below ``outputs/runs``.

    Raises:
        ConfigError: There is no such file or run, several runs are meant, or the run failed.
    """
    path = Path(given)
    if path.is_dir():
        return _inside(verb, path)
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path  # whatever is wrong with it is said when it is read
    runs = Path(os.environ.get("QBENCH_OUTPUTS", "outputs")) / "runs"
    folders = sorted(runs.iterdir()) if runs.is_dir() else []
    found = [each for each in folders if each.name == given or each.name.rpartition("_")[2] == given]
    if not found and len(given) >= _SHORTEST_ID:
        found = [each for each in folders if each.name.rpartition("_")[2].startswith(given)]
    if len(found) > 1:
        raise ConfigError(f"{verb} {given}: several runs are meant: {', '.join(each.name for each in found)}.")
    if not found:
        raise ConfigError(f"{verb} {given}: no such file, and no run of that id in {runs}.")
    return _inside(verb, found[0])


def _inside(verb: str, folder: Path) -> Path:
    path = folder / ARTIFACT
    if path.exists():
        return path
    if (folder / CARD).exists():
        what = "holds the file of another library's quantizer; only `qbench run` uses such files, on their own runtime"
        raise ConfigError(f"{verb} {folder}: {what}.")
    failed = "the run failed, see its traceback.txt" if (folder / "traceback.txt").exists() else "it is no run's folder"
    raise ConfigError(f"{verb} {folder}: holds no {ARTIFACT}; {failed}.")
