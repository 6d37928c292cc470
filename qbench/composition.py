"""Hydra's composition of options and values as plain data, and what may not stand in a user's YAML."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from qbench.catalog import DESCRIPTIVE, GROUPS, builtin_configs, options
from qbench.errors import ConfigError
from qbench.refusals import key_problem
from qbench.trust import check_yaml, standard_library, target_problems

NO_VALUES: Mapping[str, Any] = MappingProxyType({})


class Composer:
    """Hydra's composition as plain data. It takes a tenth of a second, so cells share that of their options."""

    def __init__(self, config_dir: Path | None, default_threads: int | None) -> None:
        self.config_dir, self.default_threads = config_dir, default_threads
        if config_dir is not None:
            for path in sorted(path for group in GROUPS for path in (config_dir / group).rglob("*.yaml")):
                check_yaml(path)  # before Hydra reads it
        # a user's YAML may change while a process lives
        self._options = composed_options if config_dir is None else cache(partial(_compose_options, config_dir))

    def compose(self, groups: Sequence[str], values: Mapping[str, Any] = NO_VALUES) -> dict[str, Any]:
        """The config of these options, interpolations resolved, with the option of every group under ``choices``.

        Args:
            groups: Overrides of groups, e.g. ``["method=kmeans"]``.
            values: What else to set, by dotted key; the keys exist.

        Raises:
            ConfigError: A YAML or an interpolation is wrong.
        """
        try:
            composed, choices = self._options(tuple(groups))
            if values:
                composed = copy.deepcopy(composed)
            for key, value in values.items():
                OmegaConf.update(composed, key, value, merge=True, force_add=isinstance(value, Mapping))
            resolved: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
        except (HydraException, OmegaConfBaseException, YAMLError) as error:
            text = " ".join(str(error).split()).partition(" full_key:")[0]
            where = getattr(error, "full_key", None)
            raise ConfigError(f"{where}: {text}" if where else text) from error
        return {**resolved, "choices": dict(choices)}

    def experiment_problems(self, choices: Mapping[str, Any]) -> list[str]:
        """Keys of an experiment's YAML that the config does not have: Hydra adds them in silence."""
        name = choices["experiment"]
        if name is None:
            return []
        content = options("experiment", self.config_dir)[name].load()
        plain = self.compose([f"{group}={choices[group]}" for group in GROUPS if group != "experiment"])
        keys = _leaves({key: value for key, value in content.items() if key not in ("defaults", *DESCRIPTIVE)})
        found = (key_problem(key, plain) for key in keys)
        return [f"experiment={name}: {text}" for text in found if text is not None]

    def trust_problems(self, composed: Mapping[str, Any]) -> list[str]:
        """Code that a config may not name, in any option chosen and in the candidates of runtime=auto."""
        found = []
        for group in GROUPS[:-1]:
            found += target_problems(composed[group], f"{group}={composed['choices'][group]}", self.config_dir)
        named = composed["runtime"].get("candidates")
        known = options("runtime", self.config_dir)
        for name in named if isinstance(named, list) else ():
            if name in known:
                found += target_problems(known[name].load(), f"runtime={name}", self.config_dir)
        target = composed["model"].get("target")
        if isinstance(target, str) and standard_library(target):
            found.append(f"model.target={target}: is of Python's standard library, which holds no network.")
        return found


@cache
def composed_options(groups: tuple[str, ...]) -> tuple[DictConfig, dict[str, Any]]:
    """Of qbench's own YAML files, which a process reads once: the config, not to be changed, and each group's option.

    What an interpolation takes from the environment is looked up when it is resolved, not here.
    """
    return _compose_options(None, groups)


def _compose_options(config_dir: Path | None, groups: tuple[str, ...]) -> tuple[DictConfig, dict[str, Any]]:
    extra = str(config_dir.resolve()).replace("'", "\\'") if config_dir else ""
    search = [f"hydra.searchpath=['file://{extra}']"] if extra else []
    with initialize_config_dir(str(builtin_configs().resolve()), version_base="1.3"):
        composed = compose("config", [*groups, *search], return_hydra_config=True)
    chosen = composed.hydra.runtime.choices
    with flag_override(composed, ["struct", "readonly"], False):
        del composed["hydra"]
    return composed, {group: chosen.get(group) for group in GROUPS}


def _leaves(content: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys of everything in nested mappings that is not itself a filled mapping."""
    found: list[str] = []
    for key, value in content.items():
        nested = isinstance(value, Mapping) and value
        found += _leaves(value, f"{prefix}{key}.") if nested else [f"{prefix}{key}"]
    return found
