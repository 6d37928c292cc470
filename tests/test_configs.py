"""Every YAML of configs/: found recursively, opened, and held against the code it names."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.plugins.launcher import Launcher

from qbench.catalog import COMMON, DESCRIPTIVE, GROUPS, PLUGIN_GROUPS, builtin_configs, options
from qbench.config import MeasureConfig, RunConfig, TrainConfig, TrainerConfig
from qbench.hydra_settings import read_settings
from qbench.limits import problem_with
from qbench.steps import flat, flat_limits, steps

FOLDER = Path(__file__).parents[1] / "configs"
FILES = sorted(FOLDER.rglob("*.yaml"))
STUDIES = [path for path in FILES if path.parent.name == "study"]  # not of Hydra: tests/test_study.py
GROUP_FILES = [path for path in FILES if path.parent != FOLDER and path not in STUDIES]
EXPERIMENTS = [path for path in GROUP_FILES if path.parent.name == "experiment"]
OPTIONS = [path for path in GROUP_FILES if path not in EXPERIMENTS]
PLUGINS = [path for path in OPTIONS if path.parent.parent.name == "hydra"]
BUILT = [path for path in OPTIONS if path.parent.name in ("dataset", "model", "method", "runtime", "tracker")]


def shown(path: Path) -> str:
    return str(path.relative_to(FOLDER).with_suffix(""))


def load(path: Path) -> dict[str, Any]:
    """The YAML; of a pipeline, with the steps it takes from other files."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.parent.name in GROUPS and path.parent.name != "experiment" and "defaults" in content:
        return options(path.parent.name)[path.stem].load()
    assert isinstance(content, dict), f"{path} is not a mapping"
    return content


def settable(content: Mapping[str, Any], group: str = "") -> set[str]:
    return set(content) - DESCRIPTIVE - COMMON.get(group, frozenset())


def value_at(content: Mapping[str, Any], key: str) -> Any:
    """The value of 'lr', or of 'augment.flip' in a nested mapping."""
    for part in key.split("."):
        content = content[part]
    return content


def within(value: Any, limit: Any) -> bool:
    """Whether a default lies within its limits, written out apart from the production code."""
    if isinstance(value, list):
        return bool(value) and all(within(one, limit) for one in value)
    if isinstance(limit, list):
        return any(value == one and type(value) is type(one) for one in limit)
    if "pattern" in limit:
        return re.fullmatch(limit["pattern"], value) is not None
    return bool(limit.get("min", value) <= value <= limit.get("max", value)) and not isinstance(value, bool)


def test_files_are_found_where_the_program_looks() -> None:
    assert builtin_configs().resolve() == FOLDER.resolve()
    assert len(FILES) >= 36 and len(EXPERIMENTS) >= 6 and len(STUDIES) >= 5
    groups = {*GROUPS, *(group for group in PLUGIN_GROUPS if options(group))}
    assert {path.parent.relative_to(FOLDER).as_posix() for path in GROUP_FILES} == groups
    catalogued = {option.path.resolve() for group in groups for option in options(group).values()}
    assert catalogued == {path.resolve() for path in GROUP_FILES}
    assert not list(FOLDER.rglob("*.yml"))


@pytest.mark.parametrize("path", [*GROUP_FILES, *STUDIES], ids=shown)
def test_has_a_summary_of_one_line(path: Path) -> None:
    summary = load(path)["summary"]
    assert isinstance(summary, str) and 10 <= len(summary) <= 120
    assert summary == summary.strip() and "\n" not in summary and not summary.endswith(".")


@pytest.mark.parametrize("path", [FOLDER / "config.yaml", *OPTIONS], ids=shown)
def test_limits_speak_of_keys_and_admit_the_defaults(path: Path) -> None:
    content = load(path)
    limits = content["limits"]
    assert {key.split(".")[0] for key in limits} <= set(content) - DESCRIPTIVE
    for key, limit in limits.items():
        value = value_at(content, key)
        assert isinstance(limit, list) or set(limit) <= {"min", "max", "pattern", "example", "required"}, key
        assert isinstance(limit, list) or "pattern" in limit or {"min", "max"} & set(limit), key
        if value is None:
            continue  # off, or taken from elsewhere
        assert within(value, limit), f"{key}={value} against {limit}"
        assert problem_with(key, value, value, limit) is None
    for key, limit in flat_limits(content).items():
        value = flat(content)[key] if "." in key and key in flat(content) else None
        assert value is None or within(value, limit), f"{key}={value} against {limit}"


@pytest.mark.parametrize("path", [FOLDER / "config.yaml", *OPTIONS], ids=shown)
def test_bounds_are_in_order_and_of_one_kind(path: Path) -> None:
    for key, limit in load(path)["limits"].items():
        if isinstance(limit, list):
            assert len({str(value) for value in limit}) == len(limit) >= 1, key
        elif "min" in limit and "max" in limit:
            assert type(limit["min"]) is type(limit["max"]) and limit["min"] < limit["max"], key


@pytest.mark.parametrize("path", OPTIONS, ids=shown)
def test_every_number_and_switch_is_bounded(path: Path) -> None:
    content = load(path)
    group = path.parent.name
    bounded = {key for key in settable(content, group) if isinstance(content[key], bool | int | float)}
    assert bounded <= set(content["limits"])


@pytest.mark.parametrize("path", BUILT, ids=shown)
def test_target_is_there_and_takes_the_parameters(path: Path) -> None:
    content = load(path)
    module, _, name = content["_target_"].rpartition(".")
    assert module.startswith("qbench.")
    accepted = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    assert settable(content, path.parent.name) - set(steps(content)) <= set(accepted)
    assert not steps(content) or "steps" in accepted


