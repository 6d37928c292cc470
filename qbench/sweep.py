"""Expand, plan, print, run, tabulate: what ``qbench run`` does, for one cell or many."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from qbench.compose import Cell, baseline_method, compose_cells
from qbench.config import RunConfig
from qbench.console import make_console
from qbench.plan import Plan, PlannedStage, make_plan
from qbench.record import Record, load_records
from qbench.store import content_key


def run_sweep(overrides: Sequence[str], config_dir: str | None, multirun: bool) -> int:
    """Run what the overrides ask for; returns the exit code.

    Raises:
        ConfigError: The overrides are wrong; nothing ran.
    """
    console = make_console()
    if config_dir is not None:
        sys.path.insert(0, str(Path(config_dir).resolve().parent))  # a package beside the user's YAML folder
    cells = compose_cells(overrides, Path(config_dir) if config_dir else None, multirun)
    baseline = baseline_method()
    plans: dict[str, tuple[RunConfig, Plan]] = {}
    for cell in cells:
        if cell.config is not None:
            plan = make_plan(cell.config, baseline)
            plans.setdefault(plan.run_id, (cell.config, plan))
    skipped = [_skipped(cell) for cell in cells if cell.config is None]
    print_plan(console, [plan for _, plan in plans.values()], len(cells), len(skipped))
    for note in dict.fromkeys(note for cell in cells for note in cell.notes):
        console.print(f"note: {note}", markup=False, highlight=False)
    any_config = next(iter(plans.values()))[0]
    if any_config.dry:
        return 0
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    return _run_plans(console, plans, skipped, any_config.output_dir, show_traceback=any_config.traceback)


def _run_plans(
    console: Console,
    plans: dict[str, tuple[RunConfig, Plan]],
    skipped: list[Record],
    output_dir: Path,
    *,
    show_traceback: bool,
) -> int:
    from qbench.progress import ConsoleProgress
    from qbench.report.tables import rich_table, write_tables
    from qbench.runner import run_cell

    baseline = baseline_method()
    progress = ConsoleProgress(console)
    records = list(skipped)
    for record in skipped:
        record.save(output_dir / "records")
    for number, (config, plan) in enumerate(plans.values(), 1):
        console.print(f"[{number}/{len(plans)}] {config.label}", markup=False, highlight=False)
        record = run_cell(config, plan, baseline, progress)
        records.append(record)
        if record.status == "failed":
            console.print(f"  failed: {record.error}", style="red", markup=False, highlight=False, soft_wrap=True)
            if show_traceback and record.traceback is not None:
                console.print(Path(record.traceback).read_text(), markup=False, highlight=False)
    console.print(rich_table(records))
    everything, problems = load_records(output_dir / "records")
    for problem in problems:
        console.print(f"note: {problem}", markup=False, highlight=False, soft_wrap=True)
    for path in write_tables(everything, output_dir / "tables"):
        console.print(f"written: {path}", markup=False, highlight=False, soft_wrap=True)
    return _exit_code(console, records)


def _exit_code(console: Console, records: Sequence[Record]) -> int:
    failed = [record for record in records if record.status == "failed"]
    if not failed:
        return 0
    where = f"; tracebacks: {', '.join(r.traceback for r in failed if r.traceback)}"
    console.print(
        f"{len(failed)} of {len(records)} runs failed; run the same command again to repeat just those{where}",
        style="red", markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    return 2 if all(record.error_kind == "config" for record in failed) else 1


def print_plan(console: Console, plans: Sequence[Plan], num_cells: int, num_skipped: int) -> None:
    """The distinct stages, in order, with their keys and whether the store has them."""
    stages: dict[tuple[str, str], PlannedStage] = {}
    for plan in plans:
        for stage in plan.stages:
            stages.setdefault((stage.stage, stage.key), stage)
    table = Table(title="plan", title_justify="left", header_style="bold")
    for heading in ("stage", "of", "key", ""):
        table.add_column(heading)
    for stage in stages.values():
        table.add_row(stage.stage, stage.subject, stage.key, "cached" if stage.cached else "to do")
    console.print(table)
    if num_cells > 1:
        to_do = sum(not stage.cached for stage in stages.values())
        skips = f", {num_skipped} skipped" if num_skipped else ""
        console.print(
            f"{num_cells} cells: {len(plans)} distinct runs{skips}; {len(stages)} stages, {to_do} to do",
            highlight=False,
        )


def _skipped(cell: Cell) -> Record:
    run_id = content_key("skipped", 1, cell.facts)[:12]
    return Record(run_id=run_id, status="skipped", error=cell.skipped, **cell.facts)
