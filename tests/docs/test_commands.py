"""Every command of README and docs: those that take a moment run, the others are composed or looked up.

All in one folder, as a reader would: the files that pages tell to write are written, DATA and FILE stand for something
that is there. What is not run at all is listed in ``NOT_RUN`` with its reason.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from calling import ROOT, Bench
from pages import PAGES, Command, commands, own_files
from PIL import Image
from safetensors.torch import save_file

from qbench.catalog import options
from qbench.cli import HYDRA_FLAGS, VERBS, main
from qbench.compose import compose_cells
from qbench.errors import QBenchError

NOT_RUN = {
    "source": "changes the reader's shell",
    "cd": "changes the reader's shell",
    "eval": "changes the reader's shell",
    "cp": "prepares the compiler's call, which tests/runtime/c/test_example.py makes with that page's program",
    "cc": "tests/runtime/c/test_example.py compiles that page's program",
    "./classify": "tests/runtime/c/test_example.py runs it",
    ".venv/bin/pre-commit": "installs into the reader's git folder",
    "bash": "what CI runs: these tests, among others",
    "apt-get": "installs into the reader's system",
    "brew": "installs into the reader's system",
    "tensorboard": "another program, which serves a page until it is stopped",
    "mlflow": "another program, which serves a page until it is stopped",
    "ray": "another program, which starts a cluster",
}
# Trained and compressed in a moment, once tiny=true has shrunk them; whatever else is asked for is composed only.
SMALL = {
    "dataset": ("digits", "synthetic", "flowers", "image_folder"),
    "model": ("small_cnn", "mlp", "custom", "two_convolutions"),
    "runtime": ("torch", "integer"),
}
MOST_CELLS = 5
SLOW = ("adaround", "deep_compression")  # even then
TINY = ("tiny=true", "measure=none", "threads=1")
done: set[object] = set()  # commands that several pages have are run once


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A reader's folder after a first run: outputs, data, an artefact, images, records of this project."""
    place = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        _at_home(patch, place)
        with pytest.raises(SystemExit) as ended:
            main(("run", "-m", "method=kmeans,integer", "bits=4", *TINY))
        assert ended.value.code == 0
    for page in PAGES:
        _write_own_files(page, place)
    for data in options("dataset").values():  # composing asks only whether they are there
        for source in data.load()["sources"][:1]:
            (place / "DATA" / source.replace("${dataset.folder}", "flowers")).mkdir(parents=True)
    for part, kind, index in itertools.product(("train", "test"), "abc", range(40)):
        path = place / "DATA" / "flowers" / part / kind / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 48), (index, 120, 255 - index)).save(path)
    for name in ("a.png", "b.jpg"):
        Image.new("L", (32, 32), 128).save(place / name)
    (artefact,) = (place / "outputs" / "runs").glob("*_integer_*/model.qbench")
    shutil.copy(artefact, place / "model.qbench")
    save_file({"weight": torch.zeros(1)}, place / "weights.safetensors")
    for records in ("records", "accuracy/records", "trials/records"):
        target = place / "docs" / "results" / records
        target.mkdir(parents=True)
        for path in sorted((ROOT / "docs" / "results" / records).glob("*.json"))[:3]:
            shutil.copy(path, target)
    yield place


def _at_home(patch: pytest.MonkeyPatch, place: Path) -> None:
    for name in ("QBENCH_STORE", "QBENCH_OUTPUTS"):
        patch.delenv(name, raising=False)
    patch.setenv("QBENCH_DATA", str(place / "DATA"))
    patch.setattr(sys, "path", [*sys.path])
    patch.chdir(place)


