"""From the words on the command line to what a search may vary: comma lists, choice(), range(), interval(), tag(log, ).

A key with one value is fixed, one with several is a dimension of the space. What decides how trials are measured, and
on which images, is the same for all of them and cannot be searched over; nor can seeds: the best of several seeds is
luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep

from qbench.catalog import GROUPS
from qbench.compose import WHOLE_SWEEP, OneByOne, read_override
from qbench.config import RunConfig
from qbench.errors import ConfigError

if TYPE_CHECKING:
    from optuna.trial import Trial

LOG = "log"
ALIKE = ("seed", "dataset", "measure", "limit_train", "limit_test", "tiny", "device", "threads", "experiment")
ALIKE_FOLDERS = ("data_dir", "store_dir", *WHOLE_SWEEP)


@dataclass(frozen=True)
class Dimension:
    """A key of the space: one of ``values``, as an override writes them, or a number from ``low`` to ``high``.

    ``step`` is that of a range, None between the ends of an interval; ``log`` draws evenly on a logarithmic scale.
    """

    key: str
    values: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether its numbers are whole ones."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[str, ...]:
        """The overrides to check before anything runs: every value, or both ends."""
        return tuple(f"{self.key}={value}" for value in self.values or dict.fromkeys((self.low, self.high)))

    def suggest(self, trial: Trial) -> str:
        """The override of a trial."""
        if self.values:
            return f"{self.key}={trial.suggest_categorical(self.key, self.values)}"
        if self.whole:
            step = int(self.step or 1)
            return f"{self.key}={trial.suggest_int(self.key, int(self.low), int(self.high), step=step, log=self.log)}"
        number = trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)
        return f"{self.key}={number:.6g}"  # as exact as a row can show

    def __str__(self) -> str:
        if self.values:
            return f"{self.key}: {', '.join(self.values)}"
        step = "" if self.step in (None, 1) else f" in steps of {self.step}"
        return f"{self.key}: {self.low} to {self.high}{step}{' (log)' if self.log else ''}"


def split_space(overrides: Sequence[str]) -> tuple[list[str], list[Dimension]]:
    """The overrides with one value, and the dimensions that the others span.

    Raises:
        ConfigError: An override cannot be read or searched over, or none has several values; lists all problems.
    """
    fixed: list[str] = []
    space: list[Dimension] = []
    problems: list[str] = []
    for text in overrides:
        override = read_override(text)
        if not isinstance(override, Override):
            problems.append(override)
        elif not override.is_sweep_override():
            fixed.append(text)
        elif isinstance(found := _dimension(override, text), Dimension):
            space.append(found)
        else:
            problems.append(found)
    keys = [one.key for one in space]
    problems += [f"{key}: is given twice." for key in dict.fromkeys(keys) if keys.count(key) > 1]
    if not problems and not space:
        problems.append(
            "hydra/sweeper=optuna: nothing to search over; give a key several values, e.g. bits=2,4,8 or "
            "'method.lr=interval(0.001,0.1)'."
        )
    if problems:
        raise ConfigError(problems)
    return fixed, space


def check_space(composer: OneByOne, fixed: Sequence[str], space: Sequence[Dimension]) -> RunConfig:
    """Try every value of a choice and both ends of a range, beside each of the options that are searched over.

    Returns:
        The config of a combination that can run.

    Raises:
        ConfigError: A value is refused beside all of them.
    """
    pending = {end: "" for one in space for end in one.ends}
    config: RunConfig | None = None
    for options in _options(space):
        lacked = composer.lacked([*fixed, *options], [one.key for one in space])
        others = [one.ends[0] for one in space if one.key not in lacked and one.key not in GROUPS]
        for word in [*options, *(end for one in space if one.key not in GROUPS for end in one.ends)]:
            if not pending.keys() & {word, *options}:
                continue
            words = [*(other for other in (*options, *others) if _key(other) != _key(word)), word]
            cell, problems = composer.cell([*fixed, *words])
            if cell.config is not None and not problems:
                config = cell.config
                for accepted in words:
                    pending.pop(accepted, None)
            elif word in pending:
                pending[word] = pending[word] or "\n".join(problems or [cell.skipped])
    if pending or config is None:
        raise ConfigError(list(dict.fromkeys(line for text in pending.values() for line in text.splitlines())))
    return config


def _options(space: Sequence[Dimension]) -> list[tuple[str, ...]]:
    """Every option (of method, model, ...) that is searched over, beside the first of the other groups."""
    groups = [one.ends for one in space if one.key in GROUPS]
    first = tuple(ends[0] for ends in groups)
    found = [(*first[:place], end, *first[place + 1 :]) for place, ends in enumerate(groups) for end in ends]
    return list(dict.fromkeys(found or [()]))


def _key(word: str) -> str:
    return word.partition("=")[0]


def _dimension(override: Override, text: str) -> Dimension | str:
    """What an override spans, or what is wrong with it."""
    key, value = override.get_key_element(), override.value()
    if key.split(".")[0] in ALIKE:
        return f"{text}: cannot be searched over; all trials must be measured alike, so {key} has one value."
    if key in ALIKE_FOLDERS:
        return f"{text}: cannot be searched over; {key} has one value for the whole search."
    if isinstance(value, Glob):
        return f"{text}: cannot be searched over; list the values."
    tags = set(getattr(value, "tags", ()))
    if tags - {LOG}:
        return f"{text}: unknown tag {', '.join(sorted(tags - {LOG}))}; the only one is log."
    if isinstance(value, ChoiceSweep):
        values = tuple(dict.fromkeys(override.sweep_string_iterator()))
        return f"{text}: a choice has no logarithmic scale." if tags else Dimension(key, values)
    if key in GROUPS:
        return f"{text}: {key} takes names, not numbers; list them, e.g. {key}=a,b."
    if isinstance(value, RangeSweep):
        return _range(key, value, LOG in tags, text)
    if isinstance(value, IntervalSweep):
        return _checked(Dimension(key, (), *_ends(value), None, LOG in tags), text)
    return f"{text}: cannot be searched over; use a comma list, choice(), range() or interval()."


def _ends(value: IntervalSweep) -> tuple[float, float]:
    """Both ends; whole numbers where int() was said, for Hydra reads all others as floats."""
    return 0.0 if value.start is None else value.start, 0.0 if value.end is None else value.end


def _range(key: str, value: RangeSweep, log: bool, text: str) -> Dimension | str:
    numbers = list(value.range())
    if not numbers:
        return f"{text}: an empty range."
    if log and value.step != 1:
        return f"{text}: a logarithmic scale has no step."
    low, high = min(numbers), max(numbers)
    whole = all(isinstance(number, int) for number in numbers)
    if not whole:  # of decimals: 0.1 + 0.1 + 0.1 is not 0.3
        return Dimension(key, tuple(f"{float(number):.10g}" for number in numbers))
    return _checked(Dimension(key, (), int(low), int(high), None if log else abs(int(value.step)), log), text)


def _checked(found: Dimension, text: str) -> Dimension | str:
    if found.low > found.high:
        return f"{text}: its lower end is above its upper end."
    return f"{text}: a logarithmic scale begins above 0." if found.log and found.low <= 0 else found
