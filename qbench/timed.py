"""What measuring time adds to a record: columns of latency and memory, and warnings where they deserve one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qbench.record import RATIOS, Record

BUSY_PERCENT = 25.0  # of all processors; above, a timing deserves a warning


def with_profile(record: Record, profile: Mapping[str, Any]) -> Record:
    """Latency and memory columns; a contended measurement keeps its milliseconds and loses its ratio."""
    if not profile:
        return record
    record = replace(record, latency=tuple(profile["latency"]))
    if profile["memory"] is not None:
        record = replace(
            record,
            memory={"own": profile["memory"], "baseline": profile["memory_baseline"]},
            peak_memory_bytes=profile["memory"]["peak_memory_bytes"],
            peak_memory_baseline_bytes=profile["memory_baseline"]["peak_memory_bytes"],
        )
    if profile["latency"]:
        first = profile["latency"][0]
        record = replace(
            record,
            latency_ms_median=first["candidate_ms_median"],
            latency_ms_iqr=first["candidate_ms_iqr"],
            **{f"latency_{name}": first.get(name) for name in RATIOS},
            latency_baseline_runtime=profile.get("baseline_runtime", record.runtime),
            energy_measured_J=first.get("candidate_energy_J"),
            batch_size=first["batch_size"],
        )
    load = profile.get("foreign_load_percent", 0.0)
    if load > BUSY_PERCENT and not profile["contended"]:
        busy_note = f"busy machine: processors were {load:.0f} % in use before latency was measured"
        record = replace(record, warning="; ".join(filter(None, [record.warning, busy_note])))
    if profile["contended"]:
        warning = "contended: another qbench stage ran while latency was measured; run again for ratios"
        record = replace(record, warning="; ".join(filter(None, [record.warning, warning])))
        unread = {"candidate_energy_J": None, "baseline_energy_J": None}  # the others' energy is in those counters too
        record = replace(record, energy_measured_J=None, latency=tuple({**one, **unread} for one in record.latency))
    simulated = record.latency_kind == "simulated"  # slower than what it stands for: no ratio means anything
    return _without_ratios(record) if simulated or profile["contended"] else record


def with_choice(record: Record, choice: Mapping[str, Any]) -> Record:
    """What runtime=auto measured and chose; a warning where the row's accuracy is not that of every batch size."""
    if not choice:
        return record
    chosen: Mapping[str, str] = choice["chosen"]
    first = next(iter(record.config["measure"]["batch_sizes"]))
    warnings = [record.warning] if record.warning else []
    if len(set(chosen.values())) > 1:
        listed = ", ".join(f"{name} at batch {size}" for size, name in chosen.items())
        warnings.append(f"runtimes differ by batch size: {listed}; accuracy is that of {chosen[str(first)]}")
    if choice["contended"]:
        warnings.append("contended: another qbench stage ran while runtimes were compared; run again to choose anew")
    return replace(
        record,
        runtime_chosen=chosen[str(first)],
        candidates=tuple(choice["candidates"]),
        warning="; ".join(warnings) or None,
    )


def _without_ratios(record: Record) -> Record:
    none: dict[str, Any] = {f"latency_{name}": None for name in RATIOS}
    latency = tuple({**one, **{name: None for name in RATIOS if name in one}} for one in record.latency)
    return replace(record, **none, latency=latency)
