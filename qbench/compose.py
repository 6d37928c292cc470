"""From the words on the command line to validated run configs. Only this module and ``cli`` know Hydra.

Refusing must be quick and complete: choices, keys and values are checked against the YAML files alone, before torch is
imported, and every problem found is listed at once.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qbench.catalog import COMMON, DESCRIPTIVE, GROUPS, builtin_configs, nearest, options
from qbench.config import AugmentConfig, Choice, DatasetConfig, MeasureConfig, ModelConfig, RunConfig, TrainConfig
from qbench.data.presence import check_presence
from qbench.errors import ConfigError
from qbench.limits import problem_with, problems_in
from qbench.machine import physical_cores

SHORTHANDS = {"bits": "weight_bits", "act_bits": "act_bits"}
TINY = {"epochs": 1, "batch_size": 32, "limit_train": 320, "limit_test": 128, "calibration_images": 32}


@dataclass(frozen=True)
class Cell:
    """One combination of a sweep: a config to run, or the reason it has none."""

    overrides: tuple[str, ...]
    config: RunConfig | None
    skipped: str = ""
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # of a skipped cell: what its row still says


def compose_cells(overrides: Sequence[str], config_dir: Path | None = None, multirun: bool = False) -> list[Cell]:
    """Expand and validate command-line overrides.

    Args:
        overrides: Hydra overrides, e.g. ``["method=kmeans", "bits=8,4"]``.
        config_dir: The user's own config folder, searched beside qbench's.
        multirun: Whether comma lists and ranges expand into several cells.

    Returns:
        One cell per combination, in Hydra's order. In a multirun, a combination its method has no form for is
        ``skipped`` with the reason.

    Raises:
        ConfigError: Anything is wrong in a single run, or in a way that no combination survives; lists all problems.
    """
    parsed = _parse(overrides)
    sweeps = [o.get_key_element() for o in parsed if o.is_sweep_override()]
    if sweeps and not multirun:
        raise ConfigError([f"{key}: several values need a sweep; add -m (qbench run -m ...)" for key in sweeps])
    choices = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [o.input_line or ""]
        for o in parsed
    ]
    presence: dict[str, str | None] = {}
    cells: list[Cell] = []
    problems: list[str] = []
    for combination in itertools.product(*choices):
        found: list[str] = []
        limited: list[str] = []
        cell = _compose_cell(combination, config_dir, multirun, found, limited, presence)
        if cell is None:
            cell = Cell(combination, None, "; ".join(limited))
        problems += [text for text in found if text not in problems]
        if limited and not multirun:
            problems += limited
        cells.append(cell)
    if not problems and all(cell.config is None for cell in cells):
        problems = sorted({cell.skipped for cell in cells})
    if problems:
        raise ConfigError(problems)
    return cells


def resolve(container: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[RunConfig, tuple[str, ...]]:
    """A composed, validated config as a :class:`RunConfig`, and notes on keys its method ignores.

    Args:
        container: The composed config as plain data.
        defaults: The same with the chosen options' own values, to name what was changed.
    """
    method, notes = _method(container, defaults["method"])
    tiny = bool(container["tiny"])
    train = _train(container)
    data = container["dataset"]
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
        runtime=_choice("runtime", container),
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
    )
    return config, notes


def baseline_method() -> Choice:
    """The float baseline, as the method every run is compared with."""
    return Choice("fp32", *_target_and_params("method", options("method")["fp32"].load()))


def _parse(overrides: Sequence[str]) -> list[Override]:
    parser = OverridesParser.create()
    parsed, problems = [], []
    for text in overrides:
        try:
            parsed += parser.parse_overrides([text])
        except OverrideParseException as error:
            problems.append(f"{text!r} is not KEY=VALUE: {str(error).splitlines()[0]}")
    if problems:
        raise ConfigError(problems)
    return parsed


def _compose_cell(
    combination: Sequence[str],
    config_dir: Path | None,
    multirun: bool,
    problems: list[str],
    limited: list[str],
    presence: dict[str, str | None],
) -> Cell | None:
    """Compose one combination; adds to ``problems`` (never allowed) and ``limited`` (not allowed for this method)."""
    parsed = _parse(combination)
    groups = [o for o in parsed if o.get_key_element().lstrip("+~") in GROUPS]
    kept = [o.input_line or "" for o in groups if _check_choice(o, config_dir, problems)]
    defaults = _hydra_compose(kept, config_dir, problems)
    if defaults is None:
        return None
    values = [o for o in parsed if o not in groups]
    accepted = [o.input_line or "" for o in values if _check_key(o, defaults, problems)]
    composed = _hydra_compose([*kept, *accepted], config_dir, problems)
    if composed is None or len(kept) + len(accepted) < len(parsed):
        _check_limits(composed or defaults, defaults, problems, limited)
        return None
    _check_limits(composed, defaults, problems, limited)
    _check_environment(composed, problems, presence)
    if problems:
        return None
    if limited:
        return Cell(tuple(combination), None, "; ".join(limited), facts=_facts(composed))
    config, notes = resolve(composed, defaults)
    ignored_act = composed["act_bits"] is not None and "act_bits" not in composed["method"]
    if ignored_act and not multirun:
        name = config.method.name
        problems.append(f"act_bits={composed['act_bits']}: method={name} quantizes weights only; leave act_bits out.")
    return Cell(tuple(combination), config, notes=notes)


def _facts(composed: Mapping[str, Any]) -> dict[str, Any]:
    facts = {group: composed["choices"][group] for group in ("dataset", "model", "method", "runtime")}
    bits = {"weight_bits": composed["bits"], "act_bits": composed["act_bits"]}
    return {**facts, **bits, "seed": composed["seed"], "output_dir": composed["output_dir"]}


def _hydra_compose(overrides: Sequence[str], config_dir: Path | None, problems: list[str]) -> dict[str, Any] | None:
    search = [f"hydra.searchpath=[file://{config_dir.resolve()}]"] if config_dir else []
    try:
        with initialize_config_dir(str(builtin_configs().resolve()), version_base="1.3"):
            composed = compose("config", [*overrides, *search], return_hydra_config=True)
        plain = OmegaConf.to_container(composed, resolve=False)
        assert isinstance(plain, dict)
        chosen = plain.pop("hydra")["runtime"]["choices"]
        resolved: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(plain), resolve=True)  # type: ignore[assignment]
    except (HydraException, OmegaConfBaseException) as error:
        problems.append(" ".join(str(error).split()))
        return None
    resolved["choices"] = {group: chosen.get(group) for group in GROUPS}
    return resolved


def _check_choice(override: Override, config_dir: Path | None, problems: list[str]) -> bool:
    group, name = override.get_key_element(), override.value()
    known = list(options(group, config_dir))
    if name in known or (group == "experiment" and name is None):
        return True
    problems.append(f"{group}={name}: unknown {group}.{nearest(str(name), known)} Known: {', '.join(known)}.")
    return False


def _check_key(override: Override, defaults: Mapping[str, Any], problems: list[str]) -> bool:
    """Whether the key exists in the composed defaults; an unknown one is a problem that names the nearest."""
    key = override.get_key_element()
    if key.split(".")[0] == "hydra":
        return True
    if key.startswith(("+", "~")):
        problems.append(f"{key}: adding and deleting keys is not supported; give KEY=VALUE for a key that exists.")
        return False
    node: Any = defaults
    walked = ""
    for part in key.split("."):
        hidden = DESCRIPTIVE | {"choices", "sources", "download_from", "input", "recipe"}
        if isinstance(node, Mapping) and part in node and part not in hidden:
            node = node[part]
            walked += f"{part}."
            continue
        if isinstance(node, Mapping) and walked and not node:
            return True  # an open mapping, such as method.overrides
        known = [str(k) for k in node if k not in hidden] if isinstance(node, Mapping) else []
        where = f"in {walked.rstrip('.')}={defaults['choices'].get(walked.rstrip('.'), '...')}" if walked else ""
        listed = f" Known: {', '.join(known)}." if known else ""
        problems.append(f"{key}: unknown key{' ' + where if where else ''}.{nearest(part, known)}{listed}")
        return False
    return True


def _check_limits(
    composed: Mapping[str, Any], defaults: Mapping[str, Any], problems: list[str], limited: list[str]
) -> None:
    top = {k: v for k, v in composed.items() if k not in (*GROUPS, "limits", "choices")}
    found = problems_in("", top, defaults)
    problems += [text for text in found if text not in problems]
    for group in GROUPS[:-1]:
        name = composed["choices"][group]
        texts = [f"{text} ({group}={name})" for text in problems_in(f"{group}.", composed[group], defaults[group])]
        problems += [text for text in texts if text not in problems]
    method = composed["method"]
    for short, key in SHORTHANDS.items():
        value = composed[short]
        if value is None or key not in method or any(text.startswith(f"{short}=") for text in problems):
            continue
        own = defaults["method"]
        if method[key] not in (own[key], value):
            problems.append(f"{short}={value} and method.{key}={method[key]} contradict each other; give one of them.")
        text = problem_with(short, value, own[key], (own.get("limits") or {}).get(key))
        if text is not None:
            limited.append(f"{text} (method={composed['choices']['method']})")


def _check_environment(composed: Mapping[str, Any], problems: list[str], presence: dict[str, str | None]) -> None:
    """Folders and files the run needs, looked at once per data set."""
    name, data, root = composed["choices"]["dataset"], composed["dataset"], Path(composed["data_dir"])
    sources = data.get("sources") or []
    place = f"{name} {root} {sources}"
    if place not in presence:
        download_from = data.get("download_from") if data.get("download", True) else None
        presence[place] = check_presence(name, root, sources, download_from)
    if presence[place] and presence[place] not in problems:
        problems.append(str(presence[place]))
    weights = composed["model"].get("weights")
    if weights and not Path(weights).is_file():
        problems.append(f"model.weights={weights}: no such file; give a safetensors file.")
    for key in ("output_dir", "store_dir"):
        if (text := _unwritable(key, Path(composed[key]))) and text not in problems:
            problems.append(text)


def _fingerprint(container: Mapping[str, Any]) -> str:
    """Digest names, sizes and modification times of the files of a user's own data set."""
    digest = hashlib.sha256()
    root = Path(container["data_dir"]) / str(container["dataset"].get("folder", ""))
    for path in sorted(root.rglob("*")):
        if path.is_file():
            facts = path.stat()
            digest.update(f"{path.relative_to(root)}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _unwritable(key: str, folder: Path) -> str | None:
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        return f"{key}={folder}: {existing} is not a folder."
    return None if os.access(existing, os.W_OK) else f"{key}={folder}: {existing} cannot be written to."


def _method(container: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[Choice, tuple[str, ...]]:
    choice = _choice("method", container)
    params = dict(choice.params)
    notes = []
    for short, key in SHORTHANDS.items():
        if container[short] is None:
            continue
        if key in params:
            params[key] = container[short]
        else:
            notes.append(f"{short}={container[short]} does not apply to method={choice.name} and is ignored")
    changed = [f"{k}={v}" for k, v in params.items() if k not in SHORTHANDS.values() and v != defaults.get(k)]
    return replace(choice, params=params, variant=" ".join(changed)), tuple(notes)


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
    return str(content["_target_"]), {k: v for k, v in content.items() if k not in hidden}
