"""What runtime=auto may choose from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qbench.assets import instantiate
from qbench.compose import compose_cells
from qbench.config import Choice
from qbench.errors import ConfigError, RuntimeUnavailable
from qbench.runtime.auto import AutoRuntime
from runtime.test_integer_runtime import float_program

TORCH = {"name": "torch", "target": "qbench.runtime.torch_runtime.TorchRuntime", "params": {"channels_last": False}}
ABSENT = {"name": "absent", "target": "", "params": {}}


class Refusing:
    name = "refusing"

    def supports(self, program: object) -> str:
        return "has no form for relu"


class Uninstalled:
    name = "uninstalled"

    def __init__(self) -> None:
        raise RuntimeUnavailable('runtime=uninstalled needs its library: pip install "qbench[uninstalled]"')


def own(kind: type) -> dict[str, Any]:
    return {"name": kind.__name__.lower(), "target": f"{kind.__module__}.{kind.__name__}", "params": {}}


def test_every_candidate_says_why_not() -> None:
    runtime = AutoRuntime([TORCH, ABSENT, own(Refusing), own(Uninstalled)])
    assert runtime.reasons(float_program()) == {
        "torch": None,
        "absent": "this qbench has no such runtime",
        "refusing": "has no form for relu",
        "uninstalled": 'runtime=uninstalled needs its library: pip install "qbench[uninstalled]"',
    }
    assert runtime.supports(float_program()) is None


def test_without_any_candidate_all_reasons_are_given() -> None:
    reason = AutoRuntime([ABSENT, own(Refusing)]).supports(float_program())
    assert reason == (
        "no candidate can run it: absent: this qbench has no such runtime; refusing: has no form for relu"
    )


def test_wrong_parameters_of_a_candidate_are_not_passed_over() -> None:
    with pytest.raises(ConfigError, match="unexpected keyword argument 'speed'"):
        AutoRuntime([{**TORCH, "params": {"speed": 9}}]).reasons(float_program())


@pytest.mark.parametrize("module", ["integer.IntegerRuntime", "auto.AutoRuntime"])
def test_the_reference_is_never_a_candidate(module: str) -> None:
    name = module.partition(".")[0]
    candidates = [{"name": name, "target": f"qbench.runtime.{module}", "params": {}}]
    with pytest.raises(ConfigError, match=f"candidates must not name {name}"):
        instantiate("runtime", Choice("auto", "qbench.runtime.auto.AutoRuntime", {"candidates": candidates}))
    with pytest.raises(ValueError, match="at least one"):
        AutoRuntime([])


def test_candidates_are_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError) as refused:
        compose_cells(["runtime=auto", "runtime.candidates=[torch,integer]"])
    (text,) = refused.value.problems
    assert text.startswith("runtime.candidates=['torch', 'integer']: allowed for runtime=auto: a list of torch, onnx")


def test_it_loads_nothing_by_itself(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match=r"to run m\.qbench alone name one of: torch, absent$"):
        AutoRuntime([TORCH, ABSENT]).load(tmp_path / "m.qbench", threads=1)
