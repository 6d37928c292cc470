"""What each launcher gives a cell: how many cells run at once, and on how many threads. No torch.

    joblib, submitit_local     n_jobs at once on this machine, which share its cores evenly
    ray                        num_cpus of the cluster for each; at once as many as it has room for
    submitit_slurm             cpus_per_task for each; at once what the cluster allows

``threads`` is part of the keys of what a cell makes, so it follows from the launcher's settings and the machine alone,
never from how many cells there are; ``threads=`` on the command line comes first, and the others follow from it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from qbench.errors import ConfigError, RuntimeUnavailable
from qbench.hydra_settings import BASIC, Plugin
from qbench.machine import physical_cores

EXTRAS = ("joblib", "submitit", "ray")  # each names its library, its plugin hydra_X_launcher, and qbench's extra


@dataclass(frozen=True)
class Crew:
    """A launcher whose resources agree with the threads of the cells.

    Args:
        plugin: What Hydra instantiates.
        threads: Most threads of a cell.
        at_once: Cells at once; None where a cluster decides.
        here: Whether all of them run on this machine, so that nothing can be timed while they do.
        starts_all: Whether the launcher starts whatever it is given at once.
        note: What the user should know, or nothing.
    """

    plugin: Plugin
    threads: int
    at_once: int | None = None
    here: bool = False
    starts_all: bool = False
    note: str = ""

    def __str__(self) -> str:
        many = "jobs of the cluster" if self.at_once is None else f"{self.at_once} at once on this machine"
        return f"{self.plugin.name}: {many}, {_threads(self.threads)} each"


def default_threads(plugin: Plugin) -> int | None:
    """Threads of a cell that names none; None leaves it the cores of the machine."""
    kind, params = _kind(plugin), plugin.params
    if kind in ("JoblibLauncher", "LocalLauncher"):
        cores = physical_cores()
        return max(1, cores // (params["n_jobs"] or cores))
    if kind == "SlurmLauncher":
        return params["cpus_per_task"] or 1
    return params["ray"]["remote"]["num_cpus"] or 1 if kind == "RayLauncher" else None


def make_crew(plugin: Plugin, threads: int) -> Crew:
    """Make a launcher's resources agree with the threads that its cells have.

    Args:
        plugin: A launcher other than ``basic``.
        threads: Most threads of any cell.

    Raises:
        RuntimeUnavailable: Its library is not installed; names the extra.
        ConfigError: It has fewer cores for a cell than the cell has threads, or than there are.
    """
    for name in EXTRAS:
        if f".hydra_{name}_launcher." in plugin.target and not _installed(name, f"hydra_plugins.hydra_{name}_launcher"):
            raise RuntimeUnavailable(
                f'hydra/launcher={plugin.name} needs {name} and its plugin for Hydra: pip install "qbench[{name}]"'
            )
    fit = _FITS.get(_kind(plugin))
    return fit(plugin, threads) if fit is not None else Crew(plugin, threads)


def is_basic(plugin: Plugin) -> bool:
    """Whether cells run one after another in this process."""
    return plugin.name == BASIC


def _joblib(plugin: Plugin, threads: int) -> Crew:
    crew = _on_this_machine(plugin, threads)
    # a cell takes seconds to hours: none may wait behind another while a process is idle
    return _with(crew, {"n_jobs": crew.at_once, "batch_size": 1, "pre_dispatch": "n_jobs"})


def _submitit_local(plugin: Plugin, threads: int) -> Crew:
    crew = _on_this_machine(plugin, threads)
    params = {name: value for name, value in plugin.params.items() if name != "n_jobs"}
    own = replace(plugin, params={**params, "cpus_per_task": threads})
    return replace(crew, plugin=own, starts_all=True)


def _on_this_machine(plugin: Plugin, threads: int) -> Crew:
    cores, asked = physical_cores(), plugin.params["n_jobs"]
    at_once = asked or max(1, cores // threads)
    note = ""
    if at_once > 1 and at_once * threads > cores:
        fits = [f"hydra.launcher.n_jobs={max(1, cores // threads)}"]
        fits += [f"threads={cores // at_once}"] if cores >= at_once else []
        many = f"{at_once} cells at once of {_threads(threads)} each"
        note = f"{many} slow one another down on {cores} cores; {' or '.join(fits)} would fit"
    return Crew(plugin, threads, at_once, here=True, note=note)


def _submitit_slurm(plugin: Plugin, threads: int) -> Crew:
    cpus = plugin.params["cpus_per_task"] or threads
    _enough("hydra.launcher.cpus_per_task", cpus, threads)
    return _with(Crew(plugin, threads), {"cpus_per_task": cpus})


def _ray(plugin: Plugin, threads: int) -> Crew:
    params: dict[str, Any] = deepcopy(dict(plugin.params["ray"]))
    init, remote = params["init"], params["remote"]
    remote["num_cpus"] = cpus = remote["num_cpus"] or threads
    _enough("hydra.launcher.ray.remote.num_cpus", cpus, threads)
    init["logging_level"] = "ERROR"  # what it has to say of itself is in its own log files
    if init["address"] is not None:  # a cluster that runs already has its own
        kept = {name: value for name, value in init.items() if name not in ("num_cpus", "include_dashboard")}
        params["init"] = {**kept, "object_store_memory": None}  # null, or the plugin sets it
        return _with(Crew(plugin, threads), {"ray": params})
    init["num_cpus"] = total = init["num_cpus"] or physical_cores()
    if cpus > total:
        raise ConfigError(
            f"hydra/launcher=ray: a cell of {cpus} cores never finds room in a cluster of {total}; lower threads or "
            "hydra.launcher.ray.remote.num_cpus, or raise hydra.launcher.ray.init.num_cpus."
        )
    return _with(Crew(plugin, threads, total // cpus, here=True), {"ray": params})


_FITS: Mapping[str, Callable[[Plugin, int], Crew]] = {
    "JoblibLauncher": _joblib,
    "LocalLauncher": _submitit_local,
    "SlurmLauncher": _submitit_slurm,
    "RayLauncher": _ray,
}


def _kind(plugin: Plugin) -> str:
    return plugin.target.rpartition(".")[2]


def _with(crew: Crew, params: Mapping[str, Any]) -> Crew:
    return replace(crew, plugin=replace(crew.plugin, params={**crew.plugin.params, **params}))


def _enough(key: str, cpus: int, threads: int) -> None:
    if cpus < threads:
        raise ConfigError(f"{key}={cpus}: a cell has {_threads(threads)}; give as many cores, or threads={cpus}.")


def _threads(count: int) -> str:
    return f"{count} thread" if count == 1 else f"{count} threads"


def _installed(*modules: str) -> bool:
    try:
        return all(importlib.util.find_spec(name) is not None for name in modules)
    except (ImportError, ValueError):
        return False
