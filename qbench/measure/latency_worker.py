"""The process that runs one engine: ``python -m qbench.measure.latency_worker FACTORY ARGS PRELOAD``.

    FACTORY   "package.module.function": called with ARGS (a JSON object) it returns an engine, a callable that runs
              one batch of the size it is given; its attribute ``kind``, if any, is passed on
    PRELOAD   JSON list of modules imported before memory is first read, so that code is not mistaken for weights

Protocol, one JSON object per line: the worker writes {"ready": true, "kind", "imports_rss_bytes",
"loaded_rss_bytes", "load_peak_rss_bytes"}; then answers each request {"batch_size", "inner"} on stdin with
{"seconds": [one per call], "joules": of all these calls or null, "peak_rss_bytes", "kind"}: a runtime that compiles for
a batch size may know its kind only then. Between requests it blocks on stdin and uses no processor. It ends when stdin
does, and so never outlives its parent.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import psutil

from qbench.measure.rapl import EnergyMeter, energy_meter

Engine = Callable[[int], Any]

_STATUS = Path("/proc/self/status")
_RESET_PEAK = Path("/proc/self/clear_refs")


class ArtifactEngine:
    """An artefact loaded through a runtime, with random images to run it on.

    Args:
        path: The artefact.
        runtime: Dotted path of the runtime class.
        params: Of the runtime.
        input_shape: [C, H, W] of one image.
        threads: Threads the runtime may use.
    """

    def __init__(
        self, path: str, runtime: str, params: Mapping[str, Any], input_shape: list[int], threads: int
    ) -> None:
        import torch

        from qbench.runtime import load_runtime

        torch.set_num_threads(threads)
        self._torch = torch
        self._input_shape = input_shape
        self._images: dict[int, Any] = {}
        self._executable = load_runtime(runtime, params).load(Path(path), threads=threads)

    @property
    def kind(self) -> str:
        """Of the kernels, as far as the runtime knows."""
        return self._executable.kind

    def __call__(self, batch_size: int) -> Any:
        torch = self._torch
        if batch_size not in self._images:  # during the lead-in call, which is not timed
            generator = torch.Generator().manual_seed(0)
            self._images[batch_size] = torch.randn(batch_size, *self._input_shape, generator=generator)
        with torch.inference_mode():
            return self._executable(self._images[batch_size])


def load_artifact(args: Mapping[str, Any]) -> Engine:
    """Load an artefact; ``args`` are the parameters of :class:`ArtifactEngine`."""
    return ArtifactEngine(**args)


def serve(engine: Engine, requests: TextIO, answers: TextIO, meter: EnergyMeter | None = None) -> None:
    """Answer requests until they end. Each starts with one call that is not timed, to fill caches again.

    Args:
        engine: What runs one batch.
        requests: One JSON object per line.
        answers: Where the answers go.
        meter: Reads the energy of the timed calls; None where there are no counters.
    """
    for line in requests:
        request = json.loads(line)
        batch_size = int(request["batch_size"])
        engine(batch_size)
        seconds = []
        before = meter.read() if meter is not None else None
        for _ in range(int(request["inner"])):
            start = time.perf_counter_ns()
            engine(batch_size)
            seconds.append((time.perf_counter_ns() - start) / 1e9)
        joules = meter.joules(before, meter.read()) if meter is not None else None
        answer = {"seconds": seconds, "joules": joules, "kind": getattr(engine, "kind", None)}
        _write(answers, {**answer, "peak_rss_bytes": peak_rss_bytes()})


def peak_rss_bytes() -> int:
    """Largest resident set of this process so far (on Linux: since the last :func:`reset_peak_rss`), in bytes."""
    # ru_maxrss survives exec on Linux: a small child of a large process would report its parent's peak.
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_rss() -> None:
    """Forget the peak so far, where the kernel allows it; elsewhere the peak stays that of the whole life."""
    try:
        _RESET_PEAK.write_text("5")
    except OSError:
        return


def main(argv: list[str]) -> None:
    """Load the engine the arguments name, report, serve."""
    factory_path, args, preload = argv[0], json.loads(argv[1]), json.loads(argv[2])
    # Keep the real stdout for answers: a library that prints must not break the protocol.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        module, _, function = factory_path.rpartition(".")
        factory = getattr(importlib.import_module(module), function)
        for name in preload:
            importlib.import_module(name)
        process = psutil.Process()
        imports_rss_bytes = process.memory_info().rss
        engine = factory(args)
        ready = {
            "ready": True,
            "kind": getattr(engine, "kind", None),
            "imports_rss_bytes": imports_rss_bytes,
            "loaded_rss_bytes": process.memory_info().rss,
            "load_peak_rss_bytes": peak_rss_bytes(),
        }
        reset_peak_rss()
        _write(answers, ready)
        serve(engine, sys.stdin, answers, energy_meter())


def _write(answers: TextIO, message: Mapping[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
