"""What goes wrong becomes a row: the sweep goes on, what was finished is kept, and the same command does the rest."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from calling import QUICK, Bench
from faults.rows import records, table
from safetensors.torch import save

from qbench.errors import MethodError
from qbench.methods.base import Context
from qbench.methods.linear import Linear
from qbench.outcome import exit_code
from qbench.program.graph import Program
from qbench.record import Record, load_records

SWEEP = ("run", "-m", *QUICK, "method=linear", "bits=8,4,2")


def entries(bench: Bench) -> dict[str, int]:
    """The files of finished stages and when each was written."""
    return {
        str(path.relative_to(bench.store)): path.stat().st_mtime_ns
        for path in bench.store.glob("*/*/*")
        if path.is_file() and not path.parent.name.endswith(".partial")
    }


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Linear quantization to 4 bits fails, in whatever way ``fail_with`` set."""
    compress = Linear.compress

    def sabotaged(self: Linear, baseline: Program, context: Context) -> Program:
        if self.weight_bits == 4:
            raise sabotaged.error  # type: ignore[attr-defined]
        return compress(self, baseline, context)

    sabotaged.error = ValueError("wheel | came\n off [x]")  # type: ignore[attr-defined]
    monkeypatch.setattr(Linear, "compress", sabotaged)
    return monkeypatch


def fail_with(error: BaseException) -> None:
    Linear.compress.error = error  # type: ignore[attr-defined]


def test_a_failed_run_is_a_row_and_the_sweep_goes_on(bench: Bench, failing: pytest.MonkeyPatch) -> None:
    done = bench(*SWEEP)
    assert (done.code, done.err) == (1, "")
    found = records(bench)
    assert {name: record.status for name, record in found.items()} == {
        "linear8": "ok",
        "linear4": "failed",
        "linear2": "ok",
    }
    failed = found["linear4"]
    assert (failed.error, failed.error_kind) == ("ValueError: wheel | came off [x]", "unexpected")
    assert failed.traceback is not None
    text = Path(failed.traceback).read_text()
    assert text.startswith("Traceback") and "raise sabotaged.error" in text and "wheel | came" in text
    assert "  failed: ValueError: wheel | came off [x]" in done.out
    assert "linear w4: failed: ValueError: wheel | came off [x]" in done.out  # below the table
    again = f"qbench run -m {' '.join(QUICK)} method=linear bits=4"
    assert done.out.splitlines()[-3:] == [
        f"1 of 3 runs failed; tracebacks: {failed.traceback}", "run just those again with:", f"  {again}",
    ]  # fmt: skip
    assert "Traceback" not in done.out
    row = table(bench).set_index("run_id").loc[failed.run_id]
    filled = {"status", "error", "error_kind", "traceback", "dataset", "model", "method", "weight_bits", "seed",
              "runtime", "device", "threads"}  # fmt: skip
    assert set(row.index[row.notna()]) == filled
    assert "failed: ValueError: wheel \\| came off [x]" in (bench.outputs / "tables" / "results.md").read_text()


def test_only_what_is_missing_runs_again(bench: Bench, failing: pytest.MonkeyPatch) -> None:
    bench(*SWEEP)
    before = entries(bench)
    failing.undo()
    for variable, folder in {"STORE": "store", "OUTPUTS": "outputs"}.items():
        failing.setenv(f"QBENCH_{variable}", str(bench.home / folder))
    done = bench(*SWEEP)
    assert done.code == 0
    plan = [line for line in done.out.splitlines() if "│" in line]
    assert [line.split("│")[2].strip() for line in plan if "to do" in line] == ["linear w4", "linear w4"]
    assert sum("cached" in line for line in plan) == 7
    after = entries(bench)
    assert {name: after[name] for name in before} == before
    assert records(bench)["linear4"].status == "ok" and len(records(bench)) == 3
    last = bench(*SWEEP)
    assert last.code == 0 and "to do" not in last.out.split("cells")[0] and " done" not in last.out
    assert entries(bench) == after


def test_traceback_on_request(bench: Bench, failing: pytest.MonkeyPatch) -> None:
    done = bench(*SWEEP, "traceback=True")
    assert done.code == 1 and done.out.count("Traceback (most recent call last)") == 1


