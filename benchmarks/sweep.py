"""Wall time of a 24-cell sweep against the sum of what its distinct stages took.

    2 networks x 2 methods x 3 bit-widths x 2 seeds on the embedded digits, in a process of its own and an empty store

A stage's seconds are those in its manifest, measured around the stage alone. What the sweep takes beyond their sum is
start-up, composing, planning, checksums, records and tables; the same command again, with nothing left to do, shows
how much of it is there whatever the stages do. ``--tiny`` only shows that the script runs: its stages take no time.

    python benchmarks/sweep.py --json result.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from qbench.machine import cpu_model
from qbench.store import Store
from qbench.upkeep import entries

SWEEP = ("dataset=digits", "model=small_cnn,mlp", "method=linear,kmeans", "bits=8,4,2", "seed=0,1")
CELLS = 24
GOAL_RATIO = 1.1


def run(folder: Path, words: tuple[str, ...]) -> tuple[float, str]:
    """Seconds of ``qbench run -m`` from start to end, and what it printed.

    Raises:
        SystemExit: It failed; with its output.
    """
    command = [sys.executable, "-m", "qbench", "run", "-m", *SWEEP, *words]
    command += [f"output_dir={folder}", f"store_dir={folder / 'store'}"]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout}\n{done.stderr}")
    return seconds, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", default="quick", help="the option of the group measure; none measures no latency")
    parser.add_argument("--tiny", action="store_true", help="see that it runs")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    words = ("tiny=true", "measure=none") if options.tiny else (f"measure={options.measure}",)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        wall, output = run(folder, words)
        again, _ = run(folder, words)
        made = [one for one in entries(Store(folder / "store")) if one.kind == "entry"]
        seconds = Counter[str]()
        for one in made:
            seconds[one.stage] += Store.manifest(one.path)["seconds"]
    total = sum(seconds.values())
    ratio = wall / total
    print(next(line for line in output.splitlines() if "cells:" in line))
    for stage, taken in seconds.items():
        print(f"  {stage:<10}{sum(one.stage == stage for one in made):>4} stages {taken:8.1f} s")
    print(f"the sweep {wall:.1f} s / its {len(made)} distinct stages {total:.1f} s = {ratio:.3f}; goal {GOAL_RATIO}")
    print(f"the same command again, nothing to do: {again:.1f} s")
    if options.json is not None:
        facts = {"cells": CELLS, "stages": len(made), "wall_seconds": wall, "stage_seconds": dict(seconds)}
        facts |= {"sum_seconds": total, "ratio": ratio, "goal_ratio": GOAL_RATIO, "again_seconds": again}
        facts |= {"cpu": cpu_model(), "load_before": load, "python": platform.python_version(), "tiny": options.tiny}
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
