"""Which layer gets how many bits: the method's own, those of the first and last layer, those a name pattern gives."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from qbench.errors import MethodError
from qbench.program.graph import Program


def bits_by_layer(
    program: Program, bits: int, overrides: Mapping[str, int], first_last_bits: int | None, largest: int
) -> dict[str, int]:
    """Layer name -> weight bits; 0 leaves a layer float.

    Args:
        program: Its layers in execution order.
        bits: For layers nothing else speaks of.
        overrides: Shell-style name pattern -> bits; the last matching pattern wins.
        first_last_bits: For the first and the last layer; None treats them like the others. Overrides win.
        largest: The most bits the method has a form for.

    Raises:
        MethodError: A pattern matches no layer, or its bits are outside 0..``largest``.
    """
    names = [node.name for node in program.layers()]
    chosen = dict.fromkeys(names, bits)
    if first_last_bits is not None and names:
        chosen[names[0]] = chosen[names[-1]] = first_last_bits
    for pattern, own in overrides.items():
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            raise MethodError(f"method.overrides[{pattern!r}]", f"matches no layer; layers are {', '.join(names)}")
        if isinstance(own, bool) or not isinstance(own, int) or not 0 <= own <= largest:
            raise MethodError(f"method.overrides[{pattern!r}]", f"is {own!r}; allowed are 0 (float) to {largest}")
        chosen.update(dict.fromkeys(matching, own))
    return chosen
