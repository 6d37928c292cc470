from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from qbench.data.presence import check_presence, path_problem

HOST = "data.example:443"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(key, raising=False)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> socket.socket:
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)


def test_import_needs_no_torch_and_no_numpy() -> None:
    code = "import sys, qbench.data.presence; print(sorted({'torch', 'torchvision', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_needed_is_present(tmp_path: Path, offline: None) -> None:
    assert check_presence("digits", tmp_path / "nowhere", [], None) is None


def test_one_source_of_several_is_enough(tmp_path: Path, offline: None) -> None:
    (tmp_path / "second").mkdir()
    assert check_presence("pets", tmp_path, ["first", "second"], HOST) is None


def test_missing_without_download_names_everything(tmp_path: Path) -> None:
    message = check_presence("pets", tmp_path, ["a/train", "b.bin"], None)
    assert message is not None and "\n" not in message
    for part in ("pets", str(tmp_path), "a/train or b.bin", "data_dir=", "dataset=digits"):
        assert part in message
    assert "dataset.download" not in message


def test_unreachable_download_says_so(tmp_path: Path, offline: None) -> None:
    message = check_presence("pets", tmp_path, ["a"], HOST)
    assert message is not None and "\n" not in message
    assert f"{HOST} does not answer" in message and "dataset.download=true" in message


def test_reachable_download_host_is_enough(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert check_presence("pets", tmp_path, ["a"], address) is None


def test_the_proxy_is_asked_where_one_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert check_presence("pets", tmp_path, ["a"], "data.invalid:443") is None


def test_slow_name_lookup_cannot_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def look_up(*args: Any, **kwargs: Any) -> socket.socket:
        released.wait(3)
        raise OSError("no such host")

    monkeypatch.setattr(socket, "create_connection", look_up)
    start = time.monotonic()
    message = check_presence("pets", tmp_path, ["a"], HOST, timeout_s=0.1)
    assert time.monotonic() - start < 1.5  # far below the 3 s of the look-up
    released.set()
    assert message is not None and "does not answer" in message


def test_unreadable_is_told_from_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and real(path, mode))
    assert path_problem(locked) == f"{locked} is unreadable (permission denied)"
    message = check_presence("pets", tmp_path, ["locked"], HOST)
    assert message is not None and f"{locked} is unreadable" in message and "does not answer" not in message


def test_a_file_in_place_of_the_data_dir(tmp_path: Path, offline: None) -> None:
    (tmp_path / "file").write_text("")
    message = check_presence("pets", tmp_path / "file", ["train"], HOST)
    assert message is not None and "not a folder" in message
    assert path_problem(tmp_path / "none" / "deeper") == "missing"
