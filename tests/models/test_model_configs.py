"""Every configs/model/*.yaml says what its builder says."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from qbench.config import TrainConfig
from qbench.models.dotted import import_dotted

FOLDER = Path(__file__).parents[2] / "configs" / "model"
FILES = sorted(FOLDER.rglob("*.yaml"))
NOT_PARAMETERS = {"_target_", "summary", "input", "weights", "limits", "recipe"}
FACTS = ["channels", "height", "width", "num_classes"]


def load(path: Path) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def test_every_network_has_a_file() -> None:
    assert {path.stem for path in FILES} >= {
        *("small_cnn", "cnn_282k", "mlp", "mobilenet", "mobilenet_v2", "vgg16", "vgg16_plain", "vgg16_imagenet"),
        *("resnet18", "resnet20", "resnet50", "custom", "timm"),
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_parameters_equal_the_builders(path: Path) -> None:
    config = load(path)
    builder = import_dotted(config["_target_"], "model._target_")
    assert callable(builder)
    parameters = inspect.signature(builder).parameters
    assert list(parameters)[:4] == FACTS
    own = {name: parameter for name, parameter in parameters.items() if name not in FACTS}
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in own.values())
    assert {key: value for key, value in config.items() if key not in NOT_PARAMETERS} == {
        name: parameter.default for name, parameter in own.items()
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_limits_admit_the_defaults(path: Path) -> None:
    config = load(path)
    assert set(config["limits"]) <= set(config) - NOT_PARAMETERS
    numbers = {key for key, value in config.items() if type(value) in (int, float)}
    assert numbers <= set(config["limits"]), "every number is bounded"
    for key, limit in config["limits"].items():
        if isinstance(limit, list):
            assert config[key] in limit
        elif "pattern" in limit:
            assert limit["example"]
            assert limit["required"] == (config[key] is None)
        else:
            assert set(limit) == {"min", "max"}
            assert limit["min"] <= config[key] <= limit["max"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_describes_itself_and_its_recipe(path: Path) -> None:
    config = load(path)
    assert set(config) >= NOT_PARAMETERS
    assert config["summary"] and "\n" not in config["summary"]
    assert set(config["input"]) == {"min_channels", "min_size"}
    assert config["input"]["min_channels"] in (1, 3)
    assert config["input"]["min_size"] >= 1
    assert config["weights"] is None
    defaults = dataclasses.asdict(TrainConfig())
    for key, value in config["recipe"].items():
        assert type(value) is type(defaults[key]), key
        assert value != defaults[key], f"{key} repeats the default"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_key_but_the_obvious_ones_is_explained(path: Path) -> None:
    config, lines = load(path), path.read_text().splitlines()
    for key in (set(config) - NOT_PARAMETERS) | {"input", "weights"}:
        row = next(index for index, line in enumerate(lines) if line.startswith(f"{key}:"))
        assert lines[row - 1].startswith("# "), key
