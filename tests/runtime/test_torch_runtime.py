"""The reference runtime, and how runtimes are found by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qbench.artifact import save
from qbench.errors import ArtifactError, ConfigError, RuntimeUnavailable
from qbench.program.encodings import Affine, Float
from qbench.program.graph import EdgeSpec, Node, Program
from qbench.program.materialize import materialize
from qbench.program.simulation import Simulation
from qbench.runtime import load_runtime
from qbench.runtime.torch_runtime import SIMULATED_AT_ONCE, TorchRuntime

TARGET = "qbench.runtime.torch_runtime.TorchRuntime"


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """``load`` sets the threads of the process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def program() -> Program:
    generator = torch.Generator().manual_seed(0)
    attrs = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    nodes = (
        Node("conv", "conv2d", ("input",), attrs),
        Node("relu", "relu", ("conv",)),
        Node("flat", "flatten", ("relu",)),
        Node("fc", "linear", ("flat",)),
    )
    codes = torch.randint(-8, 8, (4, 3, 3, 3), generator=generator).to(torch.int8)
    scale = torch.rand(4, generator=generator) + 0.1
    tensors = {
        "conv.weight": Affine(codes, scale, torch.zeros(4, dtype=torch.int32), 4, -8, 7, axis=0),
        "conv.bias": Float(torch.randn(4, generator=generator)),
        "fc.weight": Float(torch.randn(5, 4 * 6 * 6, generator=generator)),
    }
    return Program((3, 6, 6), nodes, tensors)


def images() -> torch.Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("channels_last", [True, False], ids=["channels_last", "contiguous"])
def test_a_file_computes_what_the_program_in_memory_does(channels_last: bool, tmp_path: Path) -> None:
    runtime = TorchRuntime(channels_last=channels_last)
    save(program(), tmp_path / "model.qbench")
    logits = runtime.load(tmp_path / "model.qbench", threads=1)(images())
    assert logits.shape == (2, 5) and logits.dtype == torch.float32
    assert torch.equal(logits, runtime.prepare(program())(images()))
    assert torch.equal(logits, materialize(program(), channels_last=channels_last)(images()))


def test_memory_layout_moves_the_last_bits_at_most() -> None:
    runtimes = [TorchRuntime(channels_last=layout).prepare(program()) for layout in (True, False)]
    weights = [one.module.tensor(one.module.nodes[0], "weight") for one in runtimes]
    assert [w is not None and w.is_contiguous(memory_format=torch.channels_last) for w in weights] == [True, False]
    # sums of 27 and 144 terms in another order, of outputs of order ten
    torch.testing.assert_close(runtimes[0](images()), runtimes[1](images()), rtol=1e-4, atol=1e-4)


def test_many_images_are_simulated_some_at_a_time() -> None:
    edges = {"input": EdgeSpec(8, 0, 255, 0.03, 128), "relu": EdgeSpec(8, 0, 255, 0.01, 0)}
    quantized = replace(program(), edges=edges)
    many = torch.randn(2 * SIMULATED_AT_ONCE + 3, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    executable = TorchRuntime().prepare(quantized)
    assert isinstance(executable.module, Simulation)
    torch.testing.assert_close(executable(many), torch.cat([executable(image) for image in torch.split(many, 1)]))


def test_kind_says_whether_activations_are_simulated() -> None:
    edges = {"relu": EdgeSpec(8, 0, 255, 0.01, 0)}
    assert TorchRuntime().prepare(program()).kind == "float"
    simulated = TorchRuntime().prepare(replace(program(), edges=edges))
    assert simulated.kind == "simulated"
    assert not torch.equal(simulated(images()), TorchRuntime().prepare(program())(images()))


def test_logits_carry_no_gradient() -> None:
    assert TorchRuntime().prepare(program())(images().requires_grad_()).grad_fn is None


@pytest.mark.parametrize("threads", [1, 2])
def test_load_sets_the_threads(threads: int, tmp_path: Path) -> None:
    save(program(), tmp_path / "model.qbench")
    TorchRuntime().load(tmp_path / "model.qbench", threads=threads)
    assert torch.get_num_threads() == threads


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.qbench"
    save(program(), path)
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match=r"model\.qbench"):
        TorchRuntime().load(path, threads=1)


def test_it_supports_every_program() -> None:
    assert TorchRuntime().supports(program()) is None


def test_load_runtime_builds_what_the_path_names() -> None:
    runtime = load_runtime(TARGET, {"channels_last": False})
    assert runtime == TorchRuntime(channels_last=False)
    assert load_runtime(TARGET) == TorchRuntime()
    assert runtime.name == "torch"


@pytest.mark.parametrize(
    "target, message",
    [
        ("torch", "runtime 'torch': not a dotted path"),
        ("qbench.runtime.nowhere.Runtime", "runtime 'qbench.runtime.nowhere.Runtime': no such runtime"),
        ("qbench.runtime.torch_runtime.Nothing", "qbench.runtime.torch_runtime has no Nothing"),
    ],
    ids=["no module", "unknown module", "unknown class"],
)
def test_unknown_runtimes_are_refused(target: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_runtime(target)


def test_unknown_parameters_are_refused() -> None:
    with pytest.raises(ConfigError, match="unexpected keyword argument 'threads'"):
        load_runtime(TARGET, {"threads": 4})


@pytest.mark.parametrize(
    "content, message",
    [
        ("import a_library_that_is_not_there\n", "a_library_that_is_not_there is not installed"),
        ("from math import nothing\n", "cannot import name 'nothing' from 'math'"),
    ],
    ids=["missing library", "broken library"],
)
def test_a_missing_library_is_named(
    content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_runtime.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("own_runtime", None)
    with pytest.raises(RuntimeUnavailable, match=message):
        load_runtime("own_runtime.Runtime")
