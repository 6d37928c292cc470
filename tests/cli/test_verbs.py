"""The verbs that only look, the plan of a sweep, shell completion: what they print, at the width of a pipe."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from calling import QUICK, Bench

import qbench.cli
import qbench.doctor
from qbench import __version__
from qbench.catalog import GROUPS, builtin_configs, options
from qbench.cli import HELP, VERBS
from qbench.export.base import FORMATS as EXPORTS
from qbench.reporting import FORMATS, METRICS
from qbench.usage import USAGES


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


# --- help


@pytest.mark.parametrize("words", ["", "help", "--help", "-h", "help nothing", "run -h method=kmeans"], ids=str)
def test_help(bench: Bench, words: str) -> None:
    done = bench(*words.split())
    assert (done.code, done.out, done.err) == (0, HELP, "")


def test_help_names_every_verb_key_and_group() -> None:
    for verb in VERBS:
        assert re.search(rf"^  {verb} ", HELP, re.MULTILINE)
    keys = [
        line.split(":")[0]
        for line in (builtin_configs() / "config.yaml").read_text().splitlines()
        if line[:1].isalpha()
    ]
    for key in {*keys, *GROUPS} - {"defaults", "limits", "hydra", "experiment"}:
        assert key in HELP
    assert all(len(line) <= 120 for line in HELP.splitlines())


FLAGS = {
    "run": "-m --config-dir",
    "list": "--config-dir",
    "report": "--html --output --pareto --format",
    "inspect": "--baseline",
    "evaluate": "--config-dir dataset= runtime= threads= limit_test= data_dir= store_dir=",
    "predict": "--json --top runtime= threads=",
    "export": "--format --output --images",
    "store": "--store --keep-bytes --older-than --dry-run --repair",
    "study": "--config-dir",
    "doctor": "",
}


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_says_how_it_is_used(bench: Bench, verb: str) -> None:
    """Wherever the flag stands, and although the other words are wrong."""
    for words in ([verb, "--help"], [verb, "-h"], [verb, "no such thing", "--nonsense", "--help"], ["help", verb]):
        done = bench(*words)
        assert (done.code, done.out, done.err) == (0, USAGES.get(verb, HELP), "")
    assert f"usage: qbench {'VERB' if verb == 'run' else verb}" in done.out
    assert all(len(line) <= 120 for line in done.out.splitlines())
    assert all(flag in done.out for flag in FLAGS[verb].split())


def test_usages_name_formats_metrics_and_groups() -> None:
    assert {*USAGES} == {*VERBS} - {"run"}
    assert all(f" {name}: " in USAGES["export"] for name in EXPORTS)
    assert all(name in USAGES["report"] for name in (*METRICS, *FORMATS))
    assert all(name in USAGES["list"] for name in GROUPS)


def test_version(bench: Bench) -> None:
    assert bench("--version").out == f"qbench {__version__}\n"


# --- list


@pytest.fixture
def two_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config folder whose listing does not change with qbench's."""
    folder = tmp_path / "configs"
    (folder / "method").mkdir(parents=True)
    (folder / "method" / "plain.yaml").write_text("_target_: a.Plain\nsummary: does nothing [yet]\n")
    (folder / "method" / "rounded.yaml").write_text(
        "_target_: a.Rounded\nsummary: rounds\nweight_bits: 4\nrange: minmax\nfold: true\nlayers: {}\nlast: null\n"
        "limits:\n  weight_bits: {min: 1, max: 8}\n  range: [minmax, mse]\n  fold: [true, false]\n  last: {min: 2}\n"
    )
    monkeypatch.setattr("qbench.catalog.builtin_configs", lambda: folder)
    return folder


LISTING = """\
method=
  name      what it is           parameters = default (allowed)
 ──────────────────────────────────────────────────────────────────────────
  plain     does nothing [yet]
  rounded   rounds               weight_bits=4 (whole numbers from 1 to 8)
                                 range=minmax (minmax, mse)
                                 fold=true (true, false)
                                 layers={}
                                 last=null (whole numbers from 2 up)
"""


@pytest.mark.parametrize("words", ["", "method", "methods"], ids=str)
def test_list(bench: Bench, two_options: Path, words: str) -> None:
    done = bench("list", *words.split())
    assert done.code == 0 and lines(done.out) == LISTING.splitlines()


def test_list_shows_every_option_of_every_group(bench: Bench) -> None:
    text = bench("list").out
    for group in GROUPS:
        assert f"{group}=" in text
        for name in options(group):
            assert re.search(rf"^  {name} ", text, re.MULTILINE), name
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("flag", [["--config-dir", "own"], ["--config-dir=own"]], ids=str)
def test_list_shows_the_users_own_options(bench: Bench, flag: list[str]) -> None:
    path = Path("own/method/mine.yaml")
    path.parent.mkdir(parents=True)
    path.write_text("_target_: my.Method\nsummary: my own\n")
    assert re.search(r"^  mine +my own", bench("list", "method", *flag).out, re.MULTILINE)
    path.write_text("_target_: [my.Method\n")
    done = bench("list", "method", *flag)
    assert done.code == 2 and done.err.startswith("qbench: own/method/mine.yaml: not a readable YAML: ")


