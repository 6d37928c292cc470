"""The record of one run: everything measured, and what it takes to trace each number. Tables are rebuilt from records.

Units are in the field names; a value that was not measured is None (null in JSON, empty in CSV), never 0.
A file ends with the checksum of itself (:func:`qbench.files.sealed_json`); one without, of an earlier qbench, is read.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from qbench.files import read_sealed_json, sealed_json, write_atomic

FORMAT = 1
# in each of ``Record.latency``; with "latency_" before them, fields of the record
RATIOS = [f"{kind}{end}" for kind in ("ratio", "same_runtime_ratio") for end in ("", "_low", "_high")]


@dataclass(frozen=True)
class Record:
    """One run.

    ``status`` is ok, failed or skipped; ``error`` says why it is not ok
    (``error_kind`` config, expected or unexpected); ``warning`` says what to distrust.
    ``variant`` names the parameters of method (bits aside) and runtime that are not their defaults.

    ``top1_low_percent``/``top1_high_percent`` and ``delta_low_points``/``delta_high_points`` are 95 % intervals over
    test images: Wilson's, and Tango's for the paired difference to the float baseline.
    ``sparsity_percent`` is the share of the layers' weights that a mask removes, None where there is no mask;
    ``fixed_width_bytes`` is what ``size_bytes`` would be without entropy coding, ``pruned_bytes`` what it would be if
    the weights that pruning kept were also stored as floats.
    ``sensitivity`` has one mapping per layer and option where the method measured one.
    ``latency`` has one mapping per batch size; the flat ``latency_*`` fields repeat the first of them.
    ``latency_ratio`` is against the float baseline on ``latency_baseline_runtime``, ``latency_same_runtime_ratio``
    against it on the runtime of the run, None where that runs no floats and in records of before.
    ``energy_modelled_uJ`` is computed from the program (``energy_model`` names the constants), ``energy_measured_J`` is
    read from the processor's counters; both are per image, and they have nothing to do with one another.
    ``agreement_integer_percent``, ``identical_logits_percent`` and ``largest_logit_difference`` compare with the
    integer reference; None where the program has no integer form or nobody asked. ``sums_rounded_once`` names the sums
    of which the engine does not round one term before it adds the other, which the reference does.
    ``validation_top1_percent`` and ``validation_top1_baseline_percent`` are of the validation images, with
    ``measure.validation``: a search goes by them, and never by test images.
    ``runtime_chosen`` and ``candidates`` (one mapping per runtime and batch size) are those of ``runtime`` auto.
    """

    run_id: str
    status: str
    dataset: str
    model: str
    method: str
    seed: int
    runtime: str
    error: str | None = None
    error_kind: str | None = None
    warning: str | None = None
    traceback: str | None = None
    weight_bits: int | None = None
    act_bits: int | None = None
    variant: str | None = None
    device: str | None = None
    threads: int | None = None
    n_test: int | None = None
    top1_percent: float | None = None
    top1_low_percent: float | None = None
    top1_high_percent: float | None = None
    top1_baseline_percent: float | None = None
    delta_points: float | None = None
    delta_low_points: float | None = None
    delta_high_points: float | None = None
    delta_p_value: float | None = None
    top5_percent: float | None = None
    loss: float | None = None
    agreement_percent: float | None = None
    size_bytes: int | None = None
    size_baseline_bytes: int | None = None
    codes_bytes: int | None = None
    codebooks_bytes: int | None = None
    scales_bytes: int | None = None
    floats_bytes: int | None = None
    masks_bytes: int | None = None
    container_bytes: int | None = None
    theoretical_bytes: float | None = None
    compression_ratio: float | None = None
    bits_per_weight: float | None = None
    parameters: int | None = None
    effective_parameters: float | None = None
    macs: int | None = None
    bops: int | None = None
    sqnr_db: float | None = None
    activation_high_water_bytes: int | None = None
    latency_ms_median: float | None = None
    latency_ms_iqr: float | None = None
    latency_ratio: float | None = None
    latency_ratio_low: float | None = None
    latency_ratio_high: float | None = None
    latency_kind: str | None = None
    latency_baseline_runtime: str | None = None
    batch_size: int | None = None
    peak_memory_bytes: int | None = None
    peak_memory_baseline_bytes: int | None = None
    train_seconds: float | None = None
    train_precision: str | None = None
    quantize_seconds: float | None = None
    artifact: str | None = None
    artifact_sha256: str | None = None
    latency: tuple[Mapping[str, Any], ...] = ()
    memory: Mapping[str, Any] | None = None
    layers: tuple[Mapping[str, Any], ...] = ()
    sensitivity: tuple[Mapping[str, Any], ...] = ()
    history: tuple[Mapping[str, Any], ...] = ()
    stage_keys: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT
    sparsity_percent: float | None = None
    fixed_width_bytes: int | None = None
    pruned_bytes: int | None = None
    energy_modelled_uJ: float | None = None
    energy_model: str | None = None
    energy_measured_J: float | None = None
    activation_bytes_peak: int | None = None
    agreement_integer_percent: float | None = None
    identical_logits_percent: float | None = None
    largest_logit_difference: float | None = None
    runtime_chosen: str | None = None
    candidates: tuple[Mapping[str, Any], ...] = ()
    validation_top1_percent: float | None = None
    validation_top1_baseline_percent: float | None = None
    latency_same_runtime_ratio: float | None = None
    latency_same_runtime_ratio_low: float | None = None
    latency_same_runtime_ratio_high: float | None = None
    sums_rounded_once: tuple[str, ...] = ()

    def save(self, folder: Path) -> Path:
        """Write ``folder/RUN_ID.json`` whole or not at all."""
        path = folder / f"{self.run_id}.json"
        write_atomic(path, sealed_json(finite(vars(self))))
        return path


def finite(value: Any) -> Any:
    """JSON has neither NaN nor infinity: such a number is no measurement, and becomes null."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_KNOWN = {f.name for f in fields(Record)}
