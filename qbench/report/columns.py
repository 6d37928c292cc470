"""The columns of tables: which, in what order, what a reader calls them and how many digits they get."""

from __future__ import annotations

from qbench.record import RATIOS

# the CSV's columns, in order; nested fields of a record go to the JSON only
LEADING = (
    "status", "error", "warning", "dataset", "model", "method", "weight_bits", "act_bits", "variant", "seed", "runtime",
    "top1_percent", "top1_low_percent", "top1_high_percent", "top1_baseline_percent", "delta_points",
    "delta_low_points", "delta_high_points", "delta_p_value", "top5_percent", "loss", "agreement_percent", "n_test",
    "validation_top1_percent", "validation_top1_baseline_percent",
    "size_bytes", "size_baseline_bytes", "compression_ratio", "bits_per_weight", "codes_bytes", "codebooks_bytes",
    "scales_bytes", "floats_bytes", "masks_bytes", "container_bytes", "fixed_width_bytes", "pruned_bytes",
    "sparsity_percent",
    "theoretical_bytes", "parameters", "effective_parameters", "macs", "bops", "energy_modelled_uJ", "sqnr_db",
    "agreement_integer_percent", "identical_logits_percent", "largest_logit_difference",
    "latency_ms_median", "latency_ms_iqr", *(f"latency_{name}" for name in RATIOS),
    "latency_kind", "latency_baseline_runtime", "runtime_chosen", "batch_size", "threads",
)  # fmt: skip
TRAILING = (
    "energy_measured_J", "energy_model", "activation_bytes_peak", "activation_high_water_bytes", "peak_memory_bytes",
    "peak_memory_baseline_bytes", "train_seconds",
    "train_precision", "quantize_seconds", "device", "artifact", "artifact_sha256", "error_kind", "traceback", "run_id",
)  # fmt: skip
BLANK_FOR_BASELINE = ("delta_points", "latency_ratio", "latency_same_runtime_ratio", "agreement_percent")
MARKDOWN = {
    "dataset": "data set", "model": "model", "method": "method", "variant": "variant",
    "weight_bits": "w bits", "act_bits": "a bits",
    "seed": "seed", "top1_percent": "top-1 %", "top1_interval": "95 % interval", "delta_points": "Δ points",
    "delta_interval": "95 % interval of Δ", "agreement_percent": "agreement %", "size_bytes": "size, bytes",
    "compression_ratio": "ratio ×", "pruned_bytes": "pruned, bytes", "fixed_width_bytes": "and quantized, bytes",
    "bits_per_weight": "bits/weight", "sqnr_db": "SQNR dB",
    "energy_modelled_uJ": "modelled energy µJ", "agreement_integer_percent": "agreement with integers %",
    "latency_ms_median": "latency ms", "latency_ratio": "speed-up ×",
    "latency_same_runtime_ratio": "speed-up there ×", "latency_kind": "kernel",
    "runtime_chosen": "chosen runtime", "n_test": "n",
    "status": "status", "warning": "warning",
}  # fmt: skip
DIGITS = {"delta_points": 2, "top1_percent": 2, "agreement_percent": 2, "compression_ratio": 2, "bits_per_weight": 3,
          "sqnr_db": 1, "energy_modelled_uJ": 2, "agreement_integer_percent": 2, "latency_ms_median": 3,
          "latency_ratio": 2, "latency_same_runtime_ratio": 2}  # fmt: skip
