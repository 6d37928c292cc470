"""What a study is: runs by row, tables with the columns of its source, the source's numbers, and notes. No torch.

A YAML of ``configs/study/`` reads, with every list of overrides as one text:

    summary, source        one line each; what a row called *source* quotes
    overrides, tiny        for all runs; those of ``tiny`` only where tiny=true is asked for
    examples               worked examples (qbench.report.worked), computed and compared before anything runs
    parts                  each with ``overrides`` and ``tiny`` of its own, and
      rows                   ``name``, ``what``, ``overrides``, ``tiny`` and ``runs``: overrides by the name of a run
      tables                 ``title``, ``columns``, and ``source``: by the name of a row, a value for each column
    claim                  ``says`` and ``because``: what the comparisons of all tables are asked
    notes                  where our numbers differ from the source's, and why

A column has a ``title``, a ``value`` (qbench.report.quantities), the ``run`` it is of (by default the row's first; of
several names the first that the row has), and, where it needs them: ``less_than``, the run that it is percents below;
``minus``, the run it is compared with; ``trained: true`` where it says nothing about random weights.
"""

from __future__ import annotations

import fnmatch
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qbench.errors import ConfigError
from qbench.report.quantities import COMPARED, QUANTITIES

Words = tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """A column of a table; see the module's docstring."""

    title: str
    value: str
    run: tuple[str, ...] = ()
    less_than: str | None = None
    minus: str | None = None
    trained: bool = False


@dataclass(frozen=True)
class Row:
    """A row, and the overrides of the runs it is made of, by name."""

    name: str
    what: str
    runs: Mapping[str, Words]
    overrides: Words = ()
    tiny: Words = ()


@dataclass(frozen=True)
class StudyTable:
    """Columns in the order of the source, and what it says in them by row; None where it says nothing."""

    title: str
    columns: tuple[Column, ...]
    source: Mapping[str, tuple[Any, ...]]

    def only(self, names: Collection[str]) -> StudyTable:
        """The table with what the source says of the rows of these names alone."""
        said = {row: values for row, values in self.source.items() if row in names}
        return replace(self, source=said)


@dataclass(frozen=True)
class Part:
    """Rows, and the tables that show them."""

    rows: tuple[Row, ...]
    tables: tuple[StudyTable, ...]
    overrides: Words = ()
    tiny: Words = ()

    def only(self, names: Collection[str]) -> Part:
        """The part with the rows of these names alone."""
        rows = tuple(row for row in self.rows if row.name in names)
        return replace(self, rows=rows, tables=tuple(table.only(names) for table in self.tables))


@dataclass(frozen=True)
class Example:
    """A worked example: what the source says, and what is expected where the source is wrong (else the same)."""

    what: str
    compute: str
    given: Mapping[str, Any]
    source: Any
    expected: Any
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """What the source claims of the first run of each comparison against the second, and what the difference is."""

    says: str
    because: str


@dataclass(frozen=True)
class Study:
    """A whole study."""

    name: str
    summary: str
    source: str
    parts: tuple[Part, ...]
    overrides: Words = ()
    tiny: Words = ()
    examples: tuple[Example, ...] = ()
    claim: Claim | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for part in self.parts for row in part.rows)

    def only(self, patterns: Sequence[str]) -> Study:
        """The study of some rows alone, in its own order.

        Args:
            patterns: Names of rows; ``*`` and ``?`` stand for any text and any character.

        Raises:
            ConfigError: A pattern is the name of no row.
        """
        names = [row.name for row in self.rows]
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                raise ConfigError(f"--rows {pattern}: study {self.name} has no such row. Rows: {', '.join(names)}.")
        wanted = {name for pattern in patterns for name in fnmatch.filter(names, pattern)}
        parts = (part.only(wanted) for part in self.parts)
        left = f"Only some rows were asked for (--rows {','.join(patterns)}), {len(wanted)} of {len(names)}."
        notes = self.notes if len(wanted) == len(names) else (left, *self.notes)
        return replace(self, parts=tuple(part for part in parts if part.rows), notes=notes)

    def sweeps(
        self, given: Sequence[str] = (), of_rows: Mapping[str, Sequence[str]] | None = None, *, tiny: bool = False
    ) -> dict[tuple[str, str], Words]:
        """The overrides of every run, by the names of its row and its own.

        Args:
            given: Overrides for all runs; they replace the study's.
            of_rows: Overrides for the runs of single rows, by name; they replace ``given``.
            tiny: Whether the overrides for a small run count.
        """
        found = {}
        for part in self.parts:
            for row in part.rows:
                small = (self.tiny, part.tiny, row.tiny) if tiny else ()
                asked = (*small, given, (of_rows or {}).get(row.name, ()))
                for run, words in row.runs.items():
                    found[row.name, run] = merged(self.overrides, part.overrides, row.overrides, words, *asked)
        return found


def merged(*levels: Sequence[str]) -> Words:
    """Overrides of several levels as one list, each key once, with the value of the last level that has it.

    A level that chooses another option (``dataset=...``) takes with it what earlier ones set of the old option.
    """
    words: dict[str, str] = {}
    for level in levels:
        keys = [word.partition("=")[0] for word in level]
        words = {old: word for old, word in words.items() if not any(old.startswith(f"{key}.") for key in keys)}
        for key, word in zip(keys, level):
            words.pop(key, None)
            words[key] = word
    return tuple(words.values())


