"""Places that are not as they should be: read-only, another clock, no home, another version's store, links, ``..``."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from calling import Bench
from faults.procs import SMALL, agree, call, done_lines, in_folder, results
from faults.test_full_disk import Before

from qbench.record import load_records

RUN = ("run", *SMALL, "method=linear", "bits=4")
EVALUATE = ("dataset=synthetic", "dataset.test_images=120", "threads=1")


def without_privileges() -> None:
    """Let permissions count for the superuser too, whom tests may run as: drop every capability (Linux)."""
    if os.geteuid() != 0:
        return
    version_3 = 0x20080522
    header, sets = (ctypes.c_uint32 * 2)(version_3, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("whole"), None)  # type: ignore[arg-type]
    assert call(bench, RUN)[0] == 0
    return bench


# --- read-only


def test_a_read_only_output_folder_is_refused_at_once(bench: Bench) -> None:
    bench.outputs.mkdir()
    bench.outputs.chmod(0o555)
    code, output = call(bench, RUN, without_privileges)
    assert (code, output) == (2, f"qbench: output_dir={bench.outputs}: {bench.outputs} cannot be written to.\n")
    assert not bench.store.exists()


@pytest.mark.parametrize("name", ["records", "tables"])
def test_an_output_folder_that_cannot_be_written_in_the_end(bench: Bench, whole: Bench, name: str) -> None:
    (bench.outputs / name).mkdir(parents=True)
    (bench.outputs / name).chmod(0o555)
    code, output = call(bench, RUN, without_privileges)
    assert code == 1 and "Traceback" not in output
    assert output.splitlines()[-1].startswith(f"qbench: {bench.outputs}/{name} cannot be written (Permission denied)")
    (bench.outputs / name).chmod(0o755)
    code, output = call(bench, RUN, without_privileges)
    assert code == 0 and done_lines(output) == []
    agree(whole, bench)


def test_a_file_in_place_of_a_folder(bench: Bench, whole: Bench) -> None:
    bench.outputs.mkdir()
    (bench.outputs / "runs").write_text("not a folder")
    code, _ = call(bench, RUN)
    (record,), _ = load_records(bench.outputs / "records")
    assert code == 1 and record.status == "failed" and record.error is not None and "runs" in record.error
    (bench.outputs / "runs").unlink()
    assert call(bench, RUN)[0] == 0
    agree(whole, bench)


def test_a_store_that_becomes_read_only(bench: Bench, whole: Bench) -> None:
    """A stage cannot be published any more: the row says so. What is there already is served without writing."""
    assert call(bench, RUN)[0] == 0
    for folder in (bench.store, *bench.store.glob("*"), *bench.store.glob("*/*")):
        if folder.is_dir():
            folder.chmod(0o555)
    try:
        closed = Before("qbench.sweep", "_run_all", without_privileges)  # after the check of the command line
        code, output = call(bench, RUN, closed)
        assert code == 0 and done_lines(output) == [], output
        code, output = call(bench, [*RUN, "seed=1"], closed)
        assert (
            code == 1 and f"store {bench.store} cannot be written (Permission denied); set store_dir=FOLDER" in output
        )
    finally:
        for folder in (bench.store, *bench.store.glob("*"), *bench.store.glob("*/*")):
            if folder.is_dir():
                folder.chmod(0o755)


# --- clock and home


def clock_set_back(days: float) -> None:
    real = time.time
    time.time = lambda: real() - days * 86400


def test_a_clock_set_back_between_two_runs(bench: Bench, whole: Bench) -> None:
    assert call(bench, RUN)[0] == 0
    code, output = call(bench, RUN, partial(clock_set_back, 4000))
    assert code == 0 and done_lines(output) == []
    for words in (["store", "ls"], ["store", "verify"], ["store", "gc", "--older-than", "1d"], ["report"]):
        code, output = call(bench, words, partial(clock_set_back, 4000))
        assert code == 0 and "Traceback" not in output, output
    code, output = call(bench, RUN)
    assert code == 0 and done_lines(output) == []  # gc found nothing old
    agree(whole, bench)


def test_a_clock_set_back_while_it_runs(bench: Bench, whole: Bench) -> None:
    code, output = call(bench, RUN, Before("qbench.runner", "quantize_stage", partial(clock_set_back, 4000)))
    assert code == 0, output
    rows = results(bench)
    assert (rows["train_seconds"] >= 0).all() and (rows["quantize_seconds"] >= 0).all()
    agree(whole, bench)


def test_a_process_without_home(bench: Bench, whole: Bench) -> None:
    """As in a container whose user has neither a name nor a folder; a whole interpreter, for what is read at import."""
    nobody = {name: value for name, value in bench.environment().items() if name not in ("HOME", "USER", "LOGNAME")}
    command = [sys.executable, "-m", "qbench", *RUN]
    done = subprocess.run(command, capture_output=True, text=True, cwd=bench.home, env=nobody, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    agree(whole, bench)


# --- two versions on one store


def another_version(version: str, **stages: int) -> None:
    """Later stages count as others; their entries lie beside those of this version."""
    import qbench
    import qbench.plan

    qbench.__version__ = version
    qbench.plan.VERSIONS.update(stages)


def later_format(number: int) -> None:
    import qbench.store

    qbench.store.FORMAT = number


def test_a_version_whose_stages_are_others_shares_the_store(bench: Bench, whole: Bench) -> None:
    assert call(bench, RUN)[0] == 0
    code, output = call(bench, RUN, partial(another_version, "99.0", quantize=7))
    assert code == 0 and [line.split()[0] for line in done_lines(output)] == ["quantize", "score"] * 2
    for hooks in ((), (partial(another_version, "99.0", quantize=7),)):
        code, output = call(bench, RUN, *hooks)
        assert code == 0 and done_lines(output) == []
    assert len(load_records(bench.outputs / "records")[0]) == 2


def test_a_version_of_another_format_is_told_and_kept_apart(bench: Bench, whole: Bench) -> None:
    """Neither takes the other's entries for damaged ones, which it would throw away."""
    later = in_folder(bench, "later")
    assert call(later, RUN, partial(later_format, 2))[0] == 0
    before = {path: path.read_bytes() for path in later.store.glob("*/*/*") if path.is_file()}
    assert call(later, [*RUN, f"output_dir={bench.outputs}"])[0] == 1
    (record,), _ = load_records(bench.outputs / "records")
    assert record.error is not None and record.error_kind == "expected"
    assert "has format 2, this qbench reads 1: another version of qbench wrote it" in record.error
    assert record.error.endswith("give this one a store of its own (store_dir=FOLDER or QBENCH_STORE)")
    assert {path: path.read_bytes() for path in later.store.glob("*/*/*") if path.is_file()} == before
    assert done_lines(call(later, RUN, partial(later_format, 2))[1]) == []
    assert call(later, [*RUN, f"store_dir={bench.store}", f"output_dir={bench.outputs}"])[0] == 0
    agree(whole, bench)


