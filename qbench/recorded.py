"""Which record is of which cell, by what was run: for tables of runs made elsewhere or by an earlier qbench."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from qbench.compose import Cell
from qbench.record import Record
from qbench.rows import blank_record

# what a config says of the machine, of what else was measured, or of how it came to be: no other network or method
BESIDE = frozenset({"threads", "device", "measure", "trainer", "fingerprint", "variant", "peer", "download"})


def records_of(cells: Sequence[Cell], records: Sequence[Record]) -> dict[tuple[str, ...], Record]:
    """The record of each cell that has one, by the cell's overrides.

    A cell's record says the same of data set, network, recipe, method, runtime and seed, as far as both say it: a
    parameter that one of the two does not know is of another version, and decides nothing. Threads, processor and
    versions may differ. Of several, one that is ok, then one that was measured as the cell would be, then the one with
    the lowest ``run_id``.
    """
    of_kind: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        if record.config:
            of_kind[_kind(record)].append(record)
    found = {}
    for cell in cells:
        if cell.config is None:
            continue
        asked = blank_record(cell.config, "", "")
        measure = asked.config["measure"]
        same = [record for record in of_kind[_kind(asked)] if _agree(asked.config, record.config)]
        if same:
            found[cell.overrides] = min(
                same, key=lambda one: (one.status != "ok", not _agree(measure, one.config["measure"]), one.run_id)
            )
    return found


def _kind(record: Record) -> tuple[Any, ...]:
    return (record.dataset, record.model, record.method, record.weight_bits, record.act_bits, record.seed)


def _agree(first: Any, second: Any) -> bool:
    """Whether two configs as plain data are equal in all that both have and that is not ``BESIDE``."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return all(_agree(first[key], second[key]) for key in first.keys() & second.keys() - BESIDE)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_agree, first, second))
    return bool(first == second)
