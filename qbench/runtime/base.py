"""The protocol of a runtime, and how one is found by its dotted path."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from qbench.errors import ConfigError, RuntimeUnavailable
from qbench.program.graph import Program


class Executable(Protocol):
    """A loaded artefact. ``kind`` says what really runs: float, simulated (float arithmetic on a grid) or integer."""

    kind: str

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised float32 images [N, C, H, W] -> float32 logits [N, K]."""
        ...


class Runtime(Protocol):
    """Runs artefacts."""

    name: str

    def supports(self, program: Program) -> str | None:
        """Why the program cannot run here; None if it can."""
        ...

    def load(self, path: Path, *, threads: int) -> Executable:
        """Load and verify a file. Raises ArtifactError or RuntimeUnavailable."""
        ...


def load_runtime(target: str, params: Mapping[str, Any] | None = None) -> Runtime:
    """The runtime of that dotted path.

    Raises:
        ConfigError: There is none of that name, or it does not take the parameters.
        RuntimeUnavailable: A library it needs is not installed.
    """
    module_name, _, attribute = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not error.name.startswith("qbench"):
            raise RuntimeUnavailable(f"runtime {target}: {error.name} is not installed") from error
        raise ConfigError(f"runtime {target!r}: no such runtime") from error
    except ImportError as error:
        raise RuntimeUnavailable(f"runtime {target}: {error}") from error
    except ValueError as error:
        raise ConfigError(f"runtime {target!r}: not a dotted path") from error
    found = getattr(module, attribute, None)
    if found is None:
        raise ConfigError(f"runtime {target!r}: {module_name} has no {attribute}")
    try:
        runtime: Runtime = found(**(params or {}))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"runtime {target!r}: {error}") from error
    return runtime
