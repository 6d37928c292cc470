"""The commands that run cells again: exactly those cells, in few lines, as a shell reads them."""

from __future__ import annotations

import itertools
import shlex

import pytest

from qbench.rerun import Command, blocks

SWEEP = Command(("method=a,b", "bits=8,4", "seed=0"), None, True)


def cells_of(line: str) -> set[tuple[str, ...]]:
    """What a command means: the grid of its comma lists."""
    words = shlex.split(line)
    assert words[:3] == ["qbench", "run", "-m"]
    values = [[f"{word.split('=')[0]}={value}" for value in word.split("=")[1].split(",")] for word in words[3:]]
    return set(itertools.product(*values))


GRID = [(f"method={method}", f"bits={bits}", "seed=0") for method in "abc" for bits in (8, 4, 2)]


@pytest.mark.parametrize(
    "chosen, lines",
    [([0], 1), ([0, 1], 1), ([0, 3], 1), ([0, 1, 3, 4], 1), ([0, 4], 2), ([0, 1, 2, 3], 2), (range(9), 1),
     ([0, 1, 5, 8], 2), ([], 0)],
    ids=str,
)  # fmt: skip
def test_the_commands_run_these_cells_and_no_others(chosen: list[int], lines: int) -> None:
    cells = [GRID[index] for index in chosen]
    commands = SWEEP.only(cells)
    assert len(commands) == lines
    meant = [cells_of(line) for line in commands]
    assert set().union(*meant) == set(cells) and sum(map(len, meant)) == len(cells)


def test_all_subsets_of_a_grid_are_covered_exactly() -> None:
    grid = [(f"x={x}", f"y={y}", f"z={z}") for x in (1, 2) for y in (1, 2) for z in (1, 2)]
    for pattern in range(1, 2 ** len(grid)):
        cells = [cell for index, cell in enumerate(grid) if pattern >> index & 1]
        found = [cell for block in blocks(cells) for cell in itertools.product(*block)]
        assert sorted(found) == sorted(cells)


def test_a_command_is_quoted_for_the_shell() -> None:
    command = Command(("measure.batch_sizes=[1, 2]", "data_dir=/a b"), "my configs", False)
    assert shlex.split(str(command)) == [
        "qbench", "run", "--config-dir", "my configs", "measure.batch_sizes=[1, 2]", "data_dir=/a b",
    ]  # fmt: skip
    assert command.only([command.overrides]) == [str(command)]
