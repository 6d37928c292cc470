"""Milliseconds per batch of W8A8 networks on the CPU: qbench's files on each engine, beside other quantizers' files.

Every engine is a process of its own; processes take turns, each round in another order, and sleep between turns.
Figures are medians over rounds; a ratio is the median, over rounds, of the ratio within the round, with its bootstrap
interval.

  torch, torch_channels_last    eager PyTorch, float
  onnxruntime_float             the float network on ONNX Runtime
  openvino_float                the same on OpenVINO, in float32; openvino_bf16 in the precision it would take by itself
  onnxruntime_static            the file of onnxruntime.quantization.quantize_static, its defaults for x86
  onnxruntime_per_channel       the same with per_channel=True: a scale per output channel, as in qbench's file
  nncf                          the file of nncf.quantize, its defaults, on OpenVINO
  qbench_onnxruntime, _openvino method=integer, W8A8, on either engine; *_single: on one thread whatever the run has.
                                runtime=auto is the one of these four that a race beforehand chose
  codebook_*                    method=kmeans, 4 bits, centroids on an int8 grid (snap=int8), act_bits=8, on either

Weights are random, for no engine's time depends on them; batch norms get statistics, so that none is an identity.

    python benchmarks/latency.py --json result.json
    python benchmarks/latency.py --models vgg16,small_cnn --batch-sizes 1,32 --rounds 20
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from qbench.artifact import save
from qbench.machine import cpu_model
from qbench.measure.latency import LatencySettings, WorkerTurns, bootstrap_median_interval, calls_per_turn, iqr
from qbench.measure.race import run_race
from qbench.measure.worker import EngineSpec, Worker, artifact_engine
from qbench.methods.base import Context
from qbench.methods.integer import Integer
from qbench.methods.kmeans import KMeans
from qbench.models.build import build_model
from qbench.peers.nncf import Nncf
from qbench.peers.ort_static import OrtStatic
from qbench.program.trace import trace
from qbench.runtime import load_runtime

MODELS = {
    "small_cnn": "small.small_cnn",
    "mobilenet": "mobilenet.mobilenet",
    "mobilenet_v2": "mobilenet.mobilenet_v2",
    "resnet20": "resnet.resnet20",
    "resnet50": "resnet.resnet50",
    "vgg16": "vgg.vgg16",
}
SHAPE = (3, 32, 32)
TORCH = "qbench.runtime.torch_runtime.TorchRuntime"
ORT = "qbench.runtime.onnxruntime.OnnxRuntime"
OPENVINO = "qbench.runtime.openvino.OpenVinoRuntime"
INT8_PEERS = ("onnxruntime_static", "onnxruntime_per_channel", "nncf")
PEERS = ("torch", "torch_channels_last", "onnxruntime_float", "openvino_float", *INT8_PEERS)
OURS = ("qbench_onnxruntime", "qbench_openvino", "qbench_onnxruntime_single", "qbench_openvino_single")
LOADINGS = 7


@dataclass(frozen=True)
class Engine:
    """A file on a runtime."""

    file: str
    runtime: str
    params: dict[str, Any] = field(default_factory=dict)


ENGINES = {
    "torch": Engine("float.qbench", TORCH, {"channels_last": False}),
    "torch_channels_last": Engine("float.qbench", TORCH, {"channels_last": True}),
    "onnxruntime_float": Engine("float.qbench", ORT),
    "openvino_float": Engine("float.qbench", OPENVINO),
    "openvino_bf16": Engine("float.qbench", OPENVINO, {"precision": "bf16"}),
    "onnxruntime_static": Engine("ort_static/model.onnx", ORT),
    "onnxruntime_per_channel": Engine("ort_per_channel/model.onnx", ORT),
    "nncf": Engine("nncf/model.xml", OPENVINO),
    "qbench_onnxruntime": Engine("int8.qbench", ORT),
    "qbench_openvino": Engine("int8.qbench", OPENVINO),
    "qbench_onnxruntime_single": Engine("int8.qbench", ORT, {"max_threads": 1}),
    "qbench_openvino_single": Engine("int8.qbench", OPENVINO, {"max_threads": 1}),
    "codebook_onnxruntime": Engine("codebook.qbench", ORT),
    "codebook_openvino": Engine("codebook.qbench", OPENVINO),
}


def network(target: str) -> nn.Module:
    model = build_model(f"qbench.models.{target}", {}, *SHAPE, 10, seed=0)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0.0, 0.1, generator=generator)
            module.running_var.uniform_(0.8, 1.2, generator=generator)
    return model.eval()


def write_files(target: str, folder: Path, images: int) -> dict[str, int]:
    """Quantize by everybody; returns the size of each file in bytes."""
    program = trace(network(target), SHAPE)
    calibration = torch.randn(images, *SHAPE, generator=torch.Generator().manual_seed(2)).split(32)
    save(program, folder / "float.qbench")
    save(Integer().compress(program, Context(calibration=calibration)), folder / "int8.qbench")
    codebook = KMeans(weight_bits=4, act_bits=8, snap="int8", fold_batch_norm=True)
    save(codebook.compress(program, Context(calibration=calibration)), folder / "codebook.qbench")
    plain = KMeans(weight_bits=4, act_bits=8, fold_batch_norm=True)
    save(plain.compress(program, Context(calibration=calibration)), folder / "codebook_float.qbench")
    per_channel = OrtStatic(per_channel=True)
    for name, peer in (("ort_static", OrtStatic()), ("ort_per_channel", per_channel), ("nncf", Nncf())):
        scratch = folder / name
        scratch.mkdir()
        peer.compress(program, Context(calibration=calibration, scratch=scratch))
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.qbench")}
    sizes["ort_static"] = (folder / "ort_static/model.onnx").stat().st_size
    sizes["nncf"] = sum(path.stat().st_size for path in (folder / "nncf").glob("model.*"))
    return sizes


def chosen(workers: dict[str, Worker], batch_size: int, settings: LatencySettings) -> str:
    """What runtime=auto takes: the winner of a race."""
    times, _ = run_race({name: WorkerTurns(workers[name], batch_size) for name in OURS}, settings)
    return next(iter(times))


def measure(
    workers: dict[str, Worker], batch_size: int, rounds: int, settings: LatencySettings
) -> dict[str, list[float]]:
    """Milliseconds per batch of every engine in every round."""
    turns = {name: WorkerTurns(worker, batch_size) for name, worker in workers.items()}
    calls = {name: calls_per_turn(turn(settings.warmup_calls), settings) for name, turn in turns.items()}
    names = list(turns)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(1e3 * float(np.median(turns[name](calls[name]))))
    return found


def ratio(slower: Sequence[float], faster: Sequence[float], settings: LatencySettings) -> dict[str, float]:
    ratios = np.array(slower) / np.array(faster)
    low, high = bootstrap_median_interval(ratios, settings)
    return {"ratio": float(np.median(ratios)), "low": low, "high": high}


def loading_seconds(folder: Path, threads: int) -> dict[str, float]:
    """Median seconds to load a file and build what runs it, in this process, libraries imported before."""
    torch.set_num_threads(threads)
    found = {}
    for name in ("qbench_onnxruntime", "onnxruntime_static", "qbench_openvino", "nncf"):
        engine = ENGINES[name]
        seconds = []
        for _ in range(LOADINGS):
            start = time.perf_counter()
            executable = load_runtime(engine.runtime, engine.params).load(folder / engine.file, threads=threads)
            seconds.append(time.perf_counter() - start)
            executable(torch.zeros(1, *SHAPE))
            del executable
        found[name] = statistics.median(seconds[1:])  # the first one imports
    return found


def cell(workers: dict[str, Worker], batch_size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One network at one batch size."""
    settings = LatencySettings(turn_seconds=arguments.turn_seconds, max_seconds=30.0)
    auto = chosen(workers, batch_size, settings)
    rounds = measure(workers, batch_size, arguments.rounds, settings)
    medians = {name: float(np.median(values)) for name, values in rounds.items()}
    peer = min(PEERS, key=lambda name: medians[name])
    compared = {
        "auto_over_fastest_peer": ratio(rounds[peer], rounds[auto], settings),
        **{f"ours_over_{name}": ratio(rounds[name], rounds[_same_engine(name)], settings) for name in INT8_PEERS},
        "auto_over_onnxruntime_float": ratio(rounds["onnxruntime_float"], rounds[auto], settings),
        "auto_over_torch": ratio(rounds["torch"], rounds[auto], settings),
        "codebook_over_int8": ratio(rounds[_two_threads(auto)], rounds[_codebook(auto)], settings),
    }
    return {
        "batch_size": batch_size,
        "auto": auto,
        "fastest_peer": peer,
        "ms_median": medians,
        "ms_iqr": {name: iqr(values) for name, values in rounds.items()},
        "speed_up": compared,
        "ms": rounds,
    }


