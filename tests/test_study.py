"""The studies of configs/study: every run composes, overrides go where they are meant to, bad forms are refused."""

from __future__ import annotations

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from calling import ROOT, Bench

from qbench.catalog import options
from qbench.compose import Cell, compose_sweeps
from qbench.errors import ConfigError
from qbench.record import Record
from qbench.report.quantities import COMPARED
from qbench.report.study import merged, study_of
from qbench.study import load_study, rows_of, sweeps_of

STUDIES = tuple(options("study"))
FORM: dict[str, Any] = {
    "summary": "two rows",
    "source": "a table",
    "overrides": "dataset=digits dataset.split_seed=3",
    "tiny": "seed=4",
    "parts": [
        {
            "overrides": "model=mlp",
            "tiny": "model.hidden=8",
            "rows": [
                {"name": "one", "what": "row one", "runs": {"a": "method=linear bits=8", "b": "method=kmeans bits=8"}},
                {"name": "two", "what": "row two", "overrides": "seed=1", "tiny": "seed=5", "runs": {"a": ""}},
            ],
            "tables": [
                {
                    "title": "accuracy",
                    "columns": [
                        {"title": "a %", "value": "top1_percent", "run": "a"},
                        {"title": "a - b", "value": "difference", "run": "a", "minus": "b"},
                    ],
                    "source": {"one": [90, None]},
                }
            ],
        }
    ],
}  # fmt: skip


def test_the_five_are_there() -> None:
    assert STUDIES == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(("name", "tiny"), [*((name, False) for name in STUDIES), ("e", True)])
def test_every_run_composes_and_none_is_skipped(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str, tiny: bool
) -> None:
    if not tiny:  # whose data sets need no files
        monkeypatch.setattr("qbench.refusals.check_presence", lambda *_: None)
    sweeps = sweeps_of(load_study(name), ["tiny=true"] if tiny else ["seed=0"])  # Hydra takes its time for each
    for run, cells in zip(sweeps, compose_sweeps(list(sweeps.values()))):
        assert cells and all(cell.config is not None for cell in cells), run
        assert not any(cell.notes for cell in cells), run
        assert all(cell.config.dataset.choice.name in ("digits", "synthetic") for cell in cells if tiny and cell.config)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_quotes_its_source_and_says_what_differs(name: str) -> None:
    form = load_study(name)
    quoted = [one for part in form.parts for table in part.tables for row in table.source.values() for one in row]
    assert len([one for one in quoted if one is not None]) + len(form.examples) >= 12
    assert form.notes and form.source
    if form.claim is not None:
        assert any(c.value in COMPARED for part in form.parts for table in part.tables for c in table.columns)


def test_settings_of_runs_txt_are_reused() -> None:
    """Their stages may be in a store already: what trains in a and b is a line of that file."""
    lines = [line.split() for line in (ROOT / "docs/results/accuracy/runs.txt").read_text().splitlines()]
    offered = [{word for word in line if not word.startswith("runtime=")} for line in lines]
    for name in ("a", "b"):
        form = load_study(name)
        for (row, _), words in form.sweeps().items():
            if "method.epochs" not in " ".join(words):
                continue
            own = {
                word for word in words if word.split("=")[0] in ("experiment", "method", "bits") or "method." in word
            }
            assert any(_covers(line, own) for line in offered), row


def _covers(line: set[str], own: set[str]) -> bool:
    given = dict(word.split("=", 1) for word in line if "=" in word)
    return all(word.split("=", 1)[1] in given.get(word.split("=", 1)[0], "").split(",") for word in own)


def test_overrides_of_several_levels() -> None:
    assert merged(["a=1", "b=2"], ["a=3"]) == ("b=2", "a=3")
    assert merged(["dataset=x", "dataset.y=1", "model.z=2"], ["dataset=v", "dataset.w=3"]) == (
        "model.z=2", "dataset=v", "dataset.w=3",
    )  # fmt: skip
    assert merged(["model=x", "model.y=1"], ["model.y=2"]) == ("model=x", "model.y=2")
    assert merged() == ()


def test_overrides_of_the_user_come_last_and_those_of_a_row_after_them() -> None:
    form = study_of("f", FORM)
    plain = sweeps_of(form, [])
    assert plain["one", "a"] == ("dataset=digits", "dataset.split_seed=3", "model=mlp", "method=linear", "bits=8")
    assert "seed=1" in plain["two", "a"]
    small = sweeps_of(form, ["tiny=true"])
    assert {"seed=4", "model.hidden=8", "tiny=true"} <= set(small["one", "b"]) and "seed=5" in small["two", "a"]
    given = sweeps_of(form, ["seed=7,8", "two:seed=9", "data_dir=a:b", "tiny=false"])
    assert "seed=7,8" in given["one", "a"] and "seed=9" in given["two", "a"] and "data_dir=a:b" in given["two", "a"]
    several = sweeps_of(form, ["t*:seed=8", "*:data_dir=x", "two:seed=9"])
    assert "data_dir=x" in several["one", "a"] and not {"seed=8", "seed=9"} & set(several["one", "a"])
    assert "seed=9" in several["two", "a"] and "seed=8" not in several["two", "a"]
    with pytest.raises(ConfigError, match=r"tow:seed=9: study f has no row 'tow'. Did you mean two\? Rows: one, two."):
        sweeps_of(form, ["tow:seed=9"])


