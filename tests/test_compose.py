"""Composition: what a command line means, how a sweep expands, and what a user's own YAML may get wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import qbench.composition
from qbench.catalog import builtin_configs
from qbench.compose import Cell, baseline_method, compose_cells
from qbench.config import AugmentConfig, RunConfig
from qbench.errors import ConfigError
from qbench.rows import blank_record


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("DATA", "STORE", "OUTPUTS"):
        monkeypatch.setenv(f"QBENCH_{variable}", str(tmp_path / variable.lower()))


def one(*overrides: str, config_dir: Path | None = None) -> RunConfig:
    (cell,) = compose_cells(overrides, config_dir)
    assert cell.config is not None
    return cell.config


def titles(cells: list[Cell]) -> list[str]:
    return [cell.config.method.title if cell.config is not None else f"skipped: {cell.skipped}" for cell in cells]


def problems(*overrides: str, config_dir: Path | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        compose_cells(overrides, config_dir)
    return refused.value.problems


def write(folder: Path, group: str, name: str, content: Any) -> Path:
    """A YAML of the user's; returns the folder to give as --config-dir."""
    path = folder / group / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return folder


def test_defaults(tmp_path: Path) -> None:
    config = one()
    assert (config.dataset.choice.name, config.model.choice.name, config.method.name) == (
        "digits",
        "small_cnn",
        "kmeans",
    )
    assert config.label == "digits small_cnn kmeans w4"
    assert (config.weight_bits, config.act_bits, config.seed, config.dry, config.traceback) == (
        4,
        None,
        0,
        False,
        False,
    )
    assert config.data_dir == tmp_path / "data" and config.store_dir == tmp_path / "store"
    assert config.threads >= 1
    assert config.dataset.augment == AugmentConfig(flip=False, crop_padding=2, cutout=0)


def test_shorthands_set_the_methods_own_parameters() -> None:
    config = one("method=linear", "bits=4", "act_bits=8")
    assert (config.method.params["weight_bits"], config.method.params["act_bits"]) == (4, 8)
    assert one("method=linear", "bits=4", "method.weight_bits=4").method == one("method=linear", "bits=4").method


def test_bits_are_noted_where_a_method_has_none() -> None:
    (cell,) = compose_cells(["method=fp32", "bits=4"])
    assert cell.notes == ("bits does not apply to method=fp32 and is ignored",)
    assert cell.config is not None and cell.config.weight_bits is None


@pytest.mark.parametrize("method", ["qat", "kmeans_qat", "deep_compression"])
def test_a_method_that_trains_says_what_devices_are_for(method: str) -> None:
    note = f"trainer.devices=2 is for the float training; method={method} fine-tunes in one process"
    assert compose_cells([f"method={method}", "trainer.devices=2"])[0].notes == (note,)
    assert compose_cells([f"method={method}", "trainer.accumulate=2"])[0].notes == ()
    assert compose_cells(["method=kmeans", "trainer.devices=2"])[0].notes == ()


