"""The protocol of a runtime, and how one is found by its dotted path."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from qbench.errors import ConfigError, DataError, RuntimeUnavailable
from qbench.program.graph import Program


class Executable(Protocol):
    """A loaded artefact. ``kind`` says what really runs: float, simulated (float arithmetic on a grid) or integer."""

    kind: str

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised float32 images [N, C, H, W] -> float32 logits [N, K]."""
        ...


class ImageExecutable(ABC):
    """What our executables have in common: images of another shape than the file takes never get to the engine.

    Args:
        runtime: Its name, for the message.
        input_shape: [N, C, H, W] of what the file takes; None where any size will do.
    """

    def __init__(self, runtime: str, input_shape: Sequence[int | None]) -> None:
        self.input_shape = tuple(input_shape)
        self._runtime = runtime
        self._fitting: tuple[int, ...] | None = None  # the shape seen last: calls of microseconds check no other

    def __call__(self, images: Tensor) -> Tensor:
        """As :meth:`Executable.__call__`.

        Raises:
            DataError: The images are of another size or number of channels.
        """
        if images.shape != self._fitting:
            self._check(tuple(images.shape))
        return self.run(images)

    @abstractmethod
    def run(self, images: Tensor) -> Tensor:
        """The logits of images that have the right shape."""

    def _check(self, shape: tuple[int, ...]) -> None:
        wanted = self.input_shape
        differ = any(size not in (None, given) for size, given in zip(wanted, shape))
        if wanted and (differ or len(shape) != len(wanted)):  # an engine that knows no shape says nothing
            sizes = [size if size is not None else "N" if axis == 0 else "any" for axis, size in enumerate(wanted)]
            raise DataError(
                f"runtime={self._runtime}: the file takes images of shape [{', '.join(map(str, sizes))}], "
                f"not {list(shape)}; resize them, or take the file of a network for such images"
            )
        self._fitting = shape


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