@pytest.mark.parametrize("path", [path for path in OPTIONS if path not in BUILT + PLUGINS], ids=shown)
def test_options_that_build_nothing_are_the_fields_of_a_dataclass(path: Path) -> None:
    schema = {"train": TrainConfig, "trainer": TrainerConfig, "measure": MeasureConfig}[path.parent.name]
    content = load(path)
    assert settable(content) == {field.name for field in dataclasses.fields(schema)}
    assert set(content["limits"]) == settable(content)
    for field in dataclasses.fields(schema):
        value = content[field.name]
        assert value is None or isinstance(value, type(field.default)) or isinstance(field.default, tuple)


def test_the_training_recipe_leaves_every_value_to_the_network() -> None:
    content = load(FOLDER / "train" / "default.yaml")
    assert {content[key] for key in settable(content)} == {None}


def test_comments_of_the_training_recipe_give_the_defaults() -> None:
    lines = (FOLDER / "train" / "default.yaml").read_text().splitlines()
    for field in dataclasses.fields(TrainConfig):
        comment = lines[lines.index(f"{field.name}: null") - 1]
        stated = re.search(r"\(([^()]*)\)", comment)
        assert comment.startswith("# ") and stated is not None, comment
        assert yaml.safe_load(stated[1]) == field.default, comment


def test_the_default_measure_is_that_of_the_schema() -> None:
    content = load(FOLDER / "measure" / "default.yaml")
    schema = dataclasses.asdict(MeasureConfig())
    assert {key: content[key] for key in settable(content)} == {**schema, "batch_sizes": list(schema["batch_sizes"])}


def test_the_default_trainer_is_that_of_the_schema() -> None:
    content = load(FOLDER / "trainer" / "default.yaml")
    assert {key: content[key] for key in settable(content)} == dataclasses.asdict(TrainerConfig())


def test_measuring_nothing_measures_nothing() -> None:
    content = load(FOLDER / "measure" / "none.yaml")
    assert content["latency"] is content["memory"] is False


@pytest.mark.parametrize("path", OPTIONS, ids=shown)
def test_every_parameter_is_explained(path: Path) -> None:
    if path.parent.name == "measure" and path.stem == "none":
        return  # its values are never read
    lines = path.read_text(encoding="utf-8").splitlines()
    unexplained = []
    for key in settable(load(path), path.parent.name) - {"latency", "memory", "batch_sizes"}:
        row = next(index for index, line in enumerate(lines) if line.startswith(f"{key}:"))
        while lines[row - 1].split(":")[0] in load(path) and not lines[row - 1].startswith("#"):
            row -= 1  # one comment may speak of several keys in a row
        if not lines[row - 1].startswith("# "):
            unexplained.append(key)
    assert unexplained == []


def test_run_keys_are_the_fields_of_a_run() -> None:
    content = load(FOLDER / "config.yaml")
    own = settable(content) - {"defaults", "hydra"}
    fields = {field.name for field in dataclasses.fields(RunConfig)}
    shorthands = {"bits", "act_bits"}  # of the method
    assert own - shorthands == fields - {*GROUPS}
    chosen = {group: name for entry in content["defaults"] if isinstance(entry, dict) for group, name in entry.items()}
    assert set(chosen) == set(GROUPS)
    assert all(name is None or name in options(group) for group, name in chosen.items())


@pytest.mark.parametrize("path", EXPERIMENTS, ids=shown)
def test_experiments_set_keys_that_exist_within_their_limits(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# @package _global_\n")
    content = load(path)
    run = load(FOLDER / "config.yaml")
    chosen = {group: name for entry in run["defaults"] if isinstance(entry, dict) for group, name in entry.items()}
    for entry in content["defaults"]:
        (group, name), *others = entry.items()
        assert not others and group.startswith("override /")
        chosen[group.removeprefix("override /")] = name
    for key, value in content.items():
        if key in GROUPS:
            option = options(key)[chosen[key]].load()
            assert set(value) <= settable(option)
            assert all(within(one, option["limits"][name]) for name, one in value.items() if name in option["limits"])
        elif key not in ("defaults", "summary"):
            assert key in run and within(value, run["limits"][key])


@pytest.mark.parametrize("path", PLUGINS, ids=shown)
def test_launchers_are_plugins_of_hydra_and_sweepers_are_ours(path: Path) -> None:
    content = load(path)
    module, _, name = content["_target_"].rpartition(".")
    plugin = getattr(importlib.import_module(module), name)
    if path.parent.name == "launcher":
        assert issubclass(plugin, Launcher)
    else:
        assert {field.name for field in dataclasses.fields(plugin)} == settable(content)
    settings = read_settings([f"hydra/{path.parent.name}={path.stem}"])
    chosen = getattr(settings, path.parent.name)
    assert (chosen.name, chosen.target, set(chosen.params)) == (path.stem, content["_target_"], settable(content))


@pytest.mark.parametrize("path", [path for path in GROUP_FILES if path not in PLUGINS], ids=shown)
def test_hydra_composes_every_option(path: Path) -> None:
    group = path.parent.name
    with initialize_config_dir(str(FOLDER.resolve()), version_base="1.3"):
        composed = compose("config", [f"{group}={path.stem}"])
    content = load(path)
    assert group == "experiment" or set(composed[group]) == set(content)
    assert set(composed) >= {*GROUPS} - {"experiment"}
