"""The table of records as text in a format that other programs read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from qbench.record import Record
from qbench.report.columns import DIGITS, MARKDOWN
from qbench.report.tables import as_json, csv_text, markdown, selection

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "Δ": r"$\Delta$", "×": r"$\times$", "µ": r"$\mu$", "−": r"$-$", "–": "--",
}  # fmt: skip
_NUMBERS = ("w bits", "a bits", "seed", "95 % interval", "95 % interval of Δ", "size, bytes", "n")


def formatted(records: Sequence[Record], form: str) -> str:
    """All records as ``csv`` (every flat column), ``md`` or ``latex`` (the columns for people), ``json`` (everything).

    Raises:
        ValueError: Another format.
    """
    if form not in WRITERS:
        raise ValueError(f"format {form!r}; known are {', '.join(WRITERS)}")
    return WRITERS[form](records)


def latex(records: Sequence[Record]) -> str:
    """The columns of the Markdown table as a ``tabular`` in the style of the package booktabs."""
    table = selection(records)
    numbers = {title for column, title in MARKDOWN.items() if column in DIGITS} | {*_NUMBERS}
    alignment = "".join("r" if title in numbers else "l" for title in table)
    rows = [" & ".join(map(_escaped, row)) + r" \\" for row in zip(*table.values())]
    head = " & ".join(map(_escaped, table)) + r" \\"
    lines = [
        "% needs \\usepackage{booktabs}", rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", head, r"\midrule", *rows,
        r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in " ".join(str(text).split()))


WRITERS: Mapping[str, Callable[[Sequence[Record]], str]] = MappingProxyType(
    {"csv": csv_text, "md": markdown, "json": as_json, "latex": latex}
)
