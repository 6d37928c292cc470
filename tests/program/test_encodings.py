"""Each encoding decoded by hand; each thing it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from qbench.program.encodings import Affine, Codebook, Encoding, Float, Sparse


def int8(*codes: Any) -> Tensor:
    return torch.tensor(codes, dtype=torch.int8)


def int32(*codes: Any) -> Tensor:
    return torch.tensor(codes, dtype=torch.int32)


def affine(codes: Tensor, scale: Any, zero_point: Any, **more: Any) -> Affine:
    grid = {"bits": 8, "qmin": -128, "qmax": 127, **more}
    return Affine(codes, torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32), **grid)


def indices(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.uint8)


def floats(*values: Any) -> Float:
    return Float(torch.tensor(values))


DECODED: dict[str, tuple[Encoding, Any]] = {
    "float32": (floats(1.5, -2.0), [1.5, -2.0]),
    "float16 rounds to eleven bits": (Float(torch.tensor([2049.0]).half()), [2048.0]),
    "bfloat16 rounds to eight bits": (Float(torch.tensor([257.0]).bfloat16()), [256.0]),
    "affine per tensor": (affine(int8([1, -3], [0, 127]), 0.5, 1), [[0.0, -2.0], [-0.5, 63.0]]),
    "affine of no axes": (affine(torch.tensor(3, dtype=torch.int8), 0.5, 1), 1.0),
    "affine per channel": (
        affine(int8([1, 2], [3, 4]), [1.0, 0.5], [0, 2], axis=0),
        [[1.0, 2.0], [0.5, 1.0]],
    ),
    "affine along the last axis": (
        affine(int8([1, 2], [3, 4]), [1.0, 0.5], [0, 2], axis=1),
        [[1.0, 0.0], [3.0, 1.0]],
    ),
    "affine in groups, the last one shorter": (
        affine(int8([1, 2, 3], [4, 5, 6]), [[1.0, 10.0], [2.0, 0.5]], [[0, 1], [4, 0]], axis=0, group_size=2),
        [[1.0, 2.0, 20.0], [0.0, 2.0, 3.0]],
    ),
    "affine in groups across axes": (
        affine(int8([[1], [2]], [[3], [4]]), [[1.0], [2.0]], [[0], [0]], axis=0, group_size=2),
        [[[1.0], [2.0]], [[6.0], [8.0]]],
    ),
    "affine whose difference leaves int8": (affine(int8(-128), 1.0, 127), [-255.0]),
    "affine unsigned 16 bit": (
        affine(int32(0, 65535), 1.0, 1, bits=16, qmin=0, qmax=65535),
        [-1.0, 65534.0],
    ),
    "affine 32 bit": (
        affine(int32(-(2**31), 2**31 - 1), 0.5, 0, bits=32, qmin=-(2**31), qmax=2**31 - 1),
        [-(2.0**30), 2.0**30],  # float32 has 24 bits: the upper end is rounded to a power of two
    ),
    "affine whose difference leaves int32": (
        affine(int32(-(2**31)), 1.0, 2**30, bits=32, qmin=-(2**31), qmax=2**31 - 1),
        [-3.0 * 2**30],
    ),
    "codebook": (Codebook(indices([1, 0], [2, 1]), floats(-1.0, 0.0, 2.5), 2), [[0.0, -1.0], [2.5, 0.0]]),
    "codebook per channel": (
        Codebook(indices([1, 0], [0, 1]), floats([-1.0, 1.0], [5.0, 7.0]), 1, axis=0),
        [[1.0, -1.0], [5.0, 7.0]],
    ),
    "codebook of quantized centroids": (Codebook(indices(1, 0), affine(int8(-2, 2), 0.25, 0), 1), [0.5, -0.5]),
    "sparse": (Sparse(torch.tensor([[True, False], [False, True]]), floats(3.0, 4.0)), [[3.0, 0.0], [0.0, 4.0]]),
    "sparse and affine": (Sparse(torch.tensor([False, True]), affine(int8(6), 0.5, 0)), [0.0, 3.0]),
    "sparse and codebook": (
        Sparse(torch.tensor([True, False, True]), Codebook(indices(1, 0), floats(7.0, 8.0), 1)),
        [8.0, 0.0, 7.0],
    ),
    "sparse of nothing": (Sparse(torch.zeros(2, dtype=torch.bool), Float(torch.zeros(0))), [0.0, 0.0]),
}


@pytest.mark.parametrize("case", DECODED)
def test_decoded_by_hand(case: str) -> None:
    encoding, expected = DECODED[case]
    decoded = encoding.decode()
    assert decoded.dtype == torch.float32
    assert decoded.shape == encoding.shape
    assert decoded.tolist() == expected


def test_bits_are_those_stored_per_value() -> None:
    assert [Float(torch.zeros(1, dtype=dtype)).bits for dtype in (torch.float32, torch.float16, torch.bfloat16)] == [
        *(32, 16, 16)
    ]
    assert Sparse(torch.tensor([True]), affine(int8(1), 1.0, 0, bits=5, qmin=-16, qmax=15)).bits == 5


REFUSED: dict[str, tuple[Callable[[], Encoding], str]] = {
    "float64": (lambda: Float(torch.zeros(1, dtype=torch.float64)), "not torch.float64"),
    "codes of another dtype": (lambda: affine(torch.zeros(1), 1.0, 0), "codes must be int8, int16 or int32"),
    "float64 scale": (
        lambda: Affine(int8(0), torch.tensor(1.0, dtype=torch.float64), int32(0)[0], 8, -128, 127),
        "scale must be float32 and zero_point int32",
    ),
    "int64 zero point": (
        lambda: Affine(int8(0), torch.tensor(1.0), torch.tensor(0), 8, -128, 127),
        "scale must be float32 and zero_point int32",
    ),
    "one zero point for two scales": (
        lambda: affine(int8(1, 2), [1.0, 1.0], 0, axis=0),
        r"scale \(2,\) and zero_point \(\) differ in shape",
    ),
    "no bits": (lambda: affine(int8(0), 1.0, 0, bits=0, qmin=0, qmax=0), r"the grid \[0, 0\] does not fit 0 bits"),
    "thirty-three bits": (lambda: affine(int8(0), 1.0, 0, bits=33), r"does not fit 33 bits"),
    "a grid beyond int32": (
        lambda: affine(int32(0), 1.0, 0, bits=32, qmin=0, qmax=2**32 - 1),
        r"the grid \[0, 4294967295\] does not fit 32 bits",
    ),
    "a grid too wide": (lambda: affine(int8(0), 1.0, 0, bits=7), r"the grid \[-128, 127\] does not fit 7 bits"),
    "a grid turned round": (lambda: affine(int8(0), 1.0, 0, qmin=1, qmax=0), r"the grid \[1, 0\] does not fit"),
    "axis beyond the tensor": (lambda: affine(int8(0), [1.0], [0], axis=1), "axis 1 is outside a tensor of 1 axes"),
    "negative axis": (lambda: affine(int8(0), [1.0], [0], axis=-1), "axis -1 is outside"),
    "scales that are not one per channel": (
        lambda: affine(int8(1, 2, 3), [1.0, 1.0], [0, 0], axis=0),
        r"scale has shape \(2,\), expected \(3,\)",
    ),
    "a vector of one scale": (lambda: affine(int8(1, 2), [1.0], [0]), r"scale has shape \(1,\), expected \(\)"),
    "groups without axis": (lambda: affine(int8([1, 2]), 1.0, 0, group_size=2), "groups need axis 0"),
    "groups along another axis": (
        lambda: affine(int8([1, 2]), [1.0, 1.0], [0, 0], axis=1, group_size=1),
        "groups need axis 0 and a group_size of at least 1",
    ),
    "groups of nothing": (
        lambda: affine(int8([1, 2]), [[1.0]], [[0]], axis=0, group_size=0),
        "groups need axis 0 and a group_size of at least 1",
    ),
    "too few groups": (
        lambda: affine(int8([1, 2, 3]), [[1.0]], [[0]], axis=0, group_size=2),
        r"scale has shape \(1, 1\), expected \(1, 2\)",
    ),
    "signed indices": (lambda: Codebook(int8(0), floats(0.0), 1), "indices must be uint8, not torch.int8"),
    "codebooks without axis": (
        lambda: Codebook(indices(0), floats([0.0]), 1),
        r"axis None does not fit centroids of shape \(1, 1\)",
    ),
    "one codebook with axis": (
        lambda: Codebook(indices(0), floats(0.0), 1, axis=0),
        r"axis 0 does not fit centroids of shape \(1,\)",
    ),
    "codebooks along another axis": (
        lambda: Codebook(indices([0], [0]), floats([0.0], [0.0]), 1, axis=1),
        "axis 1 does not fit",
    ),
    "more centroids than indices": (
        lambda: Codebook(indices(0), floats(0.0, 1.0, 2.0), 1),
        "3 centroids do not fit 1-bit indices",
    ),
    "no centroids": (lambda: Codebook(indices(0), Float(torch.zeros(0)), 1), "0 centroids do not fit"),
    "nine-bit indices": (lambda: Codebook(indices(0), floats(0.0), 9), "1 centroids do not fit 9-bit indices"),
    "as many codebooks as not channels": (
        lambda: Codebook(indices([0], [0]), floats([0.0]), 1, axis=0),
        "one codebook per channel needs as many codebooks as channels",
    ),
    "a mask of numbers": (lambda: Sparse(indices(1), floats(1.0)), "mask must be bool, not torch.uint8"),
    "a mask that keeps more": (
        lambda: Sparse(torch.tensor([True, True]), floats(1.0)),
        r"mask keeps 2 values, inner encodes \(1,\)",
    ),
    "kept values with two axes": (
        lambda: Sparse(torch.tensor([True]), floats([1.0])),
        r"mask keeps 1 values, inner encodes \(1, 1\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    build, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        build()
