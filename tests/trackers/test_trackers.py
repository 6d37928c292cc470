"""Trackers: what they were told, read back by the libraries' own readers; told twice, failing, missing."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from calling import QUICK, Bench

from qbench.record import Record, load_records
from qbench.runtime.extras import import_extra, quietly
from qbench.trackers.base import Tracked, curves_of, metrics_of, params_of
from qbench.trackers.mlflow import SETTINGS, MLflow
from qbench.trackers.tensorboard import TensorBoard

RUN = ("run", *QUICK, "method=kmeans_qat", "bits=4", "method.epochs=2")


@pytest.fixture
def told(tmp_path: Path) -> Tracked:
    artefact = tmp_path / "model.qbench"
    artefact.write_bytes(b"weights")
    return Tracked(
        run_id="0123456789ab",
        name="digits_mlp_linear_w4_s0_0123456789ab",
        status="ok",
        params={"method": "linear", "method.fold": True, "train.lr": 0.5, "seed": 3},
        metrics={"top1_percent": 96.5, "latency.ratio/batch_32": 1.25},
        curves={"baseline/train_loss": ((0, 2.0), (1, 1.5))},
        tags={"artifact": str(artefact), "warning": "left float: a|b"},
        files=(artefact,),
    )


def board(folder: Path) -> Any:
    """TensorBoard's own reader of a run."""
    with quietly():
        reader = import_extra("tensorboard.backend.event_processing.event_accumulator", "tensorboard")
        return reader.EventAccumulator(str(folder)).Reload()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = board(folder)
    return {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def active_runs(folder: Path) -> tuple[Any, list[Any]]:
    """MLflow's own client, and the runs it finds."""
    with quietly():
        client = import_extra("mlflow", "mlflow").MlflowClient(folder.resolve().as_uri())
        experiments = [one.experiment_id for one in client.search_experiments()]
        return client, list(client.search_runs(experiments)) if experiments else []


def curve(client: Any, run: Any, name: str) -> list[tuple[int, float]]:
    with quietly():
        return [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)]


# --- TensorBoard


def test_tensorboard_has_scalars_parameters_and_the_run_as_text(told: Tracked, tmp_path: Path) -> None:
    TensorBoard(str(tmp_path / "board")).log(told)
    folder = tmp_path / "board" / told.name
    assert scalars(folder) == {
        "baseline/train_loss": [(0, 2.0), (1, 1.5)],
        "top1_percent": [(0, 96.5)],
        "latency.ratio/batch_32": [(0, 1.25)],
    }
    found = board(folder)
    text = found.Tensors("run/text_summary")[0].tensor_proto.string_val[0].decode()
    assert f"| run | {told.run_id} |" in text and str(told.files[0]) in text and "| warning | left float: a/b |" in text
    plugin = import_extra("tensorboard.plugins.hparams.plugin_data_pb2", "tensorboard")
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    values = plugin.HParamsPluginData.FromString(content).session_start_info.hparams
    given = {name: value.string_value or value.number_value or value.bool_value for name, value in values.items()}
    assert given == dict(told.params)


def test_tensorboard_told_twice_has_one_row_and_replaces_what_changed(told: Tracked, tmp_path: Path) -> None:
    tracker, folder = TensorBoard(str(tmp_path / "board")), tmp_path / "board" / told.name
    tracker.log(told)
    (events,) = folder.glob("events.*")
    before = events.read_bytes()
    tracker.log(told)
    assert [one.read_bytes() for one in folder.glob("events.*")] == [before]
    tracker.log(replace(told, metrics={"top1_percent": 50.0}))
    assert scalars(folder)["top1_percent"] == [(0, 50.0)] and len([*folder.glob("events.*")]) == 1


# --- MLflow


