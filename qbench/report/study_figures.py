"""The figures of a study: each column of each row, from the records of its runs over all seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from statsmodels.stats.multitest import multipletests

from qbench.details import Details
from qbench.measure.intervals import mean_interval
from qbench.record import Record
from qbench.report.comparisons import Comparison, set_against
from qbench.report.quantities import COMPARED, QUANTITIES, Quantity
from qbench.report.study import Column, Row, Study

SIGNIFICANT = 0.05  # for p-values after Holm's correction
NO_DIFFERENCE = "no difference shown"
RANDOM_WEIGHTS = "random weights: train.epochs=0 and no model.weights"


@dataclass(frozen=True)
class RowRuns:
    """What became of the runs of a row: by name, the records there are, one for each seed.

    ``setting`` names what the user swept over, beside seeds.
    """

    row: Row
    setting: str
    runs: Mapping[str, Sequence[Record]]

    @property
    def label(self) -> str:
        return f"{self.row.what}, {self.setting}" if self.setting else self.row.what


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval, or why there is none.

    ``n`` counts seeds, ``over`` says what the interval is over: seeds, images or rounds; ``text`` is for people.
    """

    text: str
    value: float | str | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    over: str = ""
    why: str = ""
    run_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """Two runs of a row compared over all seeds that both have.

    ``p_holm`` is corrected for all comparisons of the study, None where there is no test.
    """

    first: str
    second: str
    comparison: Comparison
    by_seed: tuple[float, ...]
    run_ids: tuple[str, ...]
    p_holm: float | None = None

    @property
    def verdict(self) -> str:
        if self.p_holm is None or self.p_holm >= SIGNIFICANT:
            return NO_DIFFERENCE
        return f"{self.first if self.comparison.difference_points > 0 else self.second} is better"


Answers = Mapping[tuple[str, str, str, str], Answer]  # by row, setting and the two runs


def answers(study: Study, rows: Sequence[RowRuns], details: Mapping[str, Details]) -> Answers:
    """Every comparison that a column of the study asks for and the records allow."""
    found: dict[tuple[str, str, str, str], Answer] = {}
    for part in study.parts:
        asked = {(c.run[0], c.minus) for table in part.tables for c in table.columns if c.minus is not None}
        for one in rows:
            if one.row not in part.rows:
                continue
            for first, second in sorted(asked):
                pairs = _pairs(one.runs.get(first, ()), one.runs.get(second, ()))
                if pairs:
                    comparison, by_seed = set_against(one.label, pairs, details)
                    ids = tuple(record.run_id for pair in pairs for record in pair)
                    found[one.row.name, one.setting, first, second] = Answer(
                        first, second, comparison, tuple(by_seed), ids
                    )
    return _corrected(found)


def _pairs(first: Sequence[Record], second: Sequence[Record]) -> list[tuple[Record, Record]]:
    of_seed = {record.seed: record for record in second if _has_accuracy(record)}
    return [(one, of_seed[one.seed]) for one in first if one.seed in of_seed and _has_accuracy(one)]


def _has_accuracy(record: Record) -> bool:
    return record.status == "ok" and record.top1_percent is not None


def _corrected(found: Mapping[tuple[str, str, str, str], Answer]) -> Answers:
    """Holm's correction for all that were tested; two runs that agree for every seed have p = 1."""
    p_values = {}
    for key, answer in found.items():
        p_value = answer.comparison.p_value
        if p_value is None and not any(answer.by_seed):
            p_value = 1.0
        if p_value is not None:
            p_values[key] = p_value
    holm = multipletests(list(p_values.values()), method="holm")[1] if p_values else ()
    corrected = {key: float(value) for key, value in zip(p_values, holm)}
    return {
        key: Answer(a.first, a.second, a.comparison, a.by_seed, a.run_ids, corrected.get(key))
        for key, a in found.items()
    }


def figure(column: Column, one: RowRuns, compared: Answers) -> Figure:
    """One cell of a table."""
    if column.value in COMPARED:
        answer = compared.get((one.row.name, one.setting, column.run[0], column.minus or ""))
        return _absent("not both of the runs it compares are there") if answer is None else _compared(column, answer)
    run = next((name for name in column.run or tuple(one.row.runs) if name in one.row.runs), None)
    if run is None:
        return Figure("")
    records = one.runs.get(run, ())
    made = [record for record in records if record.status == "ok"]
    if not made:
        return _absent(_why_not_made(records))
    if column.trained:
        made = [record for record in made if _is_trained(record)]
    if not made:
        return _absent(RANDOM_WEIGHTS)
    quantity = QUANTITIES[column.value]
    if column.less_than is not None:
        return _saving(quantity, made, one.runs.get(column.less_than, ()))
    return _over_seeds(quantity, made)


