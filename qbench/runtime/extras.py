"""Libraries that come with an extra: imported when something needs them, named when they are missing."""

from __future__ import annotations

import importlib
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
        missing = error.name or module
        raise RuntimeUnavailable(f'{missing} is not installed; pip install "qbench[{extra}]"') from error
    except (ImportError, OSError) as error:
        raise RuntimeUnavailable(
            f'{module} does not import ({error}); install it anew: pip install "qbench[{extra}]"'
        ) from error