@pytest.mark.parametrize("emulates", [True, False])
def test_emulated_bfloat16_is_said_where_it_is_forced(emulates: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qbench.resolve.emulates_bfloat16", lambda: emulates)
    notes = compose_cells(["train.precision=bfloat16"])[0].notes
    assert [note.partition(":")[0] for note in notes] == ["train.precision=bfloat16"] * emulates
    for other in (["train.precision=auto"], ["train.precision=bfloat16", "device=cuda"]):
        assert compose_cells(other)[0].notes == ()


def test_variant_names_what_was_changed() -> None:
    config = one("method=linear", "bits=4", "method.range=mse", "method.granularity=per_tensor")
    assert config.method.title == "linear granularity=per_tensor range=mse w4"
    assert one("method=linear", "bits=4", "method.range=minmax").method.variant == ""
    assert one("runtime=openvino", "runtime.exact=true").runtime.variant == ""
    inexact = one("method=linear", "method.range=mse", "runtime=openvino", "runtime.exact=false")
    assert inexact.runtime.variant == "runtime.exact=False"
    assert blank_record(inexact, "x", "ok").variant == "range=mse runtime.exact=False"
    assert one("method=nncf", "runtime.exact=false", "runtime=openvino").runtime.variant == "runtime.exact=False"


def test_recipe_comes_from_the_network_and_the_command_line_wins() -> None:
    recipe = yaml.safe_load((builtin_configs() / "model" / "small_cnn.yaml").read_text())["recipe"]
    assert recipe["optimizer"] == "adamw"
    config = one("train.lr=0.5")
    assert (config.train.optimizer, config.train.lr) == ("adamw", 0.5)


def test_given_weights_are_not_trained_unless_asked(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.touch()
    assert one(f"model.weights={weights}").train.epochs == 0
    assert one(f"model.weights={weights}", "train.epochs=2").train.epochs == 2


def test_tiny_shrinks_what_is_large_and_leaves_what_is_smaller() -> None:
    config = one("tiny=true", "limit_test=50")
    assert (config.train.epochs, config.train.batch_size, config.limit_train, config.limit_test) == (1, 32, 320, 50)
    assert config.dataset.calibration_images == 32 and config.measure.min_rounds == 3
    assert one("tiny=true", "train.epochs=0").train.epochs == 0


def test_quoted_values_keep_their_special_characters(tmp_path: Path) -> None:
    folder = tmp_path / "données, 1=a"
    assert one(f"data_dir='{folder}'").data_dir == folder


def test_mappings_are_given_whole() -> None:
    assert one("method=linear", "method.overrides={head*: 8, a.0: 0}").method.params["overrides"] == {
        "head*": 8,
        "a.0": 0,
    }
    assert one("dataset.augment={flip: true}").dataset.augment == AugmentConfig(flip=True, crop_padding=2, cutout=0)
    (text,) = problems("dataset.augment={flap: true}")
    assert text.startswith("dataset.augment.flap: unknown key in dataset.augment. Did you mean flip?")


# --- sweeps


def test_a_sweep_expands_in_order_last_key_fastest() -> None:
    cells = compose_cells(["method=linear,kmeans", "bits=8,4,2"], multirun=True)
    assert titles(cells) == ["linear w8", "linear w4", "linear w2", "kmeans w8", "kmeans w4", "kmeans w2"]
    assert cells[3].overrides == ("method=kmeans", "bits=8")
    assert titles(compose_cells(["bits=range(2,4)", "method=linear,kmeans"], multirun=True)) == [
        *("linear w2", "kmeans w2", "linear w3", "kmeans w3"),
    ]


def test_a_sweep_skips_what_a_method_has_no_form_for() -> None:
    cells = compose_cells(["method=linear,kmeans", "bits=16,8"], multirun=True)
    assert titles(cells) == [
        "linear w16",
        "linear w8",
        "skipped: bits=16: allowed for method=kmeans: whole numbers from 1 to 8.",
        "kmeans w8",
    ]
    facts = {"dataset": "digits", "model": "small_cnn", "method": "kmeans", "runtime": "torch", "seed": 0}
    assert cells[2].facts == {**facts, "weight_bits": 16, "act_bits": None}


def test_act_bits_are_noted_in_a_sweep_and_refused_alone() -> None:
    cells = compose_cells(["method=fp16,linear", "act_bits=null,8"], multirun=True)
    assert titles(cells) == ["fp16", "fp16", "linear w8", "linear w8a8"]
    assert cells[1].notes == ("act_bits does not apply to method=fp16 and is ignored",)
    (text,) = problems("method=fp16", "act_bits=8")
    assert text == "act_bits=8: method=fp16 quantizes weights only; leave act_bits out."


def test_one_wrong_cell_refuses_the_sweep() -> None:
    with pytest.raises(ConfigError, match="weight_bits=8 contradict"):
        compose_cells(["method=linear", "bits=4", "method.weight_bits=4,8"], multirun=True)


def test_a_sweep_is_composed_once_per_choice_of_options(monkeypatch: pytest.MonkeyPatch) -> None:
    composed: list[list[str]] = []
    hydra = qbench.composition.compose

    def counted(name: str, overrides: list[str], **options: Any) -> Any:
        composed.append(overrides)
        return hydra(name, overrides, **options)

    monkeypatch.setattr(qbench.composition, "compose", counted)
    qbench.composition.composed_options.cache_clear()
    cells = compose_cells(["method=linear,kmeans", "bits=8,4", "seed=range(0,3)"], multirun=True)
    assert len(cells) == 12 and composed == [["method=linear"], ["method=kmeans"]]
    assert {cell.config.seed for cell in cells if cell.config is not None} == {0, 1, 2}


def test_one_cell_leaves_nothing_behind_for_the_next() -> None:
    cells = compose_cells(["method=linear", "method.range=mse,minmax", "seed=1,0"], multirun=True)
    assert titles(cells) == ["linear range=mse w8", "linear range=mse w8", "linear w8", "linear w8"]


def test_the_baseline_is_the_method_fp32() -> None:
    assert baseline_method() == one("method=fp32").method


# --- the user's own YAML


def test_own_options_stand_beside_the_built_in_ones(tmp_path: Path) -> None:
    write(tmp_path, "method", "mine", {"_target_": "a.B", "weight_bits": 3, "limits": {"weight_bits": {"min": 2}}})
    config = one("method=mine", config_dir=tmp_path)
    assert (config.method.target, config.method.params) == ("a.B", {"weight_bits": 3})
    assert problems("method=mine", "bits=1", config_dir=tmp_path) == (
        "bits=1: allowed for method=mine: whole numbers from 2 up.",
    )
    assert problems("method=mein", config_dir=tmp_path)[0].startswith("method=mein: unknown method. Did you mean mine?")


def test_own_options_may_not_take_the_name_of_a_built_in_one(tmp_path: Path) -> None:
    path = write(tmp_path, "method", "fp32", {"_target_": "a.B"}) / "method" / "fp32.yaml"
    assert problems("method=linear", config_dir=tmp_path) == (
        f"{path}: qbench has a method=fp32 of its own; give yours another name.",
    )


def test_qbenchs_own_folder_as_config_dir_changes_nothing() -> None:
    assert one("method=linear", config_dir=builtin_configs()) == one("method=linear")


def test_a_short_dataset_yaml_takes_the_defaults(tmp_path: Path) -> None:
    write(tmp_path, "dataset", "mine", {"_target_": "a.Images", "size": 5})
    dataset = one("dataset=mine", config_dir=tmp_path).dataset
    assert dataset.choice.params == {"size": 5}
    assert (dataset.augment, dataset.validation_fraction, dataset.calibration_images) == (AugmentConfig(), 0.1, 512)


def test_config_dir_may_have_special_characters(tmp_path: Path) -> None:
    folder = write(tmp_path / "a, b='c [x]", "method", "mine", {"_target_": "a.B"})
    assert one("method=mine", config_dir=folder).method.target == "a.B"


def test_an_experiment_sets_several_groups(tmp_path: Path) -> None:
    content = "# @package _global_\nsummary: x\ndefaults:\n  - override /method: linear\nbits: 4\ntrain:\n  epochs: 3\n"
    write(tmp_path, "experiment", "mine", content)
    config = one("experiment=mine", config_dir=tmp_path)
    assert (config.method.title, config.train.epochs) == ("linear w4", 3)
    assert one("experiment=mine", "bits=2", config_dir=tmp_path).weight_bits == 2


def test_misspelt_keys_of_an_experiment_are_refused(tmp_path: Path) -> None:
    content = "# @package _global_\nbitts: 4\ntrain:\n  epohcs: 3\nmethod: {weight_bit: 2}\n"
    write(tmp_path, "experiment", "mine", content)
    found = problems("experiment=mine", config_dir=tmp_path)
    assert [text.split(".  ")[0].split(" Known")[0] for text in found[:3]] == [
        "experiment=mine: bitts: unknown key. Did you mean bits?",
        "experiment=mine: train.epohcs: unknown key in train=default. Did you mean epochs?",
        "experiment=mine: method.weight_bit: unknown key in method=kmeans. Did you mean weight_bits?",
    ]


@pytest.mark.parametrize(
    "group, content, text",
    [
        ("method", {"weight_bits": 3}, "method=mine: its YAML names no _target_."),
        ("model", {"_target_": "a.B", "recipe": {"epohcs": 3}},
         "model.recipe.epohcs: unknown key in model=mine. Did you mean epochs? Known: epochs, batch_size,"),
        ("model", {"_target_": "a.B", "recipe": {"lr": 99.0}},
         "model.recipe.lr=99.0: allowed for model=mine: numbers from 0.0 to 10.0."),
        ("measure", {"latency": False, "rounds": 3}, "measure.rounds: unknown key in measure=mine. Did you mean"),
        ("train", {"epoch": 3}, "train.epoch: unknown key in train=mine. Did you mean epochs?"),
        ("dataset", {"_target_": "a.B", "augment": {"mirror": True}},
         "dataset.augment.mirror: unknown key in dataset=mine. Known: flip, crop_padding, cutout."),
        ("method", {"_target_": "a.B", "bias": "???"}, "method.bias: a value is needed."),
        ("method", {"_target_": "a.B", "size": "${nothing}"}, "method.size: Interpolation key 'nothing' not found"),
    ],
    ids=["target", "recipe-key", "recipe-value", "measure", "train", "augment", "needed", "interpolation"],
)  # fmt: skip
def test_mistakes_in_own_yaml_are_explained(tmp_path: Path, group: str, content: Any, text: str) -> None:
    found = problems(f"{group}=mine", config_dir=write(tmp_path, group, "mine", content))
    assert found[0].startswith(text)


def test_broken_yaml_is_named(tmp_path: Path) -> None:
    write(tmp_path, "method", "mine", "_target_: [a.B\n")
    (text,) = problems("method=mine", config_dir=tmp_path)
    assert "mine.yaml" in text and "line 2" in text


def test_a_folder_of_images_is_known_by_its_files(tmp_path: Path) -> None:
    picture = tmp_path / "data" / "images" / "train" / "cat" / "1.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"one")
    first = one("dataset=image_folder").dataset.fingerprint
    assert first == one("dataset=image_folder").dataset.fingerprint
    picture.write_bytes(b"another")
    assert one("dataset=image_folder").dataset.fingerprint != first
    assert one("dataset=digits").dataset.fingerprint is None
