"""From a config to the stages of a run and their content keys. No torch: a plan is printed before it is imported.

    train     one float baseline per (data set and its split, network, recipe, seed)         no method in its key
    quantize  the method's artefact (and, as method fp32, the float artefact it is compared with)
    choose    with runtime=auto: the fastest runtime for the artefact and each batch size, on this machine
    reference the artefact's logits computed with integers alone, once for all its runtimes
    score     accuracy of one artefact on the test images
    validate  the same on the validation images, with measure.validation: of the artefact and of the float one
    profile   latency and memory of the artefact, beside the float artefact, on this machine

A key covers exactly what the stage reads, the keys of the stages it builds on, and the stage's version. Bump a version
when the same inputs give another output.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from qbench.config import Choice, RunConfig
from qbench.identity import (
    ENGINES,
    INTEGER,
    TORCH,
    dataset_fields,
    identity_of,
    machine_fields,
    runtime_identity,
    training_fields,
    versions_of,
)
from qbench.machine import cpu_model
from qbench.steps import flat
from qbench.store import Store, content_key

AUTO = "qbench.runtime.auto.AutoRuntime"
COMPARED = ("agreement", "validation")  # of ``measure``: what to look at beside what is timed
VERSIONS = {"train": 1, "quantize": 1, "choose": 1, "reference": 1, "score": 2, "validate": 2, "profile": 2}


@dataclass(frozen=True)
class PlannedStage:
    """One stage: its name, what it is about, its key, and whether the store has it.

    ``kind`` and ``units`` are what its duration depends on; see :mod:`qbench.durations`.
    """

    stage: str
    subject: str
    key: str
    cached: bool
    kind: str = field(default="", compare=False)
    units: int = field(default=1, compare=False)


@dataclass(frozen=True)
class Plan:
    """The stages of one run. ``baseline`` is the same run with method fp32 and is what Δ columns refer to."""

    train: PlannedStage
    baseline: PlannedStage
    quantize: PlannedStage
    baseline_score: PlannedStage
    score: PlannedStage
    profile: PlannedStage | None
    run_id: str
    choose: PlannedStage | None = None
    reference: PlannedStage | None = None
    validate: PlannedStage | None = None
    baseline_validate: PlannedStage | None = None

    @property
    def is_timed(self) -> bool:
        """Whether a stage of it measures time."""
        return self.choose is not None or self.profile is not None

    @property
    def is_cached(self) -> bool:
        """Whether the store had every stage when this was planned."""
        return all(stage.cached for stage in self.stages)

    @property
    def stages(self) -> tuple[PlannedStage, ...]:
        """In execution order, each key once."""
        of_baseline, own = (self.train, self.baseline, self.baseline_score), (self.quantize, self.choose)
        validations = (self.baseline_validate, self.validate)
        listed = (*of_baseline, *own, self.reference, self.score, *validations, self.profile)
        unique = {(stage.stage, stage.key): stage for stage in listed if stage is not None}
        return tuple(unique.values())


def make_plan(config: RunConfig, baseline: Choice) -> Plan:
    """The stages of a run and their keys.

    Args:
        config: A validated run.
        baseline: The method that stores the network as it is (fp32).
    """
    planner = _Planner(config)
    train = planner.train()
    float_artefact, own_artefact = planner.artefact(train, baseline), planner.artefact(train, config.method)
    choose = planner.choose(own_artefact) if config.runtime.target == AUTO else None
    runtime = runtime_identity(config.runtime) if choose is None else {"choose": choose.key}
    score = planner.score(own_artefact, runtime)
    asked = config.measure.latency or config.measure.memory
    profile = planner.profile(float_artefact, own_artefact, runtime) if asked else None
    compares = compares_with_integers(config)
    reference = planner.reference(own_artefact) if compares or is_reference(config.runtime) else None
    names = f"{config.dataset.choice.name} {config.model.choice.name} {config.method.name}"
    identity = [names, score.key, profile.key if profile else None]
    identity += [reference.key] if reference is not None and compares else []
    validate = planner.validate(own_artefact, runtime) if config.measure.validation else None
    identity += [validate.key] if validate is not None else []
    float_runtime = identity_of(baseline_runtime(config))
    return Plan(
        train=train,
        baseline=float_artefact,
        quantize=own_artefact,
        baseline_score=planner.score(float_artefact, float_runtime),
        score=score,
        profile=profile,
        run_id=content_key("run", 1, identity)[:12],
        choose=choose,
        reference=reference,
        validate=validate,
        baseline_validate=None if validate is None else planner.validate(float_artefact, float_runtime),
    )


class _Planner:
    """One method per stage: which fields its key covers."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.store = Store(config.store_dir)
        self.where = {"device": config.device, "threads": config.threads}
        self.data = {"dataset": dataset_fields(config.dataset), "limit_test": config.limit_test}
        self.of = f"{config.model.choice.name} on {config.dataset.choice.name}"
        limits = f"limits {config.limit_train} {config.limit_test}"
        together = f" x {config.trainer.devices}" if config.trainer.devices > 1 else ""
        self.size = f"{limits} {config.device}{together} threads {config.threads} {cpu_model()}"

    def train(self) -> PlannedStage:
        fields = {**training_fields(self.config), **self.where}
        return self._planned("train", self.of, fields, epochs=self.config.train.epochs)

    def artefact(self, train: PlannedStage, method: Choice) -> PlannedStage:
        calibration = {
            "calibration_images": self.config.dataset.calibration_images,
            "seed": self.config.seed,
        }
        fields = {"train": train.key, "method": identity_of(method), **calibration, **self.where}
        if method.peer is not None:
            fields["packages"] = versions_of(method.peer.packages)
        epochs = flat(method.params).get("epochs")
        return self._planned("quantize", method.title, fields, method.name, epochs if isinstance(epochs, int) else 1)

    def choose(self, made: PlannedStage) -> PlannedStage:
        fields = {
            "artefact": made.key,
            "candidates": [identity_of(candidate) for candidate in candidates_of(self.config.runtime)],
            "measure": self._timing(),
            "threads": self.config.threads,
            "machine": {**machine_fields(), **versions_of(ENGINES)},
        }
        return self._planned("choose", made.subject, fields)

    def reference(self, made: PlannedStage) -> PlannedStage:
        # integers are exact: neither threads nor the device that made the file matter beyond the file itself
        return self._planned("reference", made.subject, {"artefact": made.key, **self.data})

    def score(self, made: PlannedStage, runtime: Mapping[str, Any]) -> PlannedStage:
        fields = {"artefact": made.key, **self.data, "runtime": runtime, **self.where}
        return self._planned("score", made.subject, fields)

    def validate(self, made: PlannedStage, runtime: Mapping[str, Any]) -> PlannedStage:
        # the validation images follow from the training that the artefact stands on
        return self._planned("validate", made.subject, {"artefact": made.key, "runtime": runtime, **self.where})

    def profile(self, baseline: PlannedStage, own: PlannedStage, runtime: Mapping[str, Any]) -> PlannedStage:
        fields = {
            "artefact": own.key,
            "baseline": baseline.key,
            "runtime": runtime,
            "measure": self._timing(),
            "threads": self.config.threads,
            "machine": machine_fields(),
        }
        float_runtime = baseline_runtime(self.config)
        if float_runtime != self.config.runtime:
            fields["baseline_runtime"] = identity_of(float_runtime)
        return self._planned("profile", own.subject, fields)

    def _timing(self) -> dict[str, Any]:
        """How to measure, without what says what to compare."""
        return {name: value for name, value in asdict(self.config.measure).items() if name not in COMPARED}

    def _planned(
        self, stage: str, subject: str, fields: dict[str, Any], method: str = "", epochs: int = 1
    ) -> PlannedStage:
        key = content_key(stage, VERSIONS[stage], fields)
        runtime = fields.get("runtime") or {}
        how = json.dumps(["auto" if "choose" in runtime else runtime, fields.get("measure")])
        kind = " ".join(filter(None, [stage, self.of, method, how, self.size]))
        return PlannedStage(stage, subject, key, self.store.has(stage, key), kind, max(1, epochs))


