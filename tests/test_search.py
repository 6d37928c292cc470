"""Searches with Optuna: real studies, stopped, killed, gone on with, and refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from calling import QUICK, Bench
from faults.procs import done_lines, in_folder
from filelock import FileLock

import qbench.runner
import qbench.stages
from qbench.data.base import ImageSet
from qbench.errors import MethodError
from qbench.record import load_records

SMALL = tuple("model=mlp" if word.startswith("model=") else word for word in QUICK)
SEARCH = ("run", "-m", "hydra/sweeper=optuna", *SMALL)
SPACE = ("method=linear,kmeans", "bits=2,3,4,8")
TRIALS = "hydra.sweeper.n_trials="


def folder(bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The same with folders of its own."""
    own = in_folder(bench, name)
    monkeypatch.setenv("QBENCH_STORE", str(own.store))
    monkeypatch.setenv("QBENCH_OUTPUTS", str(own.outputs))
    return own


def study(bench: Bench) -> Any:
    """Read what Optuna has kept, with nothing of qbench."""
    (path,) = bench.outputs.glob("optuna/*.journal")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    return optuna.load_study(study_name=path.stem, storage=storage)


def trials(bench: Bench) -> list[tuple[Any, ...]]:
    return [(trial.state.name, trial.params, trial.values) for trial in study(bench).trials]


def table(bench: Bench) -> pd.DataFrame:
    return pd.read_csv(bench.outputs / "tables" / "results.csv")


def commands(out: str) -> list[str]:
    return [line.strip() for line in out.splitlines() if line.startswith("  qbench run dataset=")]


def test_two_objectives_on_real_images(bench: Bench) -> None:
    words = ["dataset=digits", "model=small_cnn", "tiny=true", "measure=none", "threads=1", *SPACE]
    done = bench("run", "-m", "hydra/sweeper=optuna", *words, f"{TRIALS}5")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0].endswith(": highest top1, lowest size_bytes") and "\n[5/5] " in done.out
    rows = table(bench).set_index("run_id")
    assert rows["status"].eq("ok").all() and rows["validation_top1_percent"].notna().all()
    kept = study(bench).trials
    assert len(kept) == 5 and {trial.state.name for trial in kept} == {"COMPLETE"}
    for trial in kept:
        row = rows.loc[trial.user_attrs["run_id"]]
        assert trial.values == [row["validation_top1_percent"], row["size_bytes"]]
        assert trial.params == {"method": row["method"], "bits": str(row["weight_bits"])}
    best = {tuple(trial.values) for trial in study(bench).best_trials}
    repeated = commands(done.out)
    assert len(repeated) == len(best) >= 1
    before = set(rows.index)
    again = bench(*repeated[0].split()[1:])
    assert again.code == 0 and done_lines(again.out) == [] and set(table(bench)["run_id"]) == before


def test_the_same_command_runs_only_what_is_missing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = folder(bench, "whole", monkeypatch)
    assert whole(*SEARCH, *SPACE, f"{TRIALS}4").code == 0
    parts = folder(bench, "parts", monkeypatch)
    assert parts(*SEARCH, *SPACE, f"{TRIALS}2").code == 0
    more = parts(*SEARCH, *SPACE, f"{TRIALS}4")
    assert more.code == 0 and "4 trials, 2 of them done" in more.out
    assert "[3/4] " in more.out and "[2/4] " not in more.out
    assert trials(parts) == trials(whole)  # as if it had never stopped
    again = parts(*SEARCH, *SPACE, f"{TRIALS}4")
    assert (
        again.code == 0 and done_lines(again.out) == [] and "[" not in again.out.partition("method")[2].split("\n")[3]
    )
    assert commands(again.out) == commands(more.out) != [] and len(trials(parts)) == 4


