"""The simulation of many processes on one store: it runs, and everything is made once."""

from __future__ import annotations

import json

from calling import ROOT, Bench


def test_every_stage_is_made_once_and_every_cell_has_its_record(bench: Bench) -> None:
    figures = bench.home / "figures.json"
    done = bench.python(str(ROOT / "benchmarks" / "contention.py"), "--small", "--json", str(figures))
    assert done.code == 0, done.out + done.err
    facts = json.loads(figures.read_text())
    sweep, afterwards = facts["sweep"], facts["afterwards"]
    assert (sweep["made"], sweep["made_once"], sweep["errors"]) == (38, 38, [])  # 3 of each training, 2 of each cell
    assert (afterwards["entries"], afterwards["leftovers"], afterwards["damaged"]) == (38, 0, 0)
    assert (afterwards["records"], afterwards["problems"]) == (16, [])
    assert afterwards["files_in_locks"] == 39  # one for each stage, and the gate; nobody reads any more
    assert sweep["waited_for_others"] >= 1 and sweep["operations_per_cell"]["flock"] > 1