def baseline_of(config: RunConfig, baseline: Choice) -> RunConfig:
    """The same run with the float method."""
    return replace(config, method=baseline)


def baseline_runtime(config: RunConfig) -> Choice:
    """What the float baseline is scored and timed on: PyTorch, with the run's own settings if it runs there itself."""
    return config.runtime if config.runtime.target == TORCH.target else TORCH


def is_reference(runtime: Choice) -> bool:
    """Whether a runtime is the integer reference itself, so that its score is the reference's."""
    return runtime.identity() == INTEGER.identity()


def compares_with_integers(config: RunConfig) -> bool:
    """Whether a run's logits are compared with the integer reference's.

    ``deployed`` leaves torch out: there the answer is about the simulation and the same for every run of a sweep over
    methods, at the cost of a slow pass over the test images for each; on the engines it is about the deployed kernels.
    The file of another library has no integers that the reference could compute with.
    """
    if config.method.peer is not None:
        return False
    asked = config.measure.agreement
    deployed = config.runtime.target != TORCH.target
    return not is_reference(config.runtime) and (asked == "always" or (asked == "deployed" and deployed))


def candidates_of(runtime: Choice) -> tuple[Choice, ...]:
    """The runtimes that runtime=auto chooses from; see :func:`qbench.resolve.resolve`."""
    return tuple(Choice(one["name"], one["target"], one["params"]) for one in runtime.params["candidates"])
