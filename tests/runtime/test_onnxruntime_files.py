"""ONNX Runtime from file to record: what is loaded, what is refused, and with which words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from calling import QUICK, Bench
from program.networks import images
from program.test_lower import SHAPE

from qbench.artifact import save
from qbench.errors import ArtifactError, ConfigError, RuntimeUnavailable
from qbench.methods.base import Context
from qbench.methods.ptq import PTQ
from qbench.record import load_records
from qbench.runtime import load_runtime
from qbench.runtime.onnx import OnnxOptions, save_onnx
from qbench.runtime.onnx.kernels import graph_kernels, is_quantized
from qbench.runtime.onnxruntime import OnnxRuntime, saturates
from qbench.runtime.pairs import overflowing

from .deployed import baseline, body, float_twin

TARGET = "qbench.runtime.onnxruntime.OnnxRuntime"


def test_files_of_both_kinds_are_loaded(tmp_path: Path) -> None:
    runtime = load_runtime(TARGET, {"form": "qoperator", "allow_spinning": False})
    assert runtime == OnnxRuntime("qoperator", allow_spinning=False) and runtime.name == "onnxruntime"
    program = body("shortcut")
    save(program, tmp_path / "model.qbench")
    save_onnx(program, tmp_path / "model.onnx", OnnxOptions("qoperator"))
    x = images(3, *SHAPE)
    loaded = [runtime.load(tmp_path / f"model.{kind}", threads=2) for kind in ("qbench", "onnx")]
    assert [one.kind for one in loaded] == ["integer", "integer"]
    assert torch.equal(loaded[0](x), loaded[1](x))


def test_foreign_files_are_judged_by_their_graph(tmp_path: Path) -> None:
    program = body("relu")
    save_onnx(float_twin(program), tmp_path / "float.onnx")
    assert OnnxRuntime().load(tmp_path / "float.onnx", threads=1).kind == "float"
    save_onnx(program, tmp_path / "fixed.onnx", OnnxOptions(batch=2))
    fixed = OnnxRuntime().load(tmp_path / "fixed.onnx", threads=1)
    assert fixed.kind == "integer" and fixed(images(2, *SHAPE)).shape == (2, 5)


def test_a_written_file_runs_where_only_onnxruntime_is(tmp_path: Path) -> None:
    """In a process that cannot import torch, onnx or qbench, with the setting that docs/runtimes.md tells to make."""
    program = body("shortcut")
    save_onnx(program, tmp_path / "model.onnx")
    x = images(4, *SHAPE)
    np.save(tmp_path / "images.npy", x.numpy())
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'qbench'): sys.modules[name] = None\n"
        "import numpy, onnxruntime\n"
        "settings = onnxruntime.SessionOptions()\n"
        "settings.add_session_config_entry('session.x64quantprecision', sys.argv[1])\n"
        "session = onnxruntime.InferenceSession('model.onnx', settings, providers=['CPUExecutionProvider'])\n"
        "numpy.save('logits.npy', session.run(['logits'], {'input': numpy.load('images.npy')})[0])\n"
    )
    command = [sys.executable, "-c", code, str(int(overflowing(saturates)))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    logits = torch.from_numpy(np.load(tmp_path / "logits.npy"))
    assert torch.equal(logits, OnnxRuntime().prepare(program)(x))


def test_threads_are_those_asked_for() -> None:
    session = OnnxRuntime(allow_spinning=False).prepare(body("relu"), threads=3).session
    settings = session.get_session_options()
    assert (settings.intra_op_num_threads, settings.inter_op_num_threads) == (3, 1)
    assert settings.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert settings.get_session_config_entry("session.force_spinning_stop") == "1"


def test_broken_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match=r"^broken\.onnx: ONNX Runtime cannot load it: "):
        OnnxRuntime().load(tmp_path / "broken.onnx", threads=1)
    with pytest.raises(ArtifactError, match=r"^missing\.onnx: ONNX Runtime cannot load it: "):
        OnnxRuntime().load(tmp_path / "missing.onnx", threads=1)


def test_ranges_of_each_image_are_refused(tmp_path: Path) -> None:
    program = PTQ(activations="dynamic").compress(baseline("mlp"), Context())
    reason = OnnxRuntime().supports(program)
    assert reason is not None and reason.startswith("input (images): its range is that of each image")
    assert OnnxRuntime().supports(body("relu")) is None
    save(program, tmp_path / "model.qbench")
    with pytest.raises(RuntimeUnavailable, match=r"^runtime=onnxruntime cannot run model\.qbench: input \(images\): "):
        OnnxRuntime().load(tmp_path / "model.qbench", threads=1)


@pytest.mark.parametrize("module", ["onnx", "onnxruntime"])
def test_a_missing_library_is_named_with_its_extra(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(body("relu"), tmp_path / "model.qbench")
    monkeypatch.setitem(sys.modules, module, None)
    assert (OnnxRuntime().supports(body("relu")) or "").startswith(f"{module} is not installed; pip install ")
    with pytest.raises(RuntimeUnavailable, match=rf'{module} .*pip install "qbench\[onnxruntime\]"'):
        OnnxRuntime().load(tmp_path / "model.qbench", threads=1)


def test_unknown_parameters_are_refused() -> None:
    with pytest.raises(ConfigError, match="form='tensorrt': allowed are qdq, qoperator"):
        load_runtime(TARGET, {"form": "tensorrt"})


def test_a_run_records_the_integers(bench: Bench) -> None:
    done = bench("run", *QUICK, "method=integer", "runtime=onnxruntime")
    assert done.code == 0, done.err
    (record,), _ = load_records(bench.outputs / "records")
    assert (record.status, record.runtime, record.latency_kind) == ("ok", "onnxruntime", "integer")
    done = bench("run", *QUICK, "method=integer", "runtime=integer")
    assert done.code == 0, done.err
    found = {one.runtime: one.top1_percent for one in load_records(bench.outputs / "records")[0]}
    assert abs((found["integer"] or 0.0) - (found["onnxruntime"] or 0.0)) <= 1.0


def test_the_model_reader_knows_graphs_inside_nodes() -> None:
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    out = helper.make_tensor_value_info("y", kind, [1])
    inner = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["y"], name="deep")], "inner", [], [out])
    choice = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    model = helper.make_model(helper.make_graph([choice], "outer", [], [out]))
    assert [str(kernel) for kernel in graph_kernels(model)] == ["deep (MatMul)", "deep (MatMul)"]
    assert not is_quantized(model)
