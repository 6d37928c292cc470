import json
import subprocess
import sys
from pathlib import Path

import pytest

import qbench
from qbench.measure import environment as module
from qbench.measure.environment import VOLATILE, environment

KEYS = {
    "python", "torch", "torchvision", "numpy", "qbench", "platform", "cpu_model", "cpu_flags", "physical_cores",
    "logical_cores", "usable_cores", "memory_bytes", "cpu_governor", "clock_mhz", "git_sha", "git_dirty",
}  # fmt: skip


def test_environment_says_what_it_promises_and_no_more() -> None:
    found = environment()
    assert set(found) == KEYS  # a host or user name would be a new key
    assert json.loads(json.dumps(found)) == found
    assert found["qbench"] == qbench.__version__
    assert found["python"].split(".")[:2] == [str(sys.version_info.major), str(sys.version_info.minor)]
    assert found["memory_bytes"] > 2**20
    assert 1 <= found["usable_cores"] <= found["logical_cores"]
    assert set(VOLATILE) <= KEYS


def test_versions_equal_the_packages_own() -> None:
    import numpy
    import torch

    found = environment()
    assert found["numpy"] == numpy.__version__
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_environment_does_not_import_torch() -> None:
    script = "import sys, qbench.measure.environment as e; e.environment(); sys.exit('torch' in sys.modules)"
    root = Path(qbench.__file__).resolve().parent.parent
    assert subprocess.run([sys.executable, "-c", script], cwd=root, check=False).returncode == 0


def test_a_processor_unknown_to_the_kernel_is_asked_of_py_cpuinfo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "processor", lambda: (None, frozenset()))
    monkeypatch.setattr("cpuinfo.get_cpu_info", lambda: {"brand_raw": "Chip", "flags": ["avx2", "sse"]})
    found = environment()
    assert (found["cpu_model"], found["cpu_flags"]) == ("Chip", ["avx2"])


def test_governor_is_read_where_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_GOVERNOR", tmp_path / "none")
    assert environment()["cpu_governor"] is None
    (tmp_path / "governor").write_text("performance\n")
    monkeypatch.setattr(module, "_GOVERNOR", tmp_path / "governor")
    assert environment()["cpu_governor"] == "performance"


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", root, *identity, *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where the tests run in a git hook
        monkeypatch.delenv(variable, raising=False)
    package = tmp_path / "checkout" / "qbench"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(qbench, "__file__", str(package / "__init__.py"))
    return package.parent


def test_a_checkout_is_named_by_its_commit(checkout: Path) -> None:
    git(checkout, "init", "-q")
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "first")
    found = environment()
    assert (found["git_sha"], found["git_dirty"]) == (git(checkout, "rev-parse", "HEAD").strip(), False)
    (checkout / "qbench" / "__init__.py").write_text("changed = True\n")
    assert environment()["git_dirty"] is True


def test_an_installation_inside_another_repository_has_no_commit(checkout: Path) -> None:
    git(checkout.parent, "init", "-q")
    git(checkout.parent, "commit", "-q", "--allow-empty", "-m", "not ours")
    found = environment()
    assert (found["git_sha"], found["git_dirty"]) == (None, None)


def test_no_checkout_and_no_git_are_none(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(checkout.parent))
    assert environment()["git_sha"] is None
    monkeypatch.setenv("PATH", "")
    assert environment()["git_dirty"] is None
