"""From the files of finished stages to the figures of a record: accuracy, size, complexity, error per layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from qbench.artifact import SizeReport, load, size_report
from qbench.foreign import ArtifactFiles, artifact_of
from qbench.measure.accuracy import Predictions, agreement_percent
from qbench.measure.activations import activation_bytes_peak, activation_high_water_bytes
from qbench.measure.agreement import agreement
from qbench.measure.complexity import (
    effective_parameters,
    input_bits,
    layer_bops,
    layer_macs,
    num_parameters,
)
from qbench.measure.energy import PICO_PER_MICRO, energy_table, node_energies
from qbench.measure.intervals import paired_difference, wilson_interval
from qbench.measure.sqnr import sqnr_db, weight_sqnr
from qbench.program.encodings import Float, Sparse
from qbench.program.graph import Program
from qbench.program.transform import fold_batch_norm
from qbench.record import Record
from qbench.stages import PREDICTIONS, read_facts

_NAMED = 4  # layers that a warning lists


def assess(
    record: Record,
    trained: Path,
    own: Path,
    baseline: Path,
    own_score: Path,
    baseline_score: Path,
    integers: Path | None = None,
) -> Record:
    """Fill the accuracy, size, complexity and provenance fields from the folders of a run's stages.

    ``integers`` is the score of the integer reference, None where it is not compared with.
    """
    training, quantizing, scoring = read_facts(trained), read_facts(own), read_facts(own_score)
    artifact, float_artifact = artifact_of(own), artifact_of(baseline)
    reference = load(float_artifact.path)
    record = replace(
        record,
        train_seconds=training["train_seconds"],
        train_precision=training["precision"],
        history=tuple(training["history"]),
        quantize_seconds=quantizing["quantize_seconds"],
        artifact_sha256=quantizing["artifact_sha256"],
        latency_kind=scoring["latency_kind"],
    )
    record = _with_accuracy(record, _predictions(own_score), _predictions(baseline_score))
    if artifact.card is not None:
        record = _with_foreign_size(record, artifact, float_artifact.size_bytes, reference)
        found = _chance_warnings(record, artifact.card.provenance) + _fallback_warnings(scoring)
        found += scoring.get("warnings", [])
        return replace(record, warning="; ".join(found) or None)
    program, sizes = load(artifact.path), size_report(artifact.path)
    record = _with_agreement(record, own_score, integers)
    record = _with_size(record, sizes, float_artifact.size_bytes, program)
    record = _with_layers(record, program, reference, sizes)
    return replace(record, sensitivity=_sensitivity(program), warning=_warnings(record, program, scoring))


def _with_foreign_size(record: Record, artifact: ArtifactFiles, baseline_bytes: int, reference: Program) -> Record:
    """What is known of the file of another library: its bytes, and the operations of the network it was made of."""
    size = artifact.size_bytes
    return replace(
        record,
        size_bytes=size,
        size_baseline_bytes=baseline_bytes,
        compression_ratio=baseline_bytes / size,
        effective_parameters=effective_parameters(size),
        macs=sum(layer_macs(reference).values()),
    )


def _predictions(folder: Path) -> Predictions:
    stored = load_file(folder / PREDICTIONS)
    return Predictions(stored["logits"], stored["labels"])


def _with_accuracy(record: Record, own: Predictions, baseline: Predictions) -> Record:
    right, right_before = own.correct, baseline.correct
    low, high = wilson_interval(int(right.sum()), len(right))
    difference = paired_difference(right.numpy(), right_before.numpy())
    loss = own.loss
    return replace(
        record,
        n_test=len(right),
        top1_percent=own.top1_percent,
        top1_low_percent=low,
        top1_high_percent=high,
        top5_percent=own.top5_percent,
        loss=loss if math.isfinite(loss) else None,
        top1_baseline_percent=baseline.top1_percent,
        delta_points=difference.difference_points,
        delta_low_points=difference.low,
        delta_high_points=difference.high,
        delta_p_value=difference.p_value,
        agreement_percent=agreement_percent(own.logits, baseline.logits),
    )


def with_validation(record: Record, own: Path, baseline: Path) -> Record:
    """Fill what the validation images say, from the folders of both files' scores on them."""
    return replace(
        record,
        validation_top1_percent=_predictions(own).top1_percent,
        validation_top1_baseline_percent=_predictions(baseline).top1_percent,
    )


def _with_agreement(record: Record, own_score: Path, integers: Path | None) -> Record:
    """Against the integer reference, where it was asked for and the program has an integer form."""
    if integers is None or "unsupported" in read_facts(integers):
        return record
    found = agreement(_predictions(own_score).logits, _predictions(integers).logits)
    return replace(
        record,
        agreement_integer_percent=found.top1_percent,
        identical_logits_percent=found.identical_logits_percent,
        largest_logit_difference=found.largest_difference,
        sums_rounded_once=tuple(read_facts(own_score).get("sums_rounded_once") or ()),
    )