def _absent(why: str) -> Figure:
    return Figure("n/a" if why else "", why=why)


def _why_not_made(records: Sequence[Record]) -> str:
    if not records:
        return "not run"
    return f"{records[0].status}: {records[0].error}"


def _is_trained(record: Record) -> bool:
    """Whether the float network was trained here or came with weights."""
    epochs = (record.config.get("train") or {}).get("epochs")
    return bool(epochs) or (record.config.get("model") or {}).get("weights") is not None


def _over_seeds(quantity: Quantity, records: Sequence[Record]) -> Figure:
    ids = tuple(record.run_id for record in records)
    values = [value for value in map(quantity.of, records) if value is not None]
    if not values:
        return _absent(quantity.absent)
    numbers = [value for value in values if isinstance(value, float)]
    if len(numbers) < len(values):
        words = ", ".join(dict.fromkeys(map(str, values)))
        return Figure(words, words, n=len(values), run_ids=ids)
    low, high, over = _interval(quantity, records, numbers)
    return _number(quantity, fmean(numbers), low, high, over, len(numbers), ids)


def _interval(
    quantity: Quantity, records: Sequence[Record], values: Sequence[float]
) -> tuple[float | None, float | None, str]:
    if len(values) > 1:
        bounds = mean_interval(values)
        return (*bounds, "seeds") if bounds is not None and bounds[1] > bounds[0] else (None, None, "")
    if quantity.bounds is None:
        return None, None, ""
    low, high = (getattr(records[0], name) for name in quantity.bounds)
    return (None, None, "") if low is None or high is None else (float(low), float(high), quantity.over)


def _saving(quantity: Quantity, records: Sequence[Record], references: Sequence[Record]) -> Figure:
    """How many percent less than the run it is compared with, seed by seed."""
    whole = {record.seed: quantity.of(record) for record in references if record.status == "ok"}
    pairs = [(quantity.of(record), whole.get(record.seed)) for record in records]
    savings = [100 * (1 - own / of) for own, of in pairs if isinstance(own, float) and isinstance(of, float) and of]
    if not savings:
        return _absent(quantity.absent)
    plain = Quantity(quantity.of, 2)
    low, high, over = _interval(plain, records, savings)
    return _number(plain, fmean(savings), low, high, over, len(savings), tuple(record.run_id for record in records))


def _number(
    quantity: Quantity, value: float, low: float | None, high: float | None, over: str, n: int, ids: tuple[str, ...]
) -> Figure:
    form = f"{'+' if quantity.signed else ''},.{quantity.digits}f"
    text = f"{value:{form}}"
    if quantity.with_interval and low is not None and high is not None:
        text += f" [{low:{form}}, {high:{form}}]"
    return Figure(text, value, low, high, n, over, run_ids=ids)


def _compared(column: Column, answer: Answer) -> Figure:
    one, n, ids = answer.comparison, len(answer.by_seed), answer.run_ids
    over = "seeds" if n > 1 else "images"
    if column.value == "difference":
        text = f"{one.difference_points:+.2f} [{one.low:+.2f}, {one.high:+.2f}]"
        return Figure(text, one.difference_points, one.low, one.high, n, over, run_ids=ids)
    if column.value == "p_value":
        if answer.p_holm is None:
            return _absent("no test: which images each run got right is not stored")
        return Figure(f"{answer.p_holm:.2g}", answer.p_holm, n=n, run_ids=ids)
    if column.value == "seed_range":
        text = f"{min(answer.by_seed):+.2f} to {max(answer.by_seed):+.2f}"
        return Figure(text, text, n=n, run_ids=ids)
    return Figure(answer.verdict, answer.verdict, n=n, run_ids=ids)


def verdict(study: Study, compared: Answers) -> str:
    """Whether the data support what the study claims; empty where it claims nothing or nothing was compared."""
    if study.claim is None or not compared:
        return ""
    tested = list(compared.values())
    better = sum(one.verdict == f"{one.first} is better" for one in tested)
    worse = sum(one.verdict == f"{one.second} is better" for one in tested)
    none = len(tested) - better - worse
    gains = [difference for one in tested for difference in one.by_seed]
    seeds = sorted({len(one.by_seed) for one in tested})
    partly = "only partly supported by" if better else "not supported by"
    answer = "supported by" if better == len(tested) else partly
    return (
        f'Claimed: "{study.claim.says}". {answer.capitalize()} these runs: of {len(tested)} comparisons '
        f"({_range(seeds)} seeds each, paired; p < {SIGNIFICANT:g} after Holm's correction) {better} show it, "
        f"{worse} show the opposite and {none} show no difference. Single pairs of runs differ by "
        f"{min(gains):+.2f} to {max(gains):+.2f} points. {study.claim.because}"
    )


def _range(numbers: Sequence[int]) -> str:
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
