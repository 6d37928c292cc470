"""The fastest of several runtimes, found by measuring them: which ones there are and which can run a program.

A runtime does not measure, and two engines in one process distort each other. So this one only says what may be chosen
from; the choose stage of a run (:mod:`qbench.choose`) measures the candidates, each in a process of its own, and the
stages after it use the one it has chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from qbench.errors import ConfigError, QBenchError, RuntimeUnavailable
from qbench.program.graph import Program
from qbench.runtime.base import Executable, load_runtime

NEVER = ("qbench.runtime.integer.IntegerRuntime", "qbench.runtime.auto.AutoRuntime")


@dataclass(frozen=True)
class AutoRuntime:
    """The fastest candidate.

    Args:
        candidates: Of each runtime its ``name``, dotted ``target`` (empty where there is no such runtime) and
            ``params``; at least one. The integer reference is none: it is made to be exact, not fast.
    """

    candidates: Sequence[Mapping[str, Any]]
    name: ClassVar[str] = "auto"

    def __post_init__(self) -> None:
        if not self.candidates:
            raise ValueError("candidates must name at least one runtime")
        for one in self.candidates:
            if one["target"] in NEVER:
                raise ValueError(f"candidates must not name {one['name']}, which is never the fastest")

    def reasons(self, program: Program) -> dict[str, str | None]:
        """Candidate -> why it cannot run the program here; None if it can."""
        return {one["name"]: _reason(one, program) for one in self.candidates}

    def supports(self, program: Program) -> str | None:
        reasons = self.reasons(program)
        if None in reasons.values():
            return None
        return "no candidate can run it: " + "; ".join(f"{name}: {reason}" for name, reason in reasons.items())

    def load(self, path: Path, *, threads: int) -> Executable:
        raise RuntimeUnavailable(
            f"runtime=auto chooses by measuring, which only `qbench run` does; to run {path.name} alone name one of: "
            + ", ".join(str(one["name"]) for one in self.candidates)
        )


def _reason(candidate: Mapping[str, Any], program: Program) -> str | None:
    if not candidate["target"]:
        return "this qbench has no such runtime"
    try:
        return load_runtime(candidate["target"], candidate["params"]).supports(program)
    except ConfigError:
        raise  # wrong parameters are the user's to mend
    except QBenchError as error:
        return str(error)
