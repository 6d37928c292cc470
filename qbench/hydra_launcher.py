"""A launcher of Hydra's outside its command line: made of its settings, and released when a sweep is over."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize
from hydra._internal.callbacks import Callbacks
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import flag_override

from qbench.errors import RuntimeUnavailable
from qbench.jobs import Job
from qbench.launchers import Crew

CONFIG = "qbench_job"  # the config that a launcher composes for each job: one key, which names the cell


def make_launcher(crew: Crew, folder: Path, job: Job) -> Launcher:
    """Hydra's plugin, ready to be given jobs.

    Raises:
        RuntimeUnavailable: Hydra cannot make it.
    """
    ConfigStore.instance().store(name=CONFIG, node={"job": ""})
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    words = [f"hydra.sweep.dir='{quoted}'", "hydra.sweep.subdir=.", "hydra.output_subdir=null"]
    words += ["hydra/job_logging=none", "hydra/hydra_logging=none"]  # the console is ours
    with initialize(version_base="1.3", config_path=None, job_name="qbench"):
        config = compose(CONFIG, words, return_hydra_config=True)
        loader = GlobalHydra.instance().config_loader()
    with flag_override(config, ["struct", "readonly"], False):
        config.hydra.launcher = crew.plugin.node()
    context = HydraContext(config_loader=loader, callbacks=Callbacks())
    try:
        return Plugins.instance().instantiate_launcher(context, job, config)
    except Exception as error:
        raise RuntimeUnavailable(f"hydra/launcher={crew.plugin.name}: {one_line(error)}") from error


def release(crew: Crew) -> None:
    """Hand back the idle processes that joblib keeps, and a cluster of Ray that was started here."""
    if ".hydra_joblib_launcher." in crew.plugin.target:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor(reuse=True).shutdown(wait=True)
    if ".hydra_ray_launcher." in crew.plugin.target:
        import ray

        ray.shutdown()


def one_line(error: BaseException) -> str:
    """What an error is and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")
