"""Where the values of a network lie in one piece of memory, each only as long as somebody reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 16  # elements


@dataclass(frozen=True)
class Lifetime:
    """A value, its elements, and the steps (inclusive) from the one that makes it to the last that reads it."""

    name: str
    elements: int
    first: int
    last: int

    def meets(self, other: Lifetime) -> bool:
        """Whether both are needed at some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Arena:
    """Offset of each value, and the length of the whole; in elements."""

    offsets: dict[str, int]
    elements: int


def plan_arena(values: Sequence[Lifetime]) -> Arena:
    """Place values so that those needed at one step do not overlap: the largest first, each as low as it fits.

    The same values give the same plan. Source: greedy by size, as in Y. Pisarchyk and J. Lee, "Efficient Memory
    Management for Deep Neural Net Inference", arXiv:2001.03288, sec. 5.2.
    """
    placed: list[tuple[int, Lifetime]] = []
    for value in sorted(values, key=lambda value: (-value.elements, value.first, value.name)):
        start = 0
        for offset, other in sorted(placed, key=lambda item: item[0]):
            if value.meets(other) and start + value.elements > offset:
                start = max(start, _aligned(offset + other.elements))
        placed.append((start, value))
    ends = [offset + value.elements for offset, value in placed]
    return Arena({value.name: offset for offset, value in placed}, max(ends, default=0))


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
