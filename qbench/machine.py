"""Facts about this machine that need no torch."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import psutil

_CPUINFO = Path("/proc/cpuinfo")
_VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


def physical_cores() -> int:
    """Cores that do not share an execution unit, at least 1, at most the cores this process may use."""
    affinity = psutil.Process().cpu_affinity() if hasattr(psutil.Process, "cpu_affinity") else None
    usable = len(affinity) if affinity else psutil.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or 1, usable))


def cpu_model() -> str:
    """The processor's name, as the system gives it."""
    return processor()[0] or platform.processor() or platform.machine()


def sums_in_32_bits() -> bool:
    """Whether the processor says that it sums products of 8 bits in 32: x86 with VNNI or AMX."""
    return bool(processor()[1] & _VNNI)


def emulates_bfloat16() -> bool:
    """Whether the processor has no instruction for products of bfloat16; False where its instructions are unknown."""
    flags = processor()[1]
    return bool(flags) and not flags & _BFLOAT16


def parse_cpuinfo(text: str) -> tuple[str | None, frozenset[str]]:
    """Model name and flags of the first processor in the text of /proc/cpuinfo; (None, empty) where it has none.

    The name has family and model number behind it, for virtual machines call very different processors the same.
    """
    fields: dict[str, str] = {}
    for line in text.split("\n\n", 1)[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    name, family, model = (fields.get(key) for key in ("model name", "cpu family", "model"))
    if name and family and model:
        name = f"{name} (family {family}, model {model})"
    # x86 says "flags", Arm says "Features"
    return name, frozenset((fields.get("flags") or fields.get("Features") or "").split())


@cache
def processor() -> tuple[str | None, frozenset[str]]:
    """Model name and flags of the processor, by Linux's names for them; (None, empty) where Linux does not tell."""
    return parse_cpuinfo(_CPUINFO.read_text(errors="replace")) if _CPUINFO.is_file() else (None, frozenset())
