"""The command lines that run a sweep, or some of its cells, again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

Block = tuple[tuple[str, ...], ...]  # for each override of the command, in order: the values it takes


@dataclass(frozen=True)
class Command:
    """``qbench run``, or another verb that runs cells, as it was given.

    ``settings`` are those of its overrides that speak of the sweep, not of its cells.
    """

    overrides: tuple[str, ...]
    config_dir: str | None
    multirun: bool
    settings: tuple[str, ...] = ()
    verb: tuple[str, ...] = ("run",)

    def __str__(self) -> str:
        flags = ["-m"] if self.multirun and self.verb == ("run",) else []
        return shlex.join(["qbench", *self.verb, *flags, *self._folder, *self.overrides])

    def only(self, cells: Sequence[Sequence[str]]) -> list[str]:
        """The fewest commands, one below the other, that run these cells and no others.

        Args:
            cells: The overrides of each, ``KEY=VALUE``; those of a sweep have the same keys in the same order.
        """
        sweeps: dict[tuple[str, ...], list[Sequence[str]]] = {}
        for cell in cells:
            sweeps.setdefault(tuple(word.partition("=")[0] for word in cell), []).append(cell)
        flags = ["-m"] if self.multirun else []
        return [
            shlex.join(["qbench", "run", *flags, *self._folder, *self.settings, *map(_sweep, block)])
            for of_sweep in sweeps.values()
            for block in blocks(of_sweep)
        ]

    @property
    def _folder(self) -> list[str]:
        return ["--config-dir", self.config_dir] if self.config_dir is not None else []


def blocks(cells: Sequence[Sequence[str]]) -> list[Block]:
    """Cells as few full grids: those that differ in one override alone are taken together, the last override first."""
    found: list[Block] = [tuple((value,) for value in cell) for cell in dict.fromkeys(map(tuple, cells))]
    for position in reversed(range(len(found[0]) if found else 0)):
        merged: dict[tuple[Block, Block], tuple[str, ...]] = {}
        for block in found:
            rest = block[:position], block[position + 1 :]
            merged[rest] = (*merged.get(rest, ()), *block[position])
        found = [(*before, values, *after) for (before, after), values in merged.items()]
    return found


def _sweep(values: Sequence[str]) -> str:
    key = values[0].partition("=")[0]
    return f"{key}={','.join(value.partition('=')[2] for value in values)}"