def study_of(name: str, content: Mapping[str, Any]) -> Study:
    """A study from its YAML as plain data.

    Raises:
        ConfigError: A key is missing or unknown, or a name leads nowhere; says where.
    """
    optional = ("overrides", "tiny", "examples", "claim", "notes")
    _check(content, f"study {name}", ("summary", "source", "parts"), optional)
    claim = content.get("claim")
    if claim is not None:
        _check(claim, f"study {name}: claim", ("says", "because"))
    examples = enumerate(content.get("examples") or ())
    study = Study(
        name=name,
        summary=str(content["summary"]),
        source=str(content["source"]),
        parts=tuple(_part(part, f"study {name}: parts.{n}") for n, part in enumerate(content["parts"])),
        overrides=_words(content.get("overrides")),
        tiny=_words(content.get("tiny")),
        examples=tuple(_example(one, f"study {name}: examples.{n}") for n, one in examples),
        claim=None if claim is None else Claim(str(claim["says"]), str(claim["because"])),
        notes=tuple(map(str, content.get("notes") or ())),
    )
    names = [row.name for row in study.rows]
    if twice := sorted({one for one in names if names.count(one) > 1}):
        raise ConfigError(f"study {name}: several rows are called {', '.join(twice)}; give each its own name.")
    return study


def _part(content: Mapping[str, Any], where: str) -> Part:
    _check(content, where, ("rows", "tables"), ("overrides", "tiny"))
    rows = tuple(_row(row, f"{where}.rows.{n}") for n, row in enumerate(content["rows"]))
    tables = tuple(_table(table, rows, f"{where}.tables.{n}") for n, table in enumerate(content["tables"]))
    return Part(rows, tables, _words(content.get("overrides")), _words(content.get("tiny")))


def _row(content: Mapping[str, Any], where: str) -> Row:
    _check(content, where, ("name", "what", "runs"), ("overrides", "tiny"))
    runs = {str(name): _words(words) for name, words in content["runs"].items()}
    return Row(
        str(content["name"]), str(content["what"]), runs, _words(content.get("overrides")), _words(content.get("tiny"))
    )


def _table(content: Mapping[str, Any], rows: Sequence[Row], where: str) -> StudyTable:
    _check(content, where, ("title", "columns"), ("source",))
    known = {run for row in rows for run in row.runs}
    columns = tuple(_column(one, known, f"{where}.columns.{n}") for n, one in enumerate(content["columns"]))
    source = {str(row): tuple(values) for row, values in (content.get("source") or {}).items()}
    for row, values in source.items():
        if row not in {one.name for one in rows}:
            raise ConfigError(f"{where}.source: there is no row {row!r}.")
        if len(values) != len(columns):
            raise ConfigError(f"{where}.source.{row}: {len(values)} values for {len(columns)} columns.")
    return StudyTable(str(content["title"]), columns, source)


def _column(content: Mapping[str, Any], known: set[str], where: str) -> Column:
    _check(content, where, ("title", "value"), ("run", "less_than", "minus", "trained"))
    value, run = str(content["value"]), content.get("run", ())
    if not isinstance(content["title"], str):
        raise ConfigError(f"{where}.title: {content['title']!r} is no text; quote it.")
    column = Column(
        str(content["title"]),
        value,
        (run,) if isinstance(run, str) else tuple(run),
        content.get("less_than"),
        content.get("minus"),
        bool(content.get("trained", False)),
    )
    if (value in COMPARED) != (column.minus is not None) or value not in {*QUANTITIES, *COMPARED}:
        raise ConfigError(
            f"{where}.value: {value!r}; known are {', '.join(QUANTITIES)}, and with minus: {', '.join(COMPARED)}."
        )
    if value in COMPARED and not column.run:
        raise ConfigError(f"{where}: {value} needs the run that is compared.")
    for run in filter(None, (*column.run, column.less_than, column.minus)):
        if run not in known:
            raise ConfigError(f"{where}: no row has a run {run!r}; there are {', '.join(sorted(known))}.")
    return column


def _example(content: Mapping[str, Any], where: str) -> Example:
    _check(content, where, ("what", "compute", "given", "source"), ("expected", "note"))
    return Example(
        str(content["what"]),
        str(content["compute"]),
        dict(content["given"]),
        content["source"],
        content.get("expected", content["source"]),
        str(content.get("note", "")),
    )


def _words(text: Any) -> Words:
    return tuple(shlex.split(str(text))) if text else ()


def _check(content: Any, where: str, required: Sequence[str], optional: Sequence[str] = ()) -> None:
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where}: a mapping is needed, not {type(content).__name__}.")
    for key in required:
        if key not in content:
            raise ConfigError(f"{where}: {key} is missing.")
    for key in content:
        if key not in {*required, *optional}:
            raise ConfigError(f"{where}: unknown key {key!r}. Known: {', '.join((*required, *optional))}.")
