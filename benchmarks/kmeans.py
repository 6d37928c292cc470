"""Seconds and squared error of k-means weight sharing on VGG16's weights: qbench against three other solvers.

One codebook per layer, for the 14 convolution and linear weights of the CIFAR-10 VGG16 (14.7 M values):
  qbench         qbench.quant.kmeans.kmeans_1d
  kmeans1d       exact one-dimensional k-means (C++); its squared error is the optimum
  scikit-learn   sklearn.cluster.KMeans, Lloyd, one start
  fast-pytorch   fast_pytorch_kmeans.KMeans, Euclidean, default tolerance (absolute, so that it stops early on weights)

A time covers centroids and the index of every value, for all layers; it is the median of three runs, or one run where
a run takes more than five seconds. The squared error of every solver is computed from its float32 centroids.
By default the weights are drawn from a seeded heavy-tailed mixture of Kaiming scale; ``--weights FILE.safetensors``
takes all 2-D and 4-D tensors of a file instead.

    pip install "qbench[bench]"
    python benchmarks/kmeans.py --json result.json                        # everything; kmeans1d not at 8 bits
    python benchmarks/kmeans.py --bits 4 --peer-bits 4 --exact-bits 4     # about two minutes

Measured at 4 bits on two cores of an unnamed Intel Xeon (AVX-512), 2 threads, torch 2.12, NumPy 2.4, with other work on
the machine (load average 3; processor seconds, in brackets, from a later run at load 9):
  qbench        0.63 s  (0.64)   SSE 1.000000 of the optimum
  kmeans1d     74.0 s  (64.4)    the optimum
  scikit-learn 21.6 s  (22.7)    1.033
  fast-pytorch 10.1 s   (7.0)    2.6 to 3.2, depending on its random start
qbench took 0.44 s at 2 bits, 0.54 s at 3 (both at the optimum to six digits), and 5.4 processor seconds at 8.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from sklearn.cluster import KMeans
from torch import Tensor

from qbench.machine import cpu_model
from qbench.quant.kmeans import kmeans_1d

CHANNELS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
SLOW = 5.0
Centroids = NDArray[np.float64]
Solver = Callable[[Tensor, int], Centroids]


def synthetic_weights(seed: int) -> list[Tensor]:
    """Kaiming-normal layers in which one weight in ten comes from a Student t distribution of 3 degrees of freedom."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(out, fan_in, 3, 3) for fan_in, out in pairwise(CHANNELS)] + [(10, 512)]
    layers = []
    for shape in shapes:
        normal, *parts = torch.randn(4, *shape, generator=generator)
        tails = normal / (sum(part.square() for part in parts) / 3).sqrt()
        heavy = torch.rand(shape, generator=generator) < 0.1
        layers.append(torch.where(heavy, tails, normal) * (2 / normal[0].numel()) ** 0.5)
    return layers


def file_weights(path: Path) -> list[Tensor]:
    """All 2-D and 4-D tensors of a safetensors file, in order of their names."""
    return [tensor.float() for _, tensor in sorted(load_file(path).items()) if tensor.dim() in (2, 4)]


