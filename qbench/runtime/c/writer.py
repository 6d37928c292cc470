"""A lowered network as one C99 source file and its header: integers only, no allocation, no library."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qbench.errors import MethodError
from qbench.program.integer.network import IntegerProgram
from qbench.runtime.c.arena import Arena, plan_arena
from qbench.runtime.c.constants import Constants
from qbench.runtime.c.emit import Emitter
from qbench.runtime.c.interface import Facts, around, blob_check, header
from qbench.runtime.c.kernels import PREAMBLE, select
from qbench.runtime.c.values import Value, aliases, lifetimes, values_of

WEIGHTS = ("auto", "arrays", "blob")
LARGEST_ARRAYS = 1_000_000  # bytes; more than that is a file of its own, as compilers are slow to read numbers
_RESERVED = ("qb_", "QB_", "QBENCH_")


@dataclass(frozen=True)
class CSource:
    """A network in C.

    Args:
        name: Prefix of its functions, and of its files.
        source: Text of ``NAME.c``.
        header: Text of ``NAME.h``.
        blob: Content of ``NAME.bin``; None where the weights are arrays in the source.
        arena_bytes: Static memory for activations.
        constant_bytes: Bytes of weights, biases, factors and tables.
    """

    name: str
    source: str
    header: str
    blob: bytes | None
    arena_bytes: int
    constant_bytes: int

    def write(self, folder: Path) -> None:
        """Write the files into a folder that is there."""
        (folder / f"{self.name}.c").write_text(self.source, encoding="ascii")
        (folder / f"{self.name}.h").write_text(self.header, encoding="ascii")
        if self.blob is not None:
            (folder / f"{self.name}.bin").write_bytes(self.blob)


def to_c(
    program: IntegerProgram,
    *,
    name: str = "model",
    weights: str = "auto",
    pixel_codes: Tensor | None = None,
    about: Sequence[str] = (),
) -> CSource:
    """Write a lowered network as C99. What it computes is what the reference executor computes, bit for bit.

    Args:
        program: The network; its output is one integer per class.
        name: A C identifier: prefix of the public functions.
        weights: "arrays" in the source, "blob" in a file the caller maps (where there are any), "auto": arrays up to a
            million bytes.
        pixel_codes: Codes of the 256 pixel values of each channel, int8 [C, 256]; adds ``NAME_quantize``.
        about: Lines for the header: where the network comes from.

    Raises:
        MethodError: The output is an image; names the node.
        ValueError: ``name`` is no identifier or one used inside, ``weights`` is unknown, or ``pixel_codes`` does not
            fit the input.
    """
    _check(program, name, weights, pixel_codes)
    values = values_of(program)
    last = program.nodes[-1].name
    if values[last].positions != 1:
        raise MethodError(last, "makes an image, not a number per class; end the network in flatten or a linear layer")
    constants = Constants()
    arenas, places = _places(program, values)
    emitter = Emitter(values, places, constants)
    for node in program.nodes:
        emitter.node(node)
    if values[last].dtype != torch.int32:
        emitter.call("qb_widen", values[last].elements, program.output_zero_point, places[last], "logits")
    smallest = {"auto": LARGEST_ARRAYS, "arrays": constants.num_bytes, "blob": 0}[weights]
    as_blob = constants.num_bytes > smallest
    numbers, blob = constants.as_blob() if as_blob else (constants.as_arrays(), None)
    arena_bytes = arenas[torch.int8].elements + 2 * arenas[torch.int16].elements
    facts = Facts(
        name,
        about,
        classes=values[last].elements,
        arena_bytes=arena_bytes,
        constant_bytes=constants.num_bytes,
        blob_bytes=None if blob is None else len(blob),
        pixels=pixel_codes is not None,
    )
    parts = [f'#include "{name}.h"\n', PREAMBLE, numbers, _arena_text(arenas), select(emitter.kernels)]
    parts += [around(program, facts, pixel_codes)]
    parts += [] if blob is None else [blob_check(facts, blob)]
    parts += [_infer(facts, emitter.lines)]
    return CSource(name, "\n".join(parts), header(program, facts), blob, arena_bytes, constants.num_bytes)


def _check(program: IntegerProgram, name: str, weights: str, pixel_codes: Tensor | None) -> None:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or name.startswith(_RESERVED):
        raise ValueError(f"name={name!r}: a C identifier is needed, not beginning with {' or '.join(_RESERVED)}")
    if weights not in WEIGHTS:
        raise ValueError(f"weights={weights!r}: allowed are {', '.join(WEIGHTS)}")
    wanted = (program.input_shape[0], 256)
    if pixel_codes is not None and (pixel_codes.dtype != torch.int8 or tuple(pixel_codes.shape) != wanted):
        found = f"{pixel_codes.dtype} {tuple(pixel_codes.shape)}"
        raise ValueError(f"pixel_codes must be int8 {wanted}, not {found}")


def _places(program: IntegerProgram, values: dict[str, Value]) -> tuple[dict[torch.dtype, Arena], dict[str, str]]:
    """Where every value lies: in the caller's memory or in the arena of its type."""
    same = aliases(program, values)
    last = program.nodes[-1].name
    outside = {IntegerProgram.INPUT: "input"}
    if values[last].dtype == torch.int32:
        outside[last] = "logits"
    needed = lifetimes(program, values, same, frozenset(outside))
    arenas: dict[torch.dtype, Arena] = {}
    places = dict(outside)
    for dtype, array in ((torch.int8, "qb_arena"), (torch.int16, "qb_arena_16")):
        arenas[dtype] = plan_arena([each for each in needed if values[each.name].dtype == dtype])
        places.update({name: f"({array} + {offset})" for name, offset in arenas[dtype].offsets.items()})
    places.update({name: places[other] for name, other in same.items()})
    return arenas, places


def _arena_text(arenas: dict[torch.dtype, Arena]) -> str:
    types = ((torch.int8, "int8_t qb_arena"), (torch.int16, "int16_t qb_arena_16"))
    return "".join(f"static {text}[{arenas[dtype].elements}];\n" for dtype, text in types if arenas[dtype].elements)


def _infer(facts: Facts, lines: Sequence[str]) -> str:
    start = [f"void {facts.name}_infer({facts.parameters})", "{"]
    if facts.blob_bytes is not None:
        start.append("    const uint8_t *const weights = (const uint8_t *)weights_file;")
    return "\n".join([*start, *lines, "}", ""])
