from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from qbench.config import AugmentConfig

FOLDER = Path(__file__).parents[2] / "configs" / "dataset"
FILES = sorted(FOLDER.glob("*.yaml"))
SHAPE = {"channels", "height", "width", "num_classes"}
SPLITS = {"augment", "validation_fraction", "calibration_images", "split_seed"}
COMMON = SPLITS | {"_target_", "summary", "sources", "download_from", "limits"}


def load(file: Path) -> dict[str, Any]:
    config = OmegaConf.to_container(OmegaConf.create({"dataset": OmegaConf.load(file)}), resolve=True)
    assert isinstance(config, dict)
    return dict(config["dataset"])


def shape(config: dict[str, Any]) -> dict[str, int]:
    """Of the images: a description where the data set decides, parameters where the user does."""
    return {key: config.get("images", config)[key] for key in SHAPE}


def target(config: dict[str, Any]) -> Any:
    module, _, name = config["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_every_data_set_has_a_file() -> None:
    names = [file.stem for file in FILES]
    assert names == ["cifar10", "digits", "fashion_mnist", "image_folder", "mnist", "synthetic"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_keys_match_the_dataclass_and_its_defaults(file: Path) -> None:
    config, kind = load(file), target(load(file))
    fields = {field.name: field.default for field in dataclasses.fields(kind) if field.init}
    described = set() if set(fields) >= SHAPE else {"images"}
    own_files = {"fingerprint"} if "folder" in fields else set()  # no name fixes what a user's own folder holds
    assert set(config) == COMMON | set(fields) | described | own_files
    assert all(config[key] is True for key in own_files)
    assert {key: config[key] for key in fields} == fields
    assert set(config["augment"]) == {field.name for field in dataclasses.fields(AugmentConfig)}
    spec = AugmentConfig(**config["augment"])
    assert spec.crop_padding < min(shape(config)["height"], shape(config)["width"])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_limits_allow_the_defaults(file: Path) -> None:
    config = load(file)
    flat = {**config, **{f"augment.{key}": value for key, value in config["augment"].items()}}
    assert set(config["limits"]) <= set(flat)
    assert {key for key in flat if key.startswith("augment.")} <= set(config["limits"])
    for key, allowed in config["limits"].items():
        value = flat[key]
        assert value in allowed if isinstance(allowed, list) else allowed["min"] <= value <= allowed["max"]


@pytest.mark.parametrize("file", [file for file in FILES if file.stem in ("digits", "synthetic")], ids=lambda f: f.stem)
def test_declared_shape_is_what_loads(file: Path, tmp_path: Path) -> None:
    config, kind = load(file), target(load(file))
    dataset = kind()
    images = dataset.load_test(tmp_path, tmp_path).images
    declared = shape(config)
    assert tuple(images.shape[1:]) == (declared["channels"], declared["height"], declared["width"])
    assert len(dataset.class_names) == declared["num_classes"]
    assert config["sources"] == [] and config["download_from"] is None
