"""The bytes of an artefact: a safetensors file with one metadata string and a digest of everything before it.

safetensors orders tensors by alignment, widest first, then by name. ``~sha256`` is U8, the narrowest type written
here, and every other U8 tensor has a name that starts with a lower-case letter, so the digest is the end of the file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import safetensors.torch
import torch
from torch import Tensor

from qbench.artifact import fields, plainjson

KEY = "qbench"
DIGEST = "~sha256"
DIGEST_BYTES = 32
LARGEST_HEADER = 1 << 24  # bytes; a thousand times the header of a large network, parsed in a fraction of a second
DTYPES = ("F32", "F16", "BF16", "U8")

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


def split(data: bytes) -> tuple[str, dict[str, Tensor]]:
    """Take a file apart, trusting nothing: lengths first, then the digest, then the layout.

    Returns:
        The metadata string, and the tensors by name, without the digest.

    Raises:
        ValueError: not an artefact, truncated, altered, or laid out in another way than :func:`join` does.
        RecursionError: the header is nested beyond Python's limit.
        safetensors.SafetensorError: an offset or a length does not add up.
    """
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
    if hashlib.sha256(memoryview(data)[:-DIGEST_BYTES]).digest() != data[-DIGEST_BYTES:]:
        raise ValueError("checksum mismatch: the file was altered or damaged after it was written")
    metadata = _check_layout(data[8 : 8 + length])
    tensors: dict[str, Tensor] = safetensors.torch.load(data)
    del tensors[DIGEST]
    return metadata, tensors


def _check_extent(data: bytes, start: int) -> None:
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


def _check_layout(header: bytes) -> str:
    """Check the header's JSON and the type of each tensor; return the metadata string."""
    entries = fields.mapping(plainjson.parse(header), "the header")
    metadata = fields.object_of(entries.pop("__metadata__", None), "the metadata", required=[KEY])
    for name, entry in entries.items():
        fields.object_of(entry, f"the entry of {name!r}", required=["dtype", "shape", "data_offsets"])
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{name!r} has dtype {fields.text(entry['dtype'], 'a dtype')}, expected one of {DTYPES}")
        axes = fields.array(entry["shape"], f"the shape of {name!r}", 0, fields.MOST_AXES)
        if axes != [0]:  # nothing kept by a mask is the one empty tensor
            for axis in axes:
                fields.integer(axis, f"the shape of {name!r}", 1, fields.LARGEST_AXIS)
    return fields.text(metadata[KEY], "the metadata")
