"""What can be chosen: the YAML files of every config group, qbench's own and the user's (``--config-dir``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from qbench.errors import ConfigError

GROUPS = ("dataset", "model", "method", "train", "runtime", "measure", "experiment")
# keys of a group's YAML that describe it; every other key is a parameter of what ``_target_`` names
DESCRIPTIVE = frozenset({"_target_", "summary", "limits"})
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
        """The YAML as plain data, interpolations unresolved.

        Raises:
            ConfigError: The file cannot be read or is not YAML; names it.
        """
        try:
            content = yaml.safe_load(self.path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{self.path}: not a readable YAML: {' '.join(str(error).split())}") from error
        return content if isinstance(content, dict) else {}

    def parameters(self) -> dict[str, Any]:
        """The parameters and their defaults, without what only describes the option."""
        hidden = DESCRIPTIVE | COMMON.get(self.group, frozenset())
        return {key: value for key, value in self.load().items() if key not in hidden}


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