def _write_own_files(page: Path, place: Path) -> None:
    for name, text in own_files(page).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_of_a_page_works(bench: Bench, monkeypatch: pytest.MonkeyPatch, folder: Path, page: Path) -> None:
    _at_home(monkeypatch, folder)
    _write_own_files(page, folder)
    for name in ("MOST_DRAWN", "MOST_RUNS_DRAWN"):  # dozens of runs; drawing has tests of its own
        monkeypatch.setattr(f"qbench.reporting.{name}", 0)
    monkeypatch.setattr("qbench.report.figures.write_figures", lambda *_: [])
    problems = []
    for command in commands(page):
        if command.answered or (command.words, command.settings) in done:
            continue
        with monkeypatch.context() as patch:
            problem = _problem(bench, patch, folder, command)
        if problem:
            problems.append(f"{command.where}\n    {problem}")
        done.add((command.words, command.settings))
    for name in [name for name, module in sys.modules.items() if _is_below(module, folder)]:
        del sys.modules[name]  # another page may have another file of that name
    assert not problems, "\n" + "\n".join(problems)


def _is_below(module: object, folder: Path) -> bool:
    return str(getattr(module, "__file__", None)).startswith(str(folder))


def _problem(bench: Bench, patch: pytest.MonkeyPatch, folder: Path, command: Command) -> str | None:
    """What is wrong with a command; None if nothing is."""
    program, *words = command.words
    if program in NOT_RUN:
        return None
    if program == "make":
        return _make_problem(words)
    if program == "pip":
        return _pip_problem(words)
    if program.endswith("python"):
        return _python_problem(words)
    for name, value in command.settings:
        if name == "PYTHONPATH":
            patch.setenv(name, value)
            patch.syspath_prepend(str(folder / value))
    return _qbench_problem(bench, folder, words)


def _make_problem(words: Sequence[str]) -> str | None:
    """Targets run for minutes and install; that they exist is what is checked."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    missing = [word for word in words if "=" not in word and not re.search(rf"^{word}:", text, re.MULTILINE)]
    return f"the Makefile has no {missing}" if missing else None


def _pip_problem(words: Sequence[str]) -> str | None:
    """Installing needs a registry; that the extras exist is what is checked."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = [name for word in words for name in re.findall(r"\[(.+)\]", word) for name in name.split(",")]
    missing = [name for name in extras if name != "EXTRA" and not re.search(rf"^{name} = \[", text, re.MULTILINE)]
    return f"pyproject.toml has no extra {missing}" if missing or not extras else None


def _python_problem(words: Sequence[str]) -> str | None:
    """Benchmarks and generators run for minutes or have tests of their own: the script and its flags must exist."""
    script = words[1].replace(".", "/") + ".py" if words[0] == "-m" else words[0]
    if not (ROOT / script).is_file():
        return f"there is no {script}"
    text = (ROOT / script).read_text(encoding="utf-8")
    missing = [word for word in words[1:] if word.startswith("--") and word != "--help" and f'"{word}"' not in text]
    return f"{script} has no {missing}" if missing else None


def _qbench_problem(bench: Bench, folder: Path, words: list[str]) -> str | None:
    verb, *rest = words
    if verb == "VERB":
        return None
    if any(word in HYDRA_FLAGS for word in rest):
        return _answer(bench, *words)  # Hydra prints, nothing runs
    if verb not in (*VERBS, "help"):
        return f"no verb {verb!r}"
    if verb == "run":
        return _run_problem(bench, rest)
    if verb == "study" and rest:  # tests/test_study.py composes all runs of each, and knows the rows that pages name
        return None if rest[0] in {*options("study"), "mine"} else f"no study {rest[0]!r}"
    if verb in ("export", "evaluate", "predict", "inspect", "store") and not rest:
        return None  # the verb alone is mentioned
    if verb == "export":
        shutil.rmtree(folder / "model_c", ignore_errors=True)  # where one goes that is not named; none overwrites
    if verb == "store" and "|" in rest[0]:
        return next(filter(None, (_answer(bench, verb, action) for action in rest[0].split("|"))), None)
    return _answer(bench, verb, *(_meant(folder, word) for word in rest))


def _meant(folder: Path, word: str) -> str:
    """What a placeholder stands for, and a pattern the shell would expand."""
    runs = [path.name.rpartition("_")[2] for path in (folder / "outputs" / "runs").glob("*_integer_*")]
    meanings = {"FILE": "model.qbench", "FOLDER": "outputs", "DIR": "figures", "GROUP": "model"}
    meanings["RUN_ID"] = runs[0] if runs else "RUN_ID"
    if re.search(r"\bmy_net\b|^model$", word):
        shutil.rmtree(folder / word, ignore_errors=True)  # an export never overwrites
    found = re.sub("|".join(meanings), lambda match: meanings[match[0]], word)
    return next(map(str, sorted(Path().glob(found))), found) if "*" in found else found


