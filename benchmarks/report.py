"""Seconds of ``qbench report`` over many records: a process of its own, from its start to the tables on disk.

The records are made up in a temporary folder: dataset x network x method x bits x seed, each as long as a real one (the
layers of a small network, an epoch of history each, the whole config and environment). Reading them cold from a slow or
shared disk is not measured: they have just been written.

    python benchmarks/report.py --records 10000 --json result.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from qbench.machine import cpu_model
from qbench.record import Record

GOAL_SECONDS = 3.0
DATASETS, MODELS = ("cifar10", "fashion_mnist"), ("resnet20", "mobilenet", "vgg16")
METHODS = ("linear", "kmeans", "ptq", "qat", "prune")
LAYERS, EPOCHS = 12, 16


def made_up(count: int) -> Iterator[Record]:
    """So many different records; some failed."""
    draw = random.Random(0)
    grid = list(itertools.product(DATASETS, MODELS, METHODS, (8, 4, 3, 2)))
    for number in range(count):
        seed, (dataset, model, method, bits) = number // len(grid), grid[number % len(grid)]
        names = {"run_id": f"{number:012x}", "dataset": dataset, "model": model, "method": method, "seed": seed}
        if number % 50 == 49:
            yield Record(**names, status="failed", runtime="torch", weight_bits=bits, error="out of memory")
            continue
        yield full_record(names, bits, draw)


def full_record(names: dict[str, object], bits: int, draw: random.Random) -> Record:
    """One that has everything a run on the PyTorch runtime measures."""
    layers = tuple(
        {"layer": f"features.{index}.conv", "op": "conv2d", "shape": [64, 64, 3, 3], "encoding": "affine", "bits": bits,
         "act_bits": 32, "bytes": 36864 * bits // 8, "macs": 37748736, "bops": 37748736 * bits * 32,
         "energy_pJ": draw.random() * 1e6, "sqnr_db": draw.random() * 40}
        for index in range(LAYERS)
    )  # fmt: skip
    history = tuple(
        {"epoch": epoch, "lr": 0.1 * draw.random(), "train_loss": draw.random(), "validation_loss": draw.random(),
         "validation_top1_percent": 100 * draw.random(), "seconds": draw.random()}
        for epoch in range(EPOCHS)
    )  # fmt: skip
    latency = tuple(
        {"batch_size": size, "candidate_ms_median": draw.random(), "candidate_ms_iqr": 0.01, "ratio": 1.1,
         "ratio_low": 1.0, "ratio_high": 1.2, "runtime": "torch", "rounds": 15}
        for size in (1, 32)
    )  # fmt: skip
    top1 = 90 * draw.random()
    return Record(
        **names,  # type: ignore[arg-type]
        status="ok", runtime="torch", weight_bits=bits, threads=2, device="cpu", n_test=10000, top1_percent=top1,
        top1_low_percent=top1 - 1, top1_high_percent=top1 + 1, top1_baseline_percent=91.0, delta_points=top1 - 91.0,
        delta_low_points=top1 - 92, delta_high_points=top1 - 90, delta_p_value=0.01, loss=draw.random(),
        agreement_percent=90.0, size_bytes=100_000 * bits, size_baseline_bytes=3_200_000, compression_ratio=32 / bits,
        bits_per_weight=float(bits), codes_bytes=90_000 * bits, sqnr_db=20.0, macs=10**8, bops=10**10,
        latency_ms_median=0.1, latency_ms_iqr=0.01, latency_ratio=1.1, latency_ratio_low=1.0, latency_ratio_high=1.2,
        latency_kind="float", batch_size=1, train_seconds=1000.0, quantize_seconds=0.1, latency=latency, layers=layers,
        history=history, artifact_sha256="0" * 64,
        environment={"cpu_model": "made up", "torch": "0", "git_sha": "0" * 40, "platform": "made up", "python": "3"},
        stage_keys={f"stage {index}": "0" * 16 for index in range(6)},
        config={"train": dict.fromkeys(map(str, range(14)), 0.1), "method": {"params": dict.fromkeys("abcdefgh", 1)}},
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder) / "records"
        for record in made_up(options.records):
            record.save(records)  # each waits for the disk, which takes the longest here
        num_bytes = sum(path.stat().st_size for path in records.iterdir())
        seconds = []
        for _ in range(options.repeats):
            began = time.perf_counter()
            command = [sys.executable, "-m", "qbench", "report", folder]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds)
    print(f"{options.records:,} records of {num_bytes / options.records / 1000:.1f} kB: median {median:.2f} s of "
          f"{len(seconds)}, largest {max(seconds):.2f} s; goal below {GOAL_SECONDS} s")  # fmt: skip
    if options.json is not None:
        facts = {"records": options.records, "bytes": num_bytes, "seconds": seconds, "median_seconds": median}
        facts |= {"goal_seconds": GOAL_SECONDS, "python": platform.python_version(), "load": os.getloadavg()[0]}
        options.json.write_text(json.dumps({**facts, "cpu": cpu_model()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
