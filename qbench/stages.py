"""The stages: each a short function from a config and the folders of earlier stages to the files of its own folder."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from qbench.artifact import load, save
from qbench.assets import instantiate, load_test_images, load_training_data, make_network
from qbench.config import AugmentConfig, Choice, RunConfig
from qbench.data.augment import eval_batches
from qbench.data.base import ImageSet, TrainingData
from qbench.errors import MethodError, RuntimeUnavailable
from qbench.files import ARTIFACT, file_sha256, write_atomic
from qbench.foreign import input_of, keep
from qbench.identity import INTEGER, versions_of
from qbench.methods.base import Context, External, Method
from qbench.program.graph import Program
from qbench.program.materialize import materialize
from qbench.program.trace import trace
from qbench.progress import Progress
from qbench.runtime import load_runtime
from qbench.runtime.base import Executable
from qbench.training.distributed import Ranks, run_together
from qbench.training.loop import fit
from qbench.training.recipe import resolve_device
from qbench.tuner import CHECKPOINT, Tuner

WEIGHTS = "weights.safetensors"
FACTS = "facts.json"
PREDICTIONS = "predictions.safetensors"
CALIBRATION_BATCH = 64
SCORE_BATCH = 250


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """What a stage found out, as JSON beside its other files."""
    write_atomic(folder / FACTS, json.dumps(facts, indent=1, sort_keys=True).encode())


def read_facts(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / FACTS).read_text())
    return facts


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file, whole or not at all, readable by whoever may read the folder."""
    write_atomic(path, to_safetensors(tensors))


def train_stage(config: RunConfig, folder: Path, progress: Progress) -> None:
    """Train the float baseline; leaves the weights of its best validation epoch and its history."""
    device, devices = resolve_device(config.device), config.trainer.devices
    if devices == 1 or not config.train.epochs:
        _train(config, folder, ranks=Ranks(), device=device, progress=progress)
        return
    load_training_data(config)  # what is wrong with it is said before processes start; the next stage needs it too
    run_together(_train, (config, folder), devices=devices, device=device, threads=config.threads, progress=progress)


def _train(config: RunConfig, folder: Path, *, ranks: Ranks, device: torch.device, progress: Progress) -> None:
    """Train in this process, alone or with others; rank 0 writes what comes of it."""
    data = load_training_data(config)
    network = make_network(config, data)
    outcome = fit(
        network,
        data,
        config.train,
        config.dataset.augment if config.train.augment else AugmentConfig(),
        seed=config.seed,
        device=device,
        checkpoint=folder / CHECKPOINT,
        progress=progress,
        label=config.model.choice.name,
        trainer=config.trainer,
        ranks=ranks,
    )
    if not ranks.leads:
        return
    write_tensors(folder / WEIGHTS, outcome.state)
    write_facts(
        folder,
        {
            "train_seconds": outcome.seconds,
            "precision": outcome.precision,
            "best_epoch": outcome.best_epoch,
            "history": [asdict(stats) for stats in outcome.history],
            "train_images": len(data.train),
            "validation_images": len(data.validation),
            "calibration_images": len(data.calibration),
        },
    )


def quantize_stage(config: RunConfig, method: Choice, trained: Path, folder: Path, progress: Progress) -> None:
    """Compress the trained network and write ``model.qbench``, or keep the file that another library made of it.

    Raises:
        MethodError: The method cannot be applied, or the file does not give back the logits of the program in memory.
    """
    data = load_training_data(config)
    network = make_network(config, data)
    network.load_state_dict(load_file(trained / WEIGHTS))
    images = [batch for batch, _ in eval_batches(data.calibration, CALIBRATION_BATCH, data.mean, data.std, "cpu")]
    _, channels, height, width = data.train.images.shape
    baseline = trace(network, (channels, height, width))
    algorithm: Method = instantiate("method", method)
    calibration = images if algorithm.needs.calibration else []
    tuner = Tuner(config, data, folder, progress) if algorithm.needs.training else None
    context = Context(config.seed, resolve_device(config.device), calibration, progress, tuner)
    with tempfile.TemporaryDirectory(prefix="qbench-") as scratch:
        if method.peer is not None:
            context = replace(context, scratch=Path(scratch))
        began = time.monotonic()
        compressed = algorithm.compress(baseline, context)
        seconds = time.monotonic() - began
        provenance = _provenance(config, method, data)
        if isinstance(compressed, External):
            digest = _keep_external(compressed, method, baseline, provenance, folder)
        else:
            digest = _keep_program(compressed, provenance, images[0], folder)
    facts = {"quantize_seconds": seconds, "artifact_sha256": digest}
    write_facts(folder, {**facts, "fine_tuning": tuner.facts if tuner is not None else []})