def test_rows_of_what_the_user_swept_over() -> None:
    form = study_of("f", FORM)

    def cell(*words: str) -> Cell:
        return Cell(words, None)

    cells = {
        ("one", "a"): [cell("bits=8", f"lr={lr}", f"seed={seed}") for lr in (1, 2) for seed in (0, 1)],
        ("one", "b"): [cell("bits=8", "lr=1", "seed=0"), cell("bits=8", "lr=2", "seed=0")],
        ("two", "a"): [cell("seed=0"), cell("seed=1")],
    }
    records = {
        cell.overrides: Record(" ".join(cell.overrides), "ok", "d", "m", "x", 0, "torch")
        for of_run in cells.values()
        for cell in of_run
        if cell.overrides != ("bits=8", "lr=2", "seed=1")
    }
    rows = rows_of(form, cells, records)
    assert [(row.label, {run: len(of_run) for run, of_run in row.runs.items()}) for row in rows] == [
        ("row one, lr=1", {"a": 2, "b": 1}),
        ("row one, lr=2", {"a": 1, "b": 1}),
        ("row two", {"a": 2}),
    ]


def changed(path: str, value: Any) -> dict[str, Any]:
    """The form with one thing replaced, or removed where the value is ``...``."""
    content: Any = copy.deepcopy(FORM)
    node, keys = content, [int(key) if key.isdigit() else key for key in path.split(".")]
    for key in keys[:-1]:
        node = node[key]
    if value is ...:
        del node[keys[-1]]
    else:
        node[keys[-1]] = value
    return dict(content)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("source", ..., "study f: source is missing."),
        ("notes_", "x", "study f: unknown key 'notes_'. Known: summary, source, parts, overrides"),
        ("claim", {"says": "x"}, "study f: claim: because is missing."),
        ("parts.0.rows.1.name", "one", "study f: several rows are called one"),
        ("parts.0.rows.1", "two", "study f: parts.0.rows.1: a mapping is needed, not str."),
        ("parts.0.tables.0.source", {"one": [90]}, "source.one: 1 values for 2 columns."),
        ("parts.0.tables.0.source", {"three": [90, 1]}, "source: there is no row 'three'."),
        ("parts.0.tables.0.columns.0.run", "c", "no row has a run 'c'; there are a, b."),
        ("parts.0.tables.0.columns.0.value", "weight", "value: 'weight'; known are top1_percent, "),
        ("parts.0.tables.0.columns.0.title", True, "title: True is no text; quote it."),
        ("parts.0.tables.0.columns.1.minus", ..., "value: 'difference'; known are"),
        ("parts.0.tables.0.columns.1.run", ..., "difference needs the run that is compared."),
    ],
)
def test_bad_forms_are_refused_by_their_place(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study_of("f", changed(path, value))
    assert message in str(caught.value)


def test_the_form_shown_in_the_docs_is_one() -> None:
    page = (ROOT / "docs/studies.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    form = study_of("mine", yaml.safe_load(text))
    assert [row.name for row in form.rows] == ["four"] and form.parts[0].tables[0].source["four"] == (96.1, None)


def test_commands_of_the_docs_name_rows_that_are_there() -> None:
    pages = [ROOT / "README.md", ROOT / "docs/studies.md"]
    found = [line for page in pages for line in re.findall(r"^qbench study ([a-z].*)$", page.read_text(), re.MULTILINE)]
    assert len(found) >= 10
    for line in found:
        name, *given = shlex.split(re.split(r"  +", line.partition("#")[0].strip())[0])
        if "..." not in line:
            assert sweeps_of(load_study(name), given)


def test_a_study_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    text = (ROOT / "configs/study/e.yaml").read_text()
    (tmp_path / "study" / "mine.yaml").write_text(text)
    assert load_study("mine", tmp_path).examples == load_study("e").examples
    with pytest.raises(ConfigError, match=r"study z: unknown study. Known: a, b, c, d, e, mine."):
        load_study("z", tmp_path)
    with pytest.raises(ConfigError, match=r"study: its name comes first, before 'tiny=true'."):
        load_study("tiny=true")
