"""A second reader of ``.qbench`` files, written from docs/format.md alone; shares no code with qbench."""

import hashlib
import json
import math
import struct
from bisect import bisect_right

import numpy as np

DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1"}


def read(data: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    """The qbench JSON of a file and its decoded tensors, float32."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    content = json.loads(header.pop("__metadata__")["qbench"])
    arrays = {name: _array(data[8 + length :], entry) for name, entry in header.items()}
    coded = {2: True, 3: content.get("entropy_coding", False)}.get(content["format"], False)
    if hashlib.sha256(data[:-32]).digest() != data[-32:] or content["format"] not in (1, 2, 3):
        raise ValueError("damaged, or another format")
    if coded != any(".ans:" in name for name in arrays):
        raise ValueError("the format says whether an array is coded")
    names = {name.split(":", 1)[1] for name in arrays if ":" in name}
    return content, {name: _decode(name, content.get("tensors", {}).get(name), arrays) for name in sorted(names)}


def _array(data: bytes, entry: dict) -> np.ndarray:
    begin, end = entry["data_offsets"]
    raw = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return raw if entry["dtype"] != "BF16" else (raw.astype("<u4") << 16).view("<f4")  # the upper half of a float32


def _unpack(packed: np.ndarray, bits: int, count: int, offset: int) -> np.ndarray:
    stream = np.unpackbits(packed, bitorder="little")[: count * bits].reshape(count, bits)
    return stream.astype(np.int64) @ (1 << np.arange(bits)) + offset


def _integers(arrays: dict, part: str, name: str, bits: int, shape: list, offset: int) -> np.ndarray:
    """The values of an array, whether it is packed or entropy-coded."""
    if f"{part}:{name}" in arrays:
        return _unpack(arrays[f"{part}:{name}"], bits, math.prod(shape), offset).reshape(shape)
    return (_entropy_decoded(arrays[f"{part}.ans:{name}"].tobytes(), math.prod(shape)) + offset).reshape(shape)


def _entropy_decoded(data: bytes, count: int) -> np.ndarray:
    t, first, last = struct.unpack_from("<BHH", data)
    end = 5 + -(-(last + 1) * t // 8)
    weights = _unpack(np.frombuffer(data[5:end], np.uint8), t, last + 1, 0)
    sums = [0, *np.cumsum(weights).tolist()]
    slots = [i + total * (2**24 - len(weights)) // sums[-1] for i, total in enumerate(sums)]
    *words, low, high = struct.unpack(f"<{(len(data) - end) // 4}I", data[end:])
    x, values = high << 32 | low, []
    for _ in range(count):
        q = x % 2**24
        i = bisect_right(slots, q) - 1
        values.append(first + i)
        x = (x >> 24) * (slots[i + 1] - slots[i]) + q - slots[i]
        if x < 2**32:
            x = x << 32 | words.pop()
    if x != 2**32 or words:
        raise ValueError("damaged coding")
    return np.array(values, np.int64)


def _decode(name: str, spec: dict | None, arrays: dict, kept: int | None = None) -> np.ndarray:
    """A tensor by its spec; ``kept`` values of a sparse one."""
    if spec is None:
        return arrays[f"float:{name}"].astype(np.float32)
    ((kind, content),) = spec.items()
    shape = content["shape"] if kept is None else [kept]
    if kind == "affine":
        return _affine("", name, content, arrays, shape)
    if kind == "sparse":
        mask = _integers(arrays, "mask", name, 1, shape, 0).astype(bool)
        dense = np.zeros(shape, np.float32)
        dense[mask] = _decode(name, content.get("inner"), arrays, int(mask.sum()))
        return dense
    inner = content.get("centroids", {}).get("affine")
    table = _affine("centroids.", name, inner, arrays, inner["shape"]) if inner else arrays[f"centroids:{name}"]
    indices = _integers(arrays, "indices", name, content["bits"], shape, 0)
    own = np.arange(len(table)).reshape(-1, *[1] * (len(shape) - 1)) if "axis" in content else ()
    return table.astype(np.float32)[(own, indices) if "axis" in content else indices]


def _affine(prefix: str, name: str, content: dict, arrays: dict, shape: list) -> np.ndarray:
    bits, scale = content["bits"], arrays[f"{prefix}scale:{name}"]
    qmin = content.get("grid", [-(2 ** (bits - 1))])[0]
    codes = _integers(arrays, f"{prefix}codes", name, bits, shape, qmin)
    zero = np.zeros(scale.shape, np.int64)
    if f"{prefix}zero:{name}" in arrays:
        zero = _unpack(arrays[f"{prefix}zero:{name}"], bits, scale.size, qmin).reshape(scale.shape)
    if "group" in content:
        channel = np.arange(shape[0])[:, None]
        run = np.arange(math.prod(shape[1:])) // content["group"]
        scale, zero = scale[channel, run].reshape(shape), zero[channel, run].reshape(shape)
    elif "axis" in content:
        along = [-1 if i == content["axis"] else 1 for i in range(len(shape))]
        scale, zero = scale.reshape(along), zero.reshape(along)
    return scale * (codes - zero).astype(np.float32)
