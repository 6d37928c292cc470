"""What a content key says of a config: its options, the code and packages behind them, the machine. No torch."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from qbench.config import AugmentConfig, Choice, DatasetConfig, RunConfig, TrainConfig, TrainerConfig
from qbench.files import file_sha256
from qbench.machine import cpu_model, sums_in_32_bits
from qbench.steps import TARGET, steps

TORCH = Choice("torch", "qbench.runtime.torch_runtime.TorchRuntime", {"channels_last": True})
INTEGER = Choice("integer", "qbench.runtime.integer.IntegerRuntime", {"check": False})
ENGINES = ("onnxruntime", "openvino")  # packages whose presence and version decide what runtime=auto may choose
WHEREABOUTS = frozenset({"download"})  # parameters that say where data comes from, not what it is
METHOD_VERSIONS = {  # of methods that make another artefact of the same parameters by now
    "qbench.methods.qat.QAT": 3,
    "qbench.methods.integer.Integer": 2,
    "qbench.methods.ptq.PTQ": 2,
    "qbench.methods.hybrid.Hybrid": 2,
    "qbench.methods.prune.Prune": 2,
}
_Fields = TypeVar("_Fields", TrainConfig, AugmentConfig, TrainerConfig)


def machine_fields() -> dict[str, str]:
    """What a measurement depends on beside its inputs: the processor and the versions of the engines."""
    return {"cpu": cpu_model(), "system": platform.system(), **versions_of(("torch", "qbench"))}


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """The installed version of each, ``unknown`` where there is none."""
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions


def training_fields(config: RunConfig) -> dict[str, Any]:
    weights = config.model.weights
    trainer = _changed(config.trainer, TrainerConfig()) if config.train.epochs else {}
    return {
        "dataset": dataset_fields(config.dataset),
        "split": split_fields(config.dataset),
        "limit_train": config.limit_train,
        "model": {
            **identity_of(config.model.choice),
            "channels": config.model.min_channels,
            "size": config.model.min_size,
        },
        "weights": file_sha256(weights) if weights is not None else None,
        "recipe": _changed(config.train, TrainConfig()),
        "seed": config.seed,
        **({"trainer": trainer} if trainer else {}),
    }


def _changed(given: _Fields, default: _Fields) -> dict[str, Any]:
    """The fields that differ from the defaults: a new field does not change the keys of what was trained before."""
    defaults = asdict(default)
    return {name: value for name, value in asdict(given).items() if value != defaults[name]}


def dataset_fields(dataset: DatasetConfig) -> dict[str, Any]:
    identity = identity_of(dataset.choice)
    return identity if dataset.fingerprint is None else {**identity, "fingerprint": dataset.fingerprint}


def split_fields(dataset: DatasetConfig) -> dict[str, Any]:
    return {
        "augment": _changed(dataset.augment, AugmentConfig()),
        "validation_fraction": dataset.validation_fraction,
        "calibration_images": dataset.calibration_images,
        "split_seed": dataset.split_seed,
    }


def runtime_identity(runtime: Choice) -> dict[str, Any]:
    """The runtime, and unless it is one of qbench's own what decides about its kernels: another one, another result."""
    if runtime.target in (TORCH.target, INTEGER.target):
        return identity_of(runtime)
    without_vnni = {} if sums_in_32_bits() else {"vnni": False}
    return {**identity_of(runtime), "packages": versions_of(ENGINES), **without_vnni}


def identity_of(choice: Choice) -> dict[str, Any]:
    """The choice, with versions of our methods and the source of the user's own code: edited code is other code."""
    identity = choice.identity()
    identity["params"] = {name: value for name, value in choice.params.items() if name not in WHEREABOUTS}
    foreign = {}
    named = [choice.target, choice.params.get("target"), *(step[TARGET] for step in steps(choice.params).values())]
    for value in named:
        dotted = isinstance(value, str) and "." in value and not value.startswith("qbench.")
        if dotted and (source := _source_of(value.rpartition(".")[0])) is not None:
            foreign[value] = file_sha256(source)
    versions = {value: METHOD_VERSIONS[value] for value in named if value in METHOD_VERSIONS}
    return {**identity, **({"versions": versions} if versions else {}), **({"source": foreign} if foreign else {})}


def _source_of(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except Exception:  # it imports the packages above the module, whose code may raise anything; building will tell
        return None
    return Path(spec.origin) if spec is not None and spec.origin and Path(spec.origin).is_file() else None