# --- links and dots


def test_an_artefact_through_links_and_dots(bench: Bench, whole: Bench) -> None:
    (artefact,) = whole.outputs.glob("runs/*/model.qbench")
    (bench.home / "a").mkdir()
    (bench.home / "link.qbench").symlink_to(artefact)
    for given in (bench.home / "link.qbench", Path("a/../link.qbench"), artefact.parent / ".." / artefact.parent.name):
        code, output = call(bench, ["evaluate", str(given), *EVALUATE])
        assert code == 0, output


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("nowhere", "cannot be read: No such file or directory"),
        ("loop.qbench", "cannot be read: Too many levels of symbolic links"),
        ("/dev/zero", "is not a regular file"),
        ("tmp", None),
    ],
    ids=["dangling", "loop", "device", "folder"],
)
def test_a_link_that_leads_to_no_artefact(bench: Bench, target: str, reason: str | None) -> None:
    (bench.home / "loop.qbench").symlink_to(target)
    code, output = call(bench, ["inspect", str(bench.home / "loop.qbench")])
    reason = reason or "is a folder, not an artefact"
    assert (code, output) == (2, f"qbench: {bench.home}/loop.qbench: {reason}\n")


def test_weights_through_links_and_dots_are_the_weights(bench: Bench, whole: Bench) -> None:
    """The key has their content, not their path: three ways to name one file are one training."""
    (weights,) = whole.store.glob("train/*/weights.safetensors")
    (bench.home / "a").mkdir()
    (bench.home / "link.safetensors").symlink_to(weights)
    made = []
    for given in (weights, bench.home / "link.safetensors", "a/../link.safetensors"):
        code, output = call(bench, [*RUN, f"model.weights={given}"])
        assert code == 0, output
        made.append(len(done_lines(output)))
    assert made == [5, 0, 0]


@pytest.mark.parametrize("target", ["nowhere", "loop.safetensors", "tmp"])
def test_weights_that_lead_nowhere(bench: Bench, target: str) -> None:
    (bench.home / "loop.safetensors").symlink_to(target)
    code, output = call(bench, [*RUN, "model.weights=loop.safetensors"])
    message = "qbench: model.weights=loop.safetensors: no such file; give a safetensors file.\n"
    assert (code, output) == (2, message)


def test_a_link_in_place_of_a_result_is_replaced_and_not_followed(bench: Bench, whole: Bench) -> None:
    assert call(bench, RUN)[0] == 0
    (artefact,), (record,) = bench.outputs.glob("runs/*/model.qbench"), bench.outputs.glob("records/*.json")
    table = bench.outputs / "tables" / "results.csv"
    for path in (artefact, record, table):
        victim = bench.home / f"victim of {path.name}"
        victim.write_text("mine")
        path.unlink()
        path.symlink_to(victim)
    assert call(bench, RUN)[0] == 0
    for path in (artefact, record, table):
        assert not path.is_symlink() and (bench.home / f"victim of {path.name}").read_text() == "mine"
    agree(whole, bench)


def test_a_run_again_leaves_no_second_name_behind(bench: Bench) -> None:
    for _ in range(2):
        assert call(bench, RUN)[0] == 0
    (folder,) = (bench.outputs / "runs").iterdir()
    assert [path.name for path in folder.iterdir()] == ["model.qbench"]
