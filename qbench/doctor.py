"""``qbench doctor``: what this machine has, and what that means."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from qbench.catalog import options
from qbench.console import make_console
from qbench.data.presence import check_presence
from qbench.errors import ConfigError
from qbench.machine import physical_cores
from qbench.measure.environment import ISA_FLAGS, environment
from qbench.store import Store

# torch minor version -> the torchvision minor version built against it
MATCHING = {"2.6": "0.21", "2.7": "0.22", "2.8": "0.23", "2.9": "0.24", "2.10": "0.25", "2.11": "0.26", "2.12": "0.27",
            "2.13": "0.28"}  # fmt: skip


def doctor(words: Sequence[str]) -> int:
    """Print versions, instruction sets, threads, data sets and store; 1 if something is broken."""
    if words:
        raise ConfigError(f"doctor {' '.join(words)}: takes no arguments.")
    facts = environment()
    broken, torch_facts = _torch()
    rows: list[tuple[str, str]] = [
        ("qbench", f"{facts.get('qbench')}"),
        ("python", f"{facts.get('python')} on {facts.get('platform')}"),
        ("torch", f"{facts.get('torch')}, torchvision {facts.get('torchvision')}: {_pair(facts)}"),
        *torch_facts,
        ("processor", f"{facts['cpu_model']}"),
        ("instructions", _instructions(facts["cpu_flags"])),
        ("threads", f"{physical_cores()} physical cores usable (threads={physical_cores()} unless given)"),
        *_data_sets(),
        ("store", _store()),
    ]
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column("what", no_wrap=True)
    table.add_column("found", overflow="fold")
    for name, text in rows:
        table.add_row(name, escape(text))
    make_console().print(table)
    return 1 if broken else 0


def _pair(facts: dict[str, Any]) -> str:
    torch, vision = str(facts.get("torch")), str(facts.get("torchvision"))
    expected = MATCHING.get(".".join(torch.split(".")[:2]))
    if expected is None:
        return "not a pair this qbench knows"
    matches = vision.startswith(f"{expected}.")
    return "a matching pair" if matches else f"NOT a pair; torch {torch} goes with torchvision {expected}"


def _torch() -> tuple[bool, list[tuple[str, str]]]:
    try:
        import torch
        import torchvision  # noqa: F401 - importing is the test
    except (ImportError, RuntimeError, OSError) as error:
        return True, [("import", f"FAILED: {error}; install a matching torch and torchvision pair")]
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    from qbench.training.recipe import autocast_dtype

    precision = autocast_dtype("auto", torch.device("cpu"))
    note = "bfloat16 autocast" if precision is not None else "float32 (no native bfloat16)"
    return False, [("devices", ", ".join(devices)), ("training", f"train.precision=auto means {note} on this CPU")]


def _instructions(present: Sequence[str]) -> str:
    """What speeds up narrow arithmetic, and what of it is missing here."""
    absent = [name for name in ISA_FLAGS if name not in present]
    return (", ".join(present) or "none known") + (f"; not {', '.join(absent)}" if absent else "")


def _data_sets() -> list[tuple[str, str]]:
    root = Path(os.environ.get("QBENCH_DATA", "data"))
    rows = []
    for name, option in options("dataset").items():
        content = option.load()
        folder = str(content.get("folder", ""))
        sources = [str(source).replace("${dataset.folder}", folder) for source in content["sources"]]
        problem = check_presence(name, root, sources, None)
        state = "embedded" if not sources else f"found in {root}"
        if problem is not None:  # without the name, which the row has, and the ways on, which a run would tell
            state = problem.removeprefix(f"data set {name}: ").partition(" Ways on: ")[0]
        rows.append((f"data: {name}", state))
    return rows


def _store() -> str:
    root = Path(os.environ.get("QBENCH_STORE", Path(os.environ.get("QBENCH_OUTPUTS", "outputs")) / "store"))
    if not root.is_dir():
        return f"{root}: not there yet; made by the first run"
    entries = sum(1 for _ in root.glob("*/*/manifest.json"))
    return f"{root}: {entries} finished stages, {Store(root).size_bytes() / 1e6:,.1f} MB"
