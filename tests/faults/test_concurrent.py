"""The same sweep in several processes on one store: everything is made once, and all of them have all of it."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from calling import Bench
from faults.procs import SWEEP, TIMES, agree, artefacts, call, done_lines, epochs, in_folder, results, start, wait_until

STAGES = ("train", "quantize", "quantize", "quantize", "score", "score", "score")


@pytest.mark.parametrize(("number", "shared"), [(2, True), (8, False)], ids=["two, same tables", "eight"])
def test_identical_sweeps_at_once(bench: Bench, number: int, shared: bool) -> None:
    whole = in_folder(bench, "whole")
    assert call(whole, SWEEP)[0] == 0
    together = in_folder(bench, "together")
    own = [together.outputs if shared else together.home / f"outputs{index}" for index in range(number)]
    running = [start(together, [*SWEEP, f"output_dir={folder}"]) for folder in own]
    ended = [one.end() for one in running]
    assert [code for code, _ in ended] == [0] * number, "\n".join(output for _, output in ended)
    made = Counter(line for _, output in ended for line in done_lines(output))
    assert sorted(line.split()[0] for line in made) == sorted(STAGES) and set(made.values()) == {1}
    assert not any("damaged" in output or "Traceback" in output for _, output in ended)
    for folder in set(own):
        table = pd.read_csv(folder / "tables" / "results.csv")
        pd.testing.assert_frame_equal(table.drop(columns=TIMES), results(whole).drop(columns=TIMES))
        copies = {path.parent.name: path.read_bytes() for path in folder.glob("runs/*/model.qbench")}
        assert copies == artefacts(whole)
    assert [path.name for path in together.store.glob("locks/use-*")] == []


def test_whoever_waits_takes_over_from_the_dead(bench: Bench) -> None:
    """The first is killed while it trains; the second, which waited for it, goes on from its checkpoint."""
    whole, together = in_folder(bench, "whole"), in_folder(bench, "together")
    longer = [*SWEEP, "train.epochs=12"]
    assert call(whole, longer)[0] == 0
    first = start(together, longer)
    wait_until(lambda: any(together.store.glob("train/*.partial/.checkpoint")))
    first.process.kill()
    second = start(together, longer)
    assert first.end()[0] == -signal.SIGKILL
    code, output = second.end()
    assert code == 0, output
    assert epochs(output)[-1] == "12/12" and epochs(output)[0] != "1/12"
    agree(whole, together)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_stopped_while_it_trains(bench: Bench, number: signal.Signals) -> None:
    whole, stopped = in_folder(bench, "whole"), in_folder(bench, "stopped")
    longer = [*SWEEP, "seed=0,1", "train.epochs=12"]
    assert call(whole, longer)[0] == 0
    running = start(stopped, longer)
    # one run is recorded, and the second training is on its way
    wait_until(lambda: any(stopped.outputs.glob("records/*.json")))
    wait_until(lambda: any(stopped.store.glob("train/*.partial/.checkpoint")))
    os.kill(running.process.pid, number)
    code, output = running.end()
    lines = output.splitlines()
    assert code == 130 and "Traceback" not in output, output
    assert results(stopped)["status"].tolist() == ["ok"]
    assert lines[-3].startswith("interrupted; finished stages are kept: 1 of 4 runs are rows of the tables, and ")
    assert lines[-2:] == ["go on with:", f"  qbench {' '.join(longer)}"]
    code, output = call(stopped, lines[-1].split()[1:])
    assert code == 0 and not {line.split()[1] for line in done_lines(output)} & made_before(lines)
    agree(whole, stopped)


def made_before(lines: list[str]) -> set[str]:
    return {line.split()[1] for line in done_lines("\n".join(lines))}


def test_the_path_of_a_store_may_be_a_link(bench: Bench) -> None:
    (bench.home / "real").mkdir()
    (bench.home / "store").symlink_to(bench.home / "real")
    assert call(bench, SWEEP)[0] == 0
    assert done_lines(call(bench, SWEEP)[1]) == [] and Path(bench.home / "real" / "train").is_dir()
