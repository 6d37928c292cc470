from __future__ import annotations

import multiprocessing.util
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import submitit  # noqa: F401 - it sets up logging when first imported, and closes the streams of others' handlers
from calling import Bench


@pytest.fixture(scope="session", autouse=True)
def sockets() -> None:
    """Those of multiprocessing, which lie in one folder as long as the process lives: not in that of a test."""
    multiprocessing.util.get_temp_dir()


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    home = tmp_path / "home"
    (home / "tmp").mkdir(parents=True)
    for variable, folder in {"STORE": "store", "OUTPUTS": "outputs", "DATA": "data"}.items():
        monkeypatch.setenv(f"QBENCH_{variable}", str(home / folder))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "path", [*sys.path])  # --config-dir adds to it
    monkeypatch.chdir(home)
    with tempfile.TemporaryDirectory(prefix="qb") as folder:
        # The locks that keep profiling alone on a machine: other tests and the user's own runs are none of its
        # business. By a short path, because the name of a socket has at most 107 characters.
        (Path(folder) / "t").symlink_to(home / "tmp")
        monkeypatch.setenv("TMPDIR", str(Path(folder) / "t"))
        monkeypatch.setattr("tempfile.tempdir", None)
        yield Bench(home, capsys)