def test_test_images_decide_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name, shift in (("as they are", 0), ("other labels", 1)):
        load = qbench.stages.load_test_images

        def loaded(config: Any, load: Any = load, shift: int = shift) -> ImageSet:
            images = load(config)
            return ImageSet(images.images, images.labels.roll(shift))

        with monkeypatch.context() as patched:
            patched.setattr(qbench.stages, "load_test_images", loaded)
            own = folder(bench, name, monkeypatch)
            assert own(*SEARCH, *SPACE, f"{TRIALS}3", "hydra.sweeper.max_drop=50").code == 0
        found.append((trials(own), table(own)["top1_percent"].max()))
    assert found[0][0] == found[1][0] and found[0][1] > found[1][1] + 10


def test_the_best_within_a_budget(bench: Bench) -> None:
    words = [*SEARCH, *SPACE, f"{TRIALS}4", "hydra.sweeper.objectives=[top1]"]
    done = bench(*words, "hydra.sweeper.max_size_bytes=160000")
    assert done.code == 0 and "highest top1; budget max_size_bytes=160000" in done.out
    sizes = [trial.user_attrs["run_id"] for trial in study(bench).trials if max(trial.constraints.values()) > 0]
    rows = table(bench).set_index("run_id")
    assert sizes and (rows.loc[sizes, "size_bytes"] > 160000).all()
    (best,) = commands(done.out)
    within = rows[rows["size_bytes"] <= 160000]
    top = within[within["validation_top1_percent"] == within["validation_top1_percent"].max()]
    settings = zip(top["method"], top["weight_bits"])
    assert any(f" method={method} " in best and f" bits={bits} " in best for method, bits in settings)
    none = bench(*words, "hydra.sweeper.max_size_bytes=10")
    assert none.code == 0 and commands(none.out) == []
    assert "no trial keeps to the budget (highest top1; budget max_size_bytes=10)" in none.out


def test_what_cannot_run_is_a_skipped_row_and_a_pruned_trial(bench: Bench) -> None:
    done = bench(*SEARCH, "method=linear,kmeans", "bits=12,4", f"{TRIALS}10", "hydra.sweeper.sampler=random")
    assert done.code == 0, done.err
    skipped = [params for state, params, _ in trials(bench) if state == "PRUNED"]
    assert skipped and all(params == {"method": "kmeans", "bits": "12"} for params in skipped)
    row = table(bench).query("status == 'skipped'").iloc[0]
    assert row["method"] == "kmeans" and "bits=12" in row["error"]
    assert f"skipped: {row['error']}" in done.out
    assert "10 of them done" in bench(*SEARCH, "method=linear,kmeans", "bits=12,4", f"{TRIALS}9").out


def test_a_key_that_a_method_lacks_is_none_of_its_parameters(bench: Bench) -> None:
    words = ("method=linear,kmeans", "bits=4", "method.snap=none,int8")
    done = bench(*SEARCH, *words, f"{TRIALS}6", "hydra.sweeper.sampler=random")
    assert done.code == 0, done.err
    assert {(params["method"], len(params)) for _, params, _ in trials(bench)} == {("linear", 1), ("kmeans", 2)}


