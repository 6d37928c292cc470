"""The verb export: nothing is there before it is checked, and nothing is left of what fails."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from calling import Bench

import qbench.export.verb
from qbench.errors import ConfigError, ExportError
from qbench.export.base import FORMATS
from qbench.export.c_source import CSourceFiles
from qbench.export.verb import export_file
from qbench.locate import ARTIFACT
from qbench.program.simulation import simulate
from qbench.stages import ARTIFACT as ARTIFACT_OF_A_RUN

from .programs import float_program, integer_program, saved


def test_the_name_of_an_artefact_is_that_of_a_run() -> None:
    assert ARTIFACT == ARTIFACT_OF_A_RUN


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return saved(integer_program(), tmp_path)


def test_c(bench: Bench, toy: Path) -> None:
    done = bench("export", str(toy), "--format", "c", "--images=20")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == (
        "checked: 20 images (test images of digits): class 100.0 %, logits 100.0 % the same, largest difference 0"
    )
    folder = toy.parent / "toy_c"
    files = [folder / "toy.c", folder / "toy.h"]
    assert sorted(folder.iterdir()) == files
    assert lines[1:] == [f"written: {path}, {path.stat().st_size:,} bytes" for path in files]
    assert "model toy, dataset digits, method integer" in files[1].read_text()
    assert sorted(path.name for path in toy.parent.iterdir()) == ["home", "toy.qbench", "toy_c"]


def test_torch(bench: Bench, toy: Path, tmp_path: Path) -> None:
    target = tmp_path / "deployed.pt2"
    done = bench("export", "--output", str(target), "--format=torch", str(toy), "--images", "12")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[1] == f"written: {target}, {target.stat().st_size:,} bytes"
    images = torch.randn(3, 1, 32, 32)
    assert torch.equal(torch.export.load(target).module()(images), simulate(integer_program())(images))


def test_a_run_is_found_by_its_id(bench: Bench, tmp_path: Path) -> None:
    run = bench.outputs / "runs" / "digits_toy_integer_w8a8_s0_0123456789ab"
    run.mkdir(parents=True)
    saved(integer_program(), run, ARTIFACT)
    for index, given in enumerate(("0123456789ab", "0123", run.name, str(run), str(run / ARTIFACT))):
        done = bench("export", given, "--format", "c", "--images", "1", "--output", str(tmp_path / f"net{index}"))
        assert (done.code, done.err) == (0, "")
        assert (tmp_path / f"net{index}" / f"net{index}.c").exists()


def test_runs_that_are_not_there(bench: Bench) -> None:
    runs = bench.outputs / "runs"
    for name in ("a_0123456789ab", "b_0123ffffffff", "c_77777777ffff"):
        (runs / name).mkdir(parents=True)
    (runs / "c_77777777ffff" / "traceback.txt").touch()
    refused = {
        "0123": "several runs are meant: a_0123456789ab, b_0123ffffffff.",
        "9999": f"no such file, and no run of that id in {runs}.",
        "012": f"no such file, and no run of that id in {runs}.",
    }
    for given, message in refused.items():
        done = bench("export", given, "--format", "c")
        assert (done.code, done.out, done.err) == (2, "", f"qbench: export {given}: {message}\n")
    done = bench("export", "7777", "--format", "c")
    failed = f"export {runs}/c_77777777ffff: holds no model.qbench; the run failed, see its traceback.txt."
    assert (done.code, done.err) == (2, f"qbench: {failed}\n")
    done = bench("export", str(runs), "--format", "c")
    assert (done.code, done.err) == (2, f"qbench: export {runs}: holds no model.qbench; it is no run's folder.\n")


USAGE = "export: give one artefact or run and --format onnx|openvino|c|torch; also --output PATH, --images N."


@pytest.mark.parametrize(
    "words, message",
    [
        ("", USAGE),
        ("toy.qbench", USAGE),
        ("--format c", USAGE),
        ("toy.qbench other --format c", USAGE),
        ("toy.qbench --formt c", USAGE),
        ("toy.qbench --format", "--format: a format is missing after it."),
        ("toy.qbench --format tflite", f"--format tflite: unknown format. Known: {', '.join(FORMATS)}."),
        ("toy.qbench --format onx", f"--format onx: unknown format. Did you mean onnx? Known: {', '.join(FORMATS)}."),
        ("toy.qbench --format c --images 0", "--images 0: a whole number from 1 up is needed."),
        ("toy.qbench --format c --images many", "--images many: a whole number from 1 up is needed."),
        ("nothing.qbench --format c", "nothing.qbench: cannot be read: No such file or directory"),
        ("toy.qbench --format c --output full", "export: full is not empty; name another folder or empty it."),
        ("toy.qbench --format c --output full/file", "export: full/file is a file; this format needs a folder."),
        ("toy.qbench --format c --output no/where", "export: no is no folder; make it, or give another --output PATH."),
        ("toy.qbench --format torch --output full", "export: full is a folder; name a file."),
        ("toy.qbench --format torch --output full/file",
         "export: full/file is there already; name another or remove it."),
    ],
    ids=str,
)  # fmt: skip
def test_refusals(bench: Bench, words: str, message: str) -> None:
    saved(integer_program(), Path())
    Path("full").mkdir()
    Path("full/file").write_text("precious")
    done = bench("export", *words.split())
    assert (done.code, done.out, done.err) == (2, "", f"qbench: {message}\n")
    assert sorted(path.name for path in bench.home.iterdir()) == ["full", "tmp", "toy.qbench"]
    assert Path("full/file").read_text() == "precious"


def test_a_folder_that_is_empty_is_no_obstacle(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    export_file(toy, "c", tmp_path / "net", 2)
    assert (tmp_path / "net" / "net.c").exists()


def test_a_place_that_cannot_be_written_to(bench: Bench, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # permissions do not stop the superuser, whom tests may run as: the answer of the system is simulated
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != toy.parent and allowed(path, mode))
    done = bench("export", str(toy), "--format", "c")
    assert done.err == f"qbench: export: {toy.parent} cannot be written to; give --output PATH.\n" and done.code == 2
    monkeypatch.undo()

    def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ConfigError, match=r"toy_c cannot be written \(Read-only file system\); give --output PATH"):
        export_file(toy, "c", None, 2)


def test_an_artefact_without_such_a_form(bench: Bench, tmp_path: Path) -> None:
    path = saved(float_program(), tmp_path)
    done = bench("export", str(path), "--format", "c")
    reason = "input: has no grid; quantize activations statically, e.g. with method=integer"
    assert (done.code, done.err) == (1, f"qbench: format=c cannot hold {path}: {reason}\n")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["home", "toy.qbench"]


@dataclass(frozen=True)
class Wrong(CSourceFiles):
    """A format whose file computes something else."""

    def reload(self, program: Any, folder: Path, name: str) -> Any:
        return lambda images: -self.reference(program)(images)


def test_a_file_that_predicts_something_else_is_not_kept(
    bench: Bench, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qbench.export.verb, "load_format", lambda name: Wrong())
    done = bench("export", str(toy), "--format", "c", "--images", "30")
    expected = (
        f"format=c: re-loaded, the file predicts what {toy} predicts on 0.0 % of 30 images (test images of digits)"
    )
    assert done.code == 1 and done.err == f"qbench: {expected}, not on 100 %; nothing was written.\n"
    assert sorted(each.name for each in toy.parent.iterdir()) == ["home", "toy.qbench"]
    with pytest.raises(ExportError):
        export_file(toy, "c", None, 3)


def test_no_compiler(bench: Bench, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    done = bench("export", str(toy), "--format", "c")
    assert done.code == 1 and done.err.startswith("qbench: no C compiler (CC=no-such-compiler is not there);")
    assert not (toy.parent / "toy_c").exists()


def test_refusing_imports_no_torch(bench: Bench) -> None:
    code = (
        "import sys\nfrom qbench.cli import main\n"
        "for call in ('export', 'export a --format b', 'export 0000 --format c', 'evaluate', 'predict x',\n"
        "             'predict x none.png', 'evaluate x datset=y', 'evaluate x dataset=digit', 'evaluate x'):\n"
        "    try:\n        main(call.split())\n    except SystemExit as ended:\n        print(ended.code)\n"
        "print('torch' in sys.modules)"
    )
    assert bench.python("-c", code).out.split() == ["2"] * 9 + ["False"]
