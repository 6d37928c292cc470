"""From a config to the stages of a run and their content keys. No torch: a plan is printed before it is imported.

    train     one float baseline per (data set and its split, network, recipe, seed)         no method in its key
    quantize  the method's artefact (and, as method fp32, the float artefact it is compared with)
    score     accuracy of one artefact on the test images
    profile   latency and memory of the artefact, beside the float artefact, on this machine

A key covers exactly what the stage reads, the keys of the stages it builds on, and the stage's version. Bump a version
when the same inputs give another output.
"""

from __future__ import annotations

import importlib.util
import platform
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from qbench.config import AugmentConfig, Choice, DatasetConfig, RunConfig, TrainConfig
from qbench.files import file_sha256
from qbench.machine import cpu_model
from qbench.steps import TARGET, steps
from qbench.store import Store, content_key

TORCH = Choice("torch", "qbench.runtime.torch_runtime.TorchRuntime", {"channels_last": True})
WHEREABOUTS = frozenset({"download"})  # parameters that say where data comes from, not what it is
VERSIONS = {"train": 1, "quantize": 1, "score": 1, "profile": 1}


@dataclass(frozen=True)
class PlannedStage:
    """One stage: its name, what it is about, its key, and whether the store has it."""

    stage: str
    subject: str
    key: str
    cached: bool


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

    @property
    def stages(self) -> tuple[PlannedStage, ...]:
        """In execution order, each key once."""
        listed = (self.train, self.baseline, self.baseline_score, self.quantize, self.score, self.profile)
        unique = {(stage.stage, stage.key): stage for stage in listed if stage is not None}
        return tuple(unique.values())


def make_plan(config: RunConfig, baseline: Choice) -> Plan:
    """The stages of a run and their keys.

    Args:
        config: A validated run.
        baseline: The method that stores the network as it is (fp32).
    """
    store = Store(config.store_dir)

    def planned(stage: str, subject: str, fields: dict[str, Any]) -> PlannedStage:
        key = content_key(stage, VERSIONS[stage], fields)
        return PlannedStage(stage, subject, key, store.has(stage, key))

    where = {"device": config.device, "threads": config.threads}
    network = f"{config.model.choice.name} on {config.dataset.choice.name}"
    train = planned("train", network, {**_training_fields(config), **where})

    def artefact(method: Choice) -> PlannedStage:
        calibration = {"calibration_images": config.dataset.calibration_images, "seed": config.seed}
        fields = {"train": train.key, "method": _identity(method), **calibration, **where}
        return planned("quantize", method.title, fields)

    def score(made: PlannedStage, runtime: Choice) -> PlannedStage:
        data = {"dataset": _dataset_fields(config.dataset), "limit_test": config.limit_test}
        fields = {"artefact": made.key, **data, "runtime": _identity(runtime), **where}
        return planned("score", made.subject, fields)

    float_artefact, own_artefact = artefact(baseline), artefact(config.method)
    float_runtime = baseline_runtime(config)
    profile = None
    if config.measure.latency or config.measure.memory:
        fields = {
            "artefact": own_artefact.key,
            "baseline": float_artefact.key,
            "runtime": _identity(config.runtime),
            "measure": asdict(config.measure),
            "threads": config.threads,
            "machine": machine_fields(),
        }
        if float_runtime != config.runtime:
            fields["baseline_runtime"] = _identity(float_runtime)
        profile = planned("profile", config.method.title, fields)
    own_score = score(own_artefact, config.runtime)
    names = f"{config.dataset.choice.name} {config.model.choice.name} {config.method.name}"
    identity = [names, own_score.key, profile.key if profile else None]
    return Plan(
        train,
        float_artefact,
        own_artefact,
        score(float_artefact, float_runtime),
        own_score,
        profile,
        content_key("run", 1, identity)[:12],
    )


def baseline_of(config: RunConfig, baseline: Choice) -> RunConfig:
    """The same run with the float method."""
    return replace(config, method=baseline)


def baseline_runtime(config: RunConfig) -> Choice:
    """What the float baseline is scored and timed on: PyTorch, with the run's own settings if it runs there itself."""
    return config.runtime if config.runtime.target == TORCH.target else TORCH


def machine_fields() -> dict[str, str]:
    """What a measurement depends on beside its inputs: the processor and the versions of the engines."""
    versions = {}
    for package in ("torch", "qbench"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return {"cpu": cpu_model(), "system": platform.system(), **versions}


def _training_fields(config: RunConfig) -> dict[str, Any]:
    weights = config.model.weights
    return {
        "dataset": _dataset_fields(config.dataset),
        "split": _split_fields(config.dataset),
        "limit_train": config.limit_train,
        "model": {
            **_identity(config.model.choice),
            "channels": config.model.min_channels,
            "size": config.model.min_size,
        },
        "weights": file_sha256(weights) if weights is not None else None,
        "recipe": _changed(config.train, TrainConfig()),
        "seed": config.seed,
    }


def _changed(given: TrainConfig | AugmentConfig, default: TrainConfig | AugmentConfig) -> dict[str, Any]:
    """The fields that differ from the defaults: a new field does not change the keys of what was trained before."""
    defaults = asdict(default)
    return {name: value for name, value in asdict(given).items() if value != defaults[name]}


def _dataset_fields(dataset: DatasetConfig) -> dict[str, Any]:
    identity = _identity(dataset.choice)
    return identity if dataset.fingerprint is None else {**identity, "fingerprint": dataset.fingerprint}


def _split_fields(dataset: DatasetConfig) -> dict[str, Any]:
    return {
        "augment": _changed(dataset.augment, AugmentConfig()),
        "validation_fraction": dataset.validation_fraction,
        "calibration_images": dataset.calibration_images,
        "split_seed": dataset.split_seed,
    }


def _identity(choice: Choice) -> dict[str, Any]:
    """The choice, and the source of the user's own code where it names any: an edited network is another network."""
    identity = choice.identity()
    identity["params"] = {name: value for name, value in choice.params.items() if name not in WHEREABOUTS}
    foreign = {}
    named = [choice.target, choice.params.get("target"), *(step[TARGET] for step in steps(choice.params).values())]
    for value in named:
        dotted = isinstance(value, str) and "." in value and not value.startswith("qbench.")
        if dotted and (source := _source_of(value.rpartition(".")[0])) is not None:
            foreign[value] = file_sha256(source)
    return {**identity, "source": foreign} if foreign else identity


def _source_of(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except Exception:  # it imports the packages above the module, whose code may raise anything; building will tell
        return None
    return Path(spec.origin) if spec is not None and spec.origin and Path(spec.origin).is_file() else None
