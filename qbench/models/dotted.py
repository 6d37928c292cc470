"""Importing what a dotted path in the configuration names."""

from __future__ import annotations

import difflib
import importlib

from qbench.errors import ConfigError


def import_dotted(path: str, key: str) -> object:
    """Import ``package.module.name`` and return what ``name`` stands for. Runs the module's code.

    Args:
        path: Dotted path with at least one dot.
        key: Configuration key the path came from, for the messages.

    Raises:
        ConfigError: there is no such module or name, or importing the module fails; names the key and what to do.
    """
    module_name, _, name = path.rpartition(".")
    if not module_name or not name:
        raise ConfigError(f"{key}={path}: not a dotted path; write package.module.name")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as err:
        raise ConfigError(
            f"{key}={path}: there is no module {err.name!r}; install the package that holds it "
            "(for your own: pip install -e FOLDER) or put its parent folder on PYTHONPATH"
        ) from err
    except Exception as err:  # the module's own code runs here and may raise anything
        raise ConfigError(
            f"{key}={path}: importing {module_name} failed with {type(err).__name__}: {err}; correct that module, "
            f'python -c "import {module_name}" shows where it fails'
        ) from err
    if not hasattr(module, name):
        close = difflib.get_close_matches(name, dir(module), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "check the spelling"
        raise ConfigError(f"{key}={path}: module {module_name} has no {name!r}; {hint}")
    found: object = getattr(module, name)
    return found