def _with_size(record: Record, sizes: SizeReport, baseline_bytes: int, program: Program) -> Record:
    weights = {f"{node.name}.weight" for node in program.layers()}
    stored = [tensor for tensor in sizes.tensors if tensor.name in weights]
    elements = sum(tensor.elements for tensor in stored)
    masks = [encoding.mask for name in weights if isinstance(encoding := program.tensors[name], Sparse)]
    removed = sum(mask.numel() - int(mask.sum()) for mask in masks)
    return replace(
        record,
        size_bytes=sizes.size_bytes,
        size_baseline_bytes=baseline_bytes,
        codes_bytes=sizes.codes_bytes,
        codebooks_bytes=sizes.codebooks_bytes,
        scales_bytes=sizes.scales_bytes,
        floats_bytes=sizes.floats_bytes,
        masks_bytes=sizes.masks_bytes,
        container_bytes=sizes.container_bytes,
        theoretical_bytes=sizes.theoretical_bits / 8,
        compression_ratio=baseline_bytes / sizes.size_bytes,
        bits_per_weight=8 * sum(tensor.bytes for tensor in stored) / elements if elements else None,
        parameters=num_parameters(program),
        effective_parameters=effective_parameters(sizes.size_bytes),
        sparsity_percent=100.0 * removed / elements if masks else None,
        fixed_width_bytes=sizes.fixed_width_bytes,
        pruned_bytes=sizes.pruned_bytes,
    )


def _with_layers(record: Record, program: Program, reference: Program, sizes: SizeReport) -> Record:
    """Per layer: shape, encoding, bits, bytes, operations, SQNR against the float weights (folded alike)."""
    folded = {node.name for node in program.nodes} != {node.name for node in reference.nodes}
    comparable = fold_batch_norm(reference) if folded else reference
    sqnr = weight_sqnr(comparable, program)
    macs, bops = layer_macs(program), layer_bops(program)
    energies = node_energies(program, {tensor.name: tensor.bytes for tensor in sizes.tensors})
    stored = {tensor.name: tensor for tensor in sizes.tensors}
    layers: list[dict[str, Any]] = []
    for node in program.layers():
        tensor = stored[f"{node.name}.weight"]
        layers.append(
            {
                "layer": node.name,
                "op": node.op,
                "shape": list(tensor.shape),
                "encoding": tensor.encoding,
                "weight_bits": tensor.bits,
                "act_bits": input_bits(program, node.name),
                "bytes": tensor.bytes,
                "macs": macs[node.name],
                "bops": bops[node.name],
                "energy_modelled_uJ": energies[node.name].total_pJ / PICO_PER_MICRO,
                "sqnr_db": _finite(sqnr.get(node.name)),
            }
        )
    return replace(
        record,
        layers=tuple(layers),
        macs=sum(macs.values()),
        bops=sum(bops.values()),
        energy_modelled_uJ=sum(energy.total_pJ for energy in energies.values()) / PICO_PER_MICRO,
        energy_model=energy_table().name,
        sqnr_db=_finite(_total_sqnr(comparable, program)),
        activation_bytes_peak=activation_bytes_peak(program),
        activation_high_water_bytes=activation_high_water_bytes(program, 1),
    )


def _total_sqnr(reference: Program, program: Program) -> float:
    """SQNR of all layer weights together."""
    import torch

    names = [node.name for node in program.layers()]
    before = torch.cat([reference.weight(name).flatten() for name in names])
    after = torch.cat([program.weight(name).flatten() for name in names])
    return sqnr_db(before, after)


def _finite(value: float | None) -> float | None:
    """JSON has no infinity: the SQNR of unchanged weights is left empty."""
    return value if value is not None and math.isfinite(value) else None


def _sensitivity(program: Program) -> tuple[dict[str, Any], ...]:
    """What a method that chooses per layer has measured, one row per layer and option."""
    measured = program.provenance.get("sensitivity") or {"layers": []}
    names = ("encoding", "bits", "bytes", "sensitivity")
    return tuple(
        {"layer": row["layer"], **dict(zip(names, option)), "chosen": index == row["chosen"]}
        for row in measured["layers"]
        for index, option in enumerate(row["options"])
    )


def _warnings(record: Record, program: Program, scoring: Mapping[str, Any]) -> str | None:
    """What a reader should distrust about this row."""
    found = _chance_warnings(record, program.provenance)
    compressed = [layer for layer in record.layers if layer["encoding"] != "float"]
    untouched = [node.name for node in program.layers() if isinstance(program.tensors[f"{node.name}.weight"], Float)]
    if compressed and untouched:
        found.append(f"left float: {', '.join(untouched)}")
    found += program.provenance.get("warnings", [])  # what the method itself has to say
    found += scoring.get("warnings", [])  # ... and the runtime
    return "; ".join(found) or None


def _chance_warnings(record: Record, provenance: Mapping[str, Any]) -> list[str]:
    classes = provenance.get("classes") or []
    chance = 100.0 / len(classes) if classes else None
    if chance is not None and record.top1_low_percent is not None and record.top1_low_percent <= chance:
        return [f"chance level: top-1 is not above {chance:.3g} %"]
    return []


def _fallback_warnings(scoring: Mapping[str, Any]) -> list[str]:
    """Layers of a quantized file that its engine computes with floats, and a file that is not quantized at all."""
    if scoring["latency_kind"] == "float":
        return ["not quantized: the file computes with floats alone"]
    fallbacks = [_first_name(text) for text in scoring.get("fallbacks") or ()]
    more = f" and {len(fallbacks) - _NAMED} more" if len(fallbacks) > _NAMED else ""
    return [f"computed with floats: {', '.join(fallbacks[:_NAMED])}{more}"] if fallbacks else []


def _first_name(fallback: str) -> str:
    """Of "layer,what is fused into it (kernel)" the layer and the kernel: other names hold counts of the process."""
    names, opened, kernel = fallback.rpartition(" (")
    return f"{names.split(',')[0]}{opened}{kernel}"
