"""A whole sweep: trained once, tables from the files on disk, and the same end whenever it is killed."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from calling import QUICK, Bench, Finished
from faults.procs import agree, in_folder, results

from qbench.artifact import load
from qbench.data.augment import eval_batches
from qbench.data.synthetic import Synthetic
from qbench.files import file_sha256
from qbench.program.encodings import Affine, Float
from qbench.program.materialize import materialize

SWEEP = ("run", "-m", *QUICK, "method=fp32,linear", "bits=8,4")


def words(bench: Bench, *more: str) -> list[str]:
    return [*SWEEP, f"output_dir={bench.outputs}", f"store_dir={bench.store}", *more]


@pytest.fixture
def undisturbed(bench: Bench) -> Bench:
    whole = in_folder(bench, "undisturbed")
    assert bench(*words(whole)).code == 0
    return whole


def test_a_sweep_from_training_to_tables(bench: Bench, undisturbed: Bench) -> None:
    rows = results(undisturbed)
    assert list(rows["method"]) == ["fp32", "linear", "linear"] and set(rows["status"]) == {"ok"}
    assert rows["weight_bits"].tolist()[1:] == [8, 4] and pd.isna(rows["weight_bits"][0])
    assert len(list(undisturbed.store.glob("train/*/weights.safetensors"))) == 1
    sizes = rows["size_bytes"].tolist()
    assert sizes[0] > 3 * sizes[1] > 5 * sizes[2]
    assert rows["bits_per_weight"].round(1).tolist() == [32.0, 8.0, 4.0]
    assert rows["compression_ratio"].tolist() == pytest.approx([sizes[0] / size for size in sizes])
    assert (rows["n_test"] == 128).all() and (rows["top1_percent"] > 80).all()
    assert (rows["top1_baseline_percent"] == rows["top1_percent"][0]).all()
    assert rows["agreement_percent"][0] == 100.0
    again = bench(*words(undisturbed))
    assert again.code == 0 and "3 distinct runs; 7 stages, 0 to do" in again.out


def test_every_figure_is_that_of_the_file_on_disk(undisturbed: Bench) -> None:
    rows = results(undisturbed).set_index("artifact")
    for path in undisturbed.outputs.glob("runs/*/model.qbench"):
        row, program = rows.loc[str(path)], load(path)
        assert path.stat().st_size == row["size_bytes"] and file_sha256(path) == row["artifact_sha256"]
        kind = Float if row["method"] == "fp32" else Affine
        assert all(isinstance(program.tensors[f"{node.name}.weight"], kind) for node in program.layers())
        test = Synthetic().load_test(Path(), Path())
        made = program.provenance
        batches = eval_batches(test, 250, made["mean"], made["std"], "cpu")
        with torch.inference_mode():
            answers = torch.cat([materialize(program)(images).argmax(1) for images, _ in batches])
        # the run scored 128 of these; an estimate from all of them lies within four of its standard deviations
        accuracy = float((answers == test.labels).float().mean())
        deviation = (max(accuracy * (1 - accuracy), 0.01) / 128) ** 0.5
        assert abs(accuracy - row["top1_percent"] / 100) < 4 * deviation


def test_latency_and_memory_are_measured_in_processes_of_their_own(bench: Bench) -> None:
    words = [word for word in QUICK if not word.startswith("measure")]
    assert bench("run", *words, "method=linear", "bits=4", "measure=quick", "measure.batch_sizes=[2]").code == 0
    (row,) = results(bench).to_dict("records")
    assert (row["batch_size"], row["threads"], row["latency_kind"]) == (2, 1, "float")
    assert row["latency_ms_median"] > 0 and row["peak_memory_bytes"] > 10e6 and row["peak_memory_baseline_bytes"] > 10e6
    assert row["latency_ratio_low"] <= row["latency_ratio"] <= row["latency_ratio_high"]


def start(bench: Bench, *more: str) -> subprocess.Popen[str]:
    bench.home.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "qbench", *words(bench, *more)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=bench.home, env=bench.environment()
    )


def test_killed_in_the_middle_and_started_again(bench: Bench, undisturbed: Bench) -> None:
    killed = in_folder(bench, "killed")
    with start(killed) as sweep:
        assert sweep.stdout is not None
        for line in sweep.stdout:
            if line.startswith("[2/3]"):
                sweep.kill()
                break
    assert sweep.returncode == -9
    finished = bench(*words(killed))
    assert finished.code == 0 and "train" not in finished.out.split("[1/3]")[1].split("dataset")[0]
    agree(undisturbed, killed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_killed_at_any_instant_and_started_again(bench: Bench, seed: int) -> None:
    recipe = ("train.epochs=3", "tiny=false", "limit_train=640", "limit_test=128", "method=fp32,linear,kmeans")
    whole, killed = in_folder(bench, "whole"), in_folder(bench, "killed")
    began = time.monotonic()
    with start(whole, *recipe) as sweep:
        output = sweep.communicate()[0]
    assert sweep.returncode == 0, output
    seconds = time.monotonic() - began
    draw = random.Random(seed)
    for _ in range(5):
        with start(killed, *recipe) as sweep:
            try:
                sweep.communicate(timeout=draw.uniform(0.2, 1.0) * seconds)
            except subprocess.TimeoutExpired:
                sweep.kill()
                sweep.communicate()
    finished: Finished = bench(*words(killed, *recipe))
    assert finished.code == 0
    agree(whole, killed)
