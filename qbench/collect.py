"""From the files of finished stages to what is stored beside a record to be drawn: see :mod:`qbench.details`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from qbench.artifact import load
from qbench.details import MAX_BINS, MAX_CLASSES, MAX_DISAGREEMENTS, MAX_LEVELS, Details, pack
from qbench.foreign import artifact_of
from qbench.measure.accuracy import Predictions, predicted
from qbench.program.encodings import Affine, Codebook, Encoding, Float, Sparse
from qbench.program.graph import Program
from qbench.program.transform import fold_batch_norm
from qbench.record import Record
from qbench.stages import PREDICTIONS, read_facts

DIGITS = 6  # significant, of what is drawn


def collect_details(
    record: Record, own: Path, baseline: Path, own_score: Path, integers: Path | None = None
) -> Details:
    """What a finished run has to show.

    Args:
        record: Of the run.
        own: Folder of its artefact.
        baseline: Folder of the float artefact.
        own_score: Folder of its predictions.
        integers: Folder of the integer reference's score; None where it is not compared with.
    """
    made, seen = artifact_of(own), _predictions(own_score)
    if made.card is None:
        program = load(made.path)
        weights, provenance = weight_histograms(program, load(artifact_of(baseline).path)), program.provenance
    else:  # what another library made of the weights is in a form of its own
        weights, provenance = [], made.card.provenance
    labels = seen.labels.contiguous().numpy().astype("<i8").tobytes()
    return Details(
        run_id=record.run_id,
        artifact_sha256=record.artifact_sha256,
        weights=tuple(weights),
        classes=tuple(str(name) for name in provenance.get("classes") or ()),
        confusion=confusion_matrix(seen),
        correct=pack(seen.correct.numpy()),
        labels_sha256=hashlib.sha256(labels).hexdigest(),
        fine_tuning=tuple(once["history"] for once in read_facts(own).get("fine_tuning", ())),
        disagreements=_disagreements(seen, integers),
    )


def weight_histograms(program: Program, baseline: Program) -> list[dict[str, Any]]:
    """One mapping per layer of ``program``: histograms of its weights and the levels they may take.

    The float weights are those of ``baseline``, batch norms folded where ``program`` has them folded; a layer that it
    lacks, or has in another shape, shows its decoded weights alone.
    """
    folded = {node.name for node in program.nodes} != {node.name for node in baseline.nodes}
    comparable = fold_batch_norm(baseline) if folded else baseline
    known = {node.name for node in comparable.layers()}
    found = []
    for node in program.layers():
        decoded = program.weight(node.name)
        before = comparable.weight(node.name) if node.name in known else decoded
        before = before if before.shape == decoded.shape else decoded
        both = torch.cat([before.flatten(), decoded.flatten()])
        both = both[both.isfinite()]
        low, high = (float(both.min()), float(both.max())) if len(both) else (0.0, 0.0)
        levels, channel = layer_levels(program.tensors[f"{node.name}.weight"])
        found.append(
            {
                "layer": node.name,
                "low": rounded(low),
                "high": rounded(high),
                "counts": _counts(before, low, high),
                "stored_counts": _counts(decoded, low, high),
                "levels": None if levels is None else [rounded(value) for value in levels.tolist()],
                "channel": channel,
            }
        )
    return found


def layer_levels(encoding: Encoding) -> tuple[Tensor | None, int | None]:
    """The values that a weight can take, float32 [K] in rising order, each once.

    Returns:
        (levels, channel). ``levels`` is None for floats and for more than 256 values. ``channel`` is the index, along
        the encoding's axis, of the one with the widest range where each has its own; None where all share them.
    """
    if isinstance(encoding, Sparse):
        levels, channel = layer_levels(encoding.inner)
        return (None if levels is None else _distinct(torch.cat([levels, torch.zeros(1)]))), channel
    if isinstance(encoding, Float):
        return None, None
    table = encoding.centroids.decode() if isinstance(encoding, Codebook) else _grid(encoding)
    if table is None:
        return None, None
    if table.dim() == 1:
        return _distinct(table), None
    channel = int(table.abs().amax(dim=1).argmax())
    return _distinct(table[channel]), channel


def _distinct(values: Tensor) -> Tensor:
    """Each value once, in rising order."""
    return torch.tensor(sorted(set(values.tolist())))


def _grid(encoding: Affine) -> Tensor | None:
    """All values of an integer grid: [K], or [C, K] per channel; of groups the first of each channel."""
    if encoding.qmax - encoding.qmin >= MAX_LEVELS:
        return None
    codes = torch.arange(encoding.qmin, encoding.qmax + 1, dtype=torch.float32)
    scale, zero_point = encoding.scale, encoding.zero_point
    if scale.dim() == 2:
        scale, zero_point = scale[:, 0], zero_point[:, 0]
    return scale[..., None] * (codes - zero_point[..., None])


def _counts(values: Tensor, low: float, high: float) -> list[int]:
    """Values per bin, in at most 64 equal bins of [low, high]; one bin where all values are the same."""
    finite = values.detach().flatten().float()
    finite = finite[finite.isfinite()]
    if not high > low:
        return [len(finite)]
    return [int(count) for count in torch.histc(finite.double(), MAX_BINS, low, high).tolist()]


def rounded(value: float) -> float:
    """To the digits that can be seen."""
    return float(f"{value:.{DIGITS}g}")


def confusion_matrix(seen: Predictions) -> tuple[tuple[int, ...], ...] | None:
    """Images by label (row) and prediction (column); those with a NaN are in no cell. None above 100 classes."""
    num_classes = seen.logits.shape[1]
    if num_classes > MAX_CLASSES:
        return None
    classes = predicted(seen.logits)
    valid = classes >= 0
    cells = torch.bincount(seen.labels[valid] * num_classes + classes[valid], minlength=num_classes**2)
    return tuple(tuple(row) for row in cells.reshape(num_classes, num_classes).tolist())


def _disagreements(seen: Predictions, integers: Path | None) -> dict[str, Any] | None:
    """Images on which the run and the integer reference differ; None where they were not compared."""
    if integers is None or "unsupported" in read_facts(integers):
        return None
    own, reference = predicted(seen.logits), predicted(_predictions(integers).logits)
    differ = ((own != reference) | (own < 0)).nonzero().flatten().tolist()
    shown = [
        [image, int(seen.labels[image]), int(own[image]), int(reference[image])] for image in differ[:MAX_DISAGREEMENTS]
    ]
    return {"n_test": len(own), "count": len(differ), "shown": shown}


def _predictions(folder: Path) -> Predictions:
    stored = load_file(folder / PREDICTIONS)
    return Predictions(stored["logits"], stored["labels"])
