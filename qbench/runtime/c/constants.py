"""The numbers of a network: as arrays in the source, or as one binary file whose pieces the source points into."""

from __future__ import annotations

import hashlib
import struct
import sys
from dataclasses import dataclass, field

import torch
from torch import Tensor

_TYPES = {torch.int8: "int8_t", torch.uint8: "uint8_t", torch.int16: "int16_t", torch.int32: "int32_t"}
_ALIGNMENT = 16  # bytes
MAGIC = 0x31574251  # "QBW1" as a little-endian number
HEAD = struct.Struct("<4I")  # magic, length in bytes, the first 64 bits of the content's sha256
_COLUMNS = 112  # characters of a line of numbers


@dataclass
class Constants:
    """Integer tensors, each stored once; ``add`` names them, whichever way they are written later."""

    _arrays: dict[tuple[torch.dtype, bytes], tuple[str, Tensor]] = field(default_factory=dict)

    def add(self, values: Tensor) -> str:
        """The C name of a tensor's values in row-major order.

        Raises:
            ValueError: It is not of int8, uint8, int16 or int32, or is empty.
        """
        if values.dtype not in _TYPES or not values.numel():
            raise ValueError(f"constants are integers of 8 to 32 bits, not {values.dtype} {tuple(values.shape)}")
        flat = values.detach().reshape(-1).contiguous()
        key = (flat.dtype, flat.numpy().tobytes())
        return self._arrays.setdefault(key, (f"qb_c{len(self._arrays)}", flat))[0]

    @property
    def num_bytes(self) -> int:
        """Bytes of all values."""
        return sum(flat.numel() * flat.element_size() for _, flat in self._arrays.values())

    def as_arrays(self) -> str:
        """Definitions of static arrays."""
        return "\n".join(define(f"static const {_TYPES[f.dtype]} {name}", f) for name, f in self._arrays.values())

    def as_blob(self) -> tuple[str, bytes]:
        """Macros that point into ``weights``, and the content of the file that must lie there, little-endian."""
        macros, content = [], bytearray(HEAD.size)
        for name, flat in self._arrays.values():
            content += bytes(-len(content) % _ALIGNMENT)
            macros.append(f"#define {name} ((const {_TYPES[flat.dtype]} *)(weights + {len(content)}))")
            content += _little_endian(flat)
        digest = struct.unpack("<2I", hashlib.sha256(content[HEAD.size :]).digest()[:8])
        content[: HEAD.size] = HEAD.pack(MAGIC, len(content), *digest)
        return "\n".join(macros), bytes(content)


def define(declaration: str, values: Tensor) -> str:
    """``DECLARATION[n] = {...};`` in lines of readable length."""
    lines, line = [], ""
    for number in map(_literal, values.reshape(-1).tolist()):
        if len(line) + len(number) + 2 > _COLUMNS:
            lines.append(line)
            line = ""
        line += f"{number}, " if line else f"    {number}, "
    body = "\n".join(text.rstrip() for text in [*lines, line.rstrip(", ")])
    return f"{declaration}[{values.numel()}] = {{\n{body}\n}};"


def _literal(number: int) -> str:
    return str(number) if number != -(1 << 31) else "INT32_MIN"  # C reads -2147483648 as minus a number too large


def _little_endian(flat: Tensor) -> bytes:
    array = flat.numpy()
    return array.tobytes() if sys.byteorder == "little" else array.byteswap().tobytes()
