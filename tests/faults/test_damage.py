"""A flipped bit, a truncation, an empty file, in everything that is kept: named, and made anew or refused."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from calling import Bench
from faults.procs import SMALL, Events, agree, artefacts, call, done_lines, epochs, in_folder, results

from qbench.record import load_record

RUN = ("run", *SMALL, "method=linear", "bits=4")
Damage = Callable[[bytes], bytes]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


DAMAGES: dict[str, Damage] = {
    "flipped bit": flipped,
    "truncated": lambda content: content[:-7],
    "empty": lambda content: b"",
}
damages = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


def harm(path: Path, damage: Damage) -> None:
    """As a disk does it: the same file, so that every name of it has the damage."""
    path.write_bytes(damage(path.read_bytes()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("whole"), None)  # type: ignore[arg-type]
    code, output = call(in_folder(bench, "run"), RUN, Events(in_folder(bench, "run").home, log=bench.home / "events"))
    assert code == 0, output
    (bench.home / "output").write_text(output)
    return in_folder(bench, "run")


def copy(whole: Bench, bench: Bench) -> None:
    """What a run leaves, without running."""
    for name in ("store", "outputs"):
        shutil.copytree(whole.home / name, bench.home / name)


@damages
@pytest.mark.parametrize("stage", ["train", "quantize", "score"])
@pytest.mark.parametrize("which", ["largest", "manifest.json"])
def test_a_store_entry(bench: Bench, whole: Bench, damage: Damage, stage: str, which: str) -> None:
    copy(whole, bench)
    keys = dict(line.split() for line in done_lines((whole.home.parent / "output").read_text()))
    folder = bench.store / stage / keys[stage]
    files = sorted(folder.iterdir(), key=lambda path: path.stat().st_size)
    harm(files[-1] if which == "largest" else folder / which, damage)
    code, output = call(bench, ["store", "verify"])
    assert code == 1 and output.splitlines()[0].startswith((f"{stage}/{keys[stage]} (", f"{stage}/{keys[stage]}: "))
    said = "checksum" in output or "manifest.json" in output
    assert said and output.splitlines()[-1].startswith("5 entries checked, 1 not as they were written")
    code, output = call(bench, RUN)
    assert code == 0 and f"{stage}/{keys[stage]} is damaged" in " ".join(output.split())
    assert done_lines(output) == [f"{stage} {keys[stage]}"]
    assert call(bench, ["store", "gc"])[0] == 0  # what was set aside
    agree(whole, bench)
    assert call(bench, ["store", "verify"])[0] == 0


@damages
def test_a_training_checkpoint(bench: Bench, whole: Bench, damage: Damage) -> None:
    lines = (whole.home.parent / "events").read_text().splitlines()
    saved = [number for number, line in enumerate(lines, 1) if "os.rename" in line and ".checkpoint" in line]
    assert call(bench, RUN, Events(bench.home, kill_at=saved[2]))[0] == -signal.SIGKILL
    (checkpoint,) = bench.store.glob("train/*.partial/.checkpoint")
    harm(checkpoint, damage)
    code, output = call(bench, RUN)
    assert code == 0
    told = " ".join(output.split())
    assert "checkpoint .checkpoint is damaged (checksum); training starts from its first epoch" in told
    assert epochs(output) == ["1/3", "2/3", "3/3"]
    agree(whole, bench)


@damages
def test_a_record(bench: Bench, whole: Bench, damage: Damage) -> None:
    copy(whole, bench)
    (record,) = (bench.outputs / "records").iterdir()
    before = record.read_bytes()
    harm(record, damage)
    code, output = call(bench, ["report", str(bench.outputs)])
    assert code == 2 and f"note: {record}: not a record of this qbench (" in output
    assert f"qbench: report {bench.outputs}/records: holds no records" in output
    code, output = call(bench, RUN)
    assert code == 0 and done_lines(output) == []
    assert load_record(record).top1_percent == json.loads(before)["top1_percent"]
    agree(whole, bench)


@damages
def test_the_artefact_of_a_run(bench: Bench, whole: Bench, damage: Damage) -> None:
    """Its name in the outputs and that in the store may be one file: refused there, found and made anew here."""
    assert call(bench, RUN)[0] == 0
    (path,) = bench.outputs.glob("runs/*/model.qbench")
    harm(path, damage)
    for verb in (["inspect", str(path)], ["evaluate", str(path), "dataset=synthetic"]):
        code, output = call(bench, verb)
        assert code == 2 and output.startswith(f"qbench: {path}: ") and len(output.splitlines()) == 1
        assert any(word in output for word in ("checksum mismatch", "truncated", "the file is empty")), output
    assert call(bench, RUN)[0] == 0 and call(bench, ["store", "gc"])[0] == 0
    agree(whole, bench)
    assert artefacts(bench) == artefacts(whole) and results(bench)["status"].tolist() == ["ok"]


@damages
def test_a_file_that_only_helps(bench: Bench, whole: Bench, damage: Damage) -> None:
    """Durations decide nothing."""
    copy(whole, bench)
    for path in (bench.store / "durations").iterdir():
        harm(path, damage)
    code, output = call(bench, RUN)
    assert code == 0 and done_lines(output) == []
    agree(whole, bench)
