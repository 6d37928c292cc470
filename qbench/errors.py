"""Every error qbench raises on purpose.

    QBenchError                a message for the user; exit code 1
    ├── ConfigError            bad configuration; carries all problems at once; exit code 2
    ├── DataError              a data set is missing, unreadable or not what it claims to be; exit code 2
    ├── ArtifactError          a file is not a valid artefact (truncated, altered, foreign, too new); exit code 2
    ├── StoreError             a store entry cannot be read or written
    │   └── NoRoomError        the disk is full, a quota used up, or the file system read-only
    ├── TrainingError          training cannot go on (NaN loss, out of memory)
    ├── MethodError            a method cannot be applied to this network, or had no effect; names the layer
    ├── RuntimeUnavailable     a runtime is not installed or cannot run this artefact
    └── ExportError            an exported file does not compute what its artefact does

Programming mistakes stay what Python makes of them (``ValueError``, ``TypeError``, ``AssertionError``).
This module imports nothing, so that refusing bad input never waits for torch.
"""

from __future__ import annotations

from collections.abc import Sequence


class QBenchError(Exception):
    """Base of all errors whose text is written for the user."""

    exit_code = 1


class ConfigError(QBenchError):
    """The configuration is wrong. ``problems`` lists everything found, one line each."""

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class DataError(QBenchError):
    """A data set is missing, unreadable, or not what it claims to be."""

    exit_code = 2


class ArtifactError(QBenchError):
    """A file is not a valid qbench artefact; the message names the file and what is wrong with it."""

    exit_code = 2


class StoreError(QBenchError):
    """An entry of the store cannot be read or written."""


class NoRoomError(StoreError):
    """Results cannot be written: no room, or no right to; a sweep stops there."""


class TrainingError(QBenchError):
    """Training cannot go on; the message names the step and the learning rate."""


class MethodError(QBenchError):
    """A method cannot be applied; the message names the layer or module and what would work."""

    def __init__(self, where: str, reason: str) -> None:
        self.where = where
        self.reason = reason
        super().__init__(f"{where}: {reason}")


class RuntimeUnavailable(QBenchError):
    """A runtime is not installed on this machine or cannot run this artefact."""


class ExportError(QBenchError):
    """An exported file, re-loaded, does not compute what its artefact does; nothing is left of it."""
