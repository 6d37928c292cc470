"""The pages of the documentation: their commands, the files they tell a reader to write, their links."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from calling import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
# The first word of what a reader types; other lines of a block are output, layouts or formulas.
PROGRAMS = {
    *("qbench", ".venv/bin/qbench", "python", ".venv/bin/python", "make", "pip", "bash", "source", "eval", "cd", "cp"),
    *("cc", "./classify", ".venv/bin/pre-commit", "apt-get", "brew", "docker", "git", "mlflow", "ray", "sbatch", "ssh"),
    *("tensorboard", "gcc", "export"),
}
_BLOCK = re.compile(r"^```([a-z]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"(?<!`)`((?:[A-Z_]+=\S+ +)*(?:qbench|make|pip|python|bash) [^`]+?)`(?!`)", re.DOTALL)
_FILE = re.compile(
    r"`(mine/[\w./]+\.(?:py|yaml))`(?:(?!\n\n|`mine/).)*\n\n```(?:python|yaml)\n(.*?)^```", re.DOTALL | re.MULTILINE
)
_GENERATED = re.compile(r"<!-- (\w+):begin -->.*?<!-- \1:end -->", re.DOTALL)
_BESIDE = re.compile(r" {3,}")  # what follows on the line says what the command does
_SETTING = re.compile(r"[A-Z][A-Z_]*=\S*")


@dataclass(frozen=True)
class Command:
    """What a page tells a reader to type, at ``line`` of the page.

    ``settings`` are those of the environment before it (``QBENCH_DATA=DATA``); ``answered`` means that its answer
    stands below it, which is compared elsewhere.
    """

    page: str
    line: int
    words: tuple[str, ...]
    settings: tuple[tuple[str, str], ...] = ()
    answered: bool = False

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}: {' '.join(self.words)}"


def commands(page: Path) -> list[Command]:
    """The commands of a page in order: lines of blocks without a language, or of a shell, and `inline` ones.

    Tables made from records are left out: each of their commands is compared with the record that it made.
    """
    text = _GENERATED.sub(lambda found: _blank(found[0]), page.read_text(encoding="utf-8"))
    found = [(place, line) for block in _BLOCK.finditer(text) if block[1] in ("", "sh", "bash", "console")
             for place, line in _lines(block.start(2), block[2])]  # fmt: skip
    prose = _BLOCK.sub(lambda block: _blank(block[0]), text)
    found += [(match.start(), " ".join(match[1].split())) for match in _INLINE.finditer(prose)]
    name = page.relative_to(ROOT).as_posix()
    return [
        Command(name, text.count("\n", 0, place) + 1, words, settings, line.startswith("$ "))
        for place, line in sorted(found)
        for settings, words in _split(line.removeprefix("$ "))
    ]


def own_files(page: Path) -> dict[str, str]:
    """The files below ``mine/`` that a page tells a reader to write, by path."""
    return {match[1]: match[2] for match in _FILE.finditer(page.read_text(encoding="utf-8"))}


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def _lines(start: int, block: str) -> list[tuple[int, str]]:
    """Lines, with those that a backslash continues joined to them, and where each begins; no answers of a session."""
    found: list[tuple[int, str]] = []
    place, goes_on = start, False
    session = any(line.startswith("$ ") for line in block.splitlines())
    for line in block.splitlines():
        if goes_on:
            found[-1] = (found[-1][0], found[-1][1].removesuffix("\\") + line.strip())
        elif not session or line.startswith("$ "):
            found.append((place, line))
        goes_on = line.endswith("\\") and bool(found)
        place += len(line) + 1
    return found


def _split(line: str) -> list[tuple[tuple[tuple[str, str], ...], tuple[str, ...]]]:
    """The commands of a line, of ``a && b`` two, each with its settings; none if it begins with no program."""
    if not line or line[0].isspace():
        return []
    try:
        words = shlex.split(_BESIDE.split(line)[0], comments=True)
    except ValueError:
        return []  # an apostrophe: prose
    parts: list[list[str]] = [[]]
    for word in words:
        parts.append([]) if word == "&&" else parts[-1].append(word)
    found = []
    for part in parts:
        count = next((index for index, word in enumerate(part) if not _SETTING.fullmatch(word)), len(part))
        settings = tuple((name, value) for name, _, value in (word.partition("=") for word in part[:count]))
        if part[count:] and part[count] in PROGRAMS:
            found.append((settings, tuple(part[count:])))
    return found
