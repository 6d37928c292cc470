"""What the pages show of a session, a line "$ qbench ..." and its answer, is what qbench answers."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from calling import ROOT, Bench

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = [
    pytest.param(command, answer, id=f"{page.name}: {command}")
    for page in PAGES
    for block in re.findall(r"^```[a-z]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for command, answer in re.findall(r"^\$ qbench (.+)\n((?:(?!\$ ).*\n)+)", block, re.MULTILINE)
]


def test_there_is_something_shown() -> None:
    assert SHOWN


@pytest.mark.parametrize(("command", "answer"), SHOWN)
def test_what_a_page_shows_is_what_qbench_says(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, answer: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = bench(*shlex.split(command))
    assert (done.out + done.err).split() == answer.split()


SWEEPS = sorted(
    {
        line.strip()
        for page in PAGES
        for line in page.read_text(encoding="utf-8").replace("\\\n", "").splitlines()
        if line.strip().startswith("qbench run -m")
    }
)
LAUNCHED = [line for line in SWEEPS if "hydra/launcher=" in line]
SEARCHED = [line for line in SWEEPS if "hydra/sweeper=" in line]


def test_a_sweep_is_shown_on_one_machine_on_slurm_and_on_ray() -> None:
    shown = " ".join(LAUNCHED)
    assert all(f"hydra/launcher={name} " in shown for name in ("joblib", "submitit_slurm", "ray"))


@pytest.mark.parametrize("command", LAUNCHED)
def test_a_sweep_that_a_page_shows_can_be_planned(bench: Bench, command: str) -> None:
    done = bench(*shlex.split(command, comments=True)[1:], "dry=true")
    assert (done.code, done.err) == (0, "")
    assert "\nlauncher " in done.out


@pytest.mark.parametrize("command", SEARCHED)
def test_a_search_that_a_page_shows_can_be_planned(bench: Bench, command: str) -> None:
    done = bench(*shlex.split(command)[1:], "dry=true")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("search search-") and len(SEARCHED) >= 3
