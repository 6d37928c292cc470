"""Which launcher and sweeper a sweep uses: chosen like other options, refused like them, part of no key."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbench.errors import ConfigError
from qbench.hydra_settings import HydraSettings, Plugin, read_settings, split


def problems(*overrides: str, config_dir: Path | None = None, multirun: bool = True) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        read_settings(overrides, config_dir, multirun)
    return refused.value.problems


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / "hydra" / "launcher" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return folder


def test_words_about_the_sweep_are_told_from_those_about_cells() -> None:
    words = ["hydra/launcher=joblib", "bits=4", "hydra.launcher.n_jobs=2", "hydra.run.dir=x", "hydra.sweeper.seed=1"]
    assert split(words) == (
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.seed=1"],
        ["bits=4", "hydra.run.dir=x"],
    )


def test_nothing_said_is_hydras_own() -> None:
    assert read_settings([]) == HydraSettings() and read_settings([]).launcher.name == "basic"


def test_values_given_take_the_place_of_the_yamls() -> None:
    words = ("hydra/launcher=ray", "hydra.launcher.ray.remote.num_cpus=3", "hydra.launcher.ray.init.address=auto")
    settings = read_settings(words)
    ray = settings.launcher.params["ray"]
    assert (ray["remote"]["num_cpus"], ray["remote"]["num_gpus"], ray["init"]["address"]) == (3, 0, "auto")
    assert settings.launcher.target == "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"
    assert settings.sweeper.name == "basic" and settings.overrides == words


def test_interpolations_are_left_to_hydra() -> None:
    words = ["hydra/launcher=submitit_slurm", "hydra.launcher.additional_parameters={exclusive: ''}"]
    params = read_settings(words).launcher.params
    assert params["submitit_folder"] == "${hydra.sweep.dir}/%j"
    assert params["additional_parameters"] == {"exclusive": ""}


@pytest.mark.parametrize(
    "words, problem",
    [
        ("hydra/launcher=jobli", "hydra/launcher=jobli: unknown hydra/launcher. Did you mean joblib? Known: basic, "
         "joblib, ray, submitit_local, submitit_slurm."),
        ("hydra/launcher=joblib hydra.launcher.n_job=2", "hydra.launcher.n_job: unknown key in hydra/launcher=joblib. "
         "Did you mean n_jobs? Known: n_jobs."),
        ("hydra.launcher.n_jobs=2", "hydra.launcher.n_jobs: hydra/launcher=basic has no parameters."),
        ("hydra/launcher=joblib hydra.launcher.n_jobs=0", "hydra.launcher.n_jobs=0: allowed for hydra/launcher=joblib: "
         "whole numbers from 1 to 1024, or null."),
        ("hydra/launcher=ray hydra.launcher.ray.remote.num_cpus=x", "hydra.launcher.ray.remote.num_cpus=x: allowed for "
         "hydra/launcher=ray: whole numbers from 1 to 1024, or null."),
        ("hydra/launcher=joblib,ray", "hydra/launcher=joblib,ray: cannot be swept over; hydra/launcher has one value "
         "for the sweep."),
        ("hydra/launcher=joblib hydra.launcher._target_=os.system", "hydra.launcher._target_: unknown key in "
         "hydra/launcher=joblib. Known: n_jobs."),
    ],
    ids=str,
)  # fmt: skip
def test_refused(words: str, problem: str) -> None:
    assert problems(*words.split()) == (problem,)


def test_a_single_run_has_no_launcher() -> None:
    (text,) = problems("hydra/launcher=joblib", multirun=False)
    assert text == "hydra/launcher=joblib: is about a sweep; add -m (qbench run -m ...)."


def test_a_cluster_may_have_a_yaml_of_its_own(tmp_path: Path) -> None:
    folder = write(tmp_path, "ours", "defaults: [submitit_slurm]\nsummary: our cluster\npartition: short\n")
    ours = read_settings(["hydra/launcher=ours", "hydra.launcher.timeout_min=5"], folder).launcher
    assert (ours.name, ours.params["partition"], ours.params["timeout_min"]) == ("ours", "short", 5)
    (text,) = problems("hydra/launcher=ours", "hydra.launcher.timeout_min=0", config_dir=folder)
    assert text.startswith("hydra.launcher.timeout_min=0: allowed for hydra/launcher=ours: whole numbers from 1")


def test_a_yaml_stands_on_others_but_never_on_itself(tmp_path: Path) -> None:
    write(tmp_path, "one", "defaults: [two]\nsummary: stands on two\n")
    folder = write(tmp_path, "two", "defaults: [one]\nsummary: stands on one\n")
    (text,) = problems("hydra/launcher=one", config_dir=folder)
    assert text.startswith(f"{folder}/hydra/launcher/two.yaml: defaults names one. Known: joblib, ray, ")


def test_a_launcher_is_a_plugin_of_hydra(tmp_path: Path) -> None:
    folder = write(tmp_path, "evil", "_target_: os.system\nsummary: runs a command\ncommand: 'true'\n")
    (text,) = problems("hydra/launcher=evil", config_dir=folder)
    assert text == "hydra/launcher=evil: _target_ os.system is not allowed: it is none of Hydra's plugins."


def test_a_plugin_copies_its_parameters() -> None:
    plugin = Plugin("x", "a.B", {"inner": {"one": 1}})
    plugin.node()["inner"]["one"] = 2
    assert plugin.node() == {"_target_": "a.B", "inner": {"one": 1}}
