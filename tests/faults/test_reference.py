"""The integer reference of an artefact: computed once for all its runtimes, and what its columns say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from calling import QUICK, Bench
from faults.racers import CODE

from qbench.artifact import load
from qbench.data.augment import eval_batches
from qbench.data.splits import limit_images
from qbench.data.synthetic import Synthetic
from qbench.program.integer.network import IntegerModule
from qbench.program.lower import lower
from qbench.record import Record, load_records
from qbench.runtime.integer import IntegerExecutable, IntegerRuntime
from qbench.runtime.torch_runtime import TorchRuntime

SHIFT = 0.5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A config folder with ``runtime=shifted``: PyTorch with the first class's logit raised."""
    (tmp_path / "racers.py").write_text(CODE)
    place = tmp_path / "conf" / "runtime"
    place.mkdir(parents=True)
    (place / "shifted.yaml").write_text(
        f"_target_: racers.Paused\nsummary: made up for a test\nshift: {SHIFT}\nlimits: {{}}\n"
    )
    return place.parent


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that the integer reference was loaded for."""
    found: list[Path] = []
    load_integers = IntegerRuntime.load

    def counting(self: IntegerRuntime, path: Path, *, threads: int) -> IntegerExecutable:
        found.append(path)
        return load_integers(self, path, threads=threads)

    monkeypatch.setattr(IntegerRuntime, "load", counting)
    return found


def records(bench: Bench) -> dict[str, Record]:
    found, problems = load_records(bench.outputs / "records")
    assert problems == []
    return {record.runtime: record for record in found}


def test_the_reference_runs_once_for_all_runtimes(bench: Bench, folder: Path, loads: list[Path]) -> None:
    run = ("run", "--config-dir", str(folder), *QUICK, "method=integer")
    assert bench(*run, "measure.agreement=always").code == 0
    assert len(loads) == 1
    assert bench(*run, "runtime=shifted", "measure.agreement=deployed").code == 0
    assert bench(*run, "runtime=integer").code == 0
    assert len(loads) == 1
    rows = records(bench)
    assert {name: rows[name].status for name in rows} == dict.fromkeys(("torch", "shifted", "integer"), "ok")
    assert len({record.artifact_sha256 for record in rows.values()}) == 1
    program = load(Path(rows["torch"].artifact or ""))
    images = limit_images(Synthetic().load_test(Path(), Path()), 128, 0)
    made = program.provenance
    ((batch, _),) = eval_batches(images, 250, made["mean"], made["std"], "cpu")
    reference = IntegerModule(lower(program))(batch).numpy()
    simulated = TorchRuntime().prepare(program)(batch).numpy()
    raised = simulated + np.float32(SHIFT) * (np.arange(simulated.shape[1]) == 0).astype(np.float32)
    for name, logits in (("torch", simulated), ("shifted", raised)):
        record = rows[name]
        same = 100 * np.mean(logits.argmax(1) == reference.argmax(1))
        assert record.agreement_integer_percent == pytest.approx(same)
        assert record.identical_logits_percent == pytest.approx(100 * np.mean(logits == reference))
        assert record.largest_logit_difference == pytest.approx(np.abs(logits - reference).max(), rel=1e-6)
    assert rows["shifted"].largest_logit_difference > 0.9 * SHIFT > (rows["torch"].largest_logit_difference or 0.0)
    assert rows["integer"].top1_percent == 100 * np.mean(reference.argmax(1) == images.labels.numpy())
    assert rows["integer"].agreement_integer_percent is None  # of the reference with itself
    table = pd.read_csv(bench.outputs / "tables" / "results.csv").set_index("runtime")
    assert table.loc["shifted", "agreement_integer_percent"] == pytest.approx(rows["shifted"].agreement_integer_percent)
    assert rows["shifted"].stage_keys["reference:integer w8a8"] == rows["integer"].stage_keys["reference:integer w8a8"]


def test_the_checking_executor_is_a_runtime_of_its_own(bench: Bench, loads: list[Path]) -> None:
    run = ("run", *QUICK, "method=integer", "runtime=integer", "runtime.check=true", "measure.agreement=deployed")
    assert bench(*run).code == 0
    (record,) = records(bench).values()
    assert (record.agreement_integer_percent, record.identical_logits_percent) == (100.0, 100.0)
    assert record.largest_logit_difference == 0.0 and len(loads) == 2


def test_without_an_integer_form_there_is_nothing_to_agree_with(bench: Bench, folder: Path, loads: list[Path]) -> None:
    run = ("run", "--config-dir", str(folder), *QUICK, "method=linear", "runtime=shifted", "measure.agreement=always")
    assert bench(*run).code == 0
    (record,) = records(bench).values()
    assert (record.status, record.agreement_integer_percent, record.identical_logits_percent) == ("ok", None, None)
    assert loads == [] and "to do" not in bench(*run, "dry=true").out
