"""The plan as people see it: which stages a sweep needs, which of them the store has, how long the others may take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from qbench.durations import estimate
from qbench.plan import Plan, PlannedStage

LONGEST_PLAN = 100  # stages shown one by one; of more, how many there are


def print_plan(console: Console, plans: Sequence[Plan], num_cells: int, num_skipped: int, store: Path) -> None:
    """The distinct stages, in order, with their keys and whether the store has them; how long the others may take."""
    distinct: dict[tuple[str, str], PlannedStage] = {}
    for plan in plans:
        for stage in plan.stages:
            distinct.setdefault((stage.stage, stage.key), stage)
    stages = list(distinct.values())
    console.print(_stage_table(stages) if len(stages) <= LONGEST_PLAN else _count_table(stages))
    to_do = sum(not stage.cached for stage in stages)
    left = estimate(store, stages)
    if num_cells > 1:
        skips = f", {num_skipped} skipped" if num_skipped else ""
        time = f": {left}" if to_do else ""
        console.print(
            f"{num_cells} cells: {len(plans)} distinct runs{skips}; {len(stages)} stages, {to_do} to do{time}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    elif left.known:
        console.print(f"time: {left}", highlight=False, soft_wrap=True)


def _stage_table(stages: Sequence[PlannedStage]) -> Table:
    table = Table(title="plan", title_justify="left", header_style="bold")
    for heading in ("stage", "of", "key", ""):
        table.add_column(heading)
    for stage in stages:
        table.add_row(stage.stage, stage.subject, stage.key, "cached" if stage.cached else "to do")
    return table


def _count_table(stages: Sequence[PlannedStage]) -> Table:
    table = Table(title="plan", title_justify="left", header_style="bold")
    for heading in ("stage", "distinct", "cached", "to do"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    all_of, cached = Counter(one.stage for one in stages), Counter(one.stage for one in stages if one.cached)
    for name, number in all_of.items():
        table.add_row(name, f"{number:,}", f"{cached[name]:,}", f"{number - cached[name]:,}")
    return table