def test_an_expected_failure_keeps_its_words(bench: Bench, failing: pytest.MonkeyPatch) -> None:
    fail_with(MethodError("conv", "has no weights"))
    done = bench(*SWEEP)
    failed = records(bench)["linear4"]
    assert (done.code, failed.error, failed.error_kind) == (1, "conv: has no weights", "expected")


def test_bad_input_found_late_still_exits_as_bad_input(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = bench("run", *QUICK, "method=linear", "device=cuda")
    assert done.code == 2
    (failed,) = records(bench).values()
    assert failed.error_kind == "config" and str(failed.error).startswith("device=cuda: not available to this torch")


def test_a_failed_training_fails_every_run_that_needs_it(bench: Bench) -> None:
    done = bench(*SWEEP, "train.batch_size=32", "limit_train=10")
    assert done.code == 1
    message = "7 training images are fewer than one batch: lower train.batch_size=32"
    assert {record.error for record in records(bench).values()} == {message}


def test_interrupting_keeps_what_is_finished_and_records_nothing_half(
    bench: Bench, failing: pytest.MonkeyPatch
) -> None:
    fail_with(KeyboardInterrupt())
    done = bench(*SWEEP)
    assert done.code == 130
    assert done.out.splitlines()[-3:] == [
        "interrupted; finished stages are kept: 1 of 3 runs are rows of the tables, and "
        f"{bench.store} has what others had finished (of a training, its last whole epoch)",
        "go on with:", f"  qbench run -m {' '.join(QUICK)} method=linear bits=8,4,2",
    ]  # fmt: skip
    assert table(bench)["weight_bits"].tolist() == [8]
    assert set(records(bench)) == {"linear8"}
    assert [path.name for path in (bench.outputs / "records").iterdir()] == [f"{records(bench)['linear8'].run_id}.json"]
    before = entries(bench)
    failing.undo()
    for variable, folder in {"STORE": "store", "OUTPUTS": "outputs"}.items():
        failing.setenv(f"QBENCH_{variable}", str(bench.home / folder))
    assert bench(*SWEEP).code == 0 and set(records(bench)) == {"linear8", "linear4", "linear2"}
    assert before.items() <= entries(bench).items()


def test_what_a_method_has_no_form_for_is_a_skipped_row(bench: Bench) -> None:
    done = bench("run", "-m", *QUICK, "method=linear,kmeans", "bits=16,8")
    assert done.code == 0
    rows = table(bench).set_index(["method", "weight_bits"])
    skipped = rows.loc[("kmeans", 16)]
    assert list(rows["status"]).count("ok") == 3
    assert (skipped["status"], skipped["error"]) == (
        "skipped",
        "bits=16: allowed for method=kmeans: whole numbers from 1 to 8.",
    )
    assert set(skipped.index[skipped.notna()]) == {"status", "error", "dataset", "model", "seed", "runtime", "run_id"}
    assert "kmeans w16: skipped: bits=16: allowed for method=kmeans" in done.out


def test_what_is_no_record_is_named_and_not_fatal(bench: Bench) -> None:
    (bench.outputs / "records").mkdir(parents=True)
    (bench.outputs / "records" / "notes.json").write_text('{"mine": 1}')
    done = bench("run", *QUICK, "method=linear")
    assert done.code == 0
    assert f"note: {bench.outputs}/records/notes.json: not a record of this qbench (no 'format')" in done.out
    assert len(table(bench)) == 1


def test_a_network_at_chance_level_is_warned_of(bench: Bench) -> None:
    done = bench("run", *QUICK, "method=linear", "train.epochs=0")
    assert done.code == 0
    (record,) = records(bench).values()
    assert record.warning == "chance level: top-1 is not above 10 %"
    assert table(bench)["warning"].tolist() == [record.warning] and record.warning in done.out


@pytest.mark.parametrize("damaged", ["train/*/weights.safetensors", "quantize/*/model.qbench", "score/*/facts.json"])
def test_a_damaged_stage_is_made_anew_with_the_same_bytes(bench: Bench, damaged: str) -> None:
    words = ("run", *QUICK, "method=linear", "bits=4")
    assert bench(*words).code == 0
    (artefact,) = bench.outputs.glob("runs/*/model.qbench")
    before, content = table(bench), artefact.read_bytes()
    for path in bench.store.glob(damaged):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 16
        path.unlink()  # an artefact is a hard link to the run's: damage the store's alone
        path.write_bytes(data)
    assert bench(*words).code == 0
    assert artefact.read_bytes() == content
    assert list(bench.store.glob("*/*.damaged"))
    same_but_time(before, table(bench))


TIMES = ["train_seconds", "quantize_seconds"]


def same_but_time(left: pd.DataFrame, right: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(left.drop(columns=TIMES), right.drop(columns=TIMES))


def test_two_runs_of_one_config_agree_in_all_but_time(bench: Bench) -> None:
    tables = []
    for name in ("first", "second"):
        words = [f"output_dir={bench.home / name}", f"store_dir={bench.home / name / 'store'}"]
        assert bench("run", "-m", *QUICK, "method=fp32,linear,kmeans", "bits=4", *words).code == 0
        rows = pd.read_csv(bench.home / name / "tables" / "results.csv")
        tables.append(rows.drop(columns=["artifact"]))
    same_but_time(*tables)
    assert tables[0]["artifact_sha256"].notna().all() and len(tables[0]) == 3


def test_given_weights_are_kept_as_they_are(bench: Bench) -> None:
    assert bench("run", *QUICK, "method=linear").code == 0
    (trained,) = records(bench).values()
    (weights,) = bench.store.glob("train/*/weights.safetensors")
    given = bench.home / "weights.safetensors"
    given.write_bytes(weights.read_bytes())
    assert bench("run", *QUICK, "method=linear", f"model.weights={given}").code == 0
    found, _ = load_records(bench.outputs / "records")
    (untrained,) = [record for record in found if record.run_id != trained.run_id]
    assert untrained.history == () and len(trained.history) == 1
    assert untrained.top1_percent == trained.top1_percent and untrained.sqnr_db == trained.sqnr_db


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "does not fit model=small_cnn: "),
        (b"\x80\x04pickle", "does not fit model=small_cnn: "),
        (save({"conv.weight": torch.zeros(3)}), "does not fit model=small_cnn: Error(s) in loading state_dict"),
    ],
    ids=["empty", "pickle", "another network"],
)
def test_weights_that_do_not_fit_are_bad_input(bench: Bench, content: bytes, reason: str) -> None:
    given = bench.home / "weights.safetensors"
    given.write_bytes(content)
    done = bench("run", *QUICK, "method=linear", f"model.weights={given}")
    (failed,) = records(bench).values()
    assert (done.code, failed.error_kind) == (2, "config")
    assert failed.error is not None and failed.error.startswith(f"model.weights={given}: {reason}")


