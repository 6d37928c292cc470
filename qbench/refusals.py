"""What is wrong with a composed config: unknown keys, values out of bounds, folders and files that are not there.

Plain data in, lines of text out, each naming the key, the value and what would be allowed. No torch, no Hydra.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qbench.catalog import DESCRIPTIVE, FIXED, GROUPS, nearest
from qbench.config import AugmentConfig, MeasureConfig, RunConfig, TrainConfig, TrainerConfig
from qbench.data.presence import check_presence
from qbench.limits import problem_with, problems_in
from qbench.steps import find, flat, flat_limits

SHORTHANDS = {"bits": "weight_bits", "act_bits": "act_bits"}  # key of a run -> parameter of its method
BUILT = ("dataset", "model", "method", "runtime")  # groups whose options name what to build
PLACES = ("data_dir", "output_dir", "store_dir")


def choice_problem(group: str, name: Any, known: Sequence[str]) -> str | None:
    """An option that its group does not have."""
    if name in known or (group == "experiment" and name is None):
        return None
    shown = "null" if name is None else name
    return f"{group}={shown}: unknown {group}.{nearest(str(shown), known)} Known: {', '.join(known)}."


def key_problem(key: str, defaults: Mapping[str, Any], value: Any = None) -> str | None:
    """A key, or one inside the mapping given for it, that the composed defaults lack; names the nearest they have."""
    node: Any = defaults
    walked: list[str] = []
    for part in key.split("."):
        settable = [str(name) for name in node if not _is_fixed(walked, str(name))] if isinstance(node, Mapping) else []
        if part in settable:
            node = node[part]
            walked.append(part)
            continue
        at = ".".join(walked)
        if isinstance(node, Mapping) and not node and walked:
            return f"{key}: give the whole mapping, e.g. '{at}={{{part}: VALUE}}'."
        where = f" in {at}={defaults['choices'][at]}" if at in defaults["choices"] else f" in {at}" if at else ""
        listed = f" Known: {', '.join(settable)}." if settable else ""
        return f"{key}: unknown key{where}.{nearest(part, settable)}{listed}"
    if not node or not isinstance(node, Mapping) or not isinstance(value, Mapping):
        return None
    inside = (key_problem(f"{key}.{part}", defaults, given) for part, given in value.items())
    return next((text for text in inside if text is not None), None)


def value_problems(composed: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Values outside their limits, in any group and at the top, shorthands aside."""
    shorthands = {short for short, key in SHORTHANDS.items() if find(composed["method"], key)}
    top = {key: value for key, value in composed.items() if key not in {*GROUPS, *shorthands, "choices"}}
    found = problems_in("", top, defaults)
    for group in GROUPS[:-1]:
        of = f"{group}={composed['choices'][group]}"
        if group in (*BUILT, "tracker") and not defaults[group].get("_target_"):
            found.append(f"{of}: its YAML names no _target_.")
        found += problems_in(f"{group}.", composed[group], defaults[group], of=of)
    return found + _schema_problems(composed, defaults)


