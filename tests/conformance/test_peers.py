"""What every quantizer of another library promises: a file that runs, is what it says it is, and comes out the same."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from qbench.artifact import to_bytes
from qbench.catalog import options
from qbench.errors import ConfigError, MethodError, RuntimeUnavailable
from qbench.foreign import artifact_of, input_of, keep
from qbench.identity import versions_of
from qbench.methods.base import Context, External, Needs
from qbench.peers.base import arrays, calling
from qbench.program.encodings import Float
from qbench.program.graph import Node, Program
from qbench.program.materialize import materialize
from qbench.program.trace import trace
from qbench.runtime import load_runtime

from .conftest import METHODS, PEERS, images, make, network

CALIBRATION = [images(8, seed=11), images(4, seed=12)]
# (method, parameter, value) that gives what the default gives on these networks
AS_THE_DEFAULT = {
    ("ort_static", "calibrate_method", "Entropy"),  # with as many bins as codes it takes the whole range
}
CHOSEN = [
    (name, key, value)
    for name, option in PEERS.items()
    for key, limit in option.load()["limits"].items()
    for value in (limit if isinstance(limit, list) else limit.values())
]


def context(scratch: Path) -> Context:
    return Context(seed=3, calibration=CALIBRATION, scratch=scratch)


def quantize(name: str, program: Program, scratch: Path, **changed: Any) -> External:
    made = make(name, **changed).compress(program, context(scratch))
    assert isinstance(made, External)
    return made


@cache
def _contents(name: str, net: str, folder: Path) -> dict[str, bytes]:
    made = quantize(name, network(net), folder)
    return {path.name: path.read_bytes() for path in (made.file, *made.beside)}


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what is made once and looked at by several tests."""
    return tmp_path_factory.mktemp("peers")


def contents(name: str, net: str, shelf: Path) -> dict[str, bytes]:
    """The files of a method with its own defaults, by name."""
    folder = shelf / f"{name}-{net}"
    folder.mkdir(exist_ok=True)
    return _contents(name, net, folder)


def runtime_of(name: str) -> Any:
    option = options("runtime")[PEERS[name].load()["peer"]["runtime"]]
    return load_runtime(option.load()["_target_"], option.parameters())


def test_every_yaml_is_either_a_method_of_ours_or_of_others() -> None:
    assert set(PEERS) >= {"ort_static", "nncf", "torchao"}
    assert set(METHODS) | set(PEERS) == set(options("method")) and not set(METHODS) & set(PEERS)
    assert len(CHOSEN) >= 15


def test_the_input_is_left_as_it_was(peer: str, tmp_path: Path) -> None:
    program = network("residual")
    before = to_bytes(program)
    held = {name: encoding.decode().data_ptr() for name, encoding in program.tensors.items()}
    calibration = [batch.clone() for batch in CALIBRATION]
    quantize(peer, program, tmp_path)
    assert to_bytes(program) == before
    assert {name: encoding.decode().data_ptr() for name, encoding in program.tensors.items()} == held
    assert all(torch.equal(*pair) for pair in zip(calibration, CALIBRATION))


def test_the_same_input_gives_the_same_bytes(peer: str, shelf: Path, tmp_path: Path) -> None:
    made = quantize(peer, network("residual"), tmp_path)
    again = {path.name: path.read_bytes() for path in (made.file, *made.beside)}
    assert again == contents(peer, "residual", shelf)


def test_the_yaml_says_what_runs_the_file_and_what_made_it(peer: str, shelf: Path) -> None:
    says = PEERS[peer].load()["peer"]
    assert set(says) == {"runtime", "packages"} and says["runtime"] in options("runtime")
    assert "unknown" not in versions_of(says["packages"]).values()
    made = quantize(peer, network("mlp"), shelf)
    assert made.runtime == says["runtime"] == runtime_of(peer).name