def test_a_record_says_what_it_takes_to_trace_its_numbers(bench: Bench) -> None:
    assert bench("run", *QUICK, "method=linear", "bits=4").code == 0
    (record,) = records(bench).values()
    assert set(record.stage_keys) == {
        "train:small_cnn on synthetic", "quantize:fp32", "score:fp32", "quantize:linear w4", "score:linear w4",
    }  # fmt: skip
    for name, key in record.stage_keys.items():
        assert (bench.store / name.partition(":")[0] / key).is_dir()
    assert {"torch", "python", "cpu_model", "git_sha"} <= set(record.environment)
    assert record.config["method"]["params"]["weight_bits"] == 4 and record.config["seed"] == 0
    assert not {"data_dir", "output_dir", "store_dir", "dry", "traceback"} & set(record.config)
    assert str(bench.home) not in json.dumps({**asdict(record), "artifact": None})
    assert record.artifact is not None and Path(record.artifact).is_file()
    assert [layer["layer"] for layer in record.layers] == ["conv", "dense"]
    assert record.top1_low_percent is not None and record.top1_percent is not None
    assert record.top1_low_percent <= record.top1_percent <= 100


@pytest.mark.parametrize(
    "kinds, code", [((), 0), (("config", "config"), 2), (("config", "unexpected"), 1), (("expected",), 1)], ids=str
)
def test_exit_code(kinds: tuple[str, ...], code: int) -> None:
    blank = Record(run_id="a", status="failed", dataset="d", model="m", method="x", seed=0, runtime="torch")
    assert exit_code([replace(blank, error_kind=kind) for kind in kinds]) == code
