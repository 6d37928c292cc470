"""Run one cell: its stages through the store, then its record. A failure becomes a record, never a lost sweep."""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from qbench.assess import assess
from qbench.assets import pin_threads
from qbench.config import Choice, RunConfig, bits_label
from qbench.errors import ConfigError, QBenchError
from qbench.exclusive import busy
from qbench.files import write_atomic
from qbench.measure.environment import environment
from qbench.plan import Plan, baseline_runtime
from qbench.progress import Progress
from qbench.record import Record
from qbench.stages import (
    ARTIFACT,
    profile_stage,
    quantize_stage,
    read_facts,
    score_stage,
    train_stage,
)
from qbench.store import Store

ABOUT_THE_CALL = ("data_dir", "output_dir", "store_dir", "dry", "traceback")  # not about what was run


BUSY_PERCENT = 25.0  # of all processors; above, a timing deserves a warning


def run_cell(config: RunConfig, plan: Plan, baseline: Choice, progress: Progress) -> Record:
    """Execute what the plan lacks, and write the record (also of a failure) to ``output_dir/records``.

    KeyboardInterrupt passes through: finished stages are kept, nothing is recorded.
    """
    try:
        record = _execute(config, plan, baseline, progress)
    except Exception as error:
        record = _failed(config, plan, error)
    record.save(config.output_dir / "records")
    return record


def blank_record(config: RunConfig, run_id: str, status: str, error: str | None = None) -> Record:
    """A record that knows its config and nothing measured."""
    return Record(
        run_id=run_id,
        status=status,
        error=error,
        dataset=config.dataset.choice.name,
        model=config.model.choice.name,
        method=config.method.name,
        weight_bits=config.weight_bits,
        act_bits=config.act_bits,
        variant=config.method.variant or None,
        seed=config.seed,
        runtime=config.runtime.name,
        device=config.device,
        threads=config.threads,
        config=_plain({name: value for name, value in asdict(config).items() if name not in ABOUT_THE_CALL}),
    )


def run_folder(config: RunConfig, run_id: str) -> Path:
    """Where a run's own files are: readable name, exact id."""
    bits = bits_label(config.weight_bits, config.act_bits)
    names = [config.dataset.choice.name, config.model.choice.name, config.method.name, bits, f"s{config.seed}", run_id]
    return config.output_dir / "runs" / "_".join(filter(None, names))


def _execute(config: RunConfig, plan: Plan, baseline: Choice, progress: Progress) -> Record:
    store = Store(config.store_dir)
    pin_threads(config.threads)

    def make(stage: str, key: str, action: Any) -> Path:
        def guarded(folder: Path) -> None:
            with busy():
                action(folder)

        folder, cached = store.get_or_make(stage, key, action if stage == "profile" else guarded)
        if not cached:
            progress.line(f"{stage} {key} done")
        return folder

    trained = make("train", plan.train.key, lambda f: train_stage(config, f, progress))
    folders = {}
    float_runtime = baseline_runtime(config)
    for part, method, runtime in (("baseline", baseline, float_runtime), ("own", config.method, config.runtime)):
        made = plan.baseline if part == "baseline" else plan.quantize
        scored = plan.baseline_score if part == "baseline" else plan.score
        artifact = make("quantize", made.key, lambda f, m=method: quantize_stage(config, m, trained, f, progress))
        folders[part] = artifact
        folders[f"{part}_score"] = make(
            "score", scored.key, lambda f, a=artifact, r=runtime: score_stage(config, r, a / ARTIFACT, f)
        )
    profile: Mapping[str, Any] = {}
    if plan.profile is not None:
        key = plan.profile.key
        own, reference = folders["own"] / ARTIFACT, folders["baseline"] / ARTIFACT
        folder = make("profile", key, lambda f: profile_stage(config, own, reference, float_runtime, f))
        profile = read_facts(folder)
        if profile["contended"]:
            store.discard("profile", key)  # shown with a warning this time, measured again the next
    record = blank_record(config, plan.run_id, "ok")
    record = assess(
        record, trained, folders["own"], folders["baseline"], folders["own_score"], folders["baseline_score"]
    )
    record = _with_profile(record, profile)
    place = run_folder(config, plan.run_id)
    _copy(folders["own"] / ARTIFACT, place / ARTIFACT)
    return replace(
        record,
        artifact=str(place / ARTIFACT),
        stage_keys={f"{stage.stage}:{stage.subject}": stage.key for stage in plan.stages},
        environment=environment(),
    )


def _with_profile(record: Record, profile: Mapping[str, Any]) -> Record:
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
            latency_ratio=first["ratio"],
            latency_ratio_low=first["ratio_low"],
            latency_ratio_high=first["ratio_high"],
            latency_baseline_runtime=profile.get("baseline_runtime", record.runtime),
            batch_size=first["batch_size"],
        )
    load = profile.get("foreign_load_percent", 0.0)
    if load > BUSY_PERCENT and not profile["contended"]:
        busy_note = f"busy machine: processors were {load:.0f} % in use before latency was measured"
        record = replace(record, warning="; ".join(filter(None, [record.warning, busy_note])))
    if profile["contended"]:
        warning = "contended: another qbench stage ran while latency was measured; run again for ratios"
        record = replace(record, warning="; ".join(filter(None, [record.warning, warning])))
    simulated = record.latency_kind == "simulated"  # slower than what it stands for: no ratio means anything
    return _without_ratios(record) if simulated or profile["contended"] else record


def _without_ratios(record: Record) -> Record:
    return replace(
        record,
        latency_ratio=None,
        latency_ratio_low=None,
        latency_ratio_high=None,
        latency=tuple({**one, "ratio": None, "ratio_low": None, "ratio_high": None} for one in record.latency),
    )


def _failed(config: RunConfig, plan: Plan, error: Exception) -> Record:
    """A failed run as a record, its traceback in a file; a bad config found late still ends the run as one."""
    place = run_folder(config, plan.run_id) / "traceback.txt"
    text = "".join(traceback.format_exception(error))
    saved: str | None = str(place)
    try:
        write_atomic(place, text.encode())
    except OSError:
        saved = None
    expected = isinstance(error, QBenchError)
    message = " ".join((str(error) if expected else f"{type(error).__name__}: {error}").split())
    record = blank_record(config, plan.run_id, "failed", message)
    stages = {f"{stage.stage}:{stage.subject}": stage.key for stage in plan.stages}
    kind = "config" if isinstance(error, ConfigError) else "expected" if expected else "unexpected"
    return replace(record, error_kind=kind, traceback=saved, stage_keys=stages, environment=environment())


def _copy(source: Path, target: Path) -> None:
    """Link where the file system can, copy elsewhere; whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)


def _plain(value: Any) -> Any:
    """Paths as text, mappings and tuples as JSON has them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
