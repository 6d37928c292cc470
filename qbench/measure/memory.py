"""Peak memory of inference: the resident set of a fresh process that does nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from qbench.measure.worker import EngineSpec, Worker


@dataclass(frozen=True)
class MemoryResult:
    """Resident memory of a process running one engine, in bytes.

    Args:
        peak_memory_bytes: Largest resident set, loading included: what the machine must have.
        baseline_rss_bytes: With everything imported and nothing loaded.
        weights_bytes: Growth by loading the artefact; code that a runtime imports only now is in it, and a small
            network may round to zero pages.
        activations_bytes: Growth from there to the peak during inference: activations, kernels' scratch memory and
            buffers made at the first call.
    """

    peak_memory_bytes: int
    baseline_rss_bytes: int
    weights_bytes: int
    activations_bytes: int


def peak_memory(
    engine: EngineSpec,
    *,
    batch_size: int,
    calls: int = 3,
    start_timeout: float = 120.0,
    answer_timeout: float = 600.0,
) -> MemoryResult:
    """Load an engine in a fresh process, run it, and read that process's resident set.

    Args:
        engine: What to load and how.
        batch_size: Images per call, >= 1.
        calls: Calls before the peak is read, >= 1; the first allocates, later ones show what stays.
        start_timeout: Seconds it may take to load.
        answer_timeout: Seconds the calls may take.

    Raises:
        QBenchError: the process died or did not answer in time; none is left behind.
        ValueError: batch_size or calls < 1.
    """
    if batch_size < 1 or calls < 1:
        raise ValueError(f"batch_size and calls must be at least 1, not {batch_size} and {calls}")
    with Worker(engine, start_timeout=start_timeout, answer_timeout=answer_timeout) as worker:
        return memory_of(worker, batch_size=batch_size, calls=calls)


def memory_of(worker: Worker, *, batch_size: int, calls: int = 3) -> MemoryResult:
    """Read the resident set of a worker that has answered nothing yet; what :func:`peak_memory` does once it runs."""
    ready = worker.ready
    inference_peak = int(worker.request(batch_size, calls)["peak_rss_bytes"])
    imported, loaded = int(ready["imports_rss_bytes"]), int(ready["loaded_rss_bytes"])
    return MemoryResult(
        peak_memory_bytes=max(inference_peak, int(ready["load_peak_rss_bytes"])),
        baseline_rss_bytes=imported,
        # a runtime may give pages back while it loads; less than nothing is not a size
        weights_bytes=max(0, loaded - imported),
        activations_bytes=max(0, inference_peak - loaded),
    )
