"""Run one cell: its stages through the store, then its record. A failure becomes a record, never a lost sweep."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from qbench import durations
from qbench.assess import assess, with_validation
from qbench.assets import pin_threads
from qbench.choose import choose_stage, chosen_runtimes
from qbench.collect import collect_details
from qbench.config import Choice, RunConfig
from qbench.details import FOLDER as DETAILS
from qbench.details import Details
from qbench.errors import NoRoomError
from qbench.exclusive import busy
from qbench.foreign import artifact_of
from qbench.identity import versions_of
from qbench.measure.environment import environment
from qbench.plan import Plan, PlannedStage, baseline_runtime, compares_with_integers, is_reference
from qbench.profiling import profile_stage
from qbench.progress import Progress
from qbench.record import Record
from qbench.rows import OUT_OF_MEMORY, blank_record, failed_record, run_folder
from qbench.stages import (
    adopt_reference_stage,
    quantize_stage,
    read_facts,
    reference_stage,
    score_stage,
    train_stage,
    validate_stage,
)
from qbench.store import Store
from qbench.timed import with_choice, with_profile
from qbench.trackers.base import log_run
from qbench.training.memory import memory_errors

ALONE = ("choose", "profile")  # the stages that measure time: they look for others instead of showing themselves


def run_cell(config: RunConfig, plan: Plan, baseline: Choice, progress: Progress) -> Record:
    """Execute what the plan lacks, and write the record (also of a failure) to ``output_dir/records``, then details.

    The run's tracker, if it has one, is told afterwards; see :mod:`qbench.trackers.base`.

    KeyboardInterrupt passes through: finished stages are kept, nothing is recorded.

    Raises:
        NoRoomError: The record cannot be written; it says what became of the run.
    """
    details: Details | None = None
    try:
        record, details = _execute(config, plan, baseline, progress)
    except Exception as error:
        record = failed_record(config, plan, error)
    _save(config, record, details)
    return record


def make_cell(config: RunConfig, plan: Plan, baseline: Choice, progress: Progress) -> Record | None:
    """Make what the plan lacks, but for what is measured in time and what builds on that.

    Returns:
        None, or the record of a failure, which is written.

    Raises:
        NoRoomError: That record cannot be written.
    """
    try:
        pin_threads(config.threads)
        made = _Stages(config, plan, progress)
        with made.store.in_use((stage.stage, stage.key) for stage in plan.stages):
            parts = made.parts(baseline)
            if plan.choose is None:
                made.own_score(parts.own, None, parts.integers)
                made.validations(parts.own, parts.reference, None)
    except Exception as error:
        record = failed_record(config, plan, error)
        _save(config, record)
        return record
    return None


def _save(config: RunConfig, record: Record, details: Details | None = None) -> None:
    try:
        record.save(config.output_dir / "records")
        if details is not None:
            details.save(config.output_dir / DETAILS)
    except OSError as error:
        became = f"the run failed ({record.error})" if record.status == "failed" else "its finished stages are kept"
        raise NoRoomError(
            f"{config.output_dir / 'records'} cannot be written ({error.strerror or error}), and {became}; "
            "once it can be, the same command goes on from there"
        ) from error
    log_run(config, record, details)


def _execute(config: RunConfig, plan: Plan, baseline: Choice, progress: Progress) -> tuple[Record, Details]:
    pin_threads(config.threads)
    made = _Stages(config, plan, progress)
    with made.store.in_use((stage.stage, stage.key) for stage in plan.stages):
        return _run_stages(made, config, plan, baseline, progress)


def _run_stages(
    made: _Stages, config: RunConfig, plan: Plan, baseline: Choice, progress: Progress
) -> tuple[Record, Details]:
    parts = made.parts(baseline)
    own, reference, integers = parts.own, parts.reference, parts.integers
    chosen = made.choice(own)
    own_score = made.own_score(own, chosen, integers)
    validations = made.validations(own, reference, chosen)
    profile = made.profile(own, reference, baseline_runtime(config), chosen)
    record = blank_record(config, plan.run_id, "ok")
    compared = integers if compares_with_integers(config) else None
    record = assess(record, parts.trained, own, reference, own_score, parts.reference_score, compared)
    record = with_validation(record, *validations) if validations is not None else record
    record = with_choice(with_profile(record, profile), made.choice_facts)
    details = collect_details(record, own, reference, own_score, compared)
    made.forget_contended(profile)
    place = run_folder(config, plan.run_id)
    artifact, peer = artifact_of(own), config.method.peer
    for path in artifact.published:
        _copy(path, place / path.name)
    record = replace(
        record,
        artifact=str(place / artifact.path.name),
        stage_keys={f"{stage.stage}:{stage.subject}": stage.key for stage in plan.stages},
        environment={**environment(), **(versions_of(peer.packages) if peer is not None else {})},
    )
    return record, details


class _Parts(NamedTuple):
    """Folders of the stages that no measurement of time comes before."""

    trained: Path
    reference: Path
    reference_score: Path
    own: Path
    integers: Path | None


class _Stages:
    """The stages of one run through the store: each made if it is not there, as the folder of its files."""

    def __init__(self, config: RunConfig, plan: Plan, progress: Progress) -> None:
        self.config, self.plan, self.progress = config, plan, progress
        self.store = Store(config.store_dir)
        self.choice_facts: Mapping[str, Any] = {}

    def folder(self, planned: PlannedStage, action: Callable[[Path], None]) -> Path:
        stage, alone = planned.stage, planned.stage in ALONE

        def guarded(folder: Path) -> None:
            fresh, began = not any(folder.iterdir()), time.monotonic()
            with nullcontext() if alone else busy(), memory_errors(OUT_OF_MEMORY[stage]):
                action(folder)
            if fresh:  # else only the rest of it was done
                durations.note(self.config.store_dir, planned, time.monotonic() - began)

        folder, cached = self.store.get_or_make(stage, planned.key, guarded, planned.subject)
        if not cached:
            self.progress.line(f"{stage} {planned.key} done")
        return folder

    def parts(self, baseline: Choice) -> _Parts:
        """Train, make both files, score the float one, and compute what integers alone would answer."""
        trained = self.folder(self.plan.train, lambda f: train_stage(self.config, f, self.progress))
        reference = self.artifact(self.plan.baseline, baseline, trained)
        reference_score = self.score(self.plan.baseline_score, reference, baseline_runtime(self.config))
        own = self.artifact(self.plan.quantize, self.config.method, trained)
        return _Parts(trained, reference, reference_score, own, self.integers(own))

    def artifact(self, planned: PlannedStage, method: Choice, trained: Path) -> Path:
        make = partial(quantize_stage, self.config, method, trained, progress=self.progress)
        return self.folder(planned, lambda folder: make(folder=folder))

    def score(self, planned: PlannedStage, artifact: Path, runtime: Choice) -> Path:
        make = partial(score_stage, self.config, runtime, artifact_of(artifact).path)
        return self.folder(planned, make)

    def choice(self, own: Path) -> Mapping[int, Choice] | None:
        """What runtime=auto has chosen at each batch size; None with any other runtime."""
        if self.plan.choose is None:
            return None
        folder = self.folder(self.plan.choose, partial(choose_stage, self.config, artifact_of(own).path))
        self.choice_facts = read_facts(folder)
        return chosen_runtimes(self.config, folder)

    def integers(self, own: Path) -> Path | None:
        if self.plan.reference is None:
            return None
        make = partial(reference_stage, self.config, artifact_of(own).path)
        return self.folder(self.plan.reference, make)

    def own_score(self, own: Path, chosen: Mapping[int, Choice] | None, integers: Path | None) -> Path:
        """On the run's runtime; with runtime=auto on the one chosen for the first batch size."""
        if integers is not None and is_reference(self.config.runtime):
            make = partial(adopt_reference_stage, integers, artifact_of(own).path)
            return self.folder(self.plan.score, make)
        return self.score(self.plan.score, own, self._own_runtime(chosen))

    def validations(self, own: Path, reference: Path, chosen: Mapping[int, Choice] | None) -> tuple[Path, Path] | None:
        """Both files on the validation images, each on the runtime of its score; None unless that was asked for."""
        if self.plan.validate is None or self.plan.baseline_validate is None:
            return None
        asked = (
            (self.plan.validate, own, self._own_runtime(chosen)),
            (self.plan.baseline_validate, reference, baseline_runtime(self.config)),
        )
        made, before = (
            self.folder(planned, partial(validate_stage, self.config, runtime, artifact_of(artifact).path))
            for planned, artifact, runtime in asked
        )
        return made, before

    def _own_runtime(self, chosen: Mapping[int, Choice] | None) -> Choice:
        return self.config.runtime if chosen is None else chosen[self.config.measure.batch_sizes[0]]

    def profile(
        self, own: Path, reference: Path, float_runtime: Choice, chosen: Mapping[int, Choice] | None
    ) -> Mapping[str, Any]:
        if self.plan.profile is None:
            return {}
        files = artifact_of(own).path, artifact_of(reference).path
        make = partial(profile_stage, self.config, *files, float_runtime, chosen=chosen)
        return read_facts(self.folder(self.plan.profile, make))

    def forget_contended(self, profile: Mapping[str, Any]) -> None:
        """Figures of a busy machine are shown with a warning this time, and measured again the next."""
        stages = [self.plan.profile] if profile.get("contended") else []
        if self.choice_facts.get("contended"):  # the score is that of a runtime it may not choose next time
            stages = [self.plan.choose, self.plan.score, self.plan.validate, self.plan.profile]
        for stage in stages:
            if stage is not None:
                self.store.discard(stage.stage, stage.key)


def _copy(source: Path, target: Path) -> None:
    """Link where the file system can, copy elsewhere; whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    try:
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)  # a rename of two names of one file leaves both
