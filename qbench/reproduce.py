"""The command that repeats a run, written from its record: what differs from the defaults, and nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

from qbench import steps
from qbench.catalog import COMMON, options
from qbench.config import Choice as Option
from qbench.config import DatasetConfig, MeasureConfig, TrainConfig, TrainerConfig
from qbench.plan import AUTO
from qbench.record import Record
from qbench.refusals import BUILT, SHORTHANDS

FOREIGN = "--config-dir FOLDER"  # stands where the record names an option that qbench does not have
DEFAULTS = {"device": "cpu", "seed": 0, "limit_train": None, "limit_test": None, "tiny": False}


def command(record: Record) -> str | None:
    """``qbench run ...`` with this record's options and changed keys; None for a record without a config.

    Options of the user's own are named with all their parameters, after ``--config-dir FOLDER``.
    """
    config = record.config
    if not config:
        return None
    words: list[str] = []
    foreign = False
    for group in BUILT:
        choice = _choice(config, group)
        words.append(f"{group}={choice['name']}")
        foreign = foreign or _content(group, choice["name"]) is None
    words += [word for group in BUILT for word in _changed_parameters(group, _choice(config, group))]
    words += _dataset_words(config["dataset"]) + _model_words(config["model"])
    words += _train_words(config) + _trainer_words(config) + _measure_words(config["measure"])
    words += [_word(key, config[key]) for key, usual in DEFAULTS.items() if config.get(key, usual) != usual]
    words += [_word("threads", config["threads"])]
    return " ".join(["qbench run", *([FOREIGN] if foreign else []), *map(shlex.quote, words)])


def _choice(config: Mapping[str, Any], group: str) -> Mapping[str, Any]:
    chosen: Mapping[str, Any] = config[group]
    return chosen["choice"] if group in ("dataset", "model") else chosen


@cache
def _content(group: str, name: str) -> dict[str, Any] | None:
    """The YAML of one of qbench's options; None for the user's own."""
    option = options(group).get(name)
    return None if option is None else option.load()


def _changed_parameters(group: str, choice: Mapping[str, Any]) -> list[str]:
    """Parameters of an option that are not its YAML's, bits by their short names."""
    usual = steps.flat(_parameters(group, choice["name"]))
    params = dict(choice["params"])
    if choice["target"] == AUTO:
        params["candidates"] = [one["name"] for one in params["candidates"]]
    short = {steps.find(params, key): short for short, key in SHORTHANDS.items()} if group == "method" else {}
    words = []
    for key, value in steps.flat(params).items():
        if key in usual and _plain(usual[key]) == value:
            continue
        words.append(_word(short[key] if key in short and value is not None else f"{group}.{key}", value))
    return words


def _parameters(group: str, name: str) -> dict[str, Any]:
    hidden = COMMON.get(group, frozenset())
    return {key: value for key, value in (_content(group, name) or {}).items() if key not in hidden}


def _dataset_words(dataset: Mapping[str, Any]) -> list[str]:
    """How the training split is divided and augmented, where it is not what the data set's YAML says."""
    usual = {**asdict(DatasetConfig(Option("", ""))), **(_content("dataset", dataset["choice"]["name"]) or {})}
    keys = ("validation_fraction", "calibration_images", "split_seed")
    words = [_word(f"dataset.{key}", dataset[key]) for key in keys if dataset[key] != usual[key]]
    changed = {key: value for key, value in dataset["augment"].items() if value != usual["augment"].get(key)}
    return words + [_word(f"dataset.augment.{key}", value) for key, value in changed.items() if value is not None]


def _model_words(model: Mapping[str, Any]) -> list[str]:
    return [_word("model.weights", model["weights"])] if model.get("weights") else []


def _train_words(config: Mapping[str, Any]) -> list[str]:
    """The training recipe, where it is not the network's."""
    recipe = (_content("model", config["model"]["choice"]["name"]) or {}).get("recipe") or {}
    if config["model"].get("weights"):
        recipe = {**recipe, "epochs": 0}
    usual = asdict(TrainConfig(**recipe))
    return [_word(f"train.{key}", value) for key, value in config["train"].items() if value != usual.get(key)]


def _trainer_words(config: Mapping[str, Any]) -> list[str]:
    """What the training ran on; records from before there was a choice have none."""
    usual = asdict(TrainerConfig())
    given = config.get("trainer") or {}
    return [_word(f"trainer.{key}", value) for key, value in given.items() if value != usual.get(key)]


def _measure_words(measure: Mapping[str, Any]) -> list[str]:
    """The option of the group that is nearest, and what differs from it."""
    best: list[str] | None = None
    for name in options("measure"):
        content = _content("measure", name) or {}
        usual = {**asdict(MeasureConfig()), **{k: v for k, v in content.items() if k in asdict(MeasureConfig())}}
        changed = [_word(f"measure.{key}", value) for key, value in measure.items() if _plain(usual.get(key)) != value]
        words = [*([] if name == "default" else [f"measure={name}"]), *changed]
        best = words if best is None or len(words) < len(best) else best
    return best or []


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _word(key: str, value: Any) -> str:
    return f"{key}={_hydra(value)}"


def _hydra(value: Any) -> str:
    """A value as the override grammar reads it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_hydra(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_hydra, value)) + "]"
    if (
        isinstance(value, str)
        and not (value.replace("_", "").replace(".", "").replace("/", "").replace(":", "")).isalnum()
    ):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return str(value)
