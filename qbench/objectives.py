"""What a search seeks and keeps to: columns of a record, budgets, and which of several trials no other beats.

Accuracy is always that on the validation images. Test images decide nothing: they are read when all is decided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qbench.record import Record


@dataclass(frozen=True)
class Objective:
    """A column of the record, better when higher or when lower; ``needs`` is the key of ``measure`` that fills it."""

    name: str
    column: str
    title: str
    higher: bool = False
    needs: str | None = None
    digits: int = 0

    @property
    def direction(self) -> str:
        return "maximize" if self.higher else "minimize"


OBJECTIVES = {
    one.name: one
    for one in (
        Objective("top1", "validation_top1_percent", "validation top-1 %", higher=True, digits=2),
        Objective("size_bytes", "size_bytes", "size, bytes"),
        Objective("latency_ms_median", "latency_ms_median", "latency, ms", needs="latency", digits=3),
        Objective("energy_modelled_uJ", "energy_modelled_uJ", "modelled energy, µJ", digits=2),
        Objective("bops", "bops", "bit operations"),
        Objective("peak_memory_bytes", "peak_memory_bytes", "peak memory, bytes", needs="memory"),
        Objective("activation_bytes_peak", "activation_bytes_peak", "activations, bytes"),
    )
}
BUDGETS = {"max_size_bytes": "size_bytes", "max_latency_ms": "latency_ms_median", "max_energy_uJ": "energy_modelled_uJ"}
MAX_DROP = "max_drop"


@dataclass(frozen=True)
class Goals:
    """Objectives by name, and the budgets that were given."""

    objectives: tuple[Objective, ...]
    budgets: Mapping[str, float]

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of a record that must be there."""
        bounded = ["top1" if name == MAX_DROP else BUDGETS[name] for name in self.budgets]
        names = [one.name for one in self.objectives] + bounded
        return tuple(dict.fromkeys(OBJECTIVES[name].column for name in names))

    @property
    def needs(self) -> dict[str, str]:
        """Key of ``measure`` -> the objective or budget that needs it."""
        asked = {one.name: one for one in self.objectives}
        asked |= {name: OBJECTIVES[BUDGETS[name]] for name in self.budgets if name in BUDGETS}
        return {one.needs: name for name, one in asked.items() if one.needs is not None}

    @property
    def timed(self) -> bool:
        """Whether the latency decides."""
        return "latency_ms_median" in self.columns

    def missing(self, record: Record) -> str | None:
        """Why a finished run says nothing about these goals; None where it does."""
        lacking = [column for column in self.columns if getattr(record, column) is None]
        if lacking:
            return f"its record has no {', '.join(lacking)}"
        if self.timed and record.latency_kind == "simulated":
            return "its latency is that of a simulation; take a runtime that computes with integers or floats"
        return None

    def values(self, record: Record) -> list[float]:
        return [float(getattr(record, one.column)) for one in self.objectives]

    def excess(self, record: Record) -> dict[str, float]:
        """How far a run is above each budget; 0 or less where it keeps to it."""
        found = {name: float(getattr(record, BUDGETS[name])) for name in self.budgets if name in BUDGETS}
        if MAX_DROP in self.budgets:
            before, after = record.validation_top1_baseline_percent, record.validation_top1_percent
            found[MAX_DROP] = (before or 0.0) - (after or 0.0)
        return {name: value - self.budgets[name] for name, value in found.items()}

    def describe(self) -> str:
        sought = ", ".join(f"{'highest' if one.higher else 'lowest'} {one.name}" for one in self.objectives)
        kept = ", ".join(f"{name}={limit:g}" for name, limit in self.budgets.items())
        return f"{sought}; budget {kept}" if kept else sought


def goals_of(params: Mapping[str, Any]) -> Goals:
    """Those of the parameters of a search."""
    budgets = {name: float(params[name]) for name in (*BUDGETS, MAX_DROP) if params[name] is not None}
    return Goals(tuple(OBJECTIVES[name] for name in dict.fromkeys(params["objectives"])), budgets)


def front(goals: Goals, records: Sequence[Record]) -> list[Record]:
    """The runs that keep to the budgets and that no other such run beats, best first by the first objective.

    A run is beaten by one that is at least as good in every objective and better in one; of runs with equal values
    the first stays. Where latency decides, only runs of the same kind of kernel are compared.
    """
    kept = [one for one in records if all(over <= 0 for over in goals.excess(one).values())]
    costs = [[-v if o.higher else v for o, v in zip(goals.objectives, goals.values(one))] for one in kept]
    found = []
    for index, (record, cost) in enumerate(zip(kept, costs)):
        rivals = [
            (rank, other)
            for rank, other in enumerate(costs)
            if rank != index and (not goals.timed or kept[rank].latency_kind == record.latency_kind)
        ]
        beaten = any(
            all(a <= b for a, b in zip(other, cost)) and (other != cost or rank < index) for rank, other in rivals
        )
        if not beaten:
            found.append((cost, index, record))
    return [record for *_, record in sorted(found, key=lambda one: one[:2])]
