"""From a composed, validated config as plain data to a :class:`RunConfig`. No torch, no Hydra."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from qbench import steps
from qbench.catalog import COMMON, DESCRIPTIVE, options
from qbench.config import (
    AugmentConfig,
    Choice,
    DatasetConfig,
    MeasureConfig,
    ModelConfig,
    Peer,
    RunConfig,
    TrainConfig,
    TrainerConfig,
)
from qbench.errors import ConfigError
from qbench.machine import emulates_bfloat16, physical_cores
from qbench.plan import AUTO
from qbench.refusals import SHORTHANDS

TINY = {"epochs": 1, "batch_size": 32, "limit_train": 320, "limit_test": 128, "calibration_images": 32}
TINY_METHOD = {"epochs": 1, "batch_size": 32, "iterations": 20}  # the same for methods that train


def resolve(
    container: Mapping[str, Any], defaults: Mapping[str, Any], config_dir: Path | None = None
) -> tuple[RunConfig, tuple[str, ...]]:
    """A composed, validated config as a :class:`RunConfig`, and notes on keys its method ignores.

    Args:
        container: The composed config as plain data.
        defaults: The same with the chosen options' own values, to name what was changed.
        config_dir: The user's own config folder, where runtime=auto looks for candidates too.
    """
    method, notes = _method(container, defaults["method"])
    tiny = bool(container["tiny"])
    if tiny:
        method = replace(method, params=_shrunk(method.params))
    train = _train(container)
    data = {**asdict(DatasetConfig(Choice("", ""))), **container["dataset"]}
    limit_train, limit_test = container["limit_train"], container["limit_test"]
    calibration = data["calibration_images"]
    measure = MeasureConfig(**{k: v for k, v in container["measure"].items() if k not in DESCRIPTIVE})
    measure = replace(measure, batch_sizes=tuple(measure.batch_sizes))
    if tiny:
        train = replace(
            train, epochs=min(train.epochs, TINY["epochs"]), batch_size=min(train.batch_size, TINY["batch_size"])
        )
        limit_train = min(limit_train or TINY["limit_train"], TINY["limit_train"])
        limit_test = min(limit_test or TINY["limit_test"], TINY["limit_test"])
        calibration = min(calibration, TINY["calibration_images"])
        measure = replace(measure, min_rounds=3, max_seconds=0.5)
    dataset = DatasetConfig(
        choice=_choice("dataset", container),
        augment=AugmentConfig(**data["augment"]),
        validation_fraction=data["validation_fraction"],
        calibration_images=calibration,
        split_seed=data["split_seed"],
        fingerprint=_fingerprint(container) if data.get("fingerprint") else None,
    )
    model = container["model"]
    needs = model.get("input") or {}
    config = RunConfig(
        dataset=dataset,
        model=ModelConfig(
            choice=_choice("model", container),
            min_channels=needs.get("min_channels", 1),
            min_size=needs.get("min_size", 1),
            weights=Path(model["weights"]) if model.get("weights") else None,
        ),
        method=method,
        train=train,
        runtime=_runtime(container, defaults["runtime"], config_dir, method.peer),
        measure=measure,
        seed=container["seed"],
        device=container["device"],
        threads=container["threads"] or physical_cores(),
        data_dir=Path(container["data_dir"]),
        output_dir=Path(container["output_dir"]),
        store_dir=Path(container["store_dir"]),
        limit_train=limit_train,
        limit_test=limit_test,
        tiny=tiny,
        dry=bool(container["dry"]),
        traceback=bool(container["traceback"]),
        tracker=_choice("tracker", container),
        trainer=TrainerConfig(**{k: v for k, v in container["trainer"].items() if k not in DESCRIPTIVE}),
    )
    return config, (*notes, *_trainer_notes(config), *_precision_notes(config))


def baseline_method() -> Choice:
    """The float baseline, as the method every run is compared with."""
    return Choice("fp32", *_target_and_params("method", options("method")["fp32"].load()))


def _trainer_notes(config: RunConfig) -> list[str]:
    """What trainer.devices does not reach."""
    asked = {key.rpartition(".")[2]: value for key, value in steps.flat(config.method.params).items()}
    if config.trainer.devices == 1 or not asked.get("epochs"):
        return []
    return [
        f"trainer.devices={config.trainer.devices} is for the float training; method={config.method.name} fine-tunes "
        "in one process"
    ]


def _precision_notes(config: RunConfig) -> list[str]:
    """That a processor which has to emulate what was asked for takes far longer than with float32."""
    if config.train.precision != "bfloat16" or config.device != "cpu" or not emulates_bfloat16():
        return []
    return [
        "train.precision=bfloat16: this processor emulates it, which may take ten times as long as float32; "
        "train.precision=auto takes it where it is fast"
    ]


def _fingerprint(container: Mapping[str, Any]) -> str:
    """Digest names, sizes and modification times of the files of a user's own data set."""
    digest = hashlib.sha256()
    root = Path(container["data_dir"]) / str(container["dataset"].get("folder", ""))
    for path in sorted(root.rglob("*")):
        if path.is_file():
            facts = path.stat()
            digest.update(f"{path.relative_to(root)}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _method(container: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[Choice, tuple[str, ...]]:
    choice = _choice("method", container)
    params = dict(choice.params)
    notes = []
    for short, key in SHORTHANDS.items():
        if container[short] is None:
            continue
        if (found := steps.find(params, key)) is not None:
            params = steps.with_value(params, found, container[short])
        else:
            notes.append(f"{short} does not apply to method={choice.name} and is ignored")
    bits = {steps.find(params, key) for key in SHORTHANDS.values()}
    usual = steps.flat(defaults)
    changed = [f"{k}={v}" for k, v in steps.flat(params).items() if k not in bits and v != usual.get(k)]
    variant = " ".join(changed)
    return replace(choice, params=params, variant=variant, peer=_peer(choice.name, container["method"])), tuple(notes)


def _peer(name: str, content: Mapping[str, Any]) -> Peer | None:
    """What a method's YAML says under ``peer``; None where it says nothing.

    Raises:
        ConfigError: It is not {runtime: NAME, packages: [NAME, ...]}.
    """
    said = content.get("peer")
    if said is None:
        return None
    if not isinstance(said, Mapping) or not set(said) <= {"runtime", "packages"} or not said.get("runtime"):
        raise ConfigError(f"method={name}: its YAML says peer: {said}; needed is {{runtime: NAME, packages: [...]}}.")
    return Peer(str(said["runtime"]), tuple(str(package) for package in said.get("packages") or ()))


def _runtime(
    container: Mapping[str, Any], defaults: Mapping[str, Any], config_dir: Path | None, peer: Peer | None
) -> Choice:
    """The runtime; that of auto with, for each candidate it names, what its YAML builds (nothing where it has none).

    A method with a file of its own brings its runtime: it is that one, with what was set of it, whatever was asked for.

    Raises:
        ConfigError: There is no runtime of the name that the method's YAML says.
    """
    choice = _choice("runtime", container)
    known = options("runtime", config_dir)
    if peer is not None and peer.runtime != choice.name:
        if peer.runtime not in known:
            method = container["choices"]["method"]
            raise ConfigError(f"method={method}: its YAML says peer.runtime: {peer.runtime}, and there is none.")
        return Choice(peer.runtime, *_target_and_params("runtime", known[peer.runtime].load()))
    changed = [f"runtime.{key}={value}" for key, value in choice.params.items() if value != defaults.get(key)]
    choice = replace(choice, variant=" ".join(changed))
    if choice.target != AUTO:
        return choice
    candidates = []
    for name in dict.fromkeys(choice.params["candidates"]):
        target, params = _target_and_params("runtime", known[name].load()) if name in known else ("", {})
        candidates.append({"name": name, "target": target, "params": params})
    return replace(choice, params={**choice.params, "candidates": candidates})


def _shrunk(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a method, and of its steps, with those of TINY_METHOD bounded."""
    found = dict(params)
    for key, value in steps.flat(params).items():
        bound = TINY_METHOD.get(key.rpartition(".")[2])
        if bound is not None and value is not None:
            found = steps.with_value(found, key, min(value, bound))
    return found


def _train(container: Mapping[str, Any]) -> TrainConfig:
    known = {f.name for f in fields(TrainConfig)}
    given = {k: v for k, v in container["train"].items() if k in known and v is not None}
    recipe = dict(container["model"].get("recipe") or {})
    if container["model"].get("weights"):
        recipe["epochs"] = 0  # given weights are not trained further unless train.epochs asks for it
    return TrainConfig(**{**recipe, **given})


def _choice(group: str, container: Mapping[str, Any]) -> Choice:
    return Choice(container["choices"][group], *_target_and_params(group, container[group]))


def _target_and_params(group: str, content: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    hidden = DESCRIPTIVE | COMMON.get(group, frozenset())
    return str(content["_target_"]), steps.undescribed({k: v for k, v in content.items() if k not in hidden})
