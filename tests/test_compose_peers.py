"""Methods that call another library's quantizer, as words on the command line: their runtime, bits and YAML."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_compose import folders as folders
from test_compose import one, problems, write

from qbench.catalog import options
from qbench.compose import compose_cells
from qbench.config import Peer


def test_another_librarys_file_brings_its_runtime() -> None:
    config = one("method=nncf")
    assert config.runtime.name == "openvino" and config.runtime.params == one("runtime=openvino").runtime.params
    assert config.method.peer == Peer("openvino", ("nncf", "openvino", "onnx"))
    assert (
        set(config.method.params) == set(options("method")["nncf"].parameters()) and "peer" not in config.method.params
    )
    assert one("method=nncf", "runtime=openvino", "runtime.precision=bf16").runtime.params["precision"] == "bf16"
    assert one("method=ptq").method.peer is None


@pytest.mark.parametrize("runtime", ["auto", "onnxruntime", "torch"])
def test_a_runtime_that_is_not_that_of_the_file_is_noted(runtime: str) -> None:
    (cell,) = compose_cells(["method=nncf", f"runtime={runtime}"])
    assert cell.notes == (f"runtime={runtime} does not apply to method=nncf, whose file runs on openvino alone",)
    (silent,) = compose_cells(["method=nncf"])
    assert silent.notes == ()


@pytest.mark.parametrize("short", ["bits", "act_bits"])
def test_another_librarys_method_has_bits_of_its_own(short: str) -> None:
    assert problems("method=nncf", f"{short}=4") == (f"{short}=4: method=nncf has bits of its own; leave {short} out.",)
    cells = compose_cells(["method=nncf,ptq", f"{short}=4,8"], multirun=True)
    theirs, ours = cells[:2], cells[2:]
    assert [cell.notes for cell in theirs] == [(f"{short} does not apply to method=nncf and is ignored",)] * 2
    assert theirs[0].config == theirs[1].config is not None
    assert [cell.notes for cell in ours] == [(), ()] and ours[0].config != ours[1].config


def test_what_a_yaml_says_of_its_file_is_no_key() -> None:
    (text,) = problems("method=nncf", "method.peer.runtime=torch")
    assert text.startswith("method.peer.runtime: unknown key in method=nncf.")


@pytest.mark.parametrize(
    "peer, message",
    [
        ("{runtime: tensorrt}", "method=theirs: its YAML says peer.runtime: tensorrt, and there is none."),
        ("{packages: [torch]}", "method=theirs: its YAML says peer: {'packages': ['torch']}; needed is"),
        ("{runtime: torch, engine: x}", "method=theirs: its YAML says peer: "),
        ("torch", "method=theirs: its YAML says peer: torch; needed is {runtime: NAME, packages: [...]}."),
    ],
)
def test_a_yaml_that_says_it_wrongly(tmp_path: Path, peer: str, message: str) -> None:
    content = f"_target_: theirs.Theirs\nsummary: theirs, wrongly described\npeer: {peer}\n"
    folder = write(tmp_path, "method", "theirs", content)
    (text,) = problems("method=theirs", config_dir=folder)
    assert text.startswith(message)