def _two_threads(ours: str) -> str:
    return ours.removesuffix("_single")


def _codebook(ours: str) -> str:
    return _two_threads(ours).replace("qbench", "codebook")


def _same_engine(peer: str) -> str:
    return "qbench_openvino" if peer == "nncf" else "qbench_onnxruntime"


def spec(engine: str, folder: Path, arguments: argparse.Namespace) -> EngineSpec:
    one = ENGINES[engine]
    return artifact_engine(engine, folder / one.file, one.runtime, SHAPE, threads=arguments.threads, params=one.params)


def measure_model(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sizes = write_files(MODELS[name], folder, arguments.images)
        with ExitStack() as stack:
            workers = {engine: stack.enter_context(Worker(spec(engine, folder, arguments))) for engine in ENGINES}
            kinds = {engine: worker.ready.get("kind") for engine, worker in workers.items()}
            cells = []
            for size in arguments.batch_sizes:
                cells.append(cell(workers, size, arguments))
                show(name, cells[-1])
        loading = loading_seconds(folder, arguments.threads)
    return {"model": name, "sizes": sizes, "kinds": kinds, "cells": cells, "loading_seconds": loading}


def show(name: str, row: dict[str, Any]) -> None:
    print(f"\n{name}, batch {row['batch_size']}: auto is {row['auto']}, the fastest peer {row['fastest_peer']}")
    for engine, median in sorted(row["ms_median"].items(), key=lambda item: item[1]):
        print(f"  {engine:22s} {median:9.3f} ms  (iqr {row['ms_iqr'][engine]:.3f})")
    for what, found in row["speed_up"].items():
        print(f"  {what:30s} {found['ratio']:6.2f}x [{found['low']:.2f}, {found['high']:.2f}]", flush=True)


def already_measured(path: Path | None) -> dict[str, Any]:
    """The networks of an earlier run, which this one adds to: each was one alternated run of its own."""
    if path is None or not path.exists():
        return {}
    return {one["model"]: one for one in json.loads(path.read_text())["networks"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(MODELS))
    parser.add_argument("--batch-sizes", type=lambda text: [int(size) for size in text.split(",")], default=[1, 32])
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--turn-seconds", type=float, default=0.1, help="about how long a turn of an engine lasts")
    parser.add_argument("--images", type=int, default=128, help="calibration images")
    parser.add_argument("--json", type=Path, help="write the result here, after every network")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.models) - set(MODELS))
    if unknown:
        sys.exit(f"--models: no network is called {unknown[0]!r}; there are {', '.join(MODELS)}")
    load_before = os.getloadavg()[0]
    results = already_measured(arguments.json)
    for name in arguments.models:
        results[name] = measure_model(name, arguments)
        if arguments.json is not None:
            facts = {
                "threads": arguments.threads,
                "rounds": arguments.rounds,
                "cpu": cpu_model(),
                "cores": os.cpu_count(),
                # Work of other programs before the start, in cores: well below 1 on a quiet machine.
                "load_before": load_before,
                "versions": {one: version(one) for one in ("torch", "onnxruntime", "openvino", "nncf")},
                "networks": list(results.values()),
            }
            arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
