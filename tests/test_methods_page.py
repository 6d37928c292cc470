"""The methods page is rebuilt from the methods themselves, and the committed one is not stale."""

import re
from pathlib import Path

from qbench.catalog import options
from qbench.methods_page import main, methods_region

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"


def test_every_method_has_a_section_with_its_parameters() -> None:
    region = methods_region()
    headings = [name for line in region.splitlines() if line.startswith("## ") for name in line[3:].split(", ")]
    assert sorted(headings) == sorted(options("method"))
    assert "| `weight_bits` | `8` | whole numbers from 1 to 16 | bits per weight |" in region


def test_every_section_says_what_the_method_is() -> None:
    for section in methods_region().split("\n## "):
        assert re.search(r"^(- )?(Papers?|Source): ", section, re.MULTILINE), section[:80]
        assert "Idea: " in section, section[:80]
        assert "Cost: " in section, section[:80]


def test_papers_are_links() -> None:
    region = methods_region()
    assert "[arXiv:1712.05877](https://arxiv.org/abs/1712.05877)" in region
    assert region.count("arXiv:") == region.count("[arXiv:")


def test_the_page_is_not_stale() -> None:
    """``make docs`` rebuilds it."""
    assert main([str(PAGE), "--check"]) == 0


def test_a_stale_page_is_told_and_mended(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Methods\n<!-- methods:begin -->\nold\n<!-- methods:end -->\nend\n")
    assert main([str(page), "--check"]) == 1
    assert main([str(page)]) == 0
    assert main([str(page), "--check"]) == 0
    assert page.read_text().startswith("# Methods\n") and page.read_text().endswith("\nend\n")