def test_a_failed_trial_is_a_row_and_asked_for_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    quantize = qbench.runner.quantize_stage

    def fails(config: Any, method: Any, *rest: Any, **named: Any) -> None:
        if method.name != "fp32" and method.bits("weight_bits") in (2, 8):
            raise MethodError("layer", "came off")
        quantize(config, method, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(qbench.runner, "quantize_stage", fails)
        done = bench(*SEARCH, *SPACE, f"{TRIALS}4")
    failed = [params for state, params, _ in trials(bench) if state == "FAIL"]
    assert done.code == 1 and failed and f"{len(failed)} trials failed; tracebacks: " in done.out
    assert done.out.splitlines()[-2] == "go on with:" and done.out.splitlines()[-1].startswith("  qbench run -m hydra/")
    assert (table(bench)["status"] == "failed").sum() == len({str(params) for params in failed})
    again = bench(*done.out.splitlines()[-1].split()[1:])
    assert again.code == 0 and table(bench)["status"].eq("ok").all()
    finished = [params for state, params, _ in trials(bench) if state == "COMPLETE"]
    assert len(finished) == 4 and all(params in finished for params in failed)


def test_stopped_and_gone_on_with(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    quantize, calls = qbench.runner.quantize_stage, []

    def stops(config: Any, method: Any, *rest: Any, **named: Any) -> None:
        calls.append(method.name)
        if len(calls) == 3:  # the float network, one trial, and the next
            raise KeyboardInterrupt
        quantize(config, method, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(qbench.runner, "quantize_stage", stops)
        done = bench(*SEARCH, *SPACE, f"{TRIALS}3")
    assert done.code == 130 and len(table(bench)) == 1
    assert done.out.splitlines()[-3:-1] == ["stopped; finished trials are kept: 1 of 3", "go on with:"]
    stopped = trials(bench)[-1]
    assert stopped[0] == "FAIL"
    assert bench(*done.out.splitlines()[-1].split()[1:]).code == 0
    assert [state for state, *_ in trials(bench)] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials(bench)[2][1] == stopped[1]


def test_what_a_killed_process_leaves_is_taken_up(bench: Bench) -> None:
    assert bench(*SEARCH, *SPACE, f"{TRIALS}1").code == 0
    left = study(bench).ask()
    asked = {"method": left.suggest_categorical("method", ("linear", "kmeans"))}
    asked["bits"] = left.suggest_categorical("bits", ("2", "3", "4", "8"))
    (journal,) = bench.outputs.glob("optuna/*.journal")
    with journal.open("ab") as stream:
        stream.write(b'{"op_code": 5, "wor')  # half a line
    journal.with_name(f"{journal.name}.lock").symlink_to(journal)  # Optuna's, which outlives its holder
    assert bench(*SEARCH, *SPACE, f"{TRIALS}2").code == 0
    journal.with_name(f"{journal.name}.lock").unlink()
    kept = trials(bench)
    assert [state for state, *_ in kept] == ["COMPLETE", "FAIL", "COMPLETE"] and kept[2][1] == asked == kept[1][1]


def test_a_database_may_keep_the_trials(bench: Bench) -> None:
    words = (
        *SEARCH,
        *SPACE,
        f"hydra.sweeper.storage='sqlite:///{bench.home}/trials.db'",
        "hydra.sweeper.study_name=ours",
    )
    assert bench(*words, f"{TRIALS}1", "hydra.sweeper.sampler=nsga2").code == 0
    kept = optuna.load_study(study_name="ours", storage=f"sqlite:///{bench.home}/trials.db")
    assert len(kept.trials) == 1 and not list(bench.outputs.glob("optuna/*.journal"))
    other = bench(*SEARCH, "method=linear", *SPACE[1:], *words[-2:], f"{TRIALS}2")
    assert other.code == 2 and other.err == (
        "qbench: hydra.sweeper.study_name=ours: that study is about another search (fixed, space differ); give another "
        "study_name.\n"
    )
    lost = bench(*SEARCH, *SPACE, f"hydra.sweeper.storage='sqlite:///{bench.home}/no/folder/trials.db'")
    assert lost.code == 2 and "cannot be opened (" in lost.err and "Traceback" not in lost.err


def test_one_process_at_a_time(bench: Bench) -> None:
    (bench.outputs / "optuna").mkdir(parents=True)
    with FileLock(bench.outputs / "optuna" / "ours.lock"):
        done = bench(*SEARCH, *SPACE, "hydra.sweeper.study_name=ours")
    assert done.code == 1
    assert done.err == "qbench: study ours: another process is searching; wait for it, or set study_name\n"


def test_a_plan_alone(bench: Bench) -> None:
    done = bench(*SEARCH, *SPACE, "dry=true", "hydra.sweeper.max_drop=1")
    assert done.code == 0 and not bench.outputs.exists()
    lines = done.out.splitlines()
    assert lines[0].startswith("search search-") and lines[0].endswith(
        ": highest top1, lowest size_bytes; budget max_drop=1"
    )
    assert lines[1:] == ["  method: linear, kmeans", "  bits: 2, 3, 4, 8", "20 trials; sampler tpe"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("hydra.sweeper.objectives=[top1,sise]", "hydra.sweeper.objectives=['top1', 'sise']: allowed for "
         "hydra/sweeper=optuna: a list of top1, size_bytes, latency_ms_median, energy_modelled_uJ, bops, "
         "peak_memory_bytes, activation_bytes_peak."),
        ("hydra.sweeper.n_trials=0", "hydra.sweeper.n_trials=0: allowed for hydra/sweeper=optuna: whole numbers from 1 "
         "to 100000."),
        ("hydra.sweeper.trials=5", "hydra.sweeper.trials: unknown key in hydra/sweeper=optuna. Did you mean n_trials?"),
        ("hydra.sweeper.sampler=grid", "hydra.sweeper.sampler=grid: allowed for hydra/sweeper=optuna: tpe, nsga2, "
         "random."),
        ("method.granularity=interval(0,1)", "method.granularity=0.0: allowed for method=linear: per_tensor, "
         "per_channel"),
        ("method.bitz=1,2", "method.bitz: unknown key in method=linear."),
        ("bits=4,99", "bits=99: allowed for method=linear: whole numbers from "),
        ("hydra.sweeper.max_latency_ms=3", "hydra.sweeper: max_latency_ms needs measure.latency=true."),
        ("hydra.sweeper.objectives=[peak_memory_bytes]", "hydra.sweeper: peak_memory_bytes needs measure.memory=true."),
        ("hydra/launcher=joblib", "hydra/launcher=joblib: a search runs its trials one after another, each learning "
         "from those before it; leave the launcher out."),
        ("seed=0,1", "seed=0,1: cannot be searched over; all trials must be measured alike, so seed has one value."),
    ],
    ids=str,
)  # fmt: skip
def test_refused(bench: Bench, words: str, problem: str) -> None:
    space = SPACE if not words.startswith("bits") else SPACE[:1]
    done = bench(*SEARCH, *space, *words.split())
    assert done.code == 2 and done.err.splitlines()[0].startswith(f"qbench: {problem}"), done.err
    assert not bench.outputs.exists()


def test_a_search_is_a_sweep(bench: Bench) -> None:
    done = bench("run", "hydra/sweeper=optuna", *SMALL, *SPACE)
    assert done.code == 2
    assert done.err == "qbench: hydra/sweeper=optuna: is about a sweep; add -m (qbench run -m ...).\n"


def test_another_sweeper_is_refused(bench: Bench) -> None:
    path = bench.home / "conf" / "hydra" / "sweeper" / "other.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("_target_: hydra_plugins.other.Sweeper\nsummary: a sweeper of somebody else\n")
    done = bench("run", "-m", "--config-dir", "conf", "hydra/sweeper=other", *SMALL, *SPACE)
    assert done.code == 2 and "the only sweeper is qbench.trials.Settings" in done.err


def test_the_library_may_be_missing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    done = bench(*SEARCH, *SPACE)
    assert done.code == 1 and not Path(bench.outputs).exists()
    assert done.err == 'qbench: hydra/sweeper=optuna needs optuna: pip install "qbench[optuna]"\n'


def test_a_figure_that_another_stage_disturbed_is_measured_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    run_cell = qbench.runner.run_cell

    def contended(*arguments: Any) -> Any:
        record = replace(
            run_cell(*arguments), latency_ms_median=1.0, warning="contended: another", latency_kind="float"
        )
        record.save(bench.outputs / "records")
        return record

    monkeypatch.setattr(qbench.runner, "run_cell", contended)
    words = (*SEARCH, *SPACE, f"{TRIALS}1", "measure.latency=true", "measure.max_seconds=0.1")
    done = bench(*words, "hydra.sweeper.objectives=[top1,latency_ms_median]")
    assert done.code == 0 and "its latency is measured again by the next command" in done.out
    assert [state for state, *_ in trials(bench)] == ["FAIL"] and done.out.splitlines()[-2] == "go on with:"
    assert load_records(bench.outputs / "records")[0][0].status == "ok"
