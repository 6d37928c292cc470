"""The runtime that computes with integers alone, from the file to the record."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from calling import QUICK, Bench

from qbench.artifact import save
from qbench.assets import instantiate
from qbench.catalog import options
from qbench.config import Choice
from qbench.errors import RuntimeUnavailable
from qbench.identity import TORCH
from qbench.methods.base import Context
from qbench.methods.integer import Integer
from qbench.program.encodings import Float
from qbench.program.graph import Node, Program
from qbench.record import Record, load_records
from qbench.runtime import load_runtime
from qbench.runtime.integer import IntegerRuntime
from qbench.runtime.torch_runtime import TorchRuntime

TARGET = "qbench.runtime.integer.IntegerRuntime"


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """``load`` sets the threads of the process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def images(count: int = 40) -> torch.Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def float_program() -> Program:
    generator = torch.Generator().manual_seed(0)
    attrs = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    nodes = (
        Node("conv", "conv2d", ("input",), attrs),
        Node("relu", "relu", ("conv",)),
        Node("flat", "flatten", ("relu",)),
        Node("fc", "linear", ("flat",)),
    )
    tensors = {
        "conv.weight": Float(torch.randn(4, 3, 3, 3, generator=generator)),
        "conv.bias": Float(torch.randn(4, generator=generator)),
        "fc.weight": Float(torch.randn(5, 64, generator=generator)),
    }
    return Program((3, 4, 4), nodes, tensors)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    program = Integer().compress(float_program(), Context(calibration=[images()]))
    save(program, tmp_path / "model.qbench")
    return tmp_path / "model.qbench"


def test_it_runs_files_of_integers(artifact: Path) -> None:
    executable = IntegerRuntime().load(artifact, threads=1)
    assert executable.kind == "integer" and torch.get_num_threads() == 1
    logits = executable(images())
    simulated = TorchRuntime().load(artifact, threads=1)(images())
    assert logits.shape == (40, 5) and logits.dtype == torch.float32 and logits.grad_fn is None
    torch.testing.assert_close(logits, simulated, rtol=0.0, atol=0.02 * float(simulated.std()))
    assert torch.equal(IntegerRuntime(check=True).load(artifact, threads=1)(images()), logits)


def test_what_it_cannot_run_is_said(tmp_path: Path) -> None:
    runtime = load_runtime(TARGET)
    assert runtime == IntegerRuntime() and runtime.name == "integer"
    reason = "input: has no grid; quantize activations statically, e.g. with method=integer"
    assert runtime.supports(float_program()) == reason
    save(float_program(), tmp_path / "model.qbench")
    with pytest.raises(RuntimeUnavailable, match=f"^runtime=integer cannot run model.qbench: {reason}$"):
        runtime.load(tmp_path / "model.qbench", threads=1)


def test_it_supports_what_it_can_run() -> None:
    program = Integer().compress(float_program(), Context(calibration=[images()]))
    assert IntegerRuntime().supports(program) is None


def test_the_runtime_of_the_baseline_is_the_one_of_the_yaml() -> None:
    option = options("runtime")["torch"]
    assert Choice("torch", option.load()["_target_"], option.parameters()) == TORCH
    assert instantiate("runtime", TORCH) == TorchRuntime()


def test_a_run_compares_with_the_float_baseline_on_torch(bench: Bench) -> None:
    quick = ("measure=quick", "measure.max_seconds=0.2", "measure.memory=false", "measure.batch_sizes=[1]")
    done = bench("run", *QUICK, *quick, "method=integer", "runtime=integer")
    assert done.code == 0, done.err
    (record,), _ = load_records(bench.outputs / "records")
    assert (record.runtime, record.latency_kind, record.latency_baseline_runtime) == ("integer", "integer", "torch")
    assert record.top1_percent is not None and record.latency_ms_median is not None
    (latency,) = record.latency
    assert (latency["candidate_kind"], latency["baseline_kind"]) == ("integer", "float")
    done = bench("run", *QUICK, "method=integer")
    assert done.code == 0, done.err
    records = {one.runtime: one for one in load_records(bench.outputs / "records")[0]}
    assert records["torch"].top1_baseline_percent == records["integer"].top1_baseline_percent
    assert records["torch"].artifact_sha256 == records["integer"].artifact_sha256
    assert abs((records["torch"].top1_percent or 0.0) - (records["integer"].top1_percent or 0.0)) <= 1.0
    assert records["torch"].latency_baseline_runtime is None


def test_a_file_it_cannot_run_is_a_failed_row(bench: Bench) -> None:
    done = bench("run", *QUICK, "method=linear", "runtime=integer")
    assert done.code == 1
    (record,), _ = load_records(bench.outputs / "records")
    assert isinstance(record, Record) and (record.status, record.error_kind) == ("failed", "expected")
    assert record.error is not None and record.error.startswith("runtime=integer cannot run model.qbench: input:")
