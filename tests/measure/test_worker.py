"""Real worker processes, with made-up engines that need no torch."""

import io
import json
import os
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from qbench.errors import QBenchError
from qbench.measure.latency import LatencySettings, measure_pair
from qbench.measure.latency_worker import ArtifactEngine, peak_rss_bytes, serve
from qbench.measure.memory import peak_memory
from qbench.measure.worker import EngineSpec, Worker, artifact_engine

MEBIBYTE = 2**20

ENGINES = """
import os, sys, time

def sleeper(args):
    def engine(batch_size):
        time.sleep(args["seconds"] * batch_size)
    engine.kind = args.get("kind")
    return engine

def chatty(args):
    print("a library greets you")
    return lambda batch_size: print("and again")

def threads(args):
    count = int(os.environ["OMP_NUM_THREADS"])
    def engine(batch_size): pass
    engine.kind = f"{count} threads"
    return engine

def broken(args):
    raise RuntimeError("no such artefact")

def mortal(args):
    def engine(batch_size):
        print("last words", file=sys.stderr, flush=True)
        os._exit(3)
    return engine

def hanging(args):
    time.sleep(60)

def greedy_loader(args):
    scratch = b"x" * args["scratch"]
    del scratch
    return lambda batch_size: None

def hungry(args):
    weights = b"x" * args["weights"]
    def engine(batch_size):
        activations = b"y" * (args["activations"] * batch_size)
        return len(weights) + len(activations)
    return engine
"""


@pytest.fixture(autouse=True)
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_up_engines.py").write_text(ENGINES)
    monkeypatch.syspath_prepend(tmp_path)


def spec(function: str, *, threads: int = 1, **args: Any) -> EngineSpec:
    return EngineSpec("candidate", f"made_up_engines.{function}", args, threads=threads)


