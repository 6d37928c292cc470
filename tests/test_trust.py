"""What a config may name and how much it may stand for: refused before anything is imported or composed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from calling import QUICK, Bench

from qbench.compose import compose_cells
from qbench.errors import ConfigError
from qbench.trust import check_yaml, target_problems

STANDARD = "it is of Python's standard library; name a class of qbench, or one of yours beside the config folder."
CALLED = "called.txt"


def write(folder: Path, group: str, content: Any, name: str = "mine") -> Path:
    path = folder / "configs" / group / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return folder / "configs"


def refused(bench: Bench, folder: Path, *words: str) -> list[str]:
    done = bench("run", "--config-dir", str(folder), *QUICK, *words)
    assert (done.code, done.out) == (2, "")
    assert not Path(CALLED).exists() and not bench.outputs.exists()
    return [line.removeprefix("qbench: ") for line in done.err.splitlines()]


@pytest.mark.parametrize("target", ["os.system", "subprocess.run", "builtins.eval", "posix.system", "shutil.rmtree"])
def test_the_standard_library_is_no_method(bench: Bench, target: str) -> None:
    folder = write(bench.home, "method", {"_target_": target, "command": f"touch {CALLED}"})
    assert refused(bench, folder, "method=mine") == [f"method=mine: _target_ {target} is not allowed: {STANDARD}"]


@pytest.mark.parametrize("group", ["dataset", "model", "runtime"])
def test_nor_is_it_anything_else(bench: Bench, group: str) -> None:
    folder = write(bench.home, group, {"_target_": "os.system", "command": f"touch {CALLED}"})
    words = [word for word in QUICK if not word.startswith(group)]
    done = bench("run", "--config-dir", str(folder), *words, f"{group}=mine")
    assert done.code == 2 and f"qbench: {group}=mine: _target_ os.system is not allowed: {STANDARD}" in done.err
    assert not Path(CALLED).exists()


def test_a_step_is_looked_at_too(bench: Bench) -> None:
    step = {"_target_": "os.system", "command": f"touch {CALLED}"}
    folder = write(bench.home, "method", {"_target_": "qbench.methods.pipeline.Pipeline", "first": step})
    assert refused(bench, folder, "method=mine") == [f"method=mine: _target_ os.system is not allowed: {STANDARD}"]


def test_an_open_mapping_is_no_way_in(bench: Bench) -> None:
    word = f"method.overrides={{_target_: os.system, command: 'touch {CALLED}'}}"
    done = bench("run", *QUICK, "method=linear", word)
    assert done.code == 2 and f"method=linear: _target_ os.system is not allowed: {STANDARD}" in done.err
    assert not Path(CALLED).exists()


def test_a_candidate_of_auto_is_looked_at_too(bench: Bench) -> None:
    folder = write(bench.home, "runtime", {"_target_": "os.system", "command": f"touch {CALLED}"}, "evil")
    auto = {"_target_": "qbench.runtime.auto.AutoRuntime", "candidates": ["torch", "evil"]}
    write(bench.home, "runtime", auto)
    assert f"runtime=evil: _target_ os.system is not allowed: {STANDARD}" in refused(
        bench, folder, "method=linear", "runtime=mine"
    )


def test_an_installed_package_needs_trust(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(bench.home, "method", {"_target_": "yaml.safe_load", "stream": "x"})
    (problem,) = refused(bench, folder, "method=mine")
    assert problem == (
        "method=mine: _target_ yaml.safe_load is not allowed: yaml is an installed package, not qbench and not yours "
        "beside the config folder; if you trust what it does when called, set QBENCH_TRUST=yaml."
    )
    monkeypatch.setenv("QBENCH_TRUST", "numpy, yaml")
    (cell,) = compose_cells([*QUICK, "method=mine"], folder)
    assert cell.config is not None and cell.config.method.target == "yaml.safe_load"


def test_ones_own_modules_are_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside.py").write_text("raise SystemExit('imported')")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "on_the_path.py").write_text("")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "elsewhere")])
    for target in ("qbench.methods.linear.Linear", "beside.Method", "on_the_path.Method", "nowhere.to.be.Found"):
        assert target_problems({"_target_": target}, "method=mine", tmp_path / "configs") == []
    assert "beside" not in sys.modules


def test_a_network_is_none_of_pythons(bench: Bench) -> None:
    words = ("run", *QUICK[:1], "model=custom", "model.target=os.system", f"model.kwargs={{command: 'touch {CALLED}'}}")
    done = bench(*words)
    assert done.err == "qbench: model.target=os.system: is of Python's standard library, which holds no network.\n"
    assert done.code == 2 and not Path(CALLED).exists()


# --- sizes


def bomb(levels: int, width: int) -> str:
    """Each level names the one before ``width`` times."""
    lines = ["_target_: qbench.methods.linear.Linear", "summary: a bomb", "l0: &l0 [boom]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


def test_a_yaml_bomb_is_refused_before_it_goes_off(bench: Bench) -> None:
    folder = write(bench.home, "method", bomb(30, 10))
    (problem,) = refused(bench, folder, "method=mine")
    path = folder / "method" / "mine.yaml"
    assert problem == f"{path}: stands for about 1e29 values, aliases followed; at most 10,000 are read."
    assert bench("list", "method", "--config-dir", str(folder)).code == 2


def test_a_bomb_that_is_not_chosen_is_named_all_the_same(bench: Bench) -> None:
    folder = write(bench.home, "experiment", bomb(30, 10), "other")
    assert "other.yaml: stands for" in refused(bench, folder, "method=linear")[0]


@pytest.mark.parametrize(
    "text, reason",
    [
        ("a: &a [*a]\n", "an alias stands inside what it names."),
        ("[" * 5000, "is nested too deeply."),
        ("a: " + "x" * 1_000_001, "bytes; a config has at most 1,000,000."),
        ("a: [b\n", "not a readable YAML: "),
        ("\x00", "not a readable YAML: "),
    ],
    ids=["endless", "deep", "long", "broken", "binary"],
)
def test_other_yaml_that_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        check_yaml(path)
    assert str(error.value).startswith(f"{path}: ") and reason in str(error.value)


def test_a_device_is_no_config(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="is not a regular file"):
        check_yaml(tmp_path / "x.yaml")


def test_aliases_as_people_use_them_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("limits: &bits {min: 1, max: 8}\nother: *bits\n")
    assert yaml.safe_load(check_yaml(path)) == {"limits": {"min": 1, "max": 8}, "other": {"min": 1, "max": 8}}
