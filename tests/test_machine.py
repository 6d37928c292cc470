from __future__ import annotations

from pathlib import Path

import pytest

from qbench import machine
from qbench.machine import cpu_model, emulates_bfloat16, parse_cpuinfo, processor, sums_in_32_bits

CPUINFO = """\
processor\t: 0
model name\t: Example CPU @ 2.00GHz
flags\t\t: fpu avx2 avx512f avx512_vnni amx_int8

processor\t: 1
model name\t: Another CPU
flags\t\t: fpu
"""


def test_cpuinfo_is_read_from_the_first_processor() -> None:
    model, flags = parse_cpuinfo(CPUINFO)
    assert model == "Example CPU @ 2.00GHz"
    assert flags == {"fpu", "avx2", "avx512f", "avx512_vnni", "amx_int8"}


def test_processors_of_one_name_are_told_apart() -> None:
    names = [
        parse_cpuinfo(f"cpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: AMD EPYC\n")[0]
        for family, model in ((25, 1), (26, 2))
    ]
    assert names == ["AMD EPYC (family 25, model 1)", "AMD EPYC (family 26, model 2)"]


def test_cpuinfo_of_arm_names_no_model() -> None:
    assert parse_cpuinfo("processor: 0\nFeatures: fp asimd\n") == (None, frozenset({"fp", "asimd"}))


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the machine's table of processors is read from; there is none yet."""
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine, "processor", processor.__wrapped__)  # not what was remembered of the real one
    return tmp_path / "cpuinfo"


@pytest.mark.parametrize(
    ("flags", "has"),
    [("avx2 avx512f", False), ("avx2 avx_vnni", True), ("avx512_vnni", True), ("amx_int8", True), ("", False)],
)
def test_vnni_is_what_the_processor_says(table: Path, flags: str, has: bool) -> None:
    table.write_text(f"model name : Chip\nflags : fpu {flags}\n")
    assert sums_in_32_bits() is has
    assert cpu_model() == "Chip"


@pytest.mark.parametrize(
    ("flags", "emulates"),
    [("avx2 avx512f", True), ("avx512_bf16", False), ("amx_bf16", False), ("", True)],
)
def test_bfloat16_is_emulated_where_the_processor_does_not_name_it(table: Path, flags: str, emulates: bool) -> None:
    assert not emulates_bfloat16()  # nothing is known
    table.write_text(f"model name : Chip\nflags : fpu {flags}\n")
    assert emulates_bfloat16() is emulates


def test_without_a_table_nothing_is_promised(table: Path) -> None:
    assert not table.exists()
    assert sums_in_32_bits() is False and cpu_model() != ""
