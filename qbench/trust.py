"""What a config may do: name code that is qbench's or the user's own, and be as large as a config is.

A config may come from anywhere. What its ``_target_`` names is imported and called with its parameters, so that
``_target_: os.system`` would run a command; and a few lines of YAML aliases can stand for more values than fit into
memory. Both are refused before anything is imported or composed. Neither Hydra nor torch is needed here.
"""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import yaml

from qbench.errors import ConfigError
from qbench.steps import TARGET

LARGEST_FILE, MOST_VALUES = 1_000_000, 10_000  # bytes of a YAML; values it stands for, aliases followed
VARIABLE = "QBENCH_TRUST"


def read_yaml(path: Path) -> Any:
    """The content of a YAML, checked as :func:`check_yaml` does.

    Raises:
        ConfigError: It cannot be read, is no YAML, or is refused; names it.
    """
    return yaml.safe_load(check_yaml(path))


def check_yaml(path: Path) -> str:
    """The text of a YAML that is small, aliases followed.

    Raises:
        ConfigError: It cannot be read, is no YAML, is too large, or too deeply or endlessly nested; names it.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):  # a device may never end
            raise ConfigError(f"{path}: is not a regular file.")
        if facts.st_size > LARGEST_FILE:
            raise ConfigError(f"{path}: {facts.st_size:,} bytes; a config has at most {LARGEST_FILE:,}.")
        text = path.read_text(encoding="utf-8")
        count = _count(yaml.compose(text, Loader=yaml.SafeLoader), {})
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}.") from error
    if count > MOST_VALUES:
        most = f"at most {MOST_VALUES:,} are read"
        raise ConfigError(f"{path}: stands for {_about(count)} values, aliases followed; {most}.")
    return text


def target_problems(content: Mapping[str, Any], where: str, config_dir: Path | None) -> list[str]:
    """Every ``_target_`` of an option, or of anything inside it, that a config may not name.

    Args:
        content: The option as plain data.
        where: How the messages call it, e.g. ``method=mine``.
        config_dir: The user's config folder; modules beside it are the user's own.
    """
    found = []
    for target in _targets(content):
        reason = _refused(str(target), config_dir)
        if reason is not None:
            found.append(f"{where}: _target_ {target} is not allowed: {reason}")
    return found


def standard_library(dotted: str) -> bool:
    """Whether a dotted path leads into Python itself."""
    return dotted.partition(".")[0] in sys.stdlib_module_names


def _refused(dotted: str, config_dir: Path | None) -> str | None:
    root = dotted.partition(".")[0]
    if root == "qbench":
        return None
    if standard_library(dotted):
        return "it is of Python's standard library; name a class of qbench, or one of yours beside the config folder."
    if root in os.environ.get(VARIABLE, "").replace(",", " ").split():
        return None
    if config_dir is not None and PathFinder.find_spec(root, [str(config_dir.resolve().parent)]) is not None:
        return None
    spec = PathFinder.find_spec(root)
    origin = None if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), None)
    if origin is None or not _installed(Path(origin)):
        return None  # the user's, from PYTHONPATH or an editable install; or nowhere, which building it will tell
    return (
        f"{root} is an installed package, not qbench and not yours beside the config folder; "
        f"if you trust what it does when called, set {VARIABLE}={root}."
    )


def _installed(origin: Path) -> bool:
    places = [Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")]
    return any(origin.resolve().is_relative_to(place) for place in places) or "dist-packages" in origin.parts


def _targets(content: Any) -> Iterator[Any]:
    if isinstance(content, Mapping):
        if content.get(TARGET):
            yield content[TARGET]
        content = list(content.values())
    if isinstance(content, list):
        for value in content:
            yield from _targets(value)


def _count(node: yaml.Node | None, known: dict[int, int]) -> int:
    """How many values a node stands for; those behind an alias count each time."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = 0  # being counted
        children = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_count(child, known) for child in children)
    if known[id(node)] == 0:
        raise ValueError("an alias stands inside what it names")
    return known[id(node)]


def _about(count: int) -> str:
    return f"{count:,}" if count < 10**12 else f"about 1e{len(str(count)) - 1}"