# --- the plan of a sweep


def test_dry_run_of_a_sweep(bench: Bench) -> None:
    done = bench("run", "-m", *QUICK, "method=fp32,linear", "bits=8,4,2", "dry=true")
    assert (done.code, done.err) == (0, "")
    shown = [re.sub(r"[0-9a-f]{16}", "KEY", line) for line in lines(done.out)]
    assert shown == PLAN.splitlines()
    assert not bench.outputs.exists() and not bench.store.exists()


PLAN = """\
plan
┏━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━┳━━━━━━━┓
┃ stage    ┃ of                     ┃ key              ┃       ┃
┡━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━╇━━━━━━━┩
│ train    │ small_cnn on synthetic │ KEY │ to do │
│ quantize │ fp32                   │ KEY │ to do │
│ score    │ fp32                   │ KEY │ to do │
│ quantize │ linear w8              │ KEY │ to do │
│ score    │ linear w8              │ KEY │ to do │
│ quantize │ linear w4              │ KEY │ to do │
│ score    │ linear w4              │ KEY │ to do │
│ quantize │ linear w2              │ KEY │ to do │
│ score    │ linear w2              │ KEY │ to do │
└──────────┴────────────────────────┴──────────────────┴───────┘
6 cells: 4 distinct runs; 9 stages, 9 to do: time unknown
note: bits does not apply to method=fp32 and is ignored
"""


def test_dry_run_counts_what_it_skips(bench: Bench) -> None:
    done = bench("run", "-m", *QUICK, "method=linear,kmeans", "bits=16,8", "dry=true")
    assert "4 cells: 3 distinct runs, 1 skipped; 9 stages, 9 to do" in done.out


# --- Hydra's own flags


def test_cfg_prints_the_config(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    done = bench.process("run", "--cfg", "job", "method=linear", "bits=3")
    assert (done.code, done.err) == (0, "")
    assert "bits: 3\n" in done.out and "  _target_: qbench.methods.linear.Linear\n" in done.out
    assert [*bench.home.iterdir()] == [bench.home / "tmp"]


def test_cfg_names_an_option_that_is_not_there(bench: Bench) -> None:
    done = bench.process("run", "--cfg", "job", "method=linearr")
    assert done.code != 0 and "Could not find 'method/linearr'" in done.err and "Traceback" not in done.err


def completed(bench: Bench, monkeypatch: pytest.MonkeyPatch, line: str) -> list[str]:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    monkeypatch.setattr("sys.argv", ["qbench"])
    done = bench("-sc", "query=bash")
    assert (done.code, done.err) == (0, "")
    return done.out.split()


@pytest.mark.parametrize(
    "line, words",
    [
        ("qbench ", list(VERBS)),
        ("qbench r", ["run", "report"]),
        ("qbench x", []),
        ("qbench list m", ["model", "method", "measure"]),
        ("qbench run method=li", ["method=linear"]),
        ("qbench run -m dataset=digits model=vgg16_", ["model=vgg16_imagenet", "model=vgg16_plain"]),
        ("qbench run limit_", ["limit_test=", "limit_train="]),
        ("qbench run method=kmeans method.gr", ["method.granularity="]),
        ("qbench run --config-dir ", []),
        ("qbench inspect ", []),
    ],
)
def test_completion(bench: Bench, monkeypatch: pytest.MonkeyPatch, line: str, words: list[str]) -> None:
    assert completed(bench, monkeypatch, line) == words


def test_completion_offers_every_method_and_nothing_internal(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed(bench, monkeypatch, "qbench run method=") == [f"method={name}" for name in options("method")]
    offered = completed(bench, monkeypatch, "qbench run ") + completed(
        bench, monkeypatch, "qbench run method=linear method."
    )
    assert {"bits=", "method=", "train.", "dry=", "method.scheme="} <= set(offered)
    assert not [word for word in offered if any(part in word for part in ("hydra", "limits", "_target_", "summary"))]


def test_completion_as_a_shell_asks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "qbench run method=f"
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert bench.process("-sc", "query=bash").out.split() == ["method=fixed_point", "method=fp16", "method=fp32"]
    installed = bench.process("-sc", "install=bash")
    assert installed.code == 0 and "complete -o nospace -o default -F hydra_bash_completion qbench" in installed.out


# --- ending


def test_interrupted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(qbench.cli.VERBS, "run", interrupt)
    done = bench("run")
    assert done.code == 130 and done.err.startswith("interrupted; finished stages are kept")


def test_a_closed_pipe_is_no_traceback(bench: Bench) -> None:
    command, pipe = [sys.executable, "-m", "qbench", "list"], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=bench.environment()) as listing:
        assert listing.stdout is not None and listing.stderr is not None
        listing.stdout.close()
        assert listing.stderr.read() == b""
    assert listing.returncode == 1


def test_plain_output_has_no_colours(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b" not in bench("list", "method").out + bench("run", "dry=true").out
    assert os.environ["QBENCH_STORE"] == str(bench.store)
