"""Ten thousand damaged files: each is refused with an ArtifactError, or says exactly what it means."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from qbench.artifact import from_bytes, to_bytes
from qbench.errors import ArtifactError
from qbench.program.encodings import Sparse
from qbench.program.graph import Program

from .forging import close_up, open_up, redigest
from .programs import affine, assert_same, codebook, coded_program, coding_program, conv_program, linear_program, mask

ROUNDS = 3500  # files of each kind; four kinds
VALUES: list[Any] = [
    *(None, True, False, "", "relu", "conv2d", "input", "affine", "fc", "\ud800", [], {}, [[]], [1], {"a": 1}),
    *(0, 1, -1, 2, 3, 7, 17, 255, 65536, 2**31, 2**32, 2**63, 2**64, 10**30, -(10**30)),
    *(0.0, -0.0, 0.5, 1.5, 1e-300, 1e308, float("nan"), float("inf")),
]


def originals() -> list[tuple[Program, bytes]]:
    kept = mask((3, 4))
    third = linear_program(
        a=Sparse(kept, codebook((int(kept.sum()),), 2, 3, snap=True)),
        b=codebook((2, 3), 2, 3, per_channel=True, snap=True),
        c=affine((2, 3), 11, 1, zero=True),
    )
    programs = [conv_program(), coded_program(), third, coding_program()]
    return [(program, to_bytes(program)) for program in programs]


EVERYTHING = range(9)
SAME_LENGTH = (0, 0, 0, 1, 8)  # what gets past the length checks


def damage(data: bytes, other: bytes, rng: random.Random, kinds: Sequence[int] = EVERYTHING) -> bytes:
    """Flip a bit, change, insert, delete or copy bytes, cut, append, splice with another file, or edit the length."""
    at, length = rng.randrange(len(data)), rng.choice([1, 1, 2, 8, 60])
    match rng.choice(kinds):
        case 0:
            return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        case 1:
            return data[:at] + rng.randbytes(len(data[at : at + length])) + data[at + length :]
        case 2:
            return data[:at] + rng.randbytes(length) + data[at:]
        case 3:
            return data[:at] + data[at + length :]
        case 4:
            return data[:at]
        case 5:
            return data + rng.randbytes(length)
        case 6:
            return data[:at] + other[rng.randrange(len(other)) :]
        case 7:
            header = int.from_bytes(data[:8], "little")
            number = rng.choice([header + 8, header - 8, header + 1, 0, 2**24, 2**63, 2**64 - 1, rng.randrange(2**64)])
            return number.to_bytes(8, "little") + data[8:]
        case _:
            source = rng.randrange(len(data))
            copied = data[source : source + length]
            return data[:at] + copied + data[at + len(copied) :]


def spots(tree: Any) -> list[tuple[Any, Any]]:
    """Every (object or array, key or position) of a JSON value."""
    found: list[tuple[Any, Any]] = []
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        found.append((tree, key))
        if isinstance(value, dict | list):
            found += spots(value)
    return found


def twist(tree: Any, rng: random.Random) -> None:
    """Delete, replace, nudge, swap, rename or repeat one value somewhere in a JSON value."""
    holder, key = rng.choice(spots(tree))
    kind = rng.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder[key], int | float):
        holder[key] += rng.choice([-1, 1, 0.5, 8])
    elif kind == 2:
        other, where = rng.choice(spots(tree))
        holder[key], other[where] = json.loads(json.dumps([other[where], holder[key]]))
    elif kind == 3 and isinstance(holder, dict):
        holder[rng.choice(["axis", "group", "grid", "zz", key[:-1], key + "x"])] = holder.pop(key)
    elif kind == 4 and isinstance(holder, list):
        holder.insert(key, holder[key])
    else:
        holder[key] = rng.choice(VALUES)


def forge(data: bytes, rng: random.Random) -> bytes:
    """Change the qbench JSON, now and then the entries of the arrays as well, and make everything around it right."""
    content, entries, body = open_up(data)
    for _ in range(rng.choice([1, 1, 1, 2])):
        tree = entries if rng.random() < 0.2 else content
        if tree:
            twist(tree, rng)
    return close_up(content, entries, body)


def judge(data: bytes, seen: Counter[str]) -> None:
    """A file with a correct checksum is refused, or its program is whole: it decodes, saves and loads the same."""
    try:
        program = from_bytes(data, "FILE")
    except ArtifactError as error:
        message = str(error)
        assert message.startswith("FILE: ")
        seen["deep" if "invalid content" in message else "shallow"] += 1
        return
    seen["loaded"] += 1
    for encoding in program.tensors.values():
        assert encoding.decode().shape == encoding.shape
    assert_same(from_bytes(to_bytes(program), "again"), program)


@pytest.mark.parametrize("seed", range(2))
def test_damaged_files_are_refused(seed: int) -> None:
    rng = random.Random(seed)
    files = originals()
    unchanged = 0
    for _ in range(ROUNDS):
        program, data = rng.choice(files)
        damaged = damage(data, rng.choice(files)[1], rng)
        if damaged == data:
            assert_same(from_bytes(damaged, "FILE"), program)
            unchanged += 1
        else:
            with pytest.raises(ArtifactError, match=r"\AFILE: ."):
                from_bytes(damaged, "FILE")
    assert unchanged < ROUNDS / 50


def test_damaged_files_with_a_correct_checksum() -> None:
    rng = random.Random(2)
    files = originals()
    seen: Counter[str] = Counter()
    for _ in range(ROUNDS):
        kinds = EVERYTHING if rng.random() < 0.3 else SAME_LENGTH
        judge(redigest(damage(rng.choice(files)[1], rng.choice(files)[1], rng, kinds)), seen)
    assert min(seen["deep"], seen["shallow"], seen["loaded"]) > ROUNDS / 30, seen


def test_forged_headers_with_a_correct_checksum() -> None:
    rng = random.Random(3)
    files = originals()
    seen: Counter[str] = Counter()
    for _ in range(ROUNDS):
        judge(forge(rng.choice(files)[1], rng), seen)
    assert seen["deep"] > ROUNDS / 2, seen
    assert seen["loaded"] > 100, seen


def test_any_flipped_bit_and_any_cut_is_noticed() -> None:
    data = to_bytes(linear_program(fc=affine((2, 3))))
    for at in range(len(data)):
        flipped = data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :]
        for damaged in (flipped, data[:at]):
            with pytest.raises(ArtifactError, match=r"\AFILE: ."):
                from_bytes(damaged, "FILE")
