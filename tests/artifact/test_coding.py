"""Entropy coding: what comes back, how small it gets, and what a reader refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qbench.artifact import coding, from_bytes, size_report, to_bytes
from qbench.artifact.tensors import parts
from qbench.errors import ArtifactError
from qbench.program.encodings import Float, Sparse
from qbench.quant.packing import pack, packed_size

from . import independent_reader
from .forging import edited, open_up, rearranged
from .programs import affine, assert_same, coded_program, coding_program, conv_program, linear_program

CODED = to_bytes(coding_program())


def draw(*counts: int, seed: int = 0) -> Tensor:
    """Symbol i exactly ``counts[i]`` times, shuffled."""
    values = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return values[torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))]


def bell(spread: float, bits: int, count: int = 4000) -> Tensor:
    highest = (1 << bits - 1) - 1
    values = torch.randn(count, generator=torch.Generator().manual_seed(bits)) * spread
    return values.round().clamp(-highest - 1, highest).to(torch.int64)


VALUES: dict[str, tuple[Tensor, int, int]] = {
    "mask": (draw(1900, 100), 1, 0),
    "mask of few": (draw(9995, 5), 1, 0),
    "mask of many": (draw(20, 1980), 1, 0),
    "all the first": (torch.zeros(5000, dtype=torch.int64), 4, 0),
    "all the last": (torch.full((5000,), 15), 4, 0),
    "all ones of one bit": (torch.ones(5000, dtype=torch.int64), 1, 0),
    "four bits": (draw(900, 400, 300, 200, 100, 50, 20, 9, 1, 3), 4, 0),
    "holes": (draw(900, 0, 0, 30, 0, 7) + 3, 4, 0),
    "signed": (bell(3, 8), 8, -128),
    "far offset": (bell(3, 8) + 65000, 16, 65000 - 40),
    "sixteen bits": (bell(2.0, 16), 16, -32768),
    "top of sixteen bits": (torch.full((100,), 65535), 16, 0),
}


@pytest.mark.parametrize(("values", "bits", "offset"), VALUES.values(), ids=VALUES)
def test_what_is_coded_comes_back_and_is_as_small_as_its_entropy(values: Tensor, bits: int, offset: int) -> None:
    stored = coding.encode(values, bits, offset)
    assert stored is not None and stored.dtype is torch.uint8
    decoded = coding.decode(stored, bits, len(values), offset)
    assert decoded.dtype is torch.int32 and torch.equal(decoded, values.to(torch.int32))
    counts = torch.bincount(values - values.min()).double()
    used = counts[counts > 0]
    entropy_bits = float((used * (len(values) / used).log2()).sum())
    # 2 % for weights of 4 to 16 bits; the floor of a symbol; prefix and state; the table
    table = packed_size(int(prefix(stored)[2]), int(prefix(stored)[0]))
    assert len(stored) <= 1.02 * entropy_bits / 8 + len(values) * 0.0057 / 8 + 5 + 8 + 4 + table
    assert len(stored) + coding.WORTH_IT <= packed_size(len(values), bits)


def prefix(stored: Tensor) -> tuple[int, int, int]:
    """Bits of the table, its lowest symbol, its length."""
    first = stored[:5].tolist()
    return first[0], first[1] | first[2] << 8, 1 + (first[3] | first[4] << 8)


@pytest.mark.parametrize(("values", "bits", "offset"), VALUES.values(), ids=VALUES)
def test_a_reader_made_from_the_description_agrees(values: Tensor, bits: int, offset: int) -> None:
    stored = coding.encode(values, bits, offset)
    assert stored is not None
    decoded = independent_reader._entropy_decoded(bytes(stored.tolist()), len(values)) + offset
    np.testing.assert_array_equal(decoded, values.numpy())


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        (torch.zeros(0, dtype=torch.int64), 4),
        (torch.zeros(40, dtype=torch.int64), 4),  # 20 bytes: nothing to gain
        (torch.arange(16).repeat(200), 4),  # every code equally often
        (torch.arange(1000) * 65, 16),  # all different
    ],
    ids=["nothing", "short", "even", "all different"],
)
def test_where_coding_does_not_pay_there_is_none(values: Tensor, bits: int) -> None:
    assert coding.encode(values, bits) is None


def test_bytes_of_the_coding_are_fixed() -> None:
    """By hand: table of 4 bits, weights 15 and 1 (of 2400 and 160), F = 0, 15728639, 2^24."""
    stored = coding.encode(draw(2400, 160), 1)
    assert stored is not None
    assert bytes(stored[:6].tolist()) == bytes([4, 0, 0, 1, 0, 15 | 1 << 4])
    x = 2**32  # the whole coder in four lines, from the last value to the first
    words: list[int] = []
    for symbol in reversed(draw(2400, 160).tolist()):
        begin, size = (0, 15728639) if symbol == 0 else (15728639, 2**24 - 15728639)
        if x >= size << 40:
            words, x = [*words, x % 2**32], x >> 32
        x = (x // size << 24) + begin + x % size
    assert stored[6:].numpy().view("<u4").tolist() == [*words, x % 2**32, x >> 32]


@pytest.mark.parametrize("seed", range(40))
def test_any_table_gives_every_symbol_a_slot_and_sums_up(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 2 ** rng.integers(1, 30), rng.integers(2, 3000))
    counts[rng.integers(len(counts))] += 1
    for bits in coding.TABLE_BITS:
        weights = coding._weights(counts, bits)
        slots = coding._slots(weights)
        assert slots[0] == 0 and slots[-1] == 1 << 24 and int(np.diff(slots).min()) >= 1
        assert weights.min() >= 0 and weights.max() < 1 << bits and bool((weights[counts > 0] > 0).all())
        assert not coding._too_certain(weights)
        # the bound that protects a reader: no symbol is cheaper than 1/180 bit
        assert -math.log2(int(np.diff(slots).max()) / 2**24) > 1 / coding.SYMBOLS_PER_BIT


def test_a_file_says_that_it_is_coded_and_is_smaller() -> None:
    content, entries, _ = open_up(CODED)
    assert content["format"] == 2
    coded = {name for name in entries if ".ans:" in name}
    assert coded == {f"{name}.weight" for name in ("indices.ans:skewed", "codes.ans:bell", "mask.ans:pruned")} | {
        "indices.ans:same.weight"
    }
    plain = to_bytes(replace(coding_program(), entropy_coding=False))
    assert len(CODED) < len(plain) and open_up(plain)[0]["format"] == 1
    for name, encoding in from_bytes(CODED, "x").tensors.items():
        assert torch.equal(encoding.decode(), coding_program().tensors[name].decode())


def test_files_without_anything_coded_are_as_they_were() -> None:
    for program in (conv_program(), coded_program(), linear_program(fc=affine((3, 5)))):
        assert to_bytes(replace(program, entropy_coding=True)) == to_bytes(program)


def test_sizes_are_those_of_the_coded_arrays() -> None:
    report = size_report(CODED)
    arrays = {name: entry["data_offsets"] for name, entry in open_up(CODED)[1].items()}
    length = {name: end - begin for name, (begin, end) in arrays.items()}
    codes = ("indices.ans:skewed", "codes.ans:bell", "codes:pruned", "indices.ans:same", "codes:even")
    assert report.codes_bytes == sum(length[f"{name}.weight"] for name in codes)
    assert report.masks_bytes == length["mask.ans:pruned.weight"] < 16 * 40 / 8
    assert report.fixed_width_bytes == len(to_bytes(replace(coding_program(), entropy_coding=False)))
    assert report.size_bytes == len(CODED) < report.fixed_width_bytes - 4 * coding.WORTH_IT + 4 * 4 + 8
    sparse = coding_program().tensors["pruned.weight"]
    assert isinstance(sparse, Sparse)
    dense = replace(coding_program(), entropy_coding=False)
    floats = dense.with_tensors({"pruned.weight": Sparse(sparse.mask, Float(sparse.decode()[sparse.mask]))})
    assert report.pruned_bytes == len(to_bytes(floats))
    assert size_report(to_bytes(conv_program())).pruned_bytes is None
    plain = size_report(to_bytes(coded_program()))
    assert plain.fixed_width_bytes == plain.size_bytes


def test_only_small_whole_numbers_are_coded() -> None:
    """Zero points, centroids and wide codes stay at fixed width."""
    wide = affine((4, 400), 20, None, grid=(-(1 << 19), (1 << 19) - 1), dtype=torch.int32)
    wide.codes.zero_()
    (codes, *_) = parts("fc.weight", wide)
    assert codes.coded() is None
    scales = affine((2000, 2), 8, 0, zero=True)
    scales.zero_point.fill_(5)
    assert [part.coded() is None for part in parts("fc.weight", scales)][1:] == [True, True]


MASK = "mask.ans:pruned.weight"


def with_mask(*edits: tuple[int, int]) -> Callable[[dict[str, Tensor]], object]:
    def edit(arrays: dict[str, Tensor]) -> None:
        for at, value in edits:
            arrays[MASK][at] = value

    return edit


def cut(name: str, end: int) -> Callable[[dict[str, Tensor]], object]:
    return lambda arrays: arrays.update({name: arrays[name][:end].clone()})


def swapped(arrays: dict[str, Tensor], stored: Tensor) -> None:
    arrays[MASK] = stored


def words(*values: int, table: tuple[int, ...] = (4, 0, 0, 1, 0, 0x1F)) -> Callable[[dict[str, Tensor]], object]:
    content = bytes(table) + np.array(values, dtype="<u4").tobytes()
    return lambda arrays: swapped(arrays, torch.tensor(list(content), dtype=torch.uint8))


WRONG: dict[str, tuple[Callable[..., object], str]] = {
    "nothing": (cut(MASK, 0), "must be uint8 with one axis and a prefix"),
    "part of a prefix": (cut(MASK, 4), "must be uint8 with one axis and a prefix"),
    "no table": (cut(MASK, 5), "5 bytes do not hold 2 weights and whole words"),
    "floats": (lambda a: a.update({MASK: torch.ones(8)}), "must be uint8 with one axis"),
    "two axes": (lambda a: a.update({MASK: a[MASK][:8].reshape(2, 4).clone()}), "must be uint8 with one axis"),
    "weights of no bits": (with_mask((0, 0)), "weights of 0 bits in the table"),
    "weights of 17 bits": (with_mask((0, 17)), "weights of 17 bits in the table"),
    "symbols beyond the bits": (with_mask((1, 1)), "the table has the symbols 1 to 2; 1 bits hold no such"),
    "one symbol": (with_mask((3, 0)), "the table has the symbols 0 to 0; 1 bits hold no such"),
    "a table beyond the file": (words(0, 1, table=(4, 0, 0, 255, 255, 17)), "the table has the symbols 0 to 65535"),
    "weights of zero": (words(0, 1, table=(4, 0, 0, 1, 0, 0)), "the weights of the table are all zero"),
    "certainty": (words(0, 1, table=(4, 0, 0, 1, 0, 15)), "or one is beyond its share"),
    "padding of the table": (words(0, 1, table=(3, 0, 0, 1, 0, 0xFF)), "padding bits of the last byte"),
    "half a word": (lambda a: swapped(a, a[MASK][:-1].clone()), "weights and whole words"),
    "no words": (words(), "do not end with value 640"),
    "a zero word": (words(0, 1, 0), "never ends in a zero word"),
    "too few words": (lambda a: swapped(a, a[MASK][:-4].clone()), "do not end with value 640|zero word"),
    "too many words": (
        lambda a: swapped(a, torch.cat([a[MASK][:6], torch.ones(4, dtype=torch.uint8), a[MASK][6:]])),
        "do not end with value 640",
    ),
    "another word": (lambda a: a[MASK][-3].bitwise_xor_(1), "do not end with value 640"),
    "both forms": (
        lambda a: a.update({"mask:pruned.weight": pack(torch.ones(640, dtype=torch.int32), 1)}),
        "array 'mask:pruned.weight' belongs to no tensor",
    ),
    "coded scale": (
        lambda a: a.update({"scale.ans:pruned.weight": a.pop("scale:pruned.weight")}),
        "array 'scale:pruned.weight' is missing",
    ),
}


@pytest.mark.parametrize(("edit", "message"), WRONG.values(), ids=WRONG)
def test_coded_arrays_that_make_no_sense(edit: Callable[..., object], message: str) -> None:
    with pytest.raises(ArtifactError, match=rf"\AFILE: invalid content: .*({message})"):
        from_bytes(rearranged(CODED, edit), "FILE")


def sparse(content: dict[str, Any]) -> dict[str, Any]:
    return content["tensors"]["pruned.weight"]["sparse"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("shape", [[2**31 - 1] * 8, [2**20, 2**10], [10_000, 10_000]], ids=str)
def test_a_short_array_cannot_claim_much(shape: list[int]) -> None:
    """Refused before the memory is taken."""
    with pytest.raises(ArtifactError, match=r"mask.ans:pruned.weight': \d+ coded bytes cannot hold \d+ values"):
        from_bytes(edited(CODED, lambda c: sparse(c).update(shape=shape)), "FILE")


def test_a_count_beside_the_words_is_noticed() -> None:
    for shape in ([16, 41], [15, 40], [640, 2]):
        with pytest.raises(ArtifactError, match=r"coded words do not end with value"):
            from_bytes(edited(CODED, lambda c, s=shape: sparse(c).update(shape=s)), "FILE")


def test_the_format_must_tell_the_truth() -> None:
    with pytest.raises(ArtifactError, match=r"array '.*' is missing"):
        from_bytes(edited(CODED, lambda c: c.update(format=1)), "FILE")
    with pytest.raises(ArtifactError, match="no array is entropy-coded, though the format says so"):
        from_bytes(edited(to_bytes(conv_program()), lambda c: c.update(format=2)), "FILE")


def test_any_other_model_of_the_same_values_is_read() -> None:
    """A file may come from a writer that chooses its weights otherwise; here, of 16 bits."""
    values = draw(600, 40)
    coder = coding.constriction.stream.stack.AnsCoder(coding.BEGINNING)
    weights = np.array([60000, 5000])
    coder.encode_reverse(values.numpy().astype(np.int32), coding._model(coding._slots(weights)))
    content = bytes([16, 0, 0, 1, 0]) + weights.astype("<u2").tobytes() + coder.get_compressed().tobytes()
    stored = torch.tensor(list(content), dtype=torch.uint8)
    assert torch.equal(coding.decode(stored, 1, 640), values.to(torch.int32))
    program = from_bytes(CODED, "x")
    assert_same(from_bytes(to_bytes(program), "again"), program)