def test_mlflow_has_parameters_metrics_tags_and_the_artefact(told: Tracked, tmp_path: Path) -> None:
    MLflow(str(tmp_path / "mlruns"), experiment="mine").log(told)
    client, (run,) = active_runs(tmp_path / "mlruns")
    assert run.data.params == {name: str(value) for name, value in told.params.items()}
    assert run.data.metrics == {"top1_percent": 96.5, "latency.ratio/batch_32": 1.25, "baseline/train_loss": 1.5}
    assert curve(client, run, "baseline/train_loss") == [(0, 2.0), (1, 1.5)]
    assert run.data.tags["qbench.run_id"] == told.run_id and run.data.tags["qbench.warning"] == "left float: a|b"
    assert (run.info.run_name, run.info.status) == (told.name, "FINISHED")
    with quietly():
        assert client.get_experiment(run.info.experiment_id).name == "mine"
        assert [one.path for one in client.list_artifacts(run.info.run_id)] == ["model.qbench"]
        copied = client.download_artifacts(run.info.run_id, "model.qbench", str(tmp_path))
    assert Path(copied).read_bytes() == b"weights"


def test_mlflow_told_twice_has_one_run_and_replaces_what_changed(told: Tracked, tmp_path: Path) -> None:
    folder = tmp_path / "mlruns"
    tracker, changed = MLflow(str(folder), artifacts=False), replace(told, status="failed", metrics={})
    tracker.log(told)
    client, (run,) = active_runs(folder)
    with quietly():
        assert client.list_artifacts(run.info.run_id) == []
    tracker.log(told)
    assert [one.info.run_id for one in active_runs(folder)[1]] == [run.info.run_id]
    assert curve(client, run, "top1_percent") == [(0, 96.5)]
    tracker.log(changed)
    (again,) = active_runs(folder)[1]
    assert again.info.run_id != run.info.run_id and again.info.status == "FAILED"
    with quietly():
        client.delete_run(again.info.run_id)  # by the user: then the same is told anew
    tracker.log(changed)
    assert len(active_runs(folder)[1]) == 1


def test_mlflow_takes_more_than_it_takes_at_once(told: Tracked, tmp_path: Path) -> None:
    long = tuple((step, float(step)) for step in range(1200))
    MLflow(str(tmp_path / "mlruns")).log(
        replace(told, params={f"p{number}": number for number in range(130)}, curves={"long": long})
    )
    client, (run,) = active_runs(tmp_path / "mlruns")
    assert len(run.data.params) == 130 and tuple(curve(client, run, "long")) == long


