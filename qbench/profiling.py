"""The profile stage: latency and memory of an artefact beside the float one, each engine in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qbench.artifact import load
from qbench.config import Choice, MeasureConfig, RunConfig
from qbench.exclusive import foreign_load_percent, others_busy, profiling
from qbench.foreign import input_of
from qbench.measure.latency import LatencyResult, LatencySettings, measure_against
from qbench.measure.memory import memory_of
from qbench.measure.worker import Worker, artifact_engine
from qbench.runtime import load_runtime
from qbench.stages import write_facts

# what is kept of a comparison with the float file on the same runtime, and the field of its result
ON_SAME_RUNTIME = {f"same_runtime_ratio{end}": f"ratio{end}" for end in ("", "_low", "_high")}
ON_SAME_RUNTIME |= {f"same_runtime_{name}": f"baseline_{name}" for name in ("ms_median", "ms_iqr", "kind")}


def profile_stage(
    config: RunConfig,
    artifact: Path,
    baseline: Path,
    baseline_runtime: Choice,
    folder: Path,
    chosen: Mapping[int, Choice] | None = None,
) -> None:
    """Measure latency against the float artefact in alternated turns, and memory, each engine in its own process.

    The float artefact takes its turns on ``baseline_runtime`` and, where it can, on the runtime of the run as well.
    Another qbench stage at work on this machine makes the figures worthless: they are marked ``contended``.

    Args:
        config: The run.
        artifact: Its file.
        baseline: The float file.
        baseline_runtime: What that one runs on.
        folder: Where the figures go.
        chosen: Batch size -> runtime, with runtime=auto; None for that of the run at every size.
    """
    shape = input_of(artifact).shape

    def engine(name: str, path: Path, runtime: Choice) -> Worker:
        spec = artifact_engine(name, path, runtime.target, shape, threads=config.threads, params=runtime.params)
        return Worker(spec)

    asked = config.measure
    latency: dict[int, dict[str, Any]] = {}
    facts: dict[str, Any] = {"latency": [], "memory": None, "memory_baseline": None}
    facts["baseline_runtime"] = baseline_runtime.name
    with profiling():
        contended = others_busy()
        facts["foreign_load_percent"] = foreign_load_percent()
        for runtime, sizes in _sizes_by_runtime(config, chosen):
            same = runtime.identity() == baseline_runtime.identity()
            on = [baseline_runtime, *([runtime] if asked.latency and not same and _runs(baseline, runtime) else [])]
            with ExitStack() as stack:
                candidate = stack.enter_context(engine("candidate", artifact, runtime))
                baselines = [stack.enter_context(engine(f"float {each.name}", baseline, each)) for each in on]
                if asked.memory and max(asked.batch_sizes) in sizes:
                    # first: the peak is that of a process that has done nothing else
                    facts["memory"] = asdict(memory_of(candidate, batch_size=max(sizes)))
                    facts["memory_baseline"] = asdict(memory_of(baselines[0], batch_size=max(sizes)))
                for size in sizes if asked.latency else ():
                    settings = latency_settings(asked)
                    measured = measure_against(candidate, baselines, batch_size=size, settings=settings)
                    latency[size] = {
                        **asdict(measured[0]),
                        **(_there(measured[-1]) if same or len(on) > 1 else {}),
                        "load_average": os.getloadavg()[0],
                        "runtime": runtime.name,
                    }
        facts["contended"] = contended or others_busy()
    facts["latency"] = [latency[size] for size in asked.batch_sizes if size in latency]
    write_facts(folder, facts)


def _runs(artifact: Path, runtime: Choice) -> bool:
    """Whether the float artefact has a form on a runtime: not where that computes with integers alone, for instance."""
    return load_runtime(runtime.target, runtime.params).supports(load(artifact)) is None


def _there(measured: LatencyResult) -> dict[str, Any]:
    """How the file compares with the float file on the runtime that runs both."""
    return {name: getattr(measured, field) for name, field in ON_SAME_RUNTIME.items()}


def latency_settings(asked: MeasureConfig) -> LatencySettings:
    """How long a run's engines are measured."""
    return LatencySettings(
        min_rounds=asked.min_rounds,
        max_seconds=asked.max_seconds,
        relative_half_width=asked.ratio_tolerance / 2,
        turn_seconds=asked.turn_seconds,
    )


def _sizes_by_runtime(config: RunConfig, chosen: Mapping[int, Choice] | None) -> list[tuple[Choice, list[int]]]:
    """The batch sizes that one process can measure together: those of the same runtime."""
    groups: dict[str, tuple[Choice, list[int]]] = {}
    for size in dict.fromkeys(config.measure.batch_sizes):
        runtime = config.runtime if chosen is None else chosen[size]
        groups.setdefault(runtime.name, (runtime, []))[1].append(size)
    return list(groups.values())
