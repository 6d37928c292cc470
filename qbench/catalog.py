"""What can be chosen: the YAML files of every config group, qbench's own and the user's (``--config-dir``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qbench.errors import ConfigError
from qbench.steps import DESCRIPTIVE as DESCRIPTIVE  # named here for those that read YAML files
from qbench.trust import read_yaml

GROUPS = ("dataset", "model", "method", "train", "trainer", "runtime", "measure", "tracker", "experiment")
PLUGIN_GROUPS = ("hydra/launcher", "hydra/sweeper")  # how a sweep is run, not what
COMMON = {
    "dataset": frozenset({"images", "augment", "validation_fraction", "calibration_images", "split_seed"})
    | frozenset({"sources", "download_from", "fingerprint"}),
    "model": frozenset({"input", "recipe", "weights"}),
}
# of those, what states facts: an override of it would change nothing, or make it untrue
FIXED = {
    "dataset": frozenset({"images", "sources", "download_from", "fingerprint"}),
    "model": frozenset({"input", "recipe"}),
}


def builtin_configs() -> Path:
    """The ``configs`` folder: beside the package in a checkout, inside it in an installed wheel."""
    inside = Path(__file__).parent / "_configs"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "configs"


@dataclass(frozen=True)
class Option:
    """One YAML of a group."""

    group: str
    name: str
    path: Path

    def load(self) -> dict[str, Any]:
        """The YAML as plain data, interpolations unresolved, with the options it takes as steps filled in.

        Raises:
            ConfigError: A file cannot be read or is not YAML; names it.
        """
        content = _read(self.path)
        if self.group == "experiment":
            return content  # its defaults choose options of other groups
        taken = {step: merged(o.load(), content.pop(step, None) or {}) for step, o in self.taken().items()}
        return {**taken, **{key: value for key, value in content.items() if key != "defaults"}}  # in Hydra's order

    def taken(self) -> dict[str, Option]:
        """The options of the group that this one takes as steps (``defaults: [OPTION@STEP]``), by step."""
        entries = [str(entry).partition("@") for entry in _read(self.path).get("defaults") or []]
        return {step: self._beside(name) for name, at, step in entries if at}

    def _beside(self, name: str) -> Option:
        """Another option of the group: from the same folder, or one of qbench's."""
        path = self.path.with_name(f"{name}.yaml")
        return Option(self.group, name, path if path.exists() else builtin_configs() / self.group / path.name)

    def parameters(self) -> dict[str, Any]:
        """The parameters and their defaults, without what only describes the option."""
        hidden = DESCRIPTIVE | COMMON.get(self.group, frozenset())
        return {key: value for key, value in self.load().items() if key not in hidden}


def _read(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    return content if isinstance(content, dict) else {}


def merged(base: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """``base`` with what ``changed`` says; mappings are merged, as Hydra does it."""
    both = {key: value for key, value in changed.items() if isinstance(value, dict) and isinstance(base.get(key), dict)}
    return {**base, **changed, **{key: merged(base[key], value) for key, value in both.items()}}


def options(group: str, extra: Path | None = None) -> dict[str, Option]:
    """The options of a group by name: qbench's and the user's own.

    Raises:
        ConfigError: The user's folder has an option that qbench has too: a row of a table would not say which ran.
    """
    found: dict[str, Option] = {}
    own = [extra] if extra is not None and extra.resolve() != builtin_configs().resolve() else []
    for root in (builtin_configs(), *own):
        for path in sorted((root / group).glob("*.yaml")):
            if path.stem in found:
                raise ConfigError(f"{path}: qbench has a {group}={path.stem} of its own; give yours another name.")
            found[path.stem] = Option(group, path.stem, path)
    return dict(sorted(found.items()))


def nearest(word: str, allowed: Sequence[str]) -> str:
    """' Did you mean X?' for the closest allowed word, or nothing."""
    from difflib import get_close_matches

    close = get_close_matches(word, allowed, n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else ""
