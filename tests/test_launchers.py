"""What launchers give a cell: threads that follow from their settings, and resources that agree with the threads."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import qbench.launchers
from qbench.errors import ConfigError, RuntimeUnavailable
from qbench.hydra_settings import Plugin, read_settings
from qbench.launchers import Crew, default_threads, make_crew


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qbench.launchers, "physical_cores", lambda: 8)


def plugin(name: str, *values: str) -> Plugin:
    return read_settings([f"hydra/launcher={name}", *(f"hydra.launcher.{value}" for value in values)]).launcher


@pytest.mark.parametrize(
    "words, threads",
    [
        ("joblib", 1),
        ("joblib n_jobs=2", 4),
        ("joblib n_jobs=3", 2),
        ("joblib n_jobs=16", 1),
        ("submitit_local n_jobs=4", 2),
        ("submitit_slurm", 1),
        ("submitit_slurm cpus_per_task=6", 6),
        ("ray", 1),
        ("ray ray.remote.num_cpus=3", 3),
        ("basic", None),
    ],
    ids=str,
)
def test_threads_of_a_cell_that_names_none(words: str, threads: int | None) -> None:
    assert default_threads(plugin(*words.split())) == threads


@pytest.mark.parametrize(
    "words, threads, params, at_once",
    [
        ("joblib", 1, {"n_jobs": 8}, 8),
        ("joblib", 3, {"n_jobs": 2}, 2),
        ("joblib", 16, {"n_jobs": 1}, 1),
        ("joblib n_jobs=2", 4, {"n_jobs": 2}, 2),
        ("submitit_local n_jobs=4", 2, {"cpus_per_task": 2}, 4),
        ("submitit_slurm", 5, {"cpus_per_task": 5}, None),
        ("submitit_slurm cpus_per_task=6", 2, {"cpus_per_task": 6}, None),
    ],
    ids=str,
)
def test_resources_agree_with_the_threads(
    words: str, threads: int, params: dict[str, Any], at_once: int | None
) -> None:
    crew = make_crew(plugin(*words.split()), threads)
    assert params.items() <= crew.plugin.params.items() and crew.at_once == at_once
    assert (crew.threads, crew.here, crew.note) == (threads, at_once is not None, "")


def test_a_cluster_of_ray_that_is_started_here_has_the_cores_of_this_machine() -> None:
    crew = make_crew(plugin("ray"), 3)
    ray = crew.plugin.params["ray"]
    assert (ray["init"]["num_cpus"], ray["remote"]["num_cpus"], crew.at_once, crew.here) == (8, 3, 2, True)


def test_a_cluster_of_ray_that_runs_already_keeps_its_own() -> None:
    crew = make_crew(plugin("ray", "ray.init.address=auto", "ray.remote.num_cpus=4"), 2)
    init = crew.plugin.params["ray"]["init"]
    assert "num_cpus" not in init and init["object_store_memory"] is None
    assert (crew.plugin.params["ray"]["remote"]["num_cpus"], crew.at_once, crew.here) == (4, None, False)
    assert str(crew) == "ray: jobs of the cluster, 2 threads each"


def test_what_would_never_run_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cpus_per_task=2: a cell has 4 threads; give as many cores, or threads=2\."):
        make_crew(plugin("submitit_slurm", "cpus_per_task=2"), 4)
    with pytest.raises(ConfigError, match="a cell of 9 cores never finds room in a cluster of 8; lower threads or"):
        make_crew(plugin("ray"), 9)


@pytest.mark.parametrize(
    "n_jobs, threads, fits",
    [(4, 4, "hydra.launcher.n_jobs=2 or threads=2"), (16, 1, "hydra.launcher.n_jobs=8")],
    ids=str,
)
def test_more_threads_than_cores_are_noted(n_jobs: int, threads: int, fits: str) -> None:
    crew = make_crew(plugin("joblib", f"n_jobs={n_jobs}"), threads)
    many = f"{n_jobs} cells at once of {threads} thread{'s' if threads > 1 else ''} each"
    assert crew.note == f"{many} slow one another down on 8 cores; {fits} would fit"


@pytest.mark.parametrize("name, extra", [("joblib", "joblib"), ("submitit_slurm", "submitit"), ("ray", "ray")])
def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch, name: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, extra, None)
    with pytest.raises(RuntimeUnavailable) as refused:
        make_crew(plugin(name), 1)
    text = f'hydra/launcher={name} needs {extra} and its plugin for Hydra: pip install "qbench[{extra}]"'
    assert str(refused.value) == text


def test_a_plugin_that_qbench_does_not_know_is_taken_as_it_is() -> None:
    own = Plugin("ours", "hydra_plugins.ours.Launcher", {"a": 1})
    assert make_crew(own, 2) == Crew(own, 2) and default_threads(own) is None
