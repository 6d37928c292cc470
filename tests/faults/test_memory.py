"""Running out of memory: the row says in which stage and what to lower, and the sweep goes on."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from calling import Bench
from faults.procs import SMALL, call, in_stage, results

from qbench.rows import OUT_OF_MEMORY

ROOM_BYTES = 200_000_000  # beyond what the process has when training begins
# a step over 1800 images keeps several outputs of 100 MB each, one over 20 several of 1 MB
RUN = ("run", "-m", "dataset=synthetic", "dataset.train_images=2200", "dataset.test_images=100",
       "dataset.calibration_images=64", "model=small_cnn", "train.epochs=1", "train.batch_size=1800,20",
       "measure=none", "threads=1", "method=linear", "bits=4")  # fmt: skip


def little_room() -> None:
    """Let the system refuse this process more memory, as it does when there is none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == hard:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM_BYTES, hard))


def test_a_batch_that_does_not_fit(bench: Bench) -> None:
    code, output = call(bench, RUN, in_stage("train", little_room))
    assert code == 1 and "Traceback" not in output, output
    rows = results(bench)
    assert sorted(rows["status"]) == ["failed", "ok"], rows["error"].tolist()
    (failed,) = rows[rows["status"] == "failed"].to_dict("records")
    assert failed["error"] == "out of memory while training: lower train.batch_size"
    assert failed["error_kind"] == "expected"
    assert "allocate memory" in Path(failed["traceback"]).read_text()
    lines = output.splitlines()
    assert lines[-3].startswith("1 of 2 runs failed; tracebacks: ")
    assert [word for word in lines[-1].split() if "batch_size" in word] == ["train.batch_size=1800"]


def run_out() -> None:
    """What Python does when the system refuses it memory."""
    bytearray(1 << 62)


@pytest.mark.parametrize("stage", ["train", "quantize", "score"])
def test_every_stage_says_what_to_lower(bench: Bench, stage: str) -> None:
    code, _ = call(bench, ["run", *SMALL, "method=linear"], in_stage(stage, run_out))
    (row,) = results(bench).to_dict("records")
    assert (code, row["status"], row["error"], row["error_kind"]) == (1, "failed", OUT_OF_MEMORY[stage], "expected")
    assert "MemoryError" in Path(row["traceback"]).read_text()
