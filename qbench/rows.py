"""Records before anything is measured: what a run was asked to be, and what became of one that failed."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from qbench.config import RunConfig, bits_label
from qbench.errors import ConfigError, QBenchError
from qbench.files import has_no_room, write_atomic
from qbench.measure.environment import environment
from qbench.plan import Plan
from qbench.record import Record

ABOUT_THE_CALL = ("data_dir", "output_dir", "store_dir", "dry", "traceback", "tracker")  # not about what was run
STORAGE = "storage"  # the kind of error after which a sweep stops: what it makes could not be kept
OUT_OF_MEMORY = {
    "train": "out of memory while training: lower train.batch_size",
    "quantize": "out of memory in quantize: lower dataset.calibration_images, or the method's batch_size if it trains",
    "choose": "out of memory in choose: lower measure.batch_sizes",
    "reference": "out of memory in reference: lower limit_test, or set measure.agreement=never",
    "score": "out of memory in score: lower limit_test, or take a smaller model",
    "validate": "out of memory in validate: lower dataset.validation_fraction, or take a smaller model",
    "profile": "out of memory in profile: lower measure.batch_sizes",
}


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
        variant=" ".join(filter(None, [config.method.variant, config.runtime.variant])) or None,
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


def failed_record(config: RunConfig, plan: Plan, error: Exception) -> Record:
    """A failed run as a record, its traceback in a file; a bad config found late still ends the run as one."""
    place = run_folder(config, plan.run_id) / "traceback.txt"
    text = "".join(traceback.format_exception(error))
    saved: str | None = str(place)
    try:
        write_atomic(place, text.encode())
    except OSError:
        saved = None
    expected = isinstance(error, QBenchError)
    message = str(error) if expected else f"{type(error).__name__}: {error}"
    kind = "config" if isinstance(error, ConfigError) else "expected" if expected else "unexpected"
    if (refusal := has_no_room(error)) is not None:
        kind, message = STORAGE, _no_room(config, refusal)
    record = blank_record(config, plan.run_id, "failed", " ".join(message.split()))
    stages = {f"{stage.stage}:{stage.subject}": stage.key for stage in plan.stages}
    return replace(record, error_kind=kind, traceback=saved, stage_keys=stages, environment=environment())


def _no_room(config: RunConfig, refusal: OSError) -> str:
    """What a full disk means, and what to do."""
    where = refusal.filename or refusal.filename2 or f"store {config.store_dir} or {config.output_dir}"
    return (
        f"{where} cannot be written ({refusal.strerror}): make room (qbench store gc bounds the store, output_dir and "
        "store_dir name other folders); then the same command goes on from there"
    )


def _plain(value: Any) -> Any:
    """Paths as text, mappings and tuples as JSON has them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
