"""Seconds of post-training quantization of a network, W8A8 with static ranges, beside other quantizers.

Compared, on the same float network (random weights) and the same images, each in a process of its own, in a rotating
order; the figure is the median over rounds of the quantizer's call alone, files and imports not counted:
  qbench              method=ptq with its defaults, from the program in memory to the program in memory
  onnxruntime         onnxruntime.quantization.quantize_static with its defaults (QDQ, min-max), from file to file
  nncf                nncf.quantize of the OpenVINO model with its defaults, on all images
  qbench_adaround     method=ptq with learned rounding, 4-bit weights; once, and only where it is asked for

    python benchmarks/ptq.py --model vgg16 --adaround --json result.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qbench.artifact import load, save
from qbench.machine import cpu_model
from qbench.methods.base import Context
from qbench.methods.ptq import PTQ
from qbench.models.build import build_model
from qbench.program.trace import trace
from qbench.runtime.onnx import save_onnx

MODELS = {"mobilenet": "mobilenet.mobilenet", "resnet20": "resnet.resnet20", "vgg16": "vgg.vgg16"}
PEERS = {"onnxruntime": "onnxruntime", "nncf": "nncf"}
BATCH = 32
INPUT = "input"


def calibration_batches(images: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return list(torch.randn(images, 3, 32, 32, generator=generator).split(BATCH))


def quantize_qbench(folder: Path, images: int, method: PTQ | None = None) -> float:
    program, calibration = load(folder / "float.qbench"), calibration_batches(images)
    start = time.perf_counter()
    (method or PTQ()).compress(program, Context(calibration=calibration))
    return time.perf_counter() - start


def quantize_adaround(folder: Path, images: int) -> float:
    return quantize_qbench(folder, images, PTQ(weight_bits=4, range="mse", rounding="adaround"))


def quantize_onnxruntime(folder: Path, images: int) -> float:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # of a library without types
        def __init__(self) -> None:
            self.batches = iter({INPUT: batch.numpy()} for batch in calibration_batches(images))

        def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
            return next(self.batches, None)

    reader = Reader()
    start = time.perf_counter()
    quantize_static(folder / "float.onnx", folder / "int8.onnx", reader)
    return time.perf_counter() - start


def quantize_nncf(folder: Path, images: int) -> float:
    import nncf
    import openvino

    model = openvino.Core().read_model(folder / "float.onnx")
    batches = [batch.numpy() for batch in calibration_batches(images)]
    start = time.perf_counter()
    nncf.quantize(model, nncf.Dataset(batches), subset_size=len(batches))
    return time.perf_counter() - start


QUANTIZERS: dict[str, Callable[[Path, int], float]] = {
    "qbench": quantize_qbench,
    "onnxruntime": quantize_onnxruntime,
    "nncf": quantize_nncf,
    "qbench_adaround": quantize_adaround,
}


def in_own_process(name: str, folder: Path, images: int, threads: int) -> float:
    """What ``--only`` prints last."""
    command = [sys.executable, __file__, "--only", name, "--folder", str(folder), "--images", str(images)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    names = ["qbench", *PEERS]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(arguments.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds[name].append(in_own_process(name, folder, arguments.images, arguments.threads))
            print(f"  round {turn + 1}/{arguments.rounds} {name}: {seconds[name][-1]:.2f} s", flush=True)
    if arguments.adaround:
        seconds["qbench_adaround"] = [in_own_process("qbench_adaround", folder, arguments.images, arguments.threads)]
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="vgg16")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--adaround", action="store_true", help="measure learned rounding too (minutes)")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--only", choices=list(QUANTIZERS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only is not None:
        print(QUANTIZERS[arguments.only](arguments.folder, arguments.images))
        return

    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        network = build_model(f"qbench.models.{MODELS[arguments.model]}", {}, 3, 32, 32, 10, seed=0)
        program = trace(network.eval(), (3, 32, 32))
        save(program, folder / "float.qbench")
        save_onnx(program, folder / "float.onnx")
        seconds = measure(arguments, folder)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    fastest_peer = min(medians[name] for name in PEERS)
    for name, median in medians.items():
        print(f"{name:16s} {median:8.2f} s   {median / fastest_peer:6.2f}x the faster peer")
    result = {
        "model": arguments.model,
        "images": arguments.images,
        "batch": BATCH,
        "rounds": arguments.rounds,
        "seconds_median": medians,
        "seconds": seconds,
        "ratio_to_faster_peer": {name: median / fastest_peer for name, median in medians.items()},
        "threads": arguments.threads,
        "cores": os.cpu_count(),
        # Work of other programs before the start, in cores: well below 1 on a quiet machine.
        "load_before": load_before,
        "versions": {name: version(name) for name in ("torch", "onnxruntime", "openvino", "nncf")},
        "cpu": cpu_model(),
    }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
