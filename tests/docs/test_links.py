"""Relative links of the documentation lead to files, and their anchors to headings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from calling import ROOT
from pages import PAGES

LINKED = [*PAGES, ROOT / "CHANGELOG.md"]
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*?) *$", re.MULTILINE)


def links(text: str) -> list[str]:
    """The relative links of a page; those in code are none."""
    return [target for target in _LINK.findall(_CODE.sub("", text)) if "://" not in target]


def anchors(text: str) -> set[str]:
    """What may stand behind ``#``: headings in small letters, without punctuation, with - for spaces."""
    found: set[str] = set()
    for heading in _HEADING.findall(re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)):
        name = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        found.add(name if name not in found else f"{name}-{sum(one.startswith(name) for one in found)}")
    return found


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    found = []
    for target in links(page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        if not place.exists():
            found.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(place.read_text(encoding="utf-8")):
            found.append(f"{target}: no such heading in {place.name}")
    return found


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_what_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# One `two`, three\n```\n# no heading\n```\n")
    page = tmp_path / "a.md"
    page.write_text(
        "[x](b.md) [y](b.md#one-two-three) [z](b.md#no-heading) [w](c.md) `[v](d.md)` [u](#here) [t](http://x)"
    )
    assert broken(page) == [
        "b.md#no-heading: no such heading in b.md",
        "c.md: no such file",
        "#here: no such heading in a.md",
    ]


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    missing = [
        page.name for page in (ROOT / "docs").glob("*.md") if page.name != "README.md" and page.name not in index
    ]
    assert not missing
