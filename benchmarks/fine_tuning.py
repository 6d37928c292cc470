"""Seconds of a fine-tuning step against a float training step of the same network.

Each method is asked to compress a network with random weights, and what it hands to the training loop is trained
here instead: the same batches of random images, batch size, optimizer and precision (bfloat16 autocast, channels last)
as the float network beside it. Each round runs a few steps of every network, in a rotating order, in one process; the
ratio is the median over rounds of a network's time to that of the float network in the same round. The first round is
warm-up.

    python benchmarks/fine_tuning.py --models vgg16 mobilenet --json result.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from qbench.machine import cpu_model
from qbench.methods.base import Context, Method
from qbench.methods.binary import Binary
from qbench.methods.kmeans_qat import KMeansQAT
from qbench.methods.qat import QAT
from qbench.models.build import build_model
from qbench.program.trace import trace
from qbench.training.small_maps import fast_small_maps

MODELS = {"cnn_282k": "small.cnn_282k", "mobilenet": "mobilenet.mobilenet", "vgg16": "vgg.vgg16"}
METHODS: dict[str, Method] = {
    "qat learned steps, W8A8": QAT(),
    "qat learned steps, W4A4": QAT(weight_bits=4, act_bits=4),
    "qat moving ranges, W8A8": QAT(steps="moving"),
    "qat frozen ranges, W8A8": QAT(steps="frozen"),
    "qat weights only, W4": QAT(weight_bits=4, act_bits=None),
    "kmeans_qat, 4 bits": KMeansQAT(),
    "binary": Binary(epochs=1),
}


class Steps:
    """A network with its optimizer; calling it takes some training steps and returns seconds per step."""

    def __init__(self, network: nn.Module, before_step: Callable[[int, int], None] | None) -> None:
        self.network = network.train()
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=1e-4, momentum=0.9, nesterov=True)
        self.before_step = before_step
        self.step = 0

    def __call__(self, batches: list[tuple[Tensor, Tensor]]) -> float:
        start = time.perf_counter()
        with fast_small_maps(self.network, enabled=True):
            for images, labels in batches:
                if self.before_step is not None:
                    self.before_step(self.step, 1_000_000)  # never in the last part of a training
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = cross_entropy(self.network(images).float(), labels)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                self.step += 1
        return (time.perf_counter() - start) / len(batches)


def fine_tuned(method: Method, network: nn.Module, calibration: Tensor) -> Steps:
    """What the method would have trained."""
    found: list[Steps] = []

    def keep(module: nn.Module, *_: Any, before_step: Callable[[int, int], None] | None = None, **__: Any) -> None:
        found.append(Steps(module, before_step))

    method.compress(trace(network.eval(), (3, 32, 32)), Context(calibration=[calibration], fine_tune=keep))
    return found[0]


def measure(
    steps: dict[str, Steps], batches: list[tuple[Tensor, Tensor]], rounds: int, label: str
) -> dict[str, list[float]]:
    """Seconds per step, of each network in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            taken = steps[name](batches)
            if turn > 0:
                seconds[name].append(taken)
        print(f"  {label}: round {turn} of {rounds}", flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=["cnn_282k", "mobilenet", "vgg16"])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2, help="per network and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    shape = (arguments.batch_size, 3, 32, 32)
    batches = [
        (
            torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last),
            torch.randint(0, 10, (arguments.batch_size,), generator=generator),
        )
        for _ in range(arguments.steps)
    ]
    load_before, models = os.getloadavg()[0], []
    for model in arguments.models:
        network = build_model(f"qbench.models.{MODELS[model]}", {}, 3, 32, 32, 10, seed=0)
        calibration = batches[0][0][:32].contiguous()
        steps = {name: fine_tuned(METHODS[name], network, calibration) for name in arguments.methods}
        steps = {"float": Steps(network, None), **steps}
        seconds = measure(steps, batches, arguments.rounds, model)
        rows = []
        for name, taken in seconds.items():
            ratios = [own / other for own, other in zip(taken, seconds["float"])]
            row = {
                "method": name,
                "seconds_per_step_median": statistics.median(taken),
                "seconds_per_step": taken,
                "ratio_to_float_median": statistics.median(ratios),
            }
            rows.append(row)
            print(f"{model:10s} {name:26s} {statistics.median(taken):7.3f} s/step  {statistics.median(ratios):5.2f}x")
        models.append({"model": model, "rows": rows})
    result = {
        "models": models,
        "batch_size": arguments.batch_size,
        "steps_per_round": arguments.steps,
        "rounds": arguments.rounds,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        # Work of other programs before the start, in cores: well below 1 on a quiet machine.
        "load_before": load_before,
        "torch": torch.__version__,
        "cpu": cpu_model(),
    }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