def shorthand_problems(
    composed: Mapping[str, Any], defaults: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """What is wrong with ``bits`` and ``act_bits``: (in every run, for this method only).

    Args:
        composed: The config.
        defaults: The config of the same options with their own values.
        given: The overrides by key: what the user wrote, as opposed to what an option brings.
    """
    always: list[str] = []
    here: list[str] = []
    method, own = flat(composed["method"]), flat(defaults["method"])
    for short, name in SHORTHANDS.items():
        value, key = composed[short], find(composed["method"], name)
        if value is None or key is None:
            continue
        if given.get(f"method.{key}", value) != value:
            always.append(f"{short}={value} and method.{key}={method[key]} contradict each other; give one of them.")
        of = f"method={composed['choices']['method']}"
        text = problem_with(short, value, own[key], flat_limits(defaults["method"]).get(key), of)
        anywhere = problem_with(short, value, None, (defaults.get("limits") or {}).get(short))
        if anywhere is not None:
            always.append(text or anywhere)
        elif text is not None:
            here.append(text)
    return always, here


def environment_problems(composed: Mapping[str, Any], presence: dict[str, str | None] | None) -> list[str]:
    """Folders and files the run needs; ``presence`` remembers the data sets already looked for.

    ``presence`` None: the cell is not to run, and needs no more than a place for its tables.
    """
    if any(not isinstance(composed[key], str) for key in PLACES):
        return []  # a problem of its own
    unwritable = [_unwritable(key, Path(composed[key])) for key in PLACES[1:]]
    if presence is None:
        return [text for text in unwritable if text is not None]
    name, data, root = composed["choices"]["dataset"], composed["dataset"], Path(composed["data_dir"])
    sources = data.get("sources") or []
    place = f"{name} {root} {sources}"
    if place not in presence:
        download_from = data.get("download_from") if data.get("download", True) else None
        presence[place] = check_presence(name, root, sources, download_from)
    found = [presence[place], *unwritable]
    weights = composed["model"].get("weights")
    if weights and not Path(str(weights)).is_file():
        found.append(f"model.weights={weights}: no such file; give a safetensors file.")
    return [text for text in found if text is not None]


def trainer_problems(config: RunConfig) -> list[str]:
    """Devices that cannot train together, and batches too small to be divided among them."""
    trainer, device, found = config.trainer, config.device, []
    parts = trainer.devices * trainer.accumulate
    if trainer.devices > 1 and device not in ("cpu", "cuda"):
        found.append(
            f"trainer.devices={trainer.devices}: not with device={device}; allowed: cpu (processes that share its "
            "cores) and cuda (the first GPUs)."
        )
    if trainer.sync_batch_norm and (trainer.devices == 1 or device != "cuda"):
        found.append(
            "trainer.sync_batch_norm=true: needs device=cuda and trainer.devices of 2 or more; torch synchronizes "
            "batch norms on GPUs alone."
        )
    if config.train.epochs and config.train.batch_size < parts:
        found.append(
            f"trainer.devices={trainer.devices} x trainer.accumulate={trainer.accumulate} are more parts than "
            f"train.batch_size={config.train.batch_size} has images; lower them or raise train.batch_size."
        )
    return found


def _is_fixed(walked: Sequence[str], name: str) -> bool:
    if not walked:
        return name in DESCRIPTIVE or name == "choices"
    return name in DESCRIPTIVE or (len(walked) == 1 and name in FIXED.get(walked[0], ()))


def _schema_problems(composed: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Keys that a YAML brings and no schema has; and the recipe of a network, held to the limits of ``train``."""
    found = []
    parts: tuple[tuple[str, dict[str, Any], Any], ...] = (
        ("train", asdict(TrainConfig()), composed["train"]),
        ("trainer", asdict(TrainerConfig()), composed["trainer"]),
        ("measure", asdict(MeasureConfig()), composed["measure"]),
        ("dataset.augment", asdict(AugmentConfig()), composed["dataset"].get("augment")),
        ("model.recipe", asdict(TrainConfig()), composed["model"].get("recipe")),
    )
    for place, schema, content in parts:
        if not isinstance(content, Mapping):
            continue
        group = place.partition(".")[0]
        of = f"{group}={composed['choices'][group]}"
        for key in content:
            if key not in schema and key not in DESCRIPTIVE:
                known = ", ".join(schema)
                found.append(f"{place}.{key}: unknown key in {of}.{nearest(key, list(schema))} Known: {known}.")
        if place == "model.recipe":
            known_part = {key: value for key, value in content.items() if key in schema}
            found += problems_in("model.recipe.", known_part, schema, defaults["train"].get("limits") or {}, of)
    return found


def _unwritable(key: str, folder: Path) -> str | None:
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        return f"{key}={folder}: {existing} is not a folder."
    return None if os.access(existing, os.W_OK) else f"{key}={folder}: {existing} cannot be written to."
