"""Which of Hydra's launchers and sweepers runs a sweep, and with which settings.

    hydra/launcher=NAME   hydra.launcher.KEY=VALUE     where the cells run, and how many at once
    hydra/sweeper=NAME    hydra.sweeper.KEY=VALUE      which cells are run

NAME is ``basic`` or a YAML of ``configs/hydra/launcher`` or ``configs/hydra/sweeper``, qbench's or the user's own,
checked like the options of every other group. They say how a sweep is run, not what: no key of a stage and no record
has them. Hydra does not compose these files: a plugin registers a schema under the same name, without their limits.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from qbench.catalog import DESCRIPTIVE, PLUGIN_GROUPS, Option, merged, options
from qbench.compose import read_override
from qbench.errors import ConfigError
from qbench.limits import problems_in
from qbench.refusals import choice_problem, key_problem
from qbench.steps import TARGET
from qbench.trust import read_yaml

BASIC = "basic"
PLUGINS = ("hydra_plugins.", "hydra._internal.core_plugins.")  # where Hydra takes launchers from
SEARCH = "qbench.trials.Settings"  # the one sweeper beside Hydra's own way: see search.py


@dataclass(frozen=True)
class Plugin:
    """A launcher or sweeper: its option, the class, and its parameters with interpolations unresolved."""

    name: str = BASIC
    target: str = ""
    params: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def node(self) -> dict[str, Any]:
        """As Hydra instantiates it."""
        return {TARGET: self.target, **copy.deepcopy(dict(self.params))}


@dataclass(frozen=True)
class HydraSettings:
    """How a sweep is run. ``overrides`` are the words that said so."""

    launcher: Plugin = Plugin()
    sweeper: Plugin = Plugin()
    overrides: tuple[str, ...] = ()


def split(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides that are settings of a launcher or sweeper, and all others, which :mod:`qbench.compose` reads."""
    own = [text for text in overrides if _is_setting(text.partition("=")[0])]
    return own, [text for text in overrides if text not in own]


def read_settings(overrides: Sequence[str], config_dir: Path | None = None, multirun: bool = True) -> HydraSettings:
    """Validate settings of launchers and sweepers.

    Args:
        overrides: The first part of what :func:`split` returns.
        config_dir: The user's own config folder, searched beside qbench's.
        multirun: Whether there is a sweep for them to say something about.

    Raises:
        ConfigError: An option or key does not exist, a value is not allowed; lists all problems.
    """
    if not overrides:
        return HydraSettings()
    given, problems = _parse(overrides, multirun)
    launcher, sweeper = (_plugin(group, given, config_dir, problems) for group in PLUGIN_GROUPS)
    if problems:
        raise ConfigError(problems)
    return HydraSettings(launcher, sweeper, tuple(overrides))


def is_search(overrides: Sequence[str]) -> bool:
    """Whether a sweeper chooses the cells, so that their overrides are no grid."""
    return any(text.startswith("hydra/sweeper=") and text != f"hydra/sweeper={BASIC}" for text in overrides)


def _is_setting(key: str) -> bool:
    return key in PLUGIN_GROUPS or key.startswith(tuple(f"{group.replace('/', '.')}." for group in PLUGIN_GROUPS))


def _parse(overrides: Sequence[str], multirun: bool) -> tuple[dict[str, Any], list[str]]:
    """Values by key, and what is wrong with the words themselves."""
    given: dict[str, Any] = {}
    problems = []
    for text in overrides:
        override = read_override(text)
        if not isinstance(override, Override):
            problems.append(override)
        elif not multirun:
            problems.append(f"{text}: is about a sweep; add -m (qbench run -m ...).")
        elif override.is_sweep_override():
            problems.append(f"{text}: cannot be swept over; {override.get_key_element()} has one value for the sweep.")
        else:
            given[override.get_key_element()] = override.value()
    return given, problems


def _plugin(group: str, given: Mapping[str, Any], config_dir: Path | None, problems: list[str]) -> Plugin:
    """The plugin with the values given for it; adds to ``problems``."""
    name, known = given.get(group, BASIC), options(group, config_dir)
    problem = choice_problem(group, name, [BASIC, *known])
    if problem is not None:
        problems.append(problem)
        return Plugin()
    part, of = group.replace("/", "."), f"{group}={name}"
    defaults = _content(known, name) if name in known else {}
    keys = {"hydra": {group.rpartition("/")[2]: defaults}, "choices": {part: name}}
    values = OmegaConf.create(defaults)
    for key, value in given.items():
        if not key.startswith(f"{part}."):
            continue
        text = key_problem(key, keys, value) if defaults else f"{key}: {of} has no parameters."
        if text is not None:
            problems.append(text.replace(f" in {part}={name}.", f" in {of}."))
        else:
            OmegaConf.update(values, key.removeprefix(f"{part}."), value, merge=True)
    plain: dict[str, Any] = OmegaConf.to_container(values, resolve=False)  # type: ignore[assignment]
    target = str(defaults.get(TARGET, PLUGINS[0]))
    if group == "hydra/sweeper" and name in known and target != SEARCH:
        problems.append(f"{of}: _target_ {target} is not allowed: the only sweeper is {SEARCH}.")
    elif group == "hydra/launcher" and not target.startswith(PLUGINS):
        problems.append(f"{of}: _target_ {target} is not allowed: it is none of Hydra's plugins.")
    problems += problems_in(f"{part}.", plain, defaults, of=of)
    return Plugin(name, target, {key: value for key, value in plain.items() if key not in DESCRIPTIVE})


def _content(known: Mapping[str, Option], name: str) -> dict[str, Any]:
    """An option's YAML, on top of those of its group that its ``defaults`` name."""
    content = read_yaml(known[name].path)
    if not isinstance(content, dict):
        raise ConfigError(f"{known[name].path}: is no mapping of keys to values.")
    found: dict[str, Any] = {}
    others = {other: option for other, option in known.items() if other != name}
    for base in content.pop("defaults", None) or []:
        if base in others:
            found = merged(found, _content(others, base))
        elif base != "_self_":
            raise ConfigError(f"{known[name].path}: defaults names {base}. Known: {', '.join(others)}.")
    return merged(found, content)
