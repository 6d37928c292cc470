"""Libraries that come with an extra: imported when something needs them, named when they are missing."""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from typing import Any

from qbench.errors import RuntimeUnavailable


def import_extra(module: str, extra: str) -> Any:
    """The module of that name.

    Raises:
        RuntimeUnavailable: It is not installed, or does not import; names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise RuntimeUnavailable(_not_installed(error.name or module, extra)) from error
    except (ImportError, OSError) as error:
        raise RuntimeUnavailable(
            f'{module} does not import ({error}); install it anew: pip install "qbench[{extra}]"'
        ) from error


@contextmanager
def quietly() -> Iterator[None]:
    """Drop what a library prints, logs below an error and warns of, while it is imported or called."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def missing_extra(modules: Sequence[str], extra: str) -> str | None:
    """Which of the modules is not installed, without importing them; None if all are."""
    for module in modules:
        if find_spec(module) is None:
            return _not_installed(module, extra)
    return None


def _not_installed(module: str, extra: str) -> str:
    return f'{module} is not installed; pip install "qbench[{extra}]"'