def test_the_file_alone_computes_logits_near_the_baselines(peer: str, net: str, shelf: Path, tmp_path: Path) -> None:
    """From a folder with nothing else in it, and on batches of other sizes than the calibration's."""
    for name, content in contents(peer, net, shelf).items():
        (tmp_path / name).write_bytes(content)
    (main,) = (path for path in tmp_path.iterdir() if path.suffix in (".onnx", ".xml", ".pt2"))
    threads = torch.get_num_threads()
    try:
        executable = runtime_of(peer).load(main, threads=1)
        logits = executable(images())
        alone = executable(images()[:1])
    finally:
        torch.set_num_threads(threads)
        torch.compiler.reset()
    expected = materialize(network(net))(images())
    assert logits.shape == (6, 5) and logits.dtype == torch.float32 and bool(torch.isfinite(logits).all())
    assert not torch.equal(logits, expected)
    error = logits - expected
    assert float(error.square().mean().sqrt()) < 0.25 * float(expected.square().mean().sqrt())
    assert executable.kind in ("simulated", "integer")
    # the grids are static: an image alone gets what it gets in company, but for the order of float additions
    step = 0.1 * float(expected.std())
    torch.testing.assert_close(alone, logits[:1], rtol=0.0, atol=step)


@cache
def wide() -> Program:
    """A network whose weights are so many that tables of names and shapes do not matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = torch.nn.Linear(192, 1000), torch.nn.ReLU(), torch.nn.Linear(1000, 5)
    return trace(torch.nn.Sequential(torch.nn.Flatten(), *layers), (3, 8, 8))


def test_weights_take_a_quarter_of_the_bytes(peer: str, tmp_path: Path) -> None:
    made = quantize(peer, wide(), tmp_path)
    size = sum(path.stat().st_size for path in (made.file, *made.beside))
    floats = 4 * (192 * 1000 + 1000 * 5)
    assert floats / 4 < size < floats / 3


def test_the_size_is_that_of_the_files(peer: str, shelf: Path, tmp_path: Path) -> None:
    contents(peer, "residual", shelf)
    made = quantize(peer, network("residual"), shelf / f"{peer}-residual")
    provenance = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "classes": ["a", "b", "c", "d", "e"]}
    kept = keep(made, tmp_path, packages={"x": "1"}, input_shape=(3, 8, 8), provenance=provenance)
    content = contents(peer, "residual", shelf)
    assert kept == artifact_of(tmp_path) and kept.path.name == f"model{made.file.suffix}"
    assert kept.size_bytes == sum(map(len, content.values()))
    assert {path.name for path in tmp_path.iterdir()} == {*content, "model.json"}
    assert input_of(kept.path).shape == (3, 8, 8) and input_of(kept.path).std == (0.25, 0.25, 0.25)


def test_images_are_needed(peer: str, tmp_path: Path) -> None:
    made = make(peer)
    assert made.needs == Needs(calibration=True)
    with pytest.raises(MethodError, match=r"^activations: quantizing them needs calibration images"):
        made.compress(network("mlp"), Context(scratch=tmp_path))


def test_a_folder_is_needed(peer: str) -> None:
    with pytest.raises(MethodError, match=r"has no folder to write to; the method's YAML must say peer:"):
        make(peer).compress(network("mlp"), Context(calibration=CALIBRATION))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
def test_a_weight_that_is_not_finite_is_named(peer: str, bad: float, tmp_path: Path) -> None:
    program = network("residual")
    weight = program.weight("depthwise.0").clone()
    weight[0, 0, 0, 0] = bad
    broken = program.with_tensors({"depthwise.0.weight": Float(weight)})
    with pytest.raises(MethodError, match=r"^depthwise\.0\.weight: holds NaN or infinite values"):
        quantize(peer, broken, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_network_without_layers_is_refused(peer: str, tmp_path: Path) -> None:
    empty = Program((3, 8, 8), (Node("flat", "flatten", ("input",)),), {})
    with pytest.raises(MethodError, match=r"^the network: has no convolution and no linear layer to quantize"):
        quantize(peer, empty, tmp_path)


@pytest.mark.parametrize(
    "name, module, extra",
    [
        ("ort_static", "onnxruntime.quantization", "onnxruntime"),
        ("ort_static", "onnx", "onnxruntime"),
        ("nncf", "nncf", "nncf"),
        ("nncf", "openvino", "nncf"),
        ("torchao", "torchao.quantization.pt2e.quantizer.x86_inductor_quantizer", "torchao"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(
    name: str, module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RuntimeUnavailable, match=rf'^{module} .*pip install "qbench\[{extra}\]"$'):
        quantize(name, network("mlp"), tmp_path)


@pytest.mark.parametrize("name, key, value", CHOSEN, ids=[f"{name} {key}={value}" for name, key, value in CHOSEN])
def test_every_allowed_value_runs_and_matters(name: str, key: str, value: Any, shelf: Path, tmp_path: Path) -> None:
    default = PEERS[name].parameters()[key]
    made = quantize(name, network("residual"), tmp_path, **{key: value})
    content = b"".join(path.read_bytes() for path in (made.file, *made.beside))
    usual = b"".join(contents(name, "residual", shelf).values())
    assert (content == usual) == (value == default or (name, key, value) in AS_THE_DEFAULT)


def test_yaml_parameters_are_the_fields_of_the_class(peer: str) -> None:
    content = PEERS[peer].load()
    module, _, name = content["_target_"].rpartition(".")
    found = getattr(importlib.import_module(module), name)
    defaults = {field.name: field.default for field in dataclasses.fields(found)}
    assert PEERS[peer].parameters() == defaults
    assert set(content["limits"]) == set(defaults)
    assert make(peer) == found()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(found(), next(iter(defaults)), None)


@pytest.mark.parametrize(
    "name, changed, message",
    [
        ("ort_static", {"quant_format": "qdq"}, "quant_format='qdq': allowed are QDQ, QOperator"),
        ("ort_static", {"calibrate_method": "KL"}, "calibrate_method='KL': allowed are MinMax, Entropy, Percentile"),
        ("ort_static", {"weight_type": "QInt4"}, "weight_type='QInt4': allowed are QInt8, QUInt8"),
        ("nncf", {"preset": "fast"}, "preset='fast': allowed are performance, mixed"),
        ("nncf", {"subset_size": 0}, "subset_size=0: allowed are 1 to"),
    ],
)
def test_unknown_values_are_refused(name: str, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(name, **changed)


def test_what_the_library_refuses_is_one_line(tmp_path: Path) -> None:
    """ONNX Runtime has no int8 activations with uint8 weights."""
    with pytest.raises(MethodError, match=r"^onnxruntime: its quantizer failed: \w+: ") as caught:
        quantize("ort_static", network("mlp"), tmp_path, activation_type="QInt8", weight_type="QUInt8")
    assert "\n" not in str(caught.value) and caught.value.__cause__ is not None


def test_a_library_that_talks_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def talk() -> None:
        print("Collecting tensor data ...")
        warnings.warn("please consider", stacklevel=1)
        logging.getLogger("talkative").warning("please consider")
        raise KeyError("\n first line\nsecond")

    with pytest.raises(MethodError, match=r"^some library: its quantizer failed: KeyError: "), calling("some library"):
        talk()
    with pytest.raises(RuntimeUnavailable, match=r"^not wrapped$"), calling("some library"):
        raise RuntimeUnavailable("not wrapped")
    assert capsys.readouterr() == ("", "")
    assert logging.root.manager.disable == 0


def test_images_as_arrays() -> None:
    assert [part.shape for part in arrays(CALIBRATION)] == [(8, 3, 8, 8), (4, 3, 8, 8)]
    assert [part.shape for part in arrays(CALIBRATION, size=4)] == [(4, 3, 8, 8)] * 3
    single = list(arrays(CALIBRATION, size=1))
    assert [part.shape for part in single] == [(1, 3, 8, 8)] * 12
    assert (single[9][0] == CALIBRATION[1][1].numpy()).all()


def test_nncf_reports_to_nobody() -> None:
    """Its statistics are replaced by a stub, in a process where no test framework does that."""
    code = (
        "from qbench.peers.nncf import _import_nncf\n"
        "_import_nncf()\n"
        "from nncf.telemetry.wrapper import telemetry\n"
        "print(type(telemetry).__module__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "unittest.mock", done.stderr
