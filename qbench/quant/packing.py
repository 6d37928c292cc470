"""Bit packing: integers of 1..32 bits in as few bytes as they need.

The layout is little endian throughout. The codes form one bit stream in which code ``i`` occupies the bits
``i * bits`` to ``(i + 1) * bits - 1``, its lowest bit first; bit ``j`` of the stream is bit ``j % 8`` (of value
``2 ** (j % 8)``) of byte ``j // 8``. The bits left over in the last byte are zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def packed_size(count: int, bits: int) -> int:
    """Bytes that ``count`` codes of ``bits`` bits occupy."""
    return -(-count * bits // 8)


def pack(codes: Tensor, bits: int, offset: int = 0) -> Tensor:
    """Store ``code - offset`` as unsigned integers of ``bits`` bits, without gaps.

    Args:
        codes: Integer codes in [offset, offset + 2 ** bits - 1], any shape (read in row-major order, may be empty);
            uint8, int8, int16, int32 or int64.
        bits: Bits per code, 1..32.
        offset: The code stored as zero; the lowest of the grid.

    Returns:
        uint8 [ceil(n * bits / 8)], on the device of ``codes``.

    Raises:
        ValueError: ``codes`` is not an integer tensor, ``bits`` is outside 1..32, or a code is outside its range.

    Example:
        >>> pack(torch.tensor([1, 2, 3]), bits=4).tolist()
        [33, 3]
    """
    _check_bits(bits)
    if codes.dtype not in INTEGERS:
        raise ValueError(f"codes must be integers, not {codes.dtype}")
    flat = codes.detach().reshape(-1)
    if flat.numel():
        lowest, highest = int(flat.min()), int(flat.max())
        if lowest < offset or highest >= offset + (1 << bits):
            raise ValueError(
                f"codes span [{lowest}, {highest}], outside [{offset}, {offset + (1 << bits) - 1}] for {bits} bits"
            )
    # The difference is below 2 ** bits, so it survives arithmetic modulo 2 ** width of the work type: no wide copies.
    work, width = _work(bits)
    wrapped = offset % (1 << width)
    unsigned = flat.to(work) - (wrapped if bits <= 8 or wrapped < 1 << width - 1 else wrapped - (1 << width))
    per_block, bytes_per_block = _block(bits)
    blocks = _padded(unsigned, per_block)  # [B, codes per block]
    out = torch.zeros((blocks.shape[0], bytes_per_block), dtype=work, device=codes.device)
    for byte, code, shift in _overlaps(bits):
        column = blocks[:, code]
        out[:, byte] |= column << shift if shift >= 0 else column >> -shift
    if work is not torch.uint8:
        out = (out & 0xFF).to(torch.uint8)
    return out.reshape(-1)[: packed_size(flat.numel(), bits)].clone()


def unpack(packed: Tensor, bits: int, count: int, offset: int = 0) -> Tensor:
    """Undo :func:`pack`; see :func:`unpack_unsigned` for codes without copies as int32.

    Args:
        packed: uint8 [ceil(count * bits / 8)].
        bits: Bits per code, 1..32.
        count: Number of codes, >= 0.
        offset: The code stored as zero; the codes returned must fit int32.

    Returns:
        int32 [count], on the device of ``packed``.

    Raises:
        ValueError: wrong dtype, dimensions or length; ``bits`` outside 1..32; a padding bit of the last byte is set.

    Example:
        >>> unpack(torch.tensor([33, 3], dtype=torch.uint8), bits=4, count=3).tolist()
        [1, 2, 3]
    """
    unsigned = unpack_unsigned(packed, bits, count)
    if not -(1 << 31) <= offset <= (1 << 31) - (1 << bits):
        raise ValueError(f"offset {offset} takes codes of {bits} bits out of int32")
    return shifted(unsigned, offset, torch.int32)


def unpack_unsigned(packed: Tensor, bits: int, count: int) -> Tensor:
    """Undo :func:`pack` but for the offset, in the narrowest type that has the shifts for it.

    Args:
        packed: uint8 [ceil(count * bits / 8)].
        bits: Bits per code, 1..32.
        count: Number of codes, >= 0.

    Returns:
        ``code - offset`` in [0, 2 ** bits - 1], [count]: uint8 up to 8 bits, int32 up to 16, else int64. Of 8 bits it
        is ``packed`` itself.

    Raises:
        ValueError: wrong dtype, dimensions or length; ``bits`` outside 1..32; a padding bit of the last byte is set.
    """
    _check_bits(bits)
    if packed.dtype is not torch.uint8 or packed.dim() != 1:
        raise ValueError(f"packed codes must be uint8 with one axis, not {packed.dtype} {tuple(packed.shape)}")
    if count < 0 or packed.numel() != packed_size(count, bits):
        raise ValueError(
            f"{packed.numel()} packed bytes, expected {packed_size(count, bits)} for {count} codes of {bits} bits"
        )
    used = count * bits % 8
    if used and int(packed[-1]) >> used:
        raise ValueError(f"the {8 - used} padding bits of the last byte are not all zero")
    if bits == 8:
        return packed
    if bits in (16, 32):  # whole words
        words = packed.cpu().numpy().view(f"<u{bits // 8}")
        return torch.from_numpy(words.astype("i4" if bits == 16 else "i8")).to(packed.device)
    per_block, bytes_per_block = _block(bits)
    work, _ = _work(bits)
    blocks = _padded(packed, bytes_per_block).to(work)  # [B, bytes per block]
    out = torch.zeros((blocks.shape[0], per_block), dtype=work, device=packed.device)
    for byte, code, shift in _overlaps(bits):
        column = blocks[:, byte]
        out[:, code] |= column >> shift if shift >= 0 else column << -shift
    out &= (1 << bits) - 1
    return out.reshape(-1)[:count]


def shifted(unsigned: Tensor, offset: int, dtype: torch.dtype) -> Tensor:
    """``unsigned + offset`` in a type that holds all of them; where bytes become int8, in place.

    Args:
        unsigned: Integers from 0 up, of :func:`unpack_unsigned`. Bytes are overwritten if ``dtype`` is int8.
        offset: What is added.
        dtype: Of the result.
    """
    if unsigned.dtype is torch.uint8 and dtype is torch.int8:
        return unsigned.add_(offset % 256).view(dtype)  # modulo 256
    if unsigned.dtype is dtype and offset == 0:
        return unsigned
    wide = torch.int32 if unsigned.dtype is torch.uint8 else unsigned.dtype
    return (unsigned.to(wide) + offset).to(dtype)


def _work(bits: int) -> tuple[torch.dtype, int]:
    """The type to shift in, and its bits: a code may be shifted by up to 7."""
    if bits <= 8:
        return torch.uint8, 8
    return (torch.int32, 32) if bits <= 16 else (torch.int64, 64)


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 32:
        raise ValueError(f"bits must be in 1..32, not {bits}")


def _block(bits: int) -> tuple[int, int]:
    """Smallest number of codes that fills whole bytes, and that number of bytes."""
    common = math.gcd(bits, 8)
    return 8 // common, bits // common


def _overlaps(bits: int) -> list[tuple[int, int, int]]:
    """(byte, code, shift) for each byte of a block and each code with a bit in it; ``byte`` holds ``code << shift``."""
    per_block, bytes_per_block = _block(bits)
    return [
        (byte, code, code * bits - byte * 8)
        for byte in range(bytes_per_block)
        for code in range(per_block)
        if code * bits < (byte + 1) * 8 and (code + 1) * bits > byte * 8
    ]


def _padded(flat: Tensor, width: int) -> Tensor:
    """Rows of ``width`` elements, [ceil(n / width), width], the last one filled up with zeros."""
    missing = -flat.numel() % width
    return (torch.cat([flat, flat.new_zeros(missing)]) if missing else flat).reshape(-1, width)
