"""A sweep through Hydra's launchers: the same tables whichever runs it, and no cell lost when a process is."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pandas as pd
import pytest
from calling import QUICK, Bench, Finished
from faults.procs import TIMES, artefacts, in_folder, results, start, wait_until

import qbench.launchers
from qbench.jobs import Ending, Job, Marks, as_override, from_override
from qbench.launchers import Crew

CELLS = (*QUICK, "model=mlp", "bits=4")
METHODS = '''
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from qbench.methods.base import Context, Needs
from qbench.program.graph import Program


@dataclass(frozen=True)
class Broken:
    """Does, in whatever process it is, what its parameter says."""

    how: str = "raise"
    needs: ClassVar[Needs] = Needs()

    def compress(self, baseline: Program, context: Context) -> Program:
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "wait":
            Path("waiting").touch()
            time.sleep(600)
        if self.how == "interrupt":
            raise KeyboardInterrupt
        raise ValueError("a mistake of the user's")
'''


@pytest.fixture
def mine(bench: Bench) -> Path:
    """A config folder with a method that never ends well, and a launcher that runs cells in this process."""
    folder = bench.home / "mine" / "configs"
    for group, name, text in (
        ("method", "broken", "_target_: breaking.Broken\nsummary: breaks\nhow: raise\n"),
        ("hydra/launcher", "inside", "_target_: hydra._internal.core_plugins.basic_launcher.BasicLauncher\n"),
    ):
        (folder / group).mkdir(parents=True)
        (folder / group / f"{name}.yaml").write_text(text)
    (folder.parent / "breaking.py").write_text(METHODS)
    return folder


def sweep(bench: Bench, folder: Path, *more: str) -> list[str]:
    places = (f"output_dir={bench.outputs}", f"store_dir={bench.store}")
    return ["run", "-m", "--config-dir", str(folder), *CELLS, *places, *more]


def same(left: Bench, right: Bench) -> None:
    """The same rows but for time and place, and the same bytes of every artefact."""
    one, other = (results(bench).drop(columns=[*TIMES, "traceback"]) for bench in (left, right))
    pd.testing.assert_frame_equal(one, other)
    assert artefacts(left) == artefacts(right) and artefacts(left)


def said(done: Finished) -> set[str]:
    """What was said of cells, without their order."""
    return {line.partition("] ")[2] for line in done.out.splitlines() if line.startswith("[")}


def test_joblib_makes_the_table_of_one_process_failures_too(bench: Bench, mine: Path) -> None:
    basic, several = in_folder(bench, "basic"), in_folder(bench, "several")
    methods = "method=linear,kmeans,broken"
    assert bench(*sweep(basic, mine, methods)).code == 1
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = bench(*sweep(several, mine, methods, *joblib))
    assert done.code == 1
    same(basic, several)
    assert "launcher joblib: 2 at once on this machine, 1 thread each" in done.out
    assert said(done) == {
        "synthetic mlp linear w4 done",
        "synthetic mlp kmeans w4 done",
        "synthetic mlp broken failed: ValueError: a mistake of the user's",
    }
    last = [line.strip() for line in done.out.splitlines() if line.strip()][-2:]
    assert last[0] == "run just those again with:"
    assert last[1].startswith(
        f"qbench run -m --config-dir {mine} hydra/launcher=joblib hydra.launcher.n_jobs=2 dataset"
    )
    assert last[1].endswith("method=broken")
    assert list((several.outputs / "jobs").iterdir()) == []
    again = bench(*sweep(several, mine, "method=linear,kmeans", *joblib))
    assert again.code == 0 and "[1/2] synthetic mlp linear w4\n" in again.out  # read here, by no process of joblib


def test_submitit_makes_the_table_of_one_process(bench: Bench, mine: Path) -> None:
    basic, several = in_folder(bench, "basic"), in_folder(bench, "several")
    assert bench(*sweep(basic, mine, "method=linear,kmeans")).code == 0
    done = bench(*sweep(several, mine, "method=linear,kmeans", "hydra/launcher=submitit_local"))
    assert done.code == 0 and said(done) == {"synthetic mlp linear w4 done", "synthetic mlp kmeans w4 done"}
    same(basic, several)


def test_ray_makes_the_table_of_one_process(bench: Bench, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR")  # a socket's name has at most 107 characters
    basic, several = in_folder(bench, "basic"), in_folder(bench, "several")
    assert bench(*sweep(basic, mine, "method=linear,kmeans")).code == 0
    done = bench.process(
        *sweep(several, mine, "method=linear,kmeans", "hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=2")
    )
    assert (done.code, done.err) == (0, "")
    assert said(done) == {"synthetic mlp linear w4 done", "synthetic mlp kmeans w4 done"}
    same(basic, several)


def test_a_cell_whose_process_is_killed_is_a_row_and_the_others_go_on(bench: Bench, mine: Path) -> None:
    words = ("method=linear,deadly", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    (mine / "method" / "deadly.yaml").write_text("_target_: breaking.Broken\nsummary: dies\nhow: kill\n")
    done = bench(*sweep(bench, mine, *words))
    assert done.code == 1
    rows = results(bench).set_index("method")
    assert rows["status"].to_dict() == {"linear": "ok", "deadly": "failed"}
    assert "the process that ran this cell was ended from outside, twice" in rows["error"]["deadly"]
    assert "1 of 2 runs failed" in done.out and done.out.rstrip().endswith("method=deadly")


def test_sigterm_ends_the_processes_and_keeps_what_is_done(bench: Bench, mine: Path) -> None:
    words = ("method=linear,endless", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    (mine / "method" / "endless.yaml").write_text("_target_: breaking.Broken\nsummary: waits\nhow: wait\n")
    running = start(bench, sweep(bench, mine, *words))
    wait_until((bench.home / "waiting").exists)
    marks = Marks(next((bench.outputs / "jobs").iterdir()))
    (endless,) = [path.stem for path in marks.folder.glob("*.lock") if marks.held(path.stem)]
    os.kill(running.process.pid, signal.SIGTERM)
    code, out = running.end()
    assert code == 130 and "1 of 2 runs are rows of the tables" in out and "go on with:" in out
    assert not marks.held(endless) and marks.stopped
    assert list(results(bench)["method"]) == ["linear"]


# --- in this process, with Hydra's own launcher


INSIDE = "hydra/launcher=inside"


def test_one_cell_of_each_training_comes_first(bench: Bench, mine: Path) -> None:
    done = bench(*sweep(bench, mine, "seed=0,1", "method=linear,kmeans", INSIDE))
    assert done.code == 0
    methods = [line.split()[3] for line in done.out.splitlines() if line.startswith("[")]
    assert methods == ["linear", "linear", "kmeans", "kmeans"]  # of two trainings each


def test_what_is_timed_is_timed_at_the_end_alone(bench: Bench, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(qbench.launchers._FITS, "BasicLauncher", lambda one, n: Crew(one, n, 1, here=True))
    timed = ("measure=quick", "measure.memory=false", "measure.batch_sizes=[2]", "method=linear,broken")
    done = bench(*sweep(bench, mine, *timed, INSIDE))
    assert done.code == 1
    before, _, after = done.out.partition("1 to be timed, one after another on this machine\n")
    assert "linear w4 made, to be timed" in before and "broken failed: ValueError" in before
    assert "[1/1] synthetic mlp linear w4\n  profile" in after and "broken" not in after.partition("dataset")[0]
    row = results(bench).set_index("method").loc["linear"]
    assert row["latency_ratio"] > 0 and "contended" not in str(row["warning"])


def test_ctrl_c_in_a_cell_ends_the_sweep(bench: Bench, mine: Path) -> None:
    (mine / "method" / "leaving.yaml").write_text("_target_: breaking.Broken\nsummary: leaves\nhow: interrupt\n")
    done = bench(*sweep(bench, mine, "method=linear,leaving,kmeans", INSIDE))
    assert done.code == 130 and "1 of 3 runs are rows of the tables" in done.out
    assert list(results(bench)["method"]) == ["linear"]


def test_a_launcher_that_starts_nothing_says_why(bench: Bench, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    def refuse(self: BasicLauncher, job_overrides: object, initial_job_idx: int) -> None:
        raise RuntimeError("Could not detect sbatch\nare you on a cluster?")

    monkeypatch.setattr(BasicLauncher, "launch", refuse)
    done = bench(*sweep(bench, mine, "method=linear", INSIDE))
    assert done.code == 1
    assert done.err == "qbench: hydra/launcher=inside: RuntimeError: Could not detect sbatch\n"


def test_slurm_is_planned_without_a_cluster(bench: Bench) -> None:
    words = ("hydra/launcher=submitit_slurm", "hydra.launcher.partition=short", "hydra.launcher.cpus_per_task=4")
    done = bench("run", "-m", "method=linear,kmeans", "dry=true", *words)
    assert done.code == 0
    assert done.out.endswith("launcher submitit_slurm: jobs of the cluster, 4 threads each\n")


def test_slurm_is_asked_for_what_the_command_says(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as that goes without a cluster: to sbatch, which keeps the script it is given and refuses."""
    tools = bench.home / "tools"
    tools.mkdir()
    for name, script in (
        ("srun", "exit 0"),
        ("sbatch", f'cp "$1" {tools}/script; echo "invalid partition" >&2; exit 1'),
    ):
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    words = ("partition=short", "timeout_min=60", "mem_gb=8", "additional_parameters={exclusive: true}")
    slurm = ("hydra/launcher=submitit_slurm", *(f"hydra.launcher.{word}" for word in words))
    done = bench("run", "-m", *CELLS, "threads=3", "seed=0,1", "method=linear", *slurm)
    assert done.code == 1
    assert done.err.endswith("qbench: hydra/launcher=submitit_slurm: FailedJobError: invalid partition\n")
    asked = {line for line in (tools / "script").read_text().splitlines() if line.startswith("#SBATCH")}
    wanted = (
        "partition=short",
        "time=60",
        "mem=8GB",
        "cpus-per-task=3",
        "array=0-1%2",
        "job-name=qbench",
        "exclusive",
    )
    assert {f"#SBATCH --{option}" for option in wanted} <= asked
    (folder,) = (bench.outputs / "jobs").iterdir()
    assert f"#SBATCH --output={folder}/%A_%a/%A_%a_0_log.out" in asked


