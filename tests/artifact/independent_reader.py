"""A second reader of ``.qbench`` files, written from docs/format.md alone; shares no code with qbench."""

import hashlib
import json
import math
import struct

import numpy as np


def read(data: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    """The qbench JSON of a file and its decoded tensors, float32."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    content = json.loads(header.pop("__metadata__")["qbench"])
    if hashlib.sha256(data[:-32]).digest() != data[-32:] or content["format"] not in (1, 2):
        raise ValueError("damaged, or another format")
    arrays = {name: _array(data[8 + length :], entry) for name, entry in header.items()}
    names = {name.split(":", 1)[1] for name in arrays if ":" in name}
    specs = content.get("tensors", {})
    if (content["format"] == 2) != any(".ans:" in name for name in arrays):
        raise ValueError("format 2 means that an array is coded")
    return content, {name: _decode(name, specs.get(name), arrays) for name in sorted(names)}


def _array(data: bytes, entry: dict) -> np.ndarray:
    begin, end = entry["data_offsets"]
    raw = np.frombuffer(data[begin:end], {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1"}[entry["dtype"]])
    if entry["dtype"] == "BF16":  # the upper half of a float32
        raw = (raw.astype("<u4") << 16).view("<f4")
    return raw.reshape(entry["shape"])


def _unpack(packed: np.ndarray, bits: int, count: int, offset: int) -> np.ndarray:
    stream = np.unpackbits(packed, bitorder="little")[: count * bits].reshape(count, bits)
    return stream.astype(np.int64) @ (1 << np.arange(bits)) + offset


def _integers(arrays: dict, part: str, name: str, bits: int, count: int, offset: int) -> np.ndarray:
    """The values of an array, whether it is packed or entropy-coded."""
    if f"{part}:{name}" in arrays:
        return _unpack(arrays[f"{part}:{name}"], bits, count, offset)
    return _entropy_decoded(arrays[f"{part}.ans:{name}"].tobytes(), count) + offset


def _entropy_decoded(data: bytes, count: int) -> np.ndarray:
    t, first, last = struct.unpack_from("<BHH", data)
    table_bytes = -(-(last + 1) * t // 8)
    weights = _unpack(np.frombuffer(data[5 : 5 + table_bytes], np.uint8), t, last + 1, 0)
    total, running, slots = int(sum(weights)), 0, [0]
    for i, weight in enumerate(weights, 1):
        running += int(weight)
        slots.append(i + running * (2**24 - len(weights)) // total)
    *words, low, high = struct.unpack(f"<{(len(data) - 5 - table_bytes) // 4}I", data[5 + table_bytes :])
    x, values = high << 32 | low, []
    for _ in range(count):
        q = x % 2**24
        i = max(i for i, begin in enumerate(slots[:-1]) if begin <= q)
        values.append(first + i)
        x = (x >> 24) * (slots[i + 1] - slots[i]) + q - slots[i]
        if x < 2**32:
            x = x << 32 | words.pop()
    if x != 2**32 or words:
        raise ValueError("damaged coding")
    return np.array(values, np.int64)


def _decode(name: str, spec: dict | None, arrays: dict, shape: list | None = None) -> np.ndarray:
    if spec is None:
        return arrays[f"float:{name}"].astype(np.float32)
    ((kind, content),) = spec.items()
    shape = shape or content["shape"]
    count = math.prod(shape)
    if kind == "affine":
        return _affine(f":{name}", content, arrays, shape)
    if kind == "codebook":
        table = arrays.get(f"centroids:{name}")
        if table is None:
            inner = content["centroids"]["affine"]
            table = _affine(f":{name}", inner, arrays, inner["shape"], "centroids.")
        indices = _integers(arrays, "indices", name, content["bits"], count, 0).reshape(shape)
        if "axis" not in content:
            return table.astype(np.float32)[indices]
        return np.stack([row.astype(np.float32)[i] for row, i in zip(table, indices, strict=True)])
    mask = _integers(arrays, "mask", name, 1, count, 0).astype(bool)
    dense = np.zeros(count, np.float32)
    dense[mask] = _decode(name, content.get("inner"), arrays, [int(mask.sum())])
    return dense.reshape(shape)


def _affine(name: str, content: dict, arrays: dict, shape: list, prefix: str = "") -> np.ndarray:
    bits, scale = content["bits"], arrays[f"{prefix}scale{name}"]
    qmin = content.get("grid", [-(2 ** (bits - 1))])[0]
    codes = _integers(arrays, f"{prefix}codes", name[1:], bits, math.prod(shape), qmin).reshape(shape)
    zero = np.zeros(scale.shape, np.int64)
    if f"{prefix}zero{name}" in arrays:
        zero = _unpack(arrays[f"{prefix}zero{name}"], bits, scale.size, qmin).reshape(scale.shape)
    if "group" in content:
        rows = codes.reshape(shape[0], -1)
        group_of = np.arange(rows.shape[1]) // content["group"]
        return (scale[:, group_of] * (rows - zero[:, group_of]).astype(np.float32)).reshape(shape)
    if "axis" in content:
        along = [-1 if i == content["axis"] else 1 for i in range(len(shape))]
        scale, zero = scale.reshape(along), zero.reshape(along)
    return scale * (codes - zero).astype(np.float32)