def peer(module: str) -> ModuleType:
    """Import an optional competitor, or say how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise SystemExit(
            f'{module} is not installed; install the competitors with: pip install "qbench[bench]"'
        ) from error


def solve_qbench(layer: Tensor, clusters: int) -> Centroids:
    return kmeans_1d(layer, clusters).centroids.double().numpy()


def solve_kmeans1d(layer: Tensor, clusters: int) -> Centroids:
    return np.sort(np.asarray(peer("kmeans1d").cluster(layer.flatten().double().numpy(), clusters).centroids))


def solve_sklearn(layer: Tensor, clusters: int) -> Centroids:
    solver = KMeans(clusters, n_init=1, random_state=0, algorithm="lloyd").fit(layer.reshape(-1, 1).numpy())
    return np.sort(solver.cluster_centers_.ravel().astype(np.float64))


def solve_fast_pytorch(layer: Tensor, clusters: int) -> Centroids:
    np.random.seed(0)  # its start comes from a global generator
    torch.manual_seed(0)
    solver = peer("fast_pytorch_kmeans").KMeans(n_clusters=clusters, mode="euclidean")
    solver.fit_predict(layer.reshape(-1, 1))
    return np.sort(solver.centroids.ravel().double().numpy())


SOLVERS: dict[str, Solver] = {
    "qbench": solve_qbench,
    "kmeans1d": solve_kmeans1d,
    "scikit-learn": solve_sklearn,
    "fast-pytorch": solve_fast_pytorch,
}


def squared_error(layer: Tensor, centroids: Centroids) -> float:
    """Squared error of the nearest of the float32-rounded centroids."""
    table = centroids.astype(np.float32).astype(np.float64)
    values = layer.flatten().double().numpy()
    return float(np.square(values - table[np.searchsorted((table[1:] + table[:-1]) / 2, values)]).sum())


def measure(solve: Solver, layers: list[Tensor], clusters: int) -> tuple[float, float, float]:
    """Median wall and processor seconds over runs for all layers, and the total squared error."""
    times: list[tuple[float, float]] = []
    while len(times) < 3 and (not times or times[-1][0] < SLOW):
        start, busy = time.perf_counter(), time.process_time()
        centroids = [solve(layer, clusters) for layer in layers]
        times.append((time.perf_counter() - start, time.process_time() - busy))
    wall, processor = (statistics.median(column) for column in zip(*times))
    return wall, processor, sum(map(squared_error, layers, centroids))


def run(layers: list[Tensor], plan: list[tuple[int, list[str]]]) -> list[dict[str, Any]]:
    """One row per number of bits and solver."""
    rows: list[dict[str, Any]] = []
    for name in {name for _, names in plan for name in names}:
        SOLVERS[name](layers[-1].flatten()[:1000], 2)  # imports and first-call costs are not k-means
    for bits, names in plan:
        here = {name: measure(SOLVERS[name], layers, 2**bits) for name in names}
        optimum = here["kmeans1d"][2] if "kmeans1d" in here else None
        for name, (wall, processor, error) in here.items():
            row = {"bits": bits, "solver": name, "seconds": wall, "cpu_seconds": processor, "sse": error}
            row["sse_ratio"] = None if optimum is None else error / optimum
            rows.append({**row, "speedup": wall / here["qbench"][0]})
    return rows


def show(rows: list[dict[str, Any]], caption: str) -> None:
    table = Table("bits", "solver", "seconds", "CPU s", "SSE", "SSE / optimum", "qbench is faster by", caption=caption)
    for row in rows:
        ratio = "-" if row["sse_ratio"] is None else f"{row['sse_ratio']:.6f}"
        cells = (
            row["solver"],
            f"{row['seconds']:.2f}",
            f"{row['cpu_seconds']:.2f}",
            f"{row['sse']:.6g}",
            ratio,
            f"{row['speedup']:.1f}x",
        )
        table.add_row(str(row["bits"]), *cells)
    Console().print(table)


def main() -> None:
    def bit_list(text: str) -> list[int]:
        return [int(part) for part in text.split(",") if part]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=bit_list, default=[2, 3, 4, 8])
    parser.add_argument(
        "--peer-bits", type=bit_list, default=[2, 3, 4, 8], help="where scikit-learn and fast-pytorch run"
    )
    parser.add_argument("--exact-bits", type=bit_list, default=[2, 3, 4], help="where kmeans1d runs")
    parser.add_argument("--weights", type=Path, help="a safetensors file to take the weights from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="where to write the record")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    layers = file_weights(args.weights) if args.weights else synthetic_weights(args.seed)
    plan = []
    for bits in args.bits:
        peers = (["kmeans1d"] if bits in args.exact_bits else []) + (
            ["scikit-learn", "fast-pytorch"] if bits in args.peer_bits else []
        )
        plan.append((bits, ["qbench", *peers]))
    count = sum(layer.numel() for layer in layers)
    source = args.weights.name if args.weights else f"synthetic, seed {args.seed}"
    versions = {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}
    record = {
        "cpu": cpu_model(),
        "threads": args.threads,
        "n": count,
        "layers": len(layers),
        "weights": source,
        "load": os.getloadavg(),
    }
    what = f"{count:,} weights in {len(layers)} layers ({source})"
    rows = run(layers, plan)
    show(rows, f"{what}; {cpu_model()}, {args.threads} threads, torch {torch.__version__}")
    if args.json:
        args.json.write_text(json.dumps({**record, "versions": versions, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