def children() -> list[psutil.Process]:
    """Workers of this process that still live; other tests may keep children of their own."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # gone since it was listed
            if "qbench.measure.latency_worker" in child.cmdline():
                found.append(child)
    return found


def test_a_worker_times_every_call() -> None:
    with Worker(spec("sleeper", seconds=0.002, kind="float")) as worker:
        assert worker.ready["kind"] == "float"
        seconds = worker.request(batch_size=2, inner=3)["seconds"]
        assert len(seconds) == 3
        assert min(seconds) >= 0.004  # sleep never returns early
        assert len(worker.request(batch_size=1, inner=5)["seconds"]) == 5
    assert children() == []


def test_two_workers_are_measured_as_a_pair() -> None:
    settings = LatencySettings(min_rounds=3, max_seconds=0.0, turn_seconds=0.005, warmup_calls=1)
    result = measure_pair(
        spec("sleeper", seconds=0.001, kind="integer"),
        spec("sleeper", seconds=0.010, kind="float"),
        batch_size=1,
        settings=settings,
    )
    assert (result.candidate_kind, result.baseline_kind) == ("integer", "float")
    assert result.rounds == 3
    assert result.ratio > 1  # ten times by design; how near depends on the machine
    assert children() == []


def test_an_engine_that_prints_does_not_break_the_protocol() -> None:
    with Worker(spec("chatty")) as worker:
        assert len(worker.request(batch_size=1, inner=2)["seconds"]) == 2


def test_threads_are_set_before_anything_is_imported() -> None:
    with Worker(spec("threads", threads=3)) as worker:
        assert worker.ready["kind"] == "3 threads"


def test_an_engine_that_does_not_load_says_why() -> None:
    with (
        pytest.raises(QBenchError, match=r"(?s)candidate engine died while loading.*no such artefact"),
        Worker(spec("broken")),
    ):
        pass
    assert children() == []


def test_an_engine_that_dies_leaves_its_last_words() -> None:
    with Worker(spec("mortal")) as worker, pytest.raises(QBenchError, match=r"(?s)running \(exit code 3\).*last words"):
        worker.request(batch_size=1, inner=1)
    assert children() == []


def test_a_request_to_a_dead_worker_fails_too() -> None:
    with Worker(spec("mortal")) as worker:
        for _ in range(2):
            with pytest.raises(QBenchError, match=r"died while running \(exit code 3\)"):
                worker.request(batch_size=1, inner=1)


def test_a_load_that_hangs_times_out() -> None:
    with (
        pytest.raises(QBenchError, match=r"did not answer within 0\.5 s while loading"),
        Worker(spec("hanging"), start_timeout=0.5),
    ):
        pass
    assert children() == []


def test_a_call_that_hangs_times_out() -> None:
    slow = spec("sleeper", seconds=60)
    answer = pytest.raises(QBenchError, match=r"did not answer within 0\.2 s while running")
    with Worker(slow, answer_timeout=0.2) as worker, answer:
        worker.request(batch_size=1, inner=1)
    assert children() == []


def test_ctrl_c_leaves_no_process() -> None:
    with pytest.raises(KeyboardInterrupt), Worker(spec("sleeper", seconds=0)):
        assert len(children()) == 1
        raise KeyboardInterrupt
    assert children() == []


def test_memory_is_split_into_weights_and_activations() -> None:
    result = peak_memory(spec("hungry", weights=48 * MEBIBYTE, activations=12 * MEBIBYTE), batch_size=2, calls=2)
    # the interpreter's own allocations are a few pages; the kernel counts resident pages in batches of 64 per thread
    assert result.weights_bytes == pytest.approx(48 * MEBIBYTE, abs=2 * MEBIBYTE)
    assert result.activations_bytes == pytest.approx(24 * MEBIBYTE, abs=2 * MEBIBYTE)
    total = result.baseline_rss_bytes + result.weights_bytes + result.activations_bytes
    assert result.peak_memory_bytes == pytest.approx(total, abs=2 * MEBIBYTE)
    assert MEBIBYTE < result.baseline_rss_bytes < 200 * MEBIBYTE


def test_memory_needed_only_to_load_counts_in_the_peak_alone() -> None:
    result = peak_memory(spec("greedy_loader", scratch=48 * MEBIBYTE), batch_size=1)
    assert result.peak_memory_bytes >= result.baseline_rss_bytes + 46 * MEBIBYTE
    assert result.weights_bytes < 2 * MEBIBYTE
    if Path("/proc/self/clear_refs").exists():  # elsewhere the peak cannot be reset after loading
        assert result.activations_bytes < 2 * MEBIBYTE


def test_the_peak_is_the_workers_own_not_its_parents() -> None:
    ballast = b"z" * (300 * MEBIBYTE)  # a child's ru_maxrss would start at its parent's
    result = peak_memory(spec("hungry", weights=1, activations=1), batch_size=1)
    assert len(ballast) == 300 * MEBIBYTE
    assert result.peak_memory_bytes < 200 * MEBIBYTE


@pytest.mark.parametrize(("batch_size", "calls"), [(0, 1), (1, 0)])
def test_memory_refuses_nothing_to_run(batch_size: int, calls: int) -> None:
    with pytest.raises(ValueError, match="batch_size and calls"):
        peak_memory(spec("hungry", weights=1, activations=1), batch_size=batch_size, calls=calls)


def test_serve_makes_one_call_more_than_it_times() -> None:
    batches: list[int] = []
    answers = io.StringIO()
    serve(batches.append, io.StringIO('{"batch_size": 4, "inner": 3}\n{"batch_size": 2, "inner": 1}\n'), answers)
    assert batches == [4, 4, 4, 4, 2, 2]
    assert [len(json.loads(line)["seconds"]) for line in answers.getvalue().splitlines()] == [3, 1]


def test_the_kind_is_that_of_the_kernels_that_ran() -> None:
    """A runtime that compiles at the first call knows it no earlier."""

    class Late:
        kind = "simulated"

        def __call__(self, batch_size: int) -> None:
            self.kind = "integer"

    answers = io.StringIO()
    serve(Late(), io.StringIO('{"batch_size": 1, "inner": 1}\n'), answers)
    assert json.loads(answers.getvalue())["kind"] == "integer"


def test_peak_is_at_least_what_is_resident() -> None:
    assert peak_rss_bytes() >= 0.9 * psutil.Process(os.getpid()).memory_info().rss


def test_an_artefact_is_loaded_through_its_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {"shapes": []}

    class Executable:
        kind = "integer"

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            assert torch.is_inference_mode_enabled()
            seen["shapes"].append(tuple(images.shape))
            return images.sum(dim=(1, 2, 3))

    def load(path: Path, *, threads: int) -> Executable:
        seen.update(path=path, threads=threads)
        return Executable()

    def load_runtime(target: str, params: dict[str, object]) -> SimpleNamespace:
        seen["target"] = target
        return SimpleNamespace(load=load)

    monkeypatch.setattr("qbench.runtime.load_runtime", load_runtime, raising=False)
    engine_spec = artifact_engine("candidate", Path("m.qbench"), "some.runtime.Fast", (3, 8, 8), threads=1)
    assert engine_spec.preload == ("torch", "some.runtime")
    before = torch.get_num_threads()
    try:
        engine = ArtifactEngine(**json.loads(json.dumps(engine_spec.args)))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    engine(5)
    engine(2)
    assert engine.kind == "integer"
    assert seen == {
        "target": "some.runtime.Fast",
        "path": Path("m.qbench"),
        "threads": 1,
        "shapes": [(5, 3, 8, 8), (2, 3, 8, 8)],
    }


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"factory": "engine"}], ids=["threads", "factory"])
def test_engines_that_cannot_start_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EngineSpec(**{"name": "candidate", "factory": "a.b", **wrong})