NOT_IN_TABLES = ("layers", "history", "stage_keys", "memory")
_LISTS = ("latency", "layers", "sensitivity", "history", "candidates", "sums_rounded_once")


def load_record(path: Path) -> Record:
    """Read one record.

    Raises:
        ValueError: Not a record, damaged, or of a format this version does not know; the message names the file.
    """
    return _record(path, path.read_bytes())


def load_records(folder: Path) -> tuple[list[Record], list[str]]:
    """All records below a folder (a file stands for itself), and one line for each file that is none."""
    found, problems = _load(folder, ())
    return [record for record, _ in found], problems


def load_for_tables(folder: Path) -> tuple[list[Record], list[bytes], list[str]]:
    """As :func:`load_records`, several times as fast: the records without ``NOT_IN_TABLES``, and each one's file."""
    found, problems = _load(folder, NOT_IN_TABLES)
    return [record for record, _ in found], [data for _, data in found], problems


def _load(folder: Path, leave_out: Sequence[str]) -> tuple[list[tuple[Record, bytes]], list[str]]:
    found, problems = [], []
    paths: Iterable[Path] = [folder] if folder.is_file() else sorted(folder.rglob("*.json"))
    with _no_collection():
        for path in paths:
            try:
                data = path.read_bytes()
                found.append((_record(path, data, leave_out), data))
            except (ValueError, OSError) as error:
                problems.append(str(error))
    return found, problems


def _record(path: Path, data: bytes, leave_out: Sequence[str] = ()) -> Record:
    try:
        content = read_sealed_json(data, leave_out)
        found = content["format"]
        if found != FORMAT:
            raise ValueError(f"record format {found}, this qbench reads {FORMAT}: another version wrote it")
        for name in _LISTS:
            content[name] = tuple(content.get(name) or ())
        if not content.keys() <= _KNOWN:  # of a later version
            content = {key: value for key, value in content.items() if key in _KNOWN}
        return Record(**content)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path}: not a record of this qbench ({reason})") from error


@contextmanager
def _no_collection() -> Iterator[None]:
    """Spare Python the search for cycles: thousands of records are millions of objects, none of them garbage."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
