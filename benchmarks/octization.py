"""Does truncating codes (octization) instead of rounding them (standard) gain accuracy? Many seeds, paired.

Every seed gives an initial network and an order of batches that both methods share. Two places of the quantizer:
  post      the float network is trained, then quantized
  in_loop   the initial network is trained with codes in the forward pass from the first step on
Each pair differs in nothing but ``trunc`` against ``round``. Reported are the mean accuracy of each with Student's t
interval over seeds, the paired difference with its interval and t-test, and the p-value after Holm's correction for the
number of comparisons made; beside them what one seed alone could have shown. There is no scale: at n bits, weights
below 1 / (2^n - 1) are all truncated to 0 and those below half of that rounded to 0, so few bits leave no network.

    python benchmarks/octization.py --json result.json --markdown result.md
    python benchmarks/octization.py --dataset cifar10 --model cnn_282k --seeds 10 --epochs 5 --bits 8 4

Runs go through ``qbench run`` and its store: killed, the same command goes on where it was. Ten seeds of the defaults
are 40 trainings of 20 epochs on MNIST.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

from qbench.measure.environment import environment
from qbench.measure.intervals import mean_interval
from qbench.record import Record, load_records
from qbench.sweep import run_sweep

METHODS = ("standard", "octization")
TRAININGS = ("post", "in_loop")


@dataclass(frozen=True)
class Arm:
    """One method in one place at one width, over the seeds: values in the order of the seeds."""

    method: str
    top1_percent: list[float]
    tensor_bytes: list[int]
    seconds: list[float]


@dataclass(frozen=True)
class Comparison:
    """Octization minus standard, seed by seed, in percentage points of top-1."""

    training: str
    bits: int
    standard: Arm
    octization: Arm
    difference: float
    low: float
    high: float
    p_value: float
    p_holm: float
    smallest: float
    largest: float

    @property
    def verdict(self) -> str:
        """What the seeds allow to say at 5 %."""
        if self.p_holm >= 0.05:
            return "no difference shown"
        return "octization gains" if self.difference > 0 else "octization loses"


def sweep(args: argparse.Namespace) -> list[Record]:
    """Run every cell that has no record yet; returns the records of exactly these cells."""
    common = [
        f"dataset={args.dataset}",
        f"model={args.model}",
        f"seed={','.join(map(str, range(args.seeds)))}",
        f"bits={','.join(map(str, args.bits))}",
        f"output_dir={args.outputs}",
        "measure=none",
        *args.override,
    ]
    methods = f"method={','.join(METHODS)}"
    in_loop = ["train.epochs=0", "method.training=in_loop", f"method.epochs={args.epochs}", f"method.lr={args.lr}"]
    for arm in ([f"train.epochs={args.epochs}"], in_loop):
        if run_sweep([methods, *common, *arm], None, multirun=True):
            raise SystemExit("a run failed; see above")
    return load_records(args.outputs / "records")[0]


def arm(records: Sequence[Record], method: str, training: str, bits: int, seeds: int) -> Arm:
    """The values of one arm, one per seed.

    Raises:
        SystemExit: A seed is missing, or there are two runs of it in the output folder.
    """
    own = {}
    for record in records:
        params = record.config["method"]["params"]
        if (record.status, record.method, params.get("training"), record.weight_bits) == ("ok", method, training, bits):
            if record.seed in own:
                raise SystemExit(f"two runs of {method} {training} seed {record.seed}: give a folder of its own")
            own[record.seed] = record
    if sorted(own) != list(range(seeds)):
        raise SystemExit(f"{method} {training}: seeds {sorted(own)} instead of 0..{seeds - 1}")
    chosen = [own[seed] for seed in range(seeds)]
    return Arm(
        method,
        [float(record.top1_percent or 0.0) for record in chosen],
        [int(record.size_bytes or 0) - int(record.container_bytes or 0) for record in chosen],
        [float(record.train_seconds or 0.0) + float(record.quantize_seconds or 0.0) for record in chosen],
    )


def compare(pairs: dict[tuple[str, int], tuple[Arm, Arm]]) -> list[Comparison]:
    """The paired statistics of every (training, bits)."""
    tests = []
    for standard, octization in pairs.values():
        gains = np.array(octization.top1_percent) - np.array(standard.top1_percent)
        p_value = float(stats.ttest_rel(octization.top1_percent, standard.top1_percent).pvalue) if gains.any() else 1.0
        tests.append((gains, 1.0 if math.isnan(p_value) else p_value))
    corrected = multipletests([p_value for _, p_value in tests], method="holm")[1]
    found = []
    for ((training, bits), (standard, octization)), (gains, p_value), holm in zip(pairs.items(), tests, corrected):
        low, high = mean_interval(gains.tolist()) or (math.nan, math.nan)
        found.append(
            Comparison(
                training, bits, standard, octization, float(gains.mean()), low, high, p_value, float(holm),
                float(gains.min()), float(gains.max()),
            )
        )  # fmt: skip
    return found


def markdown(comparisons: Sequence[Comparison], args: argparse.Namespace) -> str:
    """A table and the sentence it supports."""
    lines = [
        f"# Standard quantization against octization: {args.model} on {args.dataset}",
        "",
        f"{args.seeds} seeds, {args.epochs} epochs; both methods share each seed's initial weights and batches. Means "
        "with 95 % t intervals over seeds; difference octization - standard, paired by seed; p after Holm's correction "
        f"for {len(comparisons)} comparisons.",
        "",
        "| quantizer | bits | standard top-1 % | octization top-1 % | difference, points | p | one seed shows | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in comparisons:
        lines.append(
            f"| {one.training} | {one.bits} | {_spread(one.standard)} | {_spread(one.octization)} "
            f"| {one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}] | {one.p_holm:.3g} "
            f"| {one.smallest:+.2f} to {one.largest:+.2f} | {one.verdict} |"
        )
    largest = max(
        abs(a - b) for one in comparisons for a, b in zip(one.standard.tensor_bytes, one.octization.tensor_bytes)
    )
    sizes = "take the same bytes" if largest == 0 else f"differ by up to {largest:,} bytes"
    lines += ["", f"Octal is a notation; what is compared is truncation against rounding. The stored tensors {sizes}."]
    return "\n".join(lines) + "\n"


def _spread(one: Arm) -> str:
    mean = sum(one.top1_percent) / len(one.top1_percent)
    interval = mean_interval(one.top1_percent)
    return f"{mean:.2f}" if interval is None else f"{mean:.2f} ± {interval[1] - mean:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--model", default="mlp")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.1, help="peak learning rate in the loop (SGD)")
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 6, 4])
    parser.add_argument("--outputs", type=Path, default=Path("outputs/octization"))
    parser.add_argument("--override", nargs="*", default=[], help="more KEY=VALUE of qbench run")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    records = sweep(args)
    pairs = {
        (training, bits): (
            arm(records, "standard", training, bits, args.seeds),
            arm(records, "octization", training, bits, args.seeds),
        )
        for training in TRAININGS
        for bits in args.bits
    }
    comparisons = compare(pairs)
    text = markdown(comparisons, args)
    print(text)
    if args.markdown:
        args.markdown.write_text(text, encoding="utf-8")
    if args.json:
        settings = {name: value for name, value in vars(args).items() if name not in ("outputs", "json", "markdown")}
        rows = [{**asdict(one), "verdict": one.verdict} for one in comparisons]
        content = {"settings": settings, "comparisons": rows, "environment": environment()}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
