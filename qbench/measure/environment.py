"""Where a number was measured: software versions, processor, memory, the state of the checkout.

The name of the machine and of its user are left out on purpose: records are meant to be published.
Nothing here imports torch; versions come from the packages' metadata.
"""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

import qbench
from qbench.machine import processor

ISA_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
)
PACKAGES = ("torch", "torchvision", "numpy")
# Keys that change on one and the same machine, or that say nothing about it: leave them out of a content key.
VOLATILE = ("clock_mhz", "git_sha", "git_dirty")

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_GIT_TIMEOUT_SECONDS = 10


def environment() -> dict[str, Any]:
    """Describe this machine and this installation as JSON-able facts; what cannot be found out is None.

    Returns:
        Versions ("python", "torch", "torchvision", "numpy", "qbench"), "platform", "cpu_model", "cpu_flags" (those
        of ``ISA_FLAGS`` the processor has), "physical_cores", "logical_cores", "usable_cores" (this process may be
        confined to fewer), "memory_bytes", "cpu_governor", "clock_mhz", "git_sha", "git_dirty".
    """
    cpu_model, flags = _processor()
    git_sha, git_dirty = _checkout()
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "qbench": getattr(qbench, "__version__", None),
        "platform": f"{platform.system()}-{platform.release()}-{platform.machine()}",
        "cpu_model": cpu_model,
        "cpu_flags": [flag for flag in ISA_FLAGS if flag in flags],
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(logical=True),
        "usable_cores": _usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "cpu_governor": _read_line(_GOVERNOR),
        "clock_mhz": _clock_mhz(),
        "git_sha": git_sha,
        "git_dirty": git_dirty,
    }


def _processor() -> tuple[str | None, frozenset[str]]:
    model, flags = processor()
    if model is not None:
        return model, flags
    from cpuinfo import get_cpu_info  # takes over a second, so only where the kernel does not tell

    info = get_cpu_info()
    return info.get("brand_raw"), frozenset(info.get("flags", ()))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _clock_mhz() -> float | None:
    frequency = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    return None if frequency is None else float(frequency.current)


def _read_line(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _checkout() -> tuple[str | None, bool | None]:
    """Commit of the checkout qbench runs from and whether it has uncommitted changes; None where it is installed."""
    root = Path(qbench.__file__).resolve().parent.parent
    toplevel = _git(root, "rev-parse", "--show-toplevel")
    # an installed qbench may lie in a virtual environment inside somebody else's repository
    if toplevel is None or Path(toplevel).resolve() != root:
        return None, None
    sha = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    status = _git(root, "status", "--porcelain")
    return sha, None if status is None else bool(status)


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