def test_a_missing_library_is_one_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    done = bench("run", "-m", "method=linear,kmeans", "hydra/launcher=submitit_local")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert done.err.endswith('needs submitit and its plugin for Hydra: pip install "qbench[submitit]"\n')


# --- a job


@pytest.mark.parametrize(
    "overrides",
    [[], ["method=linear", "bits=4"], ["data_dir='/a b/it\\'s, 50%'", "method.overrides={a*: 8}", "seed=${oc.env:N}"]],
    ids=str,
)
def test_a_cell_survives_being_an_override_of_hydra(overrides: list[str]) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    override = OverridesParser.create().parse_override(as_override("key", overrides))
    assert override.key_or_group == "job" and not override.is_sweep_override()
    value = override.value()
    assert from_override(str(getattr(value, "text", value))) == ("key", overrides)


def test_a_job_begins_nothing_that_is_done_stopped_or_in_other_hands(tmp_path: Path) -> None:
    from types import SimpleNamespace

    marks, job = Marks(tmp_path), Job(tmp_path, tmp_path, None, {}, timing=True)
    marks.end("done", Ending("run", "ok"))
    assert job(SimpleNamespace(job="done ")) == Ending("run", "ok")
    with marks.lock("held"):
        assert marks.held("held") and job(SimpleNamespace(job="held ")) == Ending("held", "running")
    marks.stop()
    assert job(SimpleNamespace(job="new ")) == Ending("new", "stopped") and not marks.started("new")
