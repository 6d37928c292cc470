"""The text that is written: what it may contain, what it needs, what it says; and what is refused."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from program.test_lower import BODIES, Network, body_of, quantized

from qbench.errors import MethodError, RuntimeUnavailable
from qbench.program.integer import ops
from qbench.program.integer.network import IntegerProgram
from qbench.program.lower import lower
from qbench.runtime.c import CompiledNetwork, to_c
from qbench.runtime.c.arena import ALIGNMENT, Lifetime, plan_arena
from qbench.runtime.c.compiled import FLAGS, compile_c, find_compiler
from qbench.runtime.c.constants import Constants
from qbench.runtime.c.interface import mantissa_and_shift

from .building import built, chain, factors, random_codes, reference, without_comments


def example(name: str = "squeeze and excitation") -> IntegerProgram:
    return lower(quantized(Network(body_of(name))))


def every_operation() -> list[IntegerProgram]:
    return [example(name) for name in ("shortcut", "concat", "max pool", "uneven windows", "squeeze and excitation")]


FORBIDDEN = r"\b(float|double|malloc|calloc|free|memcpy|memset|printf|assert|long|goto|asm|__\w+__)\b|\d\.\d"


def test_no_floats_no_memory_of_others_no_library() -> None:
    assert re.search(FORBIDDEN, "static float x;") and re.search(FORBIDDEN, "int x = 0.5;")
    for program in every_operation():
        for weights in ("arrays", "blob"):
            source = to_c(program, name="net", weights=weights, pixel_codes=torch.zeros(3, 256, dtype=torch.int8))
            included = re.findall(r"#\s*include\s*(.*)", source.source + source.header)
            assert sorted(included) == ['"net.h"', "<stddef.h>", "<stdint.h>"]
            guard = "#if defined(__GNUC__) && !defined(__clang__)\n#pragma GCC optimize"
            assert source.source.count(guard) == 1
            for text in (source.source.replace(guard, ""), source.header):
                assert re.search(FORBIDDEN, without_comments(text)) is None
                assert "float" not in text and "double" not in text and text.isascii()


@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2", "-O3", "-Os"])
@pytest.mark.parametrize("hosted", ["-ffreestanding", "-fhosted"])
def test_nothing_is_linked(level: str, hosted: str, tmp_path: Path) -> None:
    """Compilers make memset and memcpy of loops: a library of its own, without any other, must have no gaps.

    Without -ffreestanding too, as a careless user would compile it.
    """
    pools = [ops.MaxPool((2, 2), (2, 2), (0, 0), (size, size)) for size in (8, 4)]  # no function for one size alone
    for index, program in enumerate([chain((70, 16, 16), *pools, ops.Flatten()), *every_operation()[:4]]):
        to_c(program, name="net", weights="blob").write(tmp_path)
        alone = ["-shared", "-fPIC", "-nostdlib", "-Wl,-z,defs", level, hosted]
        compile_c([*alone, "net.c", "-o", f"net{index}.so"], tmp_path)


def test_the_compiler_is_asked_for_strictness() -> None:
    assert {"-std=c99", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-O2"} == set(FLAGS)


def test_the_same_network_gives_the_same_text() -> None:
    first, second = (to_c(example(), name="net", about=["a network"]) for _ in range(2))
    assert first == second and " * a network\n" in first.header


def test_the_header_says_what_a_caller_needs() -> None:
    program = replace(chain((2, 5, 7), ops.Flatten(), ops.Floor(-3)), input=ops.Grid(0.1, -4, -128, 127))
    source = to_c(program, name="my_net")
    facts = dict(re.findall(r"#define MY_NET_(\w+) \((-?\d+)\)", source.header))
    assert facts == {
        **{"HEIGHT": "5", "WIDTH": "7", "CHANNELS": "2", "INPUT_BYTES": "70", "CLASSES": "70"},
        **{"ARENA_BYTES": str(source.arena_bytes), "CONSTANT_BYTES": "0"},
        **{"INPUT_ZERO_POINT": "-4", "INPUT_QMIN": "-128", "INPUT_QMAX": "127"},
        **{"INPUT_SCALE_MANTISSA": "13421773", "INPUT_SCALE_SHIFT": "27"},  # 0.1 as the nearest 32-bit float
    }
    assert "void my_net_infer(const int8_t *input, int32_t *logits);" in source.header
    assert "my_net_quantize" not in source.header + source.source
    sizes = [int(size) for size in re.findall(r"^static int8_t qb_arena\[(\d+)\];$", source.source, re.MULTILINE)]
    assert sum(sizes) == source.arena_bytes == 80 + 70  # two values, the second at a multiple of 16


@pytest.mark.parametrize("scale", [1.0, 0.1, 3e-30, 1e30, 2.0**-126, 1.9999999], ids=str)
def test_scales_are_exact_integers(scale: float) -> None:
    (single,) = struct.unpack("<f", struct.pack("<f", scale))
    mantissa, shift = mantissa_and_shift(single)
    assert 1 << 23 <= mantissa < 1 << 24
    assert mantissa * 2.0**-shift == single


def test_logits_of_classes_with_units_of_their_own(tmp_path: Path) -> None:
    """The largest integer is not the largest logit."""
    program = replace(chain((1, 1, 3), ops.Flatten()), output_scale=torch.tensor([1.0, 0.25, 2e-9]))
    compiled = built(to_c(program, name="net"), tmp_path, 3)
    sums = torch.tensor([[5, 19, 127], [5, 21, 127], [-1, -5, -100], [5, 20, 0]], dtype=torch.int32)
    assert compiled.top1(sums).tolist() == (sums * program.output_scale).argmax(1).tolist() == [0, 1, 2, 0]


def test_names_of_nodes_end_no_comment(tmp_path: Path) -> None:
    program = chain((2, 2, 2), factors_of_four(), ops.Flatten())
    evil = "*/ int x = 1.0; /* \\\n??/ é\n"
    nodes = (replace(program.nodes[0], name=evil), replace(program.nodes[1], inputs=(evil,)))
    source = to_c(replace(program, nodes=nodes), name="net", about=[evil])
    codes = random_codes(program, 5)
    assert torch.equal(built(source, tmp_path, 8)(codes), reference(program, codes))


def factors_of_four() -> ops.AveragePool:
    return ops.AveragePool(3, ((0, 1), (1, 2)), ((0, 1), (1, 2)), factors(2, 2, 1, shift=0))


REFUSED = {
    "name='2nets': a C identifier is needed": {"name": "2nets"},
    "name='qb_net': a C identifier is needed, not beginning with qb_ or QB_ or QBENCH_": {"name": "qb_net"},
    "weights='files': allowed are auto, arrays, blob": {"weights": "files"},
    r"pixel_codes must be int8 \(3, 256\), not torch.int8 \(1, 256\)": {
        "pixel_codes": torch.zeros(1, 256, dtype=torch.int8)
    },
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_asked_for(message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        to_c(example(), **REFUSED[message])  # type: ignore[arg-type]


def test_a_network_that_makes_an_image_is_refused() -> None:
    with pytest.raises(MethodError, match=r"^n0: makes an image, not a number per class; end the network in flatten"):
        to_c(chain((2, 2, 2), ops.Floor(0)))


def test_an_operation_without_a_kernel_is_refused() -> None:
    class Unknown:
        def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
            return inputs[0].flatten(1)

    with pytest.raises(ValueError, match=r"^node 'n0': Unknown has no C kernel"):
        to_c(chain((2, 2, 2), Unknown()))


# --- memory

LIFETIMES = st.lists(st.tuples(st.integers(1, 200), st.integers(0, 12), st.integers(0, 6)), max_size=14)


@settings(max_examples=200, deadline=None)
@given(LIFETIMES)
def test_values_needed_at_once_never_overlap(drawn: list[tuple[int, int, int]]) -> None:
    values = [Lifetime(str(i), size, first, first + more) for i, (size, first, more) in enumerate(drawn)]
    arena = plan_arena(values)
    owners: dict[tuple[int, int], str] = {}
    for value in values:
        start = arena.offsets[value.name]
        assert start % ALIGNMENT == 0 and start + value.elements <= arena.elements
        for step in range(value.first, value.last + 1):
            for cell in range(start, start + value.elements):
                assert owners.setdefault((step, cell), value.name) == value.name
    assert arena.elements <= sum(-(-value.elements // ALIGNMENT) * ALIGNMENT for value in values)


def test_memory_is_used_again() -> None:
    """A chain of equal values needs two places, whatever its length."""
    chained = [Lifetime(str(step), 64, step, step + 1) for step in range(10)]
    assert plan_arena(chained).elements == 128
    assert plan_arena([]).elements == 0


# --- constants


def test_equal_numbers_are_stored_once() -> None:
    constants = Constants()
    one, same, other = (constants.add(torch.tensor([1, -5], dtype=d)) for d in (torch.int8, torch.int8, torch.int32))
    assert one == same != other
    assert constants.num_bytes == 2 + 8
    text = "static const int8_t qb_c0[2] = { 1, -5 }; static const int32_t qb_c1[2] = { 1, -5 };"
    assert " ".join(constants.as_arrays().split()) == text
    with pytest.raises(ValueError, match=r"not torch\.float32"):
        constants.add(torch.ones(2))


def test_the_lowest_number_has_a_form_that_c_reads() -> None:
    constants = Constants()
    constants.add(torch.tensor([-(1 << 31), (1 << 31) - 1], dtype=torch.int32))
    assert "INT32_MIN, 2147483647" in constants.as_arrays()


def test_a_file_of_weights_is_little_endian_and_aligned() -> None:
    constants = Constants()
    constants.add(torch.tensor([1, 2, 3], dtype=torch.int8))
    constants.add(torch.tensor([-2, 1 << 20], dtype=torch.int32))
    macros, blob = constants.as_blob()
    assert re.findall(r"weights \+ (\d+)", macros) == ["16", "32"]
    assert struct.unpack("<4sI", blob[:8]) == (b"QBW1", len(blob))
    assert blob[16:19] == bytes([1, 2, 3]) and struct.unpack("<2i", blob[32:]) == (-2, 1 << 20)


def test_weights_of_another_network_do_not_fit(tmp_path: Path) -> None:
    program = example("relu")
    compiled = built(to_c(program, name="net", weights="blob"), tmp_path, 5)
    blob = (tmp_path / "net.bin").read_bytes()

    def fits(content: bytes, offset: int = 0) -> bool:
        room = torch.empty(len(content) + 31, dtype=torch.uint8)
        start = -room.data_ptr() % 16 + offset
        room[start : start + len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        return compiled.weights_fit(room[start : start + len(content)])

    assert fits(blob)
    assert not fits(blob[:-1]) and not fits(blob + b"\0") and not fits(b"\0" + blob[1:]) and not fits(blob, offset=4)
    other = to_c(example("no activation"), name="net", weights="blob")
    assert other.blob is not None and not fits(other.blob)
    (tmp_path / "net.bin").write_bytes(other.blob)
    with pytest.raises(RuntimeUnavailable, match=r"net\.bin does not hold the weights of net\.c"):
        CompiledNetwork(tmp_path, "net", 5)


# --- the compiler


def test_a_missing_compiler_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -m32")
    with pytest.raises(RuntimeUnavailable, match=r"^no C compiler \(CC=no-such-compiler -m32 is not there\); install"):
        find_compiler()
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeUnavailable, match=r"^no C compiler \(none of cc, gcc, clang is there\); install gcc"):
        find_compiler()


def test_what_the_compiler_refuses_is_said(tmp_path: Path) -> None:
    (tmp_path / "net.c").write_text("int unused(void) { int x; return 0; }\n")
    with pytest.raises(RuntimeUnavailable, match=r"failed: net\.c:1:.*unused variable 'x'"):
        compile_c(["-c", "net.c"], tmp_path)


def test_every_body_of_the_lowering_is_covered() -> None:
    """The kernels used by the networks above are all there are."""
    used: set[str] = set()
    for name in BODIES:
        used |= set(re.findall(r"^static \w+ (qb_[a-z_0-9]+?)(?:_s\d+)*\(", to_c(example(name)).source, re.MULTILINE))
    assert used >= {"qb_conv", "qb_linear", "qb_add", "qb_multiply", "qb_average_pool", "qb_max_pool", "qb_move"}
    assert used >= {"qb_lookup", "qb_floor", "qb_flatten", "qb_widen", "qb_requantize"}
