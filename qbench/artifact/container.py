"""The bytes of an artefact: a safetensors file with one metadata string and a digest of everything before it.

safetensors orders tensors by alignment, widest first, then by name. ``~sha256`` is U8, the narrowest type written
here, and every other U8 tensor has a name that starts with a lower-case letter, so the digest is the end of the file.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from qbench.artifact import fields, plainjson

KEY = "qbench"
DIGEST = "~sha256"
DIGEST_BYTES = 32
LARGEST_HEADER = 1 << 24  # bytes; a thousand times the header of a large network, parsed in a fraction of a second
DTYPES = {"F32": ("<f4", torch.float32), "F16": ("<f2", torch.float16), "BF16": ("<i2", torch.bfloat16),
          "U8": ("u1", torch.uint8)}  # fmt: skip
SHARED_BYTES = 1 << 20  # smaller arrays are copied: a bias that lives on must not keep the whole file in memory

_START = b'{"__metadata__":{"qbench":"'
_END = re.compile(rb'"~sha256":\{"dtype":"U8","shape":\[32\],"data_offsets":\[(\d{1,15}),(\d{1,15})\]\}\} *\Z')


def join(metadata: str, tensors: Mapping[str, Tensor]) -> bytes:
    """Write a file: the metadata string, the tensors (CPU, contiguous; float32, float16, bfloat16, uint8), the digest.

    Raises:
        ValueError: a name cannot be written as UTF-8, or the header is beyond what :func:`split` reads.
    """
    blank = torch.zeros(DIGEST_BYTES, dtype=torch.uint8)
    data: bytes = safetensors.torch.save({**tensors, DIGEST: blank}, {KEY: metadata})
    start = 8 + int.from_bytes(data[:8], "little")
    if start - 8 > LARGEST_HEADER:
        raise ValueError(f"the header would take {start - 8} bytes; {LARGEST_HEADER} are the most")
    _check_extent(data, start)
    body = data[:-DIGEST_BYTES]
    return body + hashlib.sha256(body).digest()


def split(content: bytes | memoryview) -> tuple[str, dict[str, Tensor]]:
    """Take a file apart, trusting nothing: lengths first, then the digest, then the layout.

    Args:
        content: Of the file. Memory that can be written to is handed over: large tensors lie in it.

    Returns:
        The metadata string, and the tensors by name, without the digest.

    Raises:
        ValueError: not an artefact, truncated, altered, or laid out in another way than :func:`join` does.
        RecursionError: the header is nested beyond Python's limit.
    """
    data = memoryview(content)
    if not data:
        raise ValueError("not a qbench artefact: the file is empty")
    if data[8 : 8 + len(_START)] != _START:
        raise ValueError("not a qbench artefact: it does not start with a qbench header")
    length = int.from_bytes(data[:8], "little")
    if length > LARGEST_HEADER:
        raise ValueError(f"not a qbench artefact: a header of {length} bytes is implausible")
    if length + 8 > len(data):
        raise ValueError(f"truncated: the header takes {length + 8} bytes, the file has {len(data)}")
    _check_extent(data, 8 + length)
    if hashlib.sha256(data[:-DIGEST_BYTES]).digest() != data[-DIGEST_BYTES:]:
        raise ValueError("checksum mismatch: the file was altered or damaged after it was written")
    metadata, entries = _check_layout(bytes(data[8 : 8 + length]))
    body = data[8 + length :]
    _check_offsets(entries, len(body))
    return metadata, {name: _tensor(entry, body) for name, entry in entries.items() if name != DIGEST}


def _tensor(entry: Mapping[str, Any], body: memoryview) -> Tensor:
    """An array of the file, in its memory if that is large and may be written to; else a copy."""
    (written, dtype), (begin, end) = DTYPES[entry["dtype"]], entry["data_offsets"]
    array: np.ndarray[Any, Any] = np.ndarray(entry["shape"], written, body, begin)
    shared = array.flags.writeable and array.flags.aligned and end - begin >= SHARED_BYTES
    array = array.astype(array.dtype.newbyteorder("="), copy=not shared)
    return torch.from_numpy(array).view(dtype)


def _check_offsets(entries: Mapping[str, Any], length: int) -> None:
    """Raise ValueError unless the arrays lie one behind the other, each as long as its shape, and fill the file."""
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        size = math.prod(entry["shape"]) * np.dtype(DTYPES[entry["dtype"]][0]).itemsize
        if (begin, end) != (position, position + size):
            raise ValueError(
                f"its arrays do not add up: {name!r} takes bytes {begin} to {end}, not {position} to {position + size}"
            )
        position = end
    if position != length:
        raise ValueError(f"its arrays do not add up: they take {position} of {length} bytes")


def _check_extent(data: bytes | memoryview, start: int) -> None:
    """Check that the header, ``data[8:start]``, ends with the digest's entry and the file with the digest."""
    found = _END.search(data, max(8, start - 200), start)
    if found is None:
        raise ValueError("not a qbench artefact: its header does not end with the checksum's entry")
    begin, end = int(found[1]), int(found[2])
    if end - begin != DIGEST_BYTES:
        raise ValueError(f"not a qbench artefact: a checksum of {end - begin} bytes")
    if len(data) < start + end:
        raise ValueError(f"truncated: {len(data)} of {start + end} bytes")
    if len(data) > start + end:
        raise ValueError(f"{len(data) - start - end} bytes too many: {len(data)} instead of {start + end}")


def _check_layout(header: bytes) -> tuple[str, dict[str, Any]]:
    """Check the header's JSON and the type of each tensor; return the metadata string and the tensors' entries."""
    entries = fields.mapping(plainjson.parse(header), "the header")
    metadata = fields.object_of(entries.pop("__metadata__", None), "the metadata", required=[KEY])
    for name, entry in entries.items():
        fields.object_of(entry, f"the entry of {name!r}", required=["dtype", "shape", "data_offsets"])
        dtype = fields.text(entry["dtype"], f"the dtype of {name!r}")
        if dtype not in DTYPES:
            raise ValueError(f"{name!r} has dtype {dtype}, expected one of {', '.join(DTYPES)}")
        axes = fields.array(entry["shape"], f"the shape of {name!r}", 0, fields.MOST_AXES)
        if axes != [0]:  # nothing kept by a mask is the one empty tensor
            for axis in axes:
                fields.integer(axis, f"the shape of {name!r}", 1, fields.LARGEST_AXIS)
        for offset in fields.array(entry["data_offsets"], f"the offsets of {name!r}", 2, 2):
            fields.integer(offset, f"an offset of {name!r}", 0, 1 << 62)
    return fields.text(metadata[KEY], "the metadata"), entries