def test_nothing_is_sent_anywhere(told: Tracked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[object] = []

    def refuse(*arguments: object, **named: object) -> Any:
        called.append(arguments)
        raise OSError("no network")

    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    MLflow(str(tmp_path / "mlruns")).log(told)
    TensorBoard(str(tmp_path / "board")).log(told)
    assert called == [] and os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


# --- from a run


def test_a_run_tells_its_tracker_and_nothing_else_changes(bench: Bench) -> None:
    def files() -> dict[str, bytes]:
        kept = [*bench.outputs.glob("records/*"), *bench.outputs.glob("runs/*/*")]
        return {str(path): path.read_bytes() for path in [*kept, *bench.store.glob("*/*/manifest.json")]}

    assert bench(*RUN).code == 0
    untracked = files()
    for tracker in ("tensorboard", "mlflow", "tensorboard", "mlflow"):
        done = bench(*RUN, f"tracker={tracker}")
        assert (done.code, done.err) == (0, ""), done.out
        assert " done" not in done.out and "not logged" not in done.out  # everything was there
    assert files() == untracked
    (record,), _ = load_records(bench.outputs / "records")
    (folder,) = (bench.outputs / "tensorboard").iterdir()
    figures = scalars(folder)
    assert [value for _, value in figures["baseline/train_loss"]] == pytest.approx([record.history[0]["train_loss"]])
    assert len(figures["fine_tuning_0/validation_loss"]) == 1  # tiny: one epoch
    client, (run,) = active_runs(bench.outputs / "mlruns")
    for name in ("top1_percent", "size_bytes", "bops", "sqnr_db", "train_seconds"):
        assert run.data.metrics[name] == pytest.approx(getattr(record, name)) == pytest.approx(figures[name][0][1])
    wanted = {"dataset": "synthetic", "model": "small_cnn", "method": "kmeans_qat", "method.weight_bits": "4"}
    assert wanted.items() <= run.data.params.items() and run.data.params["trainer.devices"] == "1"
    assert run.data.tags["qbench.artifact_sha256"] == record.artifact_sha256
    with quietly():
        assert [one.path for one in client.list_artifacts(run.info.run_id)] == ["model.qbench"]


def test_a_tracker_that_fails_loses_no_record(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.outputs.mkdir(parents=True)
    (bench.outputs / "tensorboard").write_text("a file where a folder should be")
    done = bench("run", *QUICK, "method=fp32", "tracker=tensorboard")
    assert done.code == 0
    (record,), problems = load_records(bench.outputs / "records")
    assert record.status == "ok" and problems == []
    (said,) = caplog.messages
    assert said.startswith(f"tracker=tensorboard: run {record.run_id} was not logged (NotADirectoryError: ")
    assert said.endswith("its record is kept, and the same command logs it again")


@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow"])
def test_a_missing_extra_is_said_before_anything_runs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    monkeypatch.setattr("qbench.runtime.extras.find_spec", lambda name: None)
    done = bench("run", *QUICK, f"tracker={tracker}")
    line = f'qbench: tracker={tracker}: {tracker} is not installed; pip install "qbench[{tracker}]"\n'
    assert (done.code, done.out, done.err) == (2, "", line)
    assert not bench.store.exists() and not bench.outputs.exists()


def test_a_sweep_has_one_tracker(bench: Bench) -> None:
    done = bench("run", "-m", *QUICK, "tracker=mlflow,tensorboard")
    assert done.code == 2 and "tracker has one value for the whole sweep." in done.err


# --- what is told


def test_figures_are_numbers_and_parameters_are_none_of_them() -> None:
    measured = {"batch_size": 8, "ratio": 1.5, "candidate_energy_J": None, "runtime": "torch"}
    record = Record(
        "x", "ok", "digits", "mlp", "linear", 3, "torch", weight_bits=4, top1_percent=90.0, loss=float("inf"),
        latency=(measured,),
    )  # fmt: skip
    assert metrics_of(record) == {"top1_percent": 90.0, "latency.ratio/batch_8": 1.5}


def test_curves_are_those_of_every_training() -> None:
    epoch = {"epoch": 0, "train_loss": 1.0, "validation_loss": None, "seconds": 2.0, "lr": 0.5}
    record = Record("x", "ok", "digits", "mlp", "qat", 0, "torch", history=(epoch,))
    assert curves_of(record, None) == {"baseline/train_loss": ((0, 1.0),), "baseline/lr": ((0, 0.5),)}


def test_parameters_are_the_composed_choices() -> None:
    choice = {"name": "digits", "target": "a.B", "params": {"noise": 0.5}, "variant": "", "peer": None}
    step = {"_target_": "c.D", "sparsity": 0.9}
    config = {
        "dataset": {"choice": choice, "augment": {"flip": True}, "split_seed": 0},
        "method": {**choice, "name": "mine", "params": {"prune": step, "overrides": {"a": 1}, "group_size": None}},
        "train": {"lr": 0.1},
        "seed": 1,
        "limit_test": None,
    }
    assert params_of(config) == {
        "dataset": "digits", "dataset.noise": 0.5, "dataset.augment.flip": True, "dataset.split_seed": 0,
        "method": "mine", "method.prune.sparsity": 0.9, "method.overrides": '{"a": 1}', "method.group_size": "null",
        "train.lr": 0.1, "seed": 1, "limit_test": "null",
    }  # fmt: skip
