"""Compiling takes long: one small program, two batch sizes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from qbench.artifact import save
from qbench.errors import RuntimeUnavailable
from qbench.methods.base import Context
from qbench.methods.integer import Integer
from qbench.program.materialize import materialize
from qbench.runtime.inductor import InductorRuntime, missing_compiler
from runtime.test_integer_runtime import float_program, images


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``load`` sets the threads of the process; compiled code must not outlive its test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    torch.compiler.reset()


def test_compiled_programs_compute_what_they_simulate(tmp_path: Path) -> None:
    assert missing_compiler() is None, "the tests need a C++ compiler"
    program = Integer().compress(float_program(), Context(calibration=[images()]))
    save(program, tmp_path / "model.qbench")
    assert InductorRuntime().supports(program) is None
    executable = InductorRuntime().load(tmp_path / "model.qbench", threads=1)
    assert executable.kind == "simulated" and torch.get_num_threads() == 1
    with torch.inference_mode():  # as the timing process calls it
        logits = executable(images())
        expected = materialize(program)(images())
    # on a grid: what differs in the last bit before an edge is a step of that grid behind it at most
    assert logits.shape == (40, 5) and logits.dtype == torch.float32 and not logits.requires_grad
    torch.testing.assert_close(logits, expected, rtol=0.0, atol=0.02 * float(expected.std()))
    few = images()[:3]
    torch.testing.assert_close(executable(few), materialize(program)(few), rtol=0.0, atol=0.02 * float(expected.std()))


def test_float_programs_stay_float() -> None:
    assert InductorRuntime(freezing=False).prepare(float_program()).kind == "float"  # compiles at the first call only


def test_more_batch_sizes_than_torch_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    resets: list[int] = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(len(compiled)))
    compiled: list[int] = []
    executable = InductorRuntime().prepare(float_program())
    monkeypatch.setattr(executable, "_compiled", lambda batch: compiled.append(len(batch)))
    for size in [*range(1, 10), 9, 1]:
        executable(torch.zeros(size, 3, 4, 4))
    assert resets == [16]  # before the ninth size: each was called once to compile, once to run
    assert compiled[16:] == [9, 9, 9, 1, 1]


def test_what_cannot_be_compiled_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    executable = InductorRuntime().prepare(float_program())

    def failing(batch: torch.Tensor) -> None:
        cause = RuntimeError("g++: fatal error\n  no such file")
        raise torch._dynamo.exc.BackendCompilerFailed(failing, cause, [])

    monkeypatch.setattr(executable, "_compiled", failing)
    with pytest.raises(RuntimeUnavailable, match=r"^runtime=inductor: torch\.compile failed: .*no such file") as caught:
        executable(images())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("named", [None, "/absent/c++"], ids=["usual", "CXX"])
def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None) -> None:
    if named is None:
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setattr(shutil, "which", lambda command: None)
    else:
        monkeypatch.setenv("CXX", named)
    command = named or {"darwin": "clang\\+\\+", "win32": "cl"}.get(sys.platform, "g\\+\\+")
    reason = f"needs a C\\+\\+ compiler, and {command.replace('/c++', '/c[+]+')} is not on the PATH"
    with pytest.raises(RuntimeUnavailable, match=f"^runtime=inductor {reason}"):
        InductorRuntime().load(tmp_path / "model.qbench", threads=1)
    assert InductorRuntime().supports(float_program()) is not None
