from __future__ import annotations

import sys
from pathlib import Path

import pytest
import submitit  # noqa: F401 - it sets up logging when first imported, and closes the streams of others' handlers
from calling import Bench


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Bench:
    home = tmp_path / "home"
    (home / "tmp").mkdir(parents=True)
    for variable, folder in {"STORE": "store", "OUTPUTS": "outputs", "DATA": "data"}.items():
        monkeypatch.setenv(f"QBENCH_{variable}", str(home / folder))
    # The locks that keep profiling alone on a machine: other tests and the user's own runs are none of its business.
    monkeypatch.setenv("TMPDIR", str(home / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "path", [*sys.path])  # --config-dir adds to it
    monkeypatch.chdir(home)
    return Bench(home, capsys)
