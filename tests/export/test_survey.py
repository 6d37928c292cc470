"""Recorded networks as C, in a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qbench.errors import ConfigError
from qbench.export.survey import main, survey
from qbench.record import Record

from .programs import integer_program, saved

ROOT = Path(__file__).parents[2]
EMPTY = "# C\n\n<!-- exports:begin -->\n<!-- exports:end -->\n"


def record(model: str, artifact: Path | None, run_id: str = "a", sha256: str = "0") -> Record:
    facts = {"status": "ok", "dataset": "digits", "method": "integer", "seed": 0, "runtime": "integer"}
    place = None if artifact is None else str(artifact)
    return Record(run_id=run_id, model=model, artifact=place, artifact_sha256=sha256, **facts)  # type: ignore[arg-type]


def test_networks_are_exported_compiled_compared_and_tabulated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = saved(integer_program(), tmp_path)
    gone = record("toy", tmp_path / "gone.qbench", "b")
    for one in (record("toy", artifact), gone):
        one.save(tmp_path / "records")
    (tmp_path / "README.md").write_text(EMPTY)
    asked = [str(tmp_path / "records"), str(tmp_path), "--models", "toy", "--images", "30"]
    assert main(asked) == 0, capsys.readouterr().out
    (found,) = json.loads((tmp_path / "exports.json").read_text())["networks"]
    assert (found["images"], found["source"]) == (30, "test images of digits")
    assert (found["identical_percent"], found["largest_difference"], found["blob_bytes"]) == (100.0, 0.0, 0)
    assert found["source_bytes"] > found["object_bytes"] > found["arena_bytes"] > 0 <= found["compile_seconds"]
    text = (tmp_path / "README.md").read_text()
    assert "| toy " in text and "| 30 images (test images of digits)" in text and "| 100 % " in text
    assert "-std=c99 -Wall -Wextra -Werror -ffreestanding" in text
    assert main(["--check", str(tmp_path)]) == 0
    (tmp_path / "README.md").write_text(text.replace("100 %", "99 %"))
    assert main(["--check", str(tmp_path)]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "exports.json",
        "records",
        "toy.qbench",
    ]


def test_a_network_without_its_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = record("toy", tmp_path / "gone.qbench")
    with pytest.raises(ConfigError, match=r"^toy: .*gone\.qbench is not there; make results-agreement writes it\.$"):
        survey([gone], ["toy"])
    with pytest.raises(ConfigError, match=r"^toy: 2 files of method=integer are recorded; one is needed\.$"):
        survey([gone, record("toy", None, "b", "1")], ["toy"])
    (tmp_path / "README.md").write_text(EMPTY)
    assert main([str(tmp_path), str(tmp_path), "--models", "toy"]) == 1
    assert capsys.readouterr().out == "toy: 0 files of method=integer are recorded; one is needed.\n"
    assert (tmp_path / "README.md").read_text() == EMPTY


def test_a_table_without_records_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path)])
    assert ended.value.code == 2 and "name the folder of records before that of the table" in capsys.readouterr().err


def test_the_committed_table_is_not_stale() -> None:
    """``make results-exports`` rebuilds it."""
    assert main([str(ROOT / "docs/results/exports"), "--check"]) == 0
