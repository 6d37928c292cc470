"""Facts about this machine that need no torch."""

from __future__ import annotations

import platform
from pathlib import Path

import psutil


def physical_cores() -> int:
    """Cores that do not share an execution unit, at least 1, at most the cores this process may use."""
    affinity = psutil.Process().cpu_affinity() if hasattr(psutil.Process, "cpu_affinity") else None
    usable = len(affinity) if affinity else psutil.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or 1, usable))


def cpu_model() -> str:
    """The processor's name, as the system gives it."""
    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
