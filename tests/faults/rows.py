"""What a bench has recorded: its records and its table."""

from __future__ import annotations

import pandas as pd
from calling import Bench

from qbench.record import Record, load_records


def records(bench: Bench) -> dict[str, Record]:
    """By method and bits, e.g. ``linear4``."""
    found, problems = load_records(bench.outputs / "records")
    assert problems == []
    return {f"{record.method}{record.weight_bits or ''}": record for record in found}


def table(bench: Bench) -> pd.DataFrame:
    return pd.read_csv(bench.outputs / "tables" / "results.csv")
