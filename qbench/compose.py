"""From the words on the command line to validated run configs. Beside this, ``hydra_settings`` and ``cli`` know Hydra.

Refusing must be quick and complete: choices, keys and values are checked against the YAML files alone, before torch is
imported, and every problem found is listed at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

from qbench.catalog import GROUPS, options
from qbench.composition import Composer
from qbench.config import RunConfig
from qbench.errors import ConfigError
from qbench.refusals import (
    SHORTHANDS,
    choice_problem,
    environment_problems,
    key_problem,
    shorthand_problems,
    trainer_problems,
    value_problems,
)
from qbench.resolve import baseline_method, resolve
from qbench.steps import find

__all__ = ["Cell", "baseline_method", "compose_cells", "compose_sweeps"]
WHOLE_SWEEP = ("output_dir", "dry", "traceback", "tracker")  # keys that a sweep has once


@dataclass(frozen=True)
class Cell:
    """One combination of a sweep: a config to run, or the reason it has none."""

    overrides: tuple[str, ...]
    config: RunConfig | None
    skipped: str = ""
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # of a skipped cell: what its row still says


def compose_cells(
    overrides: Sequence[str],
    config_dir: Path | None = None,
    multirun: bool = False,
    default_threads: int | None = None,
) -> list[Cell]:
    """Expand and validate command-line overrides.

    Args:
        overrides: Hydra overrides, e.g. ``["method=kmeans", "bits=8,4"]``.
        config_dir: The user's own config folder, searched beside qbench's.
        multirun: Whether comma lists and ranges expand into several cells.
        default_threads: ``threads`` of a cell that names none; None takes the physical cores.

    Returns:
        One cell per combination, in Hydra's order. In a multirun, a combination its method has no form for is
        ``skipped`` with the reason.

    Raises:
        ConfigError: Anything is wrong in a single run, or in a way that no combination survives; lists all problems.
    """
    return compose_sweeps([overrides], config_dir, multirun, default_threads)[0]


def compose_sweeps(
    sweeps: Sequence[Sequence[str]],
    config_dir: Path | None = None,
    multirun: bool = True,
    default_threads: int | None = None,
    to_run: bool = True,
) -> list[list[Cell]]:
    """The cells of several sweeps, each as :func:`compose_cells` makes them; their problems are listed together.

    ``to_run`` False asks what the cells are and not whether the data and weights they need are here.

    Raises:
        ConfigError: As there; also if no combination of any sweep has a form.
    """
    composer = Composer(config_dir, default_threads)
    presence: dict[str, str | None] | None = {} if to_run else None
    found: list[list[Cell]] = []
    problems: dict[str, None] = {}  # as an ordered set: cells of a sweep share most of theirs
    for overrides in sweeps:
        found.append([])
        for combination in itertools.product(*_expand(_parse(overrides), multirun)):
            cell, wrong = _compose_cell(combination, composer, multirun, presence)
            problems.update(dict.fromkeys(wrong))
            found[-1].append(cell)
    cells = [cell for of_sweep in found for cell in of_sweep]
    if not problems and all(cell.config is None for cell in cells):
        problems = dict.fromkeys(cell.skipped for cell in cells)
    if problems:
        raise ConfigError(list(problems))
    return found


class OneByOne:
    """Composes one combination at a time, for whoever decides on the next when the last has run."""

    def __init__(self, config_dir: Path | None = None) -> None:
        self._composer = Composer(config_dir, None)
        self._presence: dict[str, str | None] = {}

    def cell(self, words: Sequence[str]) -> tuple[Cell, list[str]]:
        """The cell of overrides with one value each, and what is wrong with them; then it has no config."""
        return _compose_cell(words, self._composer, True, self._presence)

    def lacked(self, words: Sequence[str], keys: Sequence[str]) -> set[str]:
        """Those of the keys that the options chosen in ``words`` do not have."""
        chosen = [word for word in words if word.partition("=")[0] in GROUPS]
        try:
            defaults = self._composer.compose(chosen)
        except ConfigError:  # an option that there is not: that is said elsewhere
            return set()
        return {key for key in keys if key not in GROUPS and key_problem(key, defaults) is not None}


def read_override(text: str) -> Override | str:
    """One override as Hydra parses it, or what is wrong with it."""
    try:
        override = _parser().parse_override(text)
        if override.get_key_element():
            return override
    except HydraException:
        pass
    key, given, value = text.partition("=")
    advice = f" Quote a value with special characters: \"{key}='{value}'\"." if given and key else ""
    return f"{text!r} cannot be read as KEY=VALUE.{advice}"


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def _parse(overrides: Sequence[str]) -> list[Override]:
    parsed: list[Override] = []
    problems = []
    for text in overrides:
        override = read_override(text)
        if not isinstance(override, Override):
            problems.append(override)
            continue
        key = override.get_key_element()
        if "@" in key or key.startswith(("+", "~")):
            problems.append(f"{text!r}: only KEY=VALUE for a key that exists; keys are neither added nor deleted.")
        elif key.split(".")[0] == "hydra":
            problems.append(f"{text!r}: settings of Hydra have no effect here; sweeps and folders are qbench's own.")
        else:
            parsed.append(override)
    if problems:
        raise ConfigError(problems)
    return parsed


def _expand(parsed: Sequence[Override], multirun: bool) -> list[list[str]]:
    """For each override, its text for every value it sweeps over."""
    choices: list[list[str]] = []
    problems = []
    for override in parsed:
        key, text = override.get_key_element(), override.input_line or ""
        single = key.split(".")[0] in WHOLE_SWEEP
        if not override.is_sweep_override():
            choices.append([text])
        elif not multirun:
            problems.append(f"{text}: several values need a sweep; add -m (qbench run -m ...).")
        elif isinstance(override.value(), Glob) or single:
            problems.append(
                f"{text}: cannot be swept over; "
                + (f"{key} has one value for the whole sweep." if single else "list the values.")
            )
        else:
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
    if problems:
        raise ConfigError(problems)
    return choices


def _compose_cell(
    combination: Sequence[str], composer: Composer, multirun: bool, presence: dict[str, str | None] | None
) -> tuple[Cell, list[str]]:
    """Compose one combination; returns its cell, and everything that must be put right before anything can run."""
    parsed = _parse(combination)
    groups = [o for o in parsed if o.get_key_element() in GROUPS]
    unknown = [
        choice_problem(o.get_key_element(), o.value(), list(options(o.get_key_element(), composer.config_dir)))
        for o in groups
    ]
    problems = [text for text in unknown if text is not None]
    kept = [o.input_line or "" for o, text in zip(groups, unknown) if text is None]
    given = {o.get_key_element(): o.value() for o in parsed if o not in groups}
    unrun = Cell(tuple(combination), None)
    try:
        defaults = composer.compose(kept)
        misplaced = {key: key_problem(key, defaults, value) for key, value in given.items()}
        composed = composer.compose(kept, {key: value for key, value in given.items() if misplaced[key] is None})
    except ConfigError as error:
        return unrun, [*problems, *error.problems]
    problems += [text for text in misplaced.values() if text is not None]
    problems += composer.experiment_problems(composed["choices"])
    problems += composer.trust_problems(composed)
    problems += value_problems(composed, defaults)
    always, here = shorthand_problems(composed, defaults, given)
    problems += [*always, *environment_problems(composed, presence)]
    if here and not multirun:
        problems += here
    if problems or here:
        return replace(unrun, skipped="; ".join(here), facts=_facts(composed)), problems
    composed["threads"] = composed["threads"] or composer.default_threads
    config, notes = resolve(composed, defaults, composer.config_dir)
    problems += trainer_problems(config)
    if not multirun:
        problems += _bits_problems(composed, config)
    name, asked = config.method.name, composed["choices"]["runtime"]
    if asked != config.runtime.name and any(o.get_key_element().split(".")[0] == "runtime" for o in parsed):
        ignored = f"runtime={asked} does not apply to method={name}, whose file runs on {config.runtime.name} alone"
        notes = (*notes, ignored)
    return replace(unrun, config=config, notes=notes), problems


def _bits_problems(composed: Mapping[str, Any], config: RunConfig) -> list[str]:
    """Bits asked of a method that cannot heed them. In a sweep, where others may, a note says so instead."""
    name, of_others = config.method.name, config.method.peer is not None
    found = []
    for short, key in SHORTHANDS.items():
        if composed[short] is None or find(composed["method"], key) is not None:
            continue
        if of_others or short == "act_bits":
            why = "has bits of its own" if of_others else "quantizes weights only"
            found.append(f"{short}={composed[short]}: method={name} {why}; leave {short} out.")
    return found


def _facts(composed: Mapping[str, Any]) -> dict[str, Any]:
    facts = {group: composed["choices"][group] for group in ("dataset", "model", "method", "runtime")}
    bits = {"weight_bits": composed["bits"], "act_bits": composed["act_bits"]}
    return {**facts, **bits, "seed": composed["seed"]}
