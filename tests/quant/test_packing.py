import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qbench.quant.packing import pack, packed_size, unpack

BITS = [*range(1, 18), 23, 24, 31, 32]


def oracle(codes: list[int], bits: int, offset: int) -> bytes:
    """The definition, literally: one big little-endian integer."""
    stream = sum((code - offset) << (i * bits) for i, code in enumerate(codes))
    return stream.to_bytes(math.ceil(len(codes) * bits / 8), "little")


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, int, list[int]]:
    bits = draw(st.integers(1, 32))
    offsets = [-(1 << bits - 1), *([0, 1, -1, -70_000, 70_000] if bits <= 16 else [])]
    offset = draw(st.sampled_from(offsets))
    return bits, offset, draw(st.lists(st.integers(offset, offset + (1 << bits) - 1), max_size=40))


@settings(deadline=None)  # the first call warms torch up
@given(cases())
def test_layout_is_one_little_endian_stream(case: tuple[int, int, list[int]]) -> None:
    bits, offset, codes = case
    packed = pack(torch.tensor(codes, dtype=torch.int32), bits, offset)
    assert packed.dtype is torch.uint8
    assert bytes(packed.tolist()) == oracle(codes, bits, offset)
    assert unpack(packed, bits, len(codes), offset).tolist() == codes


@pytest.mark.parametrize("bits", BITS)
def test_identity_for_every_width_and_length(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    for length in [*range(0, 35), 1001]:
        offset = -(1 << bits - 1)
        codes = torch.randint(offset, offset + (1 << bits), (length,), generator=generator, dtype=torch.int32)
        packed = pack(codes, bits, offset)
        assert packed.numel() == packed_size(length, bits) == math.ceil(length * bits / 8)
        back = unpack(packed, bits, length, offset)
        assert back.dtype is torch.int32
        assert torch.equal(back, codes)


@pytest.mark.parametrize("bits", BITS)
def test_the_ends_of_the_grid_survive(bits: int) -> None:
    lowest = -(1 << bits - 1)
    codes = torch.tensor([lowest, lowest + (1 << bits) - 1] * 5, dtype=torch.int32)
    assert torch.equal(unpack(pack(codes, bits, lowest), bits, 10, lowest), codes)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("bits", [3, 7, 12])
def test_the_dtype_of_the_codes_does_not_matter(dtype: torch.dtype, bits: int) -> None:
    codes = torch.arange(8, dtype=dtype).reshape(2, 4)
    assert torch.equal(pack(codes, bits), pack(torch.arange(8), bits))


@pytest.mark.parametrize("bits", [5, 16, 32], ids=["narrow", "wide", "widest"])
@pytest.mark.parametrize("offset", [1 << 40, -(1 << 40), (1 << 31) + 5], ids=["high", "low", "beyond int32"])
def test_offsets_beyond_int32_pack_exactly(bits: int, offset: int) -> None:
    codes = torch.tensor([offset, offset + 9, offset + 31], dtype=torch.int64)
    assert bytes(pack(codes, bits, offset).tolist()) == oracle(codes.tolist(), bits, offset)


def test_any_shape_and_stride_is_read_in_row_major_order() -> None:
    codes = torch.arange(12).reshape(3, 4)
    assert unpack(pack(codes.t(), 4), 4, 12).tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]


def test_packing_leaves_its_argument_alone_and_shares_no_memory() -> None:
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    packed = pack(codes, 8)
    packed += 1
    assert codes.tolist() == list(range(256))
    view = torch.arange(16, dtype=torch.uint8)
    unpack(view, 8, 16).add_(1)
    assert view.tolist() == list(range(16))


def test_single_bits_agree_with_numpy() -> None:
    mask = torch.rand(1003, generator=torch.Generator().manual_seed(0)) < 0.3
    assert pack(mask.to(torch.uint8), 1).tolist() == np.packbits(mask.numpy(), bitorder="little").tolist()


@pytest.mark.parametrize(
    ("codes", "bits", "offset", "message"),
    [
        (torch.tensor([0, 16]), 4, 0, r"codes span \[0, 16\], outside \[0, 15\]"),
        (torch.tensor([-9, 7]), 4, -8, r"codes span \[-9, 7\], outside \[-8, 7\]"),
        (torch.tensor([0]), 0, 0, "bits must be in 1..32, not 0"),
        (torch.tensor([0]), 33, 0, "bits must be in 1..32, not 33"),
        (torch.tensor([0.0]), 4, 0, "must be integers"),
        (torch.tensor([True]), 1, 0, "must be integers"),
    ],
    ids=["above", "below", "no bits", "too many bits", "floats", "bools"],
)
def test_pack_refuses(codes: torch.Tensor, bits: int, offset: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack(codes, bits, offset)


@pytest.mark.parametrize(
    ("packed", "bits", "count", "offset", "message"),
    [
        ([33], 4, 3, 0, "1 packed bytes, expected 2"),
        ([33, 3, 0], 4, 3, 0, "3 packed bytes, expected 2"),
        ([33, 16], 4, 3, 0, "4 padding bits"),
        ([128], 7, 1, 0, "1 padding bits"),
        ([], 4, -1, 0, "0 packed bytes"),
        ([1], 8, 1, 1 << 31, "out of int32"),
        ([1], 33, 1, 0, "bits must be in"),
        ([0, 0, 0, 0], 32, 1, 0, "out of int32"),
        ([[1]], 8, 1, 0, "one axis"),
        ([1], 8, 10**30, 0, "1 packed bytes"),
    ],
    ids=[
        "short",
        "long",
        "padding",
        "one padding bit",
        "negative",
        "offset",
        "bits",
        "unsigned",
        "axes",
        "absurd count",
    ],
)
def test_unpack_refuses(packed: list[int], bits: int, count: int, offset: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpack(torch.tensor(packed, dtype=torch.uint8), bits, count, offset)


def test_unpack_refuses_other_dtypes() -> None:
    with pytest.raises(ValueError, match="must be uint8"):
        unpack(torch.tensor([1], dtype=torch.int32), 8, 1)
