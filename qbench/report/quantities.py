"""What the columns of a study show of one record, in the unit of their source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qbench.record import Record

MEGA, GIGA = 1e6, 1e9
NOT_MEASURED = "not measured (measure=none, or the runtime could not)"


@dataclass(frozen=True)
class Quantity:
    """A number of a record, or a word of it.

    Args:
        of: The value; None where the record has none.
        digits: Behind the point, in text.
        absent: Why a record may have none; nothing where that needs no saying.
        bounds: Names of the record's fields with its 95 % interval, for a single seed.
        over: What that interval is over.
        signed: Written with its sign.
        with_interval: Whether tables for people show its interval; files always do.
    """

    of: Callable[[Record], float | str | None]
    digits: int = 2
    absent: str = "not recorded"
    bounds: tuple[str, str] | None = None
    over: str = "images"
    signed: bool = False
    with_interval: bool = False


def _times(field: str, factor: float) -> Callable[[Record], float | None]:
    """A field of a record in another unit."""

    def of(record: Record) -> float | None:
        value = getattr(record, field)
        return None if value is None else float(value) * factor

    return of


def _delta(record: Record) -> float | None:
    return None if record.method == "fp32" else record.delta_points  # which is what the others are compared with


def _saved_MB(record: Record) -> float | None:
    if record.size_bytes is None or record.size_baseline_bytes is None:
        return None
    return (record.size_baseline_bytes - record.size_bytes) / MEGA


def _seconds(record: Record) -> float | None:
    """Training and quantizing together: what it takes to have the quantized network."""
    both = (record.train_seconds, record.quantize_seconds)
    return None if None in both else sum(one for one in both if one is not None)


def _tensors_kB(record: Record) -> float | None:
    """The file without its container, whose text differs by the length of names."""
    if record.size_bytes is None or record.container_bytes is None:
        return None
    return (record.size_bytes - record.container_bytes) / 1000


QUANTITIES = {
    "top1_percent": Quantity(
        _times("top1_percent", 1), bounds=("top1_low_percent", "top1_high_percent"), with_interval=True
    ),
    "top5_percent": Quantity(_times("top5_percent", 1)),
    "delta_points": Quantity(
        _delta, absent="", bounds=("delta_low_points", "delta_high_points"), signed=True, with_interval=True
    ),
    "size_MB": Quantity(_times("size_bytes", 1 / MEGA), 3),
    "tensors_kB": Quantity(_tensors_kB, 1),
    "saved_MB": Quantity(_saved_MB, 3),
    "ratio": Quantity(_times("compression_ratio", 1)),
    "bits_per_weight": Quantity(_times("bits_per_weight", 1)),
    "sparsity_percent": Quantity(_times("sparsity_percent", 1), 1, ""),
    "sqnr_db": Quantity(_times("sqnr_db", 1), 1, ""),
    "parameters": Quantity(_times("parameters", 1), 0),
    "effective_parameters": Quantity(_times("effective_parameters", 1), 0),
    "bops_G": Quantity(_times("bops", 1 / GIGA), 1),
    "latency_ms": Quantity(_times("latency_ms_median", 1), 3, NOT_MEASURED),
    "speedup": Quantity(
        _times("latency_ratio", 1), 2, "no ratio: not measured, simulated kernels, or a busy machine",
        ("latency_ratio_low", "latency_ratio_high"), "rounds", with_interval=True,
    ),
    "kernel": Quantity(lambda record: record.latency_kind, absent=NOT_MEASURED),
    "runtime": Quantity(lambda record: record.runtime_chosen or record.runtime),
    "memory_GB": Quantity(_times("peak_memory_bytes", 1 / GIGA), 3, NOT_MEASURED),
    "memory_float_GB": Quantity(_times("peak_memory_baseline_bytes", 1 / GIGA), 3, NOT_MEASURED),
    "energy_modelled_mJ": Quantity(_times("energy_modelled_uJ", 1e-3), 4, "the energy model knows own programs only"),
    "energy_measured_J": Quantity(_times("energy_measured_J", 1), 4, "the processor's counters cannot be read"),
    "train_seconds": Quantity(_times("train_seconds", 1), 1),
    "quantize_seconds": Quantity(_times("quantize_seconds", 1), 1),
    "obtain_seconds": Quantity(_seconds, 1),
}  # fmt: skip

COMPARED = ("difference", "p_value", "seed_range", "verdict")
"""Values of two runs, in top-1: the difference in points, Holm's p-value of it, what single seeds show, the answer."""