def _answer(bench: Bench, *words: str) -> str | None:
    finished = bench(*words)
    return None if finished.code == 0 else f"exit code {finished.code}: {finished.err or finished.out}"


def _run_problem(bench: Bench, words: list[str]) -> str | None:
    """Compose exactly what the page says; run it too, shrunk, where that takes a moment."""
    multirun = "-m" in words
    config_dir = words[words.index("--config-dir") + 1] if "--config-dir" in words else None
    overrides = [word for word in words if word not in ("-m", "--config-dir", config_dir)]
    if not overrides:
        return None
    if any(word.startswith("hydra/") for word in overrides):  # launchers and sweepers
        return _answer(bench, "run", *words, "dry=true")
    if config_dir is not None:
        sys.path.insert(0, os.path.abspath(os.path.dirname(config_dir)))  # noqa: PTH100, PTH120 - as the command does
    try:
        own = Path(config_dir) if config_dir else None
        sweeps = _thinned(overrides)
        cells = [cell for some in sweeps for cell in compose_cells(some, own, multirun)]
    except QBenchError as error:
        return f"does not compose: {error}"
    chosen = dict(word.split("=", 1) for word in overrides)
    small = all(set(chosen.get(group, known[0]).split(",")) <= {*known} for group, known in SMALL.items())
    slow = len(sweeps) > 1 or len(cells) > MOST_CELLS or any(name in " ".join(words) for name in SLOW)
    if not small or slow or "experiment" in chosen or chosen.get("dry") == "true":
        return None
    given = [word for word in words if word.split("=")[0] not in ("tiny", "measure", "threads", "train.epochs")]
    finished = bench("run", *given, *TINY)
    return None if finished.code == 0 else f"exit code {finished.code}: {finished.err or finished.out[-2000:]}"


def _thinned(overrides: list[str]) -> list[list[str]]:
    """The sweep itself, or, of a large one, a few that have each of its values once."""
    lists = {index: word.split("=", 1)[1].split(",") for index, word in enumerate(overrides) if "," in word}
    plain = not any(character in word for word in overrides for character in "[({")
    if not plain or math.prod(map(len, lists.values())) <= MOST_CELLS:
        return [overrides]
    first = [word.split(",")[0] for word in overrides]
    others = [(index, value) for index, values in lists.items() for value in values[1:]]
    return [first, *([*first[:i], f"{first[i].split('=')[0]}={value}", *first[i + 1 :]] for i, value in others)]


def test_the_reasons_are_those_of_commands_that_are_there() -> None:
    programs = {command.words[0] for page in PAGES for command in commands(page)}
    assert programs - {"qbench", ".venv/bin/qbench", "make", "pip", "python", ".venv/bin/python"} <= NOT_RUN.keys()
    assert sum(len(commands(page)) for page in PAGES) > 100


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("qbench run method=nothing", "does not compose: method=nothing: unknown method"),
        ("qbench run -m bits=4,99", "does not compose: bits=99"),
        ("qbench report nowhere", "exit code 2: qbench: report nowhere: no such folder"),
        ("qbench frobnicate", "no verb 'frobnicate'"),
        ("make nothing", "the Makefile has no ['nothing']"),
        ('pip install "qbench[nothing]"', "pyproject.toml has no extra ['nothing']"),
        ("python benchmarks/nothing.py", "there is no benchmarks/nothing.py"),
        ("python benchmarks/kmeans.py --nothing", "benchmarks/kmeans.py has no ['--nothing']"),
    ],
    ids=lambda value: value,
)
def test_a_command_that_does_not_work_is_found(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, says: str
) -> None:
    problem = _problem(bench, monkeypatch, tmp_path, Command("page", 1, tuple(shlex.split(line))))
    assert problem is not None and problem.startswith(says)
