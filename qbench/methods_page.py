"""The methods page, rebuilt from the methods' YAML files and the docstrings of their modules.

python -m qbench.methods_page docs/methods.md            rewrite the region
python -m qbench.methods_page docs/methods.md --check    fail if it is stale
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from qbench.catalog import Option, options
from qbench.files import write_atomic
from qbench.limits import describe
from qbench.report.readme import with_region
from qbench.steps import flat, flat_limits

REGION = "methods"
_ARXIV = re.compile(r"(?<!\[)arXiv:(\d{4}\.\d{4,5})")
_ROLE = re.compile(r":(?:mod|class|func):`~?([\w.]+)`")


def methods_region() -> str:
    """One section per method: what it is, its paper, idea, assumptions and cost, its parameters."""
    groups: dict[tuple[str, ...], list[Option]] = {}
    for option in options("method").values():
        same = (str(option.load()["_target_"]), *flat(option.parameters()))
        groups.setdefault(same, []).append(option)
    return "\n".join(_section(found) for found in groups.values())


def _section(found: Sequence[Option]) -> str:
    """What several YAML files of one class and the same parameters have in common is said once."""
    lines = [f"## {', '.join(option.name for option in found)}", ""]
    summaries = [str(option.load()["summary"]) for option in found]
    lines += [f"{summary}." for summary in summaries] if len(found) == 1 else [f"- {text}" for text in summaries]
    lines += ["", _prose(str(found[0].load()["_target_"]).rpartition(".")[0]), ""]
    rows = _rows(found[0]) if len(found) == 1 else []
    if rows:
        lines += ["| parameter | default | allowed | meaning |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _prose(module: str) -> str:
    """The docstring of a module without its first line, one list item per labelled part."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    body = text.partition("\n")[2].strip()
    parts: list[str] = []
    for line in body.splitlines():
        if re.match(r"[A-Z][\w ]*: ", line):
            parts.append(f"- {line}")
        elif not line.strip():
            parts.append("")
        else:
            parts.append(f"  {line.strip()}" if parts and parts[-1] else line)
    linked = _ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", "\n".join(parts))
    return _ROLE.sub(r"`\1`", linked)


def _rows(option: Option) -> list[str]:
    content = option.load()
    limits, comments = flat_limits(content), _comments(option.path)
    for step, taken in option.taken().items():
        comments.update({f"{step}.{name}": text for name, text in _comments(taken.path).items()})
    rows = []
    for name, value in flat(option.parameters()).items():
        allowed = describe(limits[name]) if name in limits else ""
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
        cells = (f"`{name}`", f"`{shown}`", allowed, comments.get(name, ""))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


def _comments(path: Path) -> dict[str, str]:
    """The comment lines right above each key, by its path in the file."""
    found: dict[str, str] = {}
    comment: list[str] = []
    above: list[tuple[int, str]] = []  # (indentation, key) of the mappings a line is in
    for line in path.read_text(encoding="utf-8").splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.lstrip("# "))
        elif match := re.match(r"( *)([\w.]+):", line):
            indentation = len(match[1])
            above = [entry for entry in above if entry[0] < indentation]
            above.append((indentation, match[2]))
            found[".".join(key for _, key in above)] = " ".join(comment)
            comment = []
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite or check the page; 1 if it was stale."""
    parser = argparse.ArgumentParser(description="Rebuild the methods page from YAML files and docstrings.")
    parser.add_argument("document", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the page is stale")
    asked = parser.parse_args(arguments)
    before = asked.document.read_text(encoding="utf-8")
    after = with_region(before, methods_region(), REGION)
    if asked.check:
        return int(after != before)
    write_atomic(asked.document, after.encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
