"""The choose stage: which runtime is the fastest for an artefact, at each batch size, on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from qbench.artifact import load
from qbench.assets import instantiate
from qbench.config import Choice, RunConfig
from qbench.errors import QBenchError, RuntimeUnavailable
from qbench.exclusive import others_busy, profiling
from qbench.measure.latency import WorkerTurns
from qbench.measure.race import run_race
from qbench.measure.worker import Worker, artifact_engine
from qbench.plan import candidates_of
from qbench.profiling import latency_settings
from qbench.runtime.auto import AutoRuntime
from qbench.stages import read_facts, write_facts


def choose_stage(config: RunConfig, artifact: Path, folder: Path) -> None:
    """Measure the candidates of runtime=auto, each in its own process, in turns; leaves their times and the choice.

    Raises:
        RuntimeUnavailable: No candidate can run the file; names each with its reason.
        ConfigError: The candidates' parameters are wrong.
    """
    runtime: AutoRuntime = instantiate("runtime", config.runtime)
    program = load(artifact)
    reasons = runtime.reasons(program)
    out = {name: reason for name, reason in reasons.items() if reason is not None}
    rows: list[dict[str, Any]] = []
    with profiling(), ExitStack() as stack:
        contended = others_busy()
        workers: dict[str, Worker] = {}
        for candidate in candidates_of(config.runtime):
            if candidate.name in out:
                continue
            spec = artifact_engine(
                candidate.name,
                artifact,
                candidate.target,
                program.input_shape,
                threads=config.threads,
                params=candidate.params,
            )
            try:
                workers[candidate.name] = stack.enter_context(Worker(spec))
            except QBenchError as error:
                out[candidate.name] = str(error)
        for size in config.measure.batch_sizes:
            rows += _race(config, workers, out, size)
        contended = contended or others_busy()
    chosen = {str(row["batch_size"]): row["runtime"] for row in rows if row["chosen"]}
    write_facts(folder, {"candidates": rows, "chosen": chosen, "contended": contended})


def chosen_runtimes(config: RunConfig, folder: Path) -> dict[int, Choice]:
    """Batch size -> the chosen runtime, from the folder of a finished choose stage."""
    candidates = {candidate.name: candidate for candidate in candidates_of(config.runtime)}
    chosen: Mapping[str, str] = read_facts(folder)["chosen"]
    return {size: candidates[chosen[str(size)]] for size in config.measure.batch_sizes}


def _race(
    config: RunConfig, workers: Mapping[str, Worker], out: Mapping[str, str], batch_size: int
) -> list[dict[str, Any]]:
    """One row per candidate, in the order they were given."""
    turns = {name: WorkerTurns(worker, batch_size) for name, worker in workers.items()}
    times, failed = run_race(turns, latency_settings(config.measure))
    reasons = {**out, **failed}
    if not times:
        tried = "; ".join(f"{name}: {_last_line(reason)}" for name, reason in reasons.items())
        raise RuntimeUnavailable(f"runtime=auto: no candidate can run the file at batch {batch_size}: {tried}")
    fastest = next(iter(times))
    rows = []
    for candidate in candidates_of(config.runtime):
        name, measured = candidate.name, times.get(candidate.name)
        rows.append(
            {
                "runtime": name,
                "batch_size": batch_size,
                "chosen": name == fastest,
                "ms_median": measured.ms_median if measured else None,
                "ms_iqr": measured.ms_iqr if measured else None,
                "rounds": measured.rounds if measured else None,
                "kind": workers[name].ready.get("kind") if measured else None,
                "skipped": None if measured else _last_line(reasons[name]),
            }
        )
    return rows


def _last_line(reason: str) -> str:
    """The line that says what went wrong: of a worker's last words, the exception; one of qbench's without its name."""
    line = reason.strip().splitlines()[-1].strip()
    return line.partition(": ")[2] if line.startswith("qbench.errors.") else line
