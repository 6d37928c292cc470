"""Encodings to named arrays and back.

Each stored tensor KEY (``features.0.weight``) becomes one or more arrays called PART:KEY, or PART.ans:KEY where its
content is entropy-coded. What the arrays do not say themselves is in its *spec*, a JSON object with the kind of
encoding as its only key; a float tensor needs none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from qbench.artifact import coding, fields
from qbench.artifact.checks import MOST_BITS, check_grid
from qbench.program.encodings import FLOAT_BITS, Affine, Codebook, Encoding, Float, Sparse
from qbench.quant import packing

Category = Literal["codes", "codebooks", "scales", "floats", "masks"]
CODED_PARTS = ("codes", "indices", "mask")  # what entropy coding may make smaller; all else is small
CODED_BITS = 16  # the most bits of a value that is entropy-coded
_CODE_DTYPES = {"int8": torch.int8, "int16": torch.int16, "int32": torch.int32}


@dataclass(frozen=True, eq=False)
class Part:
    """One array of the file.

    Args:
        name: PART:KEY.
        category: Where the size report counts it.
        values: The values, any shape.
        bits: Bits per value in the file; values that are not floats are packed.
        offset: The value stored as zero, for packed values.
    """

    name: str
    category: Category
    values: Tensor
    bits: int
    offset: int = 0

    @property
    def coded_name(self) -> str:
        """The name of the array if it is entropy-coded."""
        return coded_name(self.name)

    @property
    def exact_bits(self) -> int:
        """Bits of the values alone, before the last byte is filled up."""
        return self.values.numel() * self.bits

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        return packing.packed_size(self.values.numel(), self.bits)

    def stored(self) -> Tensor:
        """Return the array as the file has it: own storage, CPU, contiguous; uint8 [size_bytes] if packed."""
        values = self.values.detach().cpu()
        if values.is_floating_point():
            return values.clone(memory_format=torch.contiguous_format)
        return packing.pack(values, self.bits, self.offset)

    def coded(self) -> Tensor | None:
        """Return the entropy-coded array, uint8; None where it would be no smaller or is never coded."""
        if not may_be_coded(self.name, self.bits):
            return None
        return coding.encode(self.values.detach().cpu(), self.bits, self.offset)


def may_be_coded(name: str, bits: int) -> bool:
    """Whether an array of this name and width may be entropy-coded."""
    return name.partition(":")[0] in CODED_PARTS and bits <= CODED_BITS


def coded_name(name: str) -> str:
    """'codes.ans:KEY' for 'codes:KEY'."""
    part, _, key = name.partition(":")
    return f"{part}.ans:{key}"


def parts(key: str, encoding: Encoding) -> Iterator[Part]:
    """Yield the arrays that hold an encoding."""
    if isinstance(encoding, Float):
        yield Part(f"float:{key}", "floats", encoding.values, encoding.bits)
    elif isinstance(encoding, Affine):
        yield from _affine_parts("", key, encoding, "codes", "scales")
    elif isinstance(encoding, Codebook):
        yield Part(f"indices:{key}", "codes", encoding.indices, encoding.bits)
        table = encoding.centroids
        if isinstance(table, Float):
            yield Part(f"centroids:{key}", "codebooks", table.values, table.bits)
        else:
            yield from _affine_parts("centroids.", key, table, "codebooks", "codebooks")
    else:
        yield Part(f"mask:{key}", "masks", encoding.mask.to(torch.uint8), 1)
        yield from parts(key, encoding.inner)


def _affine_parts(prefix: str, key: str, encoding: Affine, codes: Category, scales: Category) -> Iterator[Part]:
    yield Part(f"{prefix}codes:{key}", codes, encoding.codes, encoding.bits, encoding.qmin)
    yield Part(f"{prefix}scale:{key}", scales, encoding.scale, 32)
    if bool((encoding.zero_point != 0).any()):
        yield Part(f"{prefix}zero:{key}", scales, encoding.zero_point, encoding.bits, encoding.qmin)


def spec(encoding: Encoding, with_shape: bool = True) -> dict[str, Any] | None:
    """Return the JSON description of an encoding; None for Float, whose array says everything."""
    if isinstance(encoding, Float):
        return None
    content: dict[str, Any] = {"shape": list(encoding.shape)} if with_shape else {}
    if isinstance(encoding, Affine):
        content["bits"] = encoding.bits
        if (encoding.qmin, encoding.qmax) != _signed_grid(encoding.bits):
            content["grid"] = [encoding.qmin, encoding.qmax]
        if encoding.axis is not None:
            content["axis"] = encoding.axis
        if encoding.group_size is not None:
            content["group"] = encoding.group_size
        if encoding.codes.dtype != _narrowest(encoding.qmin, encoding.qmax):
            content["dtype"] = str(encoding.codes.dtype).removeprefix("torch.")
        return {"affine": content}
    if isinstance(encoding, Codebook):
        content["bits"] = encoding.bits
        if encoding.axis is not None:
            content["axis"] = encoding.axis
        if (table := spec(encoding.centroids)) is not None:
            content["centroids"] = table
        return {"codebook": content}
    if (inner := spec(encoding.inner, with_shape=False)) is not None:
        content["inner"] = inner
    return {"sparse": content}


class Reader:
    """Rebuilds encodings from the arrays of a file, and knows in the end whether any array was left over.

    Args:
        arrays: By name.
        coded: Whether some of them are entropy-coded.
    """

    def __init__(self, arrays: dict[str, Tensor], coded: bool = False) -> None:
        self._arrays = dict(arrays)
        self._coded, self._num_coded = coded, 0

    def has_float(self, key: str) -> bool:
        """Whether ``key`` is stored as plain floats."""
        return f"float:{key}" in self._arrays

    def finish(self) -> None:
        """Raise ValueError if an array belongs to no tensor, or entropy coding was announced in vain."""
        if self._arrays:
            raise ValueError(f"array {min(self._arrays)!r} belongs to no tensor")
        if self._coded and not self._num_coded:
            raise ValueError("no array is entropy-coded, though the format says so")

    def read(self, key: str, written: Any) -> Encoding:
        """Rebuild the encoding of one tensor from its spec, None for a float tensor.

        Raises:
            ValueError: the spec is malformed, or an array is missing or of the wrong type or length.
        """
        if written is None:
            return Float(self._floats(f"float:{key}", tuple(FLOAT_BITS)))
        where = f"tensor {key!r}"
        kinds = fields.object_of(written, f"the spec of {where}", optional=["affine", "codebook", "sparse"])
        if "sparse" not in kinds:
            return self._dense(key, written, None)
        content = fields.object_of(_only(kinds, "sparse", where), where, ["shape"], ["inner"])
        shape = fields.shape(content["shape"], f"the shape of {where}")
        mask = self._packed(f"mask:{key}", 1, shape, 0, 1, torch.uint8).to(torch.bool)
        kept = (int(mask.sum()),)
        if "inner" in content:
            return Sparse(mask, self._dense(key, content["inner"], kept))
        return Sparse(mask, Float(self._floats(f"float:{key}", tuple(FLOAT_BITS))))

    def _dense(self, key: str, written: Any, shape: tuple[int, ...] | None) -> Affine | Codebook:
        """Rebuild an Affine or Codebook; ``shape`` is None where the spec has it."""
        where = f"tensor {key!r}"
        kinds = fields.object_of(written, f"the spec of {where}", optional=["affine", "codebook"])
        if "affine" in kinds:
            return self._affine("", key, _only(kinds, "affine", where), shape)
        content = fields.object_of(
            _only(kinds, "codebook", where), where, ["bits", *_shape_key(shape)], ["axis", "centroids"]
        )
        shape = shape or fields.shape(content["shape"], f"the shape of {where}")
        bits = fields.integer(content["bits"], f"bits of {where}", 1, 8)
        indices = self._packed(f"indices:{key}", bits, shape, 0, (1 << bits) - 1, torch.uint8)
        centroids: Float | Affine
        if "centroids" in content:
            table = fields.object_of(content["centroids"], f"the centroids of {where}", ["affine"])
            centroids = self._affine("centroids.", key, table["affine"], None)
        else:
            centroids = Float(self._floats(f"centroids:{key}", tuple(FLOAT_BITS)))
        return Codebook(indices, centroids, bits, _axis(content, where))

    def _affine(self, prefix: str, key: str, written: Any, shape: tuple[int, ...] | None) -> Affine:
        where = f"tensor {key!r}"
        content = fields.object_of(written, where, ["bits", *_shape_key(shape)], ["grid", "axis", "group", "dtype"])
        shape = shape or fields.shape(content["shape"], f"the shape of {where}")
        bits = fields.integer(content["bits"], f"bits of {where}", 1, MOST_BITS)
        grid = fields.array(content.get("grid", list(_signed_grid(bits))), f"the grid of {where}", 2, 2)
        bits, qmin, qmax = check_grid(bits, grid[0], grid[1], where)
        dtype = _code_dtype(content, qmin, qmax, where)
        codes = self._packed(f"{prefix}codes:{key}", bits, shape, qmin, qmax, dtype)
        scale = self._floats(f"{prefix}scale:{key}", (torch.float32,))
        zero_point = torch.zeros(scale.shape, dtype=torch.int32)
        if f"{prefix}zero:{key}" in self._arrays:
            zero_point = self._packed(f"{prefix}zero:{key}", bits, tuple(scale.shape), qmin, qmax, torch.int32)
        group = content.get("group")
        if group is not None:
            group = fields.integer(group, f"the group of {where}", 1, fields.LARGEST_AXIS)
            if 0 in shape:
                raise ValueError(f"{where} has groups but no elements")
        return Affine(codes, scale, zero_point, bits, qmin, qmax, _axis(content, where), group)

    def _take(self, name: str) -> Tensor:
        if name not in self._arrays:
            raise ValueError(f"array {name!r} is missing")
        return self._arrays.pop(name)

    def _floats(self, name: str, dtypes: tuple[torch.dtype, ...]) -> Tensor:
        values = self._take(name)
        if values.dtype not in dtypes:
            raise ValueError(f"array {name!r} has dtype {values.dtype}, expected {' or '.join(map(str, dtypes))}")
        return values

    def _packed(
        self, name: str, bits: int, shape: tuple[int, ...], lowest: int, highest: int, dtype: torch.dtype
    ) -> Tensor:
        """Take integers in [lowest, highest], packed or coded, of a shape and type; checked before memory is taken."""
        unpack: Callable[[Tensor, int, int], Tensor] = packing.unpack_unsigned
        if self._coded and may_be_coded(name, bits) and coded_name(name) in self._arrays:
            name, unpack = coded_name(name), coding.decode
            self._num_coded += 1
        try:
            unsigned = unpack(self._take(name), bits, math.prod(shape))
        except ValueError as error:
            raise ValueError(f"array {name!r}: {error}") from error
        # what fills its bits cannot be above a grid of as many codes
        if highest - lowest < (1 << bits) - 1 and unsigned.numel() and (top := int(unsigned.max()) + lowest) > highest:
            raise ValueError(f"array {name!r} has the value {top}, above {highest}")
        return packing.shifted(unsigned, lowest, dtype).reshape(shape)


def _only(kinds: dict[str, Any], kind: str, where: str) -> Any:
    if list(kinds) != [kind]:
        raise ValueError(f"the spec of {where} needs exactly one kind of encoding, not {sorted(kinds)}")
    return kinds[kind]


def _shape_key(shape: tuple[int, ...] | None) -> list[str]:
    return ["shape"] if shape is None else []


def _axis(content: dict[str, Any], where: str) -> int | None:
    return (
        fields.integer(content["axis"], f"the axis of {where}", 0, fields.MOST_AXES - 1) if "axis" in content else None
    )


def _signed_grid(bits: int) -> tuple[int, int]:
    return -(1 << bits - 1), (1 << bits - 1) - 1


def _narrowest(qmin: int, qmax: int) -> torch.dtype:
    """Return the narrowest dtype that holds a grid: the one codes come back in unless the spec names another."""
    return next(d for d in _CODE_DTYPES.values() if torch.iinfo(d).min <= qmin and qmax <= torch.iinfo(d).max)


def _code_dtype(content: dict[str, Any], qmin: int, qmax: int, where: str) -> torch.dtype:
    narrowest = _narrowest(qmin, qmax)
    if "dtype" not in content:
        return narrowest
    dtype = _CODE_DTYPES.get(fields.text(content["dtype"], f"the dtype of {where}"))
    if dtype is None or torch.iinfo(dtype).bits < torch.iinfo(narrowest).bits:
        raise ValueError(f"dtype {content['dtype']!r} of {where} does not hold codes of [{qmin}, {qmax}]")
    return dtype