def _keep_program(compressed: Program, provenance: Mapping[str, Any], images: Tensor, folder: Path) -> str:
    """Write ``model.qbench`` and read it back; returns its sha256."""
    program = replace(compressed, provenance={**compressed.provenance, **provenance})
    path = folder / ARTIFACT
    save(program, path)
    _check_reload(program, path, images)
    return file_sha256(path)


def _keep_external(
    made: External, method: Choice, baseline: Program, provenance: Mapping[str, Any], folder: Path
) -> str:
    """Keep the file of another library, with a card; returns the sha256 of its files.

    Raises:
        MethodError: The method's YAML does not say what runs such files: plan and keys could not know.
    """
    if method.peer is None or method.peer.runtime != made.runtime:
        says = f"peer: {{runtime: {made.runtime}, packages: [...]}}"
        raise MethodError(
            f"method={method.name}", f"hands in a file for runtime={made.runtime}; its YAML must say {says}"
        )
    packages = versions_of(method.peer.packages)
    shape = baseline.input_shape
    return keep(made, folder, packages=packages, input_shape=shape, provenance=provenance).sha256


def score_stage(config: RunConfig, runtime: Choice, artifact: Path, folder: Path) -> None:
    """Run the file, re-loaded from disk, on the test images in float32; leaves its logits and their labels."""
    test = load_test_images(config)
    executable = _predict(config, runtime, artifact, test, folder)
    said = {name: list(getattr(executable, name, ())) for name in ("fallbacks", "warnings", "sums_rounded_once")}
    write_facts(folder, {"latency_kind": executable.kind, "n_test": len(test), **said})


def validate_stage(config: RunConfig, runtime: Choice, artifact: Path, folder: Path) -> None:
    """As :func:`score_stage` on the validation images: what may be selected by, where test images may not."""
    _predict(config, runtime, artifact, load_training_data(config).validation, folder)


def _predict(config: RunConfig, runtime: Choice, artifact: Path, labelled: ImageSet, folder: Path) -> Executable:
    """Leave the file's logits for these images and their labels; returns what ran it."""
    executable = load_runtime(runtime.target, runtime.params).load(artifact, threads=config.threads)
    taken = input_of(artifact)
    batches = eval_batches(labelled, SCORE_BATCH, taken.mean, taken.std, "cpu")
    logits = torch.cat([executable(images) for images, _ in batches])
    write_tensors(folder / PREDICTIONS, {"logits": logits.contiguous(), "labels": labelled.labels.contiguous()})
    return executable


def reference_stage(config: RunConfig, artifact: Path, folder: Path) -> None:
    """Score the file with integers alone; leaves its logits, or the reason why it has no integer form."""
    reason = load_runtime(INTEGER.target, INTEGER.params).supports(load(artifact))
    if reason is None:
        score_stage(config, INTEGER, artifact, folder)
    else:
        write_facts(folder, {"unsupported": reason})


def adopt_reference_stage(reference: Path, artifact: Path, folder: Path) -> None:
    """The score of runtime=integer: that of the reference, which is not computed a second time.

    Raises:
        RuntimeUnavailable: The file has no integer form.
    """
    facts = read_facts(reference)
    if (reason := facts.get("unsupported")) is not None:
        raise RuntimeUnavailable(f"runtime=integer cannot run {artifact.name}: {reason}")
    shutil.copyfile(reference / PREDICTIONS, folder / PREDICTIONS)
    write_facts(folder, facts)


def _check_reload(program: Program, path: Path, images: Tensor) -> None:
    """The file must compute what the program in memory computes, bit for bit."""
    with torch.inference_mode():
        in_memory, from_disk = materialize(program)(images), materialize(load(path))(images)
    if not torch.equal(in_memory, from_disk):
        worst = float((in_memory - from_disk).abs().max())
        raise MethodError("model.qbench", f"re-loaded from disk, its logits differ by up to {worst:.3g}")


def _provenance(config: RunConfig, method: Choice, data: TrainingData) -> dict[str, Any]:
    """What travels in the header: enough to run the file on new images and to trace it."""
    return {
        "dataset": config.dataset.choice.name,
        "model": config.model.choice.name,
        "method": method.name,
        "params": dict(method.params),
        "seed": config.seed,
        "mean": list(data.mean),
        "std": list(data.std),
        "classes": list(data.class_names),
    }
