"""A search's trials in Optuna: asked for one at a time, told how they ended, kept where the next command finds them.

    OUTPUTS/optuna/NAME.journal   Optuna's log of a study, unless ``storage`` names a database
    OUTPUTS/optuna/NAME.lock      held by the process that searches: one at a time

Each trial's sampler is seeded with its number, so that a search that was stopped and went on asks for what one that
ran through would have asked for. A trial that failed, or whose process died, is asked for again by the next command.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from qbench.errors import ConfigError, RuntimeUnavailable, StoreError
from qbench.objectives import Goals

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial

FOLDER = "optuna"
SEARCH, RUN_ID = "qbench_search", "run_id"  # attributes of a study and of a trial
SEEDS = 2**32


@dataclass(frozen=True)
class Settings:
    """The parameters of ``configs/hydra/sweeper/optuna.yaml``, which describes them."""

    n_trials: int
    sampler: str
    seed: int
    objectives: Sequence[str]
    max_size_bytes: int | None
    max_latency_ms: float | None
    max_energy_uJ: float | None
    max_drop: float | None
    study_name: str | None
    storage: str | None


SETTINGS = tuple(field.name for field in fields(Settings))


class Study:
    """An open study. Made by :func:`open_study`."""

    def __init__(self, study: optuna.Study, settings: Settings) -> None:
        self._study, self._settings = study, settings
        self._take_up()

    @property
    def finished(self) -> list[FrozenTrial]:
        """Trials that are done, those of combinations that cannot run among them."""
        return [trial for trial in self._study.trials if trial.state.name in ("COMPLETE", "PRUNED")]

    @property
    def num_left(self) -> int:
        return max(0, self._settings.n_trials - len(self.finished))

    def run_ids(self) -> list[str]:
        """The runs of all finished trials, each once, in order."""
        found = (trial.user_attrs.get(RUN_ID) for trial in self.finished)
        return list(dict.fromkeys(run_id for run_id in found if run_id is not None))

    def ask(self) -> Trial:
        number = len(self._study.trials)
        self._study.sampler = _sampler(self._settings.sampler, (self._settings.seed * 1_000_003 + number) % SEEDS)
        return self._study.ask()

    def complete(self, trial: Trial, goals: Goals, values: Sequence[float], excess: dict[str, float]) -> None:
        for name in goals.budgets:
            trial.set_constraint(name, excess[name])
        self._study.tell(trial, list(values))

    def skip(self, trial: Trial, reason: str) -> None:
        """A combination that cannot run, or says nothing about the goals: it is done, and teaches nothing."""
        import optuna

        trial.set_user_attr("reason", reason)
        self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)

    def fail(self, trial: Trial) -> None:
        """A trial to be asked for again."""
        import optuna

        self._study.tell(trial, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)

    def _take_up(self) -> None:
        """Ask again for what failed, and for what was running when its process died."""
        import optuna

        for trial in self._study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        last = {json.dumps(trial.params, sort_keys=True): trial for trial in self._study.trials if trial.params}
        waiting = self._study.get_trials(states=(optuna.trial.TrialState.WAITING,))
        asked = [trial.system_attrs.get("fixed_params") for trial in waiting]
        for trial in last.values():
            if trial.state.name == "FAIL" and trial.params not in asked:
                self._study.enqueue_trial(trial.params)


@contextmanager
def open_study(settings: Settings, goals: Goals, search: dict[str, Any], name: str, folder: Path) -> Iterator[Study]:
    """Go on with a study, or begin it, and keep others off it.

    Args:
        settings: How to search.
        goals: What for.
        search: What the study is about, as JSON has it: another search is not mixed into it.
        name: Of the study.
        folder: For its files.

    Raises:
        RuntimeUnavailable: Optuna is not installed.
        ConfigError: The study is about something else, or the storage cannot be opened.
        StoreError: Another process is at it, or the folder cannot be written to.
    """
    optuna = load_optuna()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(f"study {name}: another process is searching; wait for it, or set study_name") from None
    except OSError as error:
        raise StoreError(f"{folder} cannot be written ({error.strerror or error})") from error
    try:
        directions = [one.direction for one in goals.objectives]
        try:
            storage = settings.storage or _journal(optuna, folder / f"{name}.journal")
            study = optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)
        except Exception as error:  # of whatever kind the driver of a database has
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"hydra.sweeper.storage={settings.storage}: cannot be opened ({reason})") from error
        _check(study, search, name)
        yield Study(study, settings)
    finally:
        lock.release()


def load_optuna() -> Any:
    """The library, silenced.

    Raises:
        RuntimeUnavailable: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise RuntimeUnavailable('hydra/sweeper=optuna needs optuna: pip install "qbench[optuna]"') from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _check(study: optuna.Study, search: dict[str, Any], name: str) -> None:
    known = study.user_attrs.get(SEARCH)
    if known is None and not study.trials:
        study.set_user_attr(SEARCH, search)
    elif known != search:
        other = [key for key, value in search.items() if not isinstance(known, dict) or known.get(key) != value]
        raise ConfigError(
            f"hydra.sweeper.study_name={name}: that study is about another search ({', '.join(other)} differ); "
            "give another study_name."
        )


class _Alone:
    """The lock of a journal that nobody else writes: Optuna's own outlives a process that is killed."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _journal(optuna: Any, path: Path) -> Any:
    """A storage in a file, without the line that a killed process may have left half-written."""
    if path.is_file():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with path.open("r+b") as stream:
                stream.truncate(whole)
    backend = optuna.storages.journal.JournalFileBackend(str(path), lock_obj=_Alone())
    return optuna.storages.JournalStorage(backend)


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is experimental in Optuna is its business
        made: dict[str, Any] = {"tpe": TPESampler, "nsga2": NSGAIISampler, "random": RandomSampler}
        sampler: optuna.samplers.BaseSampler = made[name](seed=seed)
        return sampler
