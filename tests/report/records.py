"""Records and details to report on: as many as wanted, each the same at every call."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from qbench.config import Choice, DatasetConfig, MeasureConfig, ModelConfig, RunConfig, TrainConfig
from qbench.details import Details, pack
from qbench.record import Record

CPU = {"cpu_model": "a processor", "torch": "2.12.0", "python": "3.11.7"}
LAYERS = tuple(
    {
        "layer": name, "op": op, "shape": shape, "encoding": "codebook", "weight_bits": 4, "act_bits": 32,
        "bytes": 1000 * (index + 1), "macs": 10**6, "bops": 10**9, "energy_modelled_uJ": 1.5, "sqnr_db": 20.5,
    }
    for index, (name, op, shape) in enumerate(
        [("stem", "conv2d", [16, 3, 3, 3]), ("body.1", "conv2d", [32, 16, 3, 3]), ("head", "linear", [10, 512])]
    )
)  # fmt: skip
HISTORY = tuple(
    {"epoch": epoch, "lr": 0.1, "seconds": 1.0, "train_loss": 2.0 / (epoch + 1), "validation_loss": 2.2 / (epoch + 1),
     "validation_top1_percent": 50.0 + 5 * epoch}
    for epoch in range(8)
)  # fmt: skip
LATENCY = {
    "batch_size": 1, "runtime": "torch", "candidate_kind": "float", "candidate_ms_median": 1.25,
    "candidate_ms_iqr": 0.1, "baseline_ms_median": 1.5, "ratio": 1.2, "ratio_low": 1.15, "ratio_high": 1.25,
    "rounds": 20, "converged": True, "threads": 2,
}  # fmt: skip
_CNN = {"filters": 12}
CONFIG = RunConfig(
    dataset=DatasetConfig(Choice("digits", "qbench.data.digits.Digits"), calibration_images=128),
    model=ModelConfig(Choice("small_cnn", "qbench.models.small.small_cnn", _CNN), min_size=8),
    method=Choice("kmeans", "qbench.methods.kmeans.KMeans", {"weight_bits": 4, "overrides": {}}),
    train=TrainConfig(),
    runtime=Choice("torch", "qbench.runtime.torch_runtime.TorchRuntime", {"channels_last": True}),
    measure=MeasureConfig(),
    seed=0, device="cpu", threads=2, data_dir=Path("data"), output_dir=Path("outputs"), store_dir=Path("store"),
)  # fmt: skip
OK = Record(
    run_id="ok", status="ok", dataset="digits", model="small_cnn", method="kmeans", seed=0, runtime="torch",
    weight_bits=4, n_test=200, top1_percent=95.0, top1_low_percent=91.0, top1_high_percent=97.3,
    top1_baseline_percent=96.0, delta_points=-1.0, delta_low_points=-3.5, delta_high_points=1.5, delta_p_value=0.5,
    agreement_percent=97.5, size_bytes=15200, size_baseline_bytes=109400, compression_ratio=7.197, bits_per_weight=4.04,
    codes_bytes=12000, codebooks_bytes=200, scales_bytes=0, floats_bytes=500, masks_bytes=0, container_bytes=2500,
    fixed_width_bytes=15200, theoretical_bytes=12700.0, sqnr_db=22.5, latency_ms_median=1.25, latency_ms_iqr=0.1,
    latency_ratio=1.2, latency_ratio_low=1.15, latency_ratio_high=1.25, latency_kind="float", batch_size=1, threads=2,
    energy_modelled_uJ=3.4, energy_model="45nm-v1", artifact_sha256="a" * 64, latency=(LATENCY,), layers=LAYERS,
    history=HISTORY, environment=CPU, stage_keys={"train:small_cnn on digits": "0" * 16, "quantize:kmeans": "1" * 16},
    config=json.loads(json.dumps(asdict(CONFIG), default=str)),
)  # fmt: skip
DETAILS = Details(
    run_id="ok",
    artifact_sha256="a" * 64,
    weights=tuple(
        {
            "layer": layer["layer"], "low": -1.0, "high": 1.0, "channel": None,
            "counts": [min(index, 63 - index) for index in range(64)],
            "stored_counts": [31 * (index % 4 == 0) for index in range(64)],
            "levels": [round(-1 + 2 * level / 15, 4) for level in range(16)],
        }
        for layer in LAYERS
    ),
    classes=tuple("abcdefghij"),
    confusion=tuple(tuple(19 * (row == column) + (row == column + 1) for column in range(10)) for row in range(10)),
    correct=pack(np.arange(200) % 20 != 0),
    labels_sha256="b" * 64,
    fine_tuning=(HISTORY[:3],),
    disagreements={"n_test": 200, "count": 2, "shown": [[3, 1, 1, 7], [9, 2, -1, 2]]},
)  # fmt: skip


def unmade(status: str, run_id: str, dataset: str, model: str, method: str, seed: int, **more: Any) -> Record:
    """A run without figures."""
    return Record(run_id, status, dataset, model, method, seed, "torch", **more)


def many(count: int) -> list[Record]:
    """Runs of four networks, all methods and bits, among them failed, skipped and suspicious ones."""
    found = []
    settings = [("fp32", None), *((method, bits) for bits in (8, 6, 4, 3, 2) for method in ("kmeans", "linear", "ptq"))]
    for index in range(count):
        method, bits = settings[index % len(settings)]
        place = index // len(settings)
        dataset, model = ("cifar10", "fashion_mnist")[place % 2], ("vgg16", "small_cnn")[place // 2 % 2]
        size = 100_000 * (bits or 32) + 997 * (index % 13)
        top1 = 94.0 - (0 if bits is None else 60.0 / bits**2) - 0.01 * (index % 17)
        record = replace(
            OK, run_id=f"{index:012x}", method=method, weight_bits=bits, dataset=dataset, model=model,
            seed=place // 4, top1_percent=top1, top1_low_percent=top1 - 0.5, top1_high_percent=top1 + 0.5,
            delta_points=top1 - 94.0, delta_low_points=top1 - 94.3, delta_high_points=top1 - 93.7, size_bytes=size,
            codes_bytes=size - 3200, compression_ratio=3_200_000 / size, energy_modelled_uJ=size / 1000,
            latency_ms_median=1.0 + 0.01 * (index % 29), act_bits=8 if method == "ptq" else None,
            latency_kind="simulated" if method == "ptq" else "float", stage_keys={"train:x": f"{place}"},
        )  # fmt: skip
        cell = (record.run_id, dataset, model, method, record.seed)
        if index % 19 == 7:
            record = unmade("failed", *cell, weight_bits=bits, error="MethodError: stem: no calibration images")
        if index % 23 == 11:
            record = unmade("skipped", *cell, weight_bits=bits, error=f"{method} has no form for these bits")
        if index % 29 == 5 and record.status == "ok":
            record = replace(record, warning="chance level: top-1 is not above 10 %")
        found.append(record)
    return found
