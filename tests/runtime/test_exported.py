"""Files of torch.export: which kernels they become, and which are not loaded. Compiling takes long: few networks."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from qbench.errors import ArtifactError, RuntimeUnavailable
from qbench.methods.base import Context
from qbench.peers.torchao import TorchAo
from qbench.program.materialize import materialize
from qbench.runtime.exported import ExportedRuntime, called_kernels, import_x86_quantizer
from runtime.test_integer_runtime import float_program, images


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """``load`` sets the threads of the process; compiled code must not outlive its test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    torch.compiler.reset()


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with a convolution and a linear layer, quantized by torchao."""
    folder = tmp_path_factory.mktemp("torchao")
    return TorchAo().compress(float_program(), Context(calibration=[images()], scratch=folder)).file


def exported(path: Path, module: nn.Module | None = None, *, with_images: bool = False) -> Path:
    """A float network as a file."""
    program = torch.export.export(module or materialize(float_program()), (images()[:2],))
    if not with_images:
        program.example_inputs = None  # type: ignore[assignment]
    torch.export.save(program, path)
    return path


def test_convolutions_become_integer_kernels(quantized: Path) -> None:
    executable = ExportedRuntime().load(quantized, threads=1)
    assert executable.kind == "simulated"  # nothing is compiled yet, so nothing is promised
    with torch.inference_mode():  # as the timing process calls it
        logits = executable(images())
    assert (executable.kind, executable.precision, executable.fallbacks) == ("integer", "int8", ())
    expected = materialize(float_program())(images())
    assert logits.shape == expected.shape and logits.dtype == torch.float32 and not logits.requires_grad
    error = logits - expected
    assert 0 < float(error.square().mean().sqrt()) < 0.1 * float(expected.square().mean().sqrt())


def test_without_freezing_floats_are_multiplied_and_it_says_so(quantized: Path) -> None:
    executable = ExportedRuntime(freezing=False).load(quantized, threads=1)
    executable(images()[:2])
    assert executable.kind == "simulated" and "f32" in executable.precision
    assert executable.fallbacks and all("onednn.q" not in name for name in executable.fallbacks)


def test_a_float_file_is_float(tmp_path: Path) -> None:
    executable = ExportedRuntime().load(exported(tmp_path / "model.pt2"), threads=1)
    assert executable.kind == "float"
    torch.testing.assert_close(executable(images()[:2]), materialize(float_program())(images()[:2]))
    assert (executable.kind, executable.precision, executable.fallbacks) == ("float", "f32", ())


def test_the_file_holds_neither_images_nor_pickles_nor_paths(quantized: Path) -> None:
    with zipfile.ZipFile(quantized) as archive:
        content = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    assert not [name for name, data in content.items() if name.endswith(".pt") and data]
    assert not [name for name, data in content.items() if b"site-packages" in data or b".py" in data]


CODE = """
cpp_fused_0 = async_compile.cpp_pybinding(['const float*'], '''  // calls extern_kernels.mm(nothing)
''')
        buf4 = torch.ops.onednn.qconv_pointwise.tensor(buf0, x_scale, torch.uint8, 'relu', [None], '')
        assert_size_stride(buf4, (40, 4), "buf5 = torch.ops.mkldnn._linear_pointwise(x)")
        extern_kernels.addmm(arg0, buf4, buf2, alpha=1, beta=1, out=buf3)
        buf6 = torch.ops.aten.max_pool2d_with_indices.default(buf5)
        buf7 = torch.ops.mkldnn._convolution_pointwise.default(buf6, w)
        buf8 = extern_kernels.convolution(buf7, w)
        buf9 = torch.ops.onednn.qlinear_pointwise.binary_tensor(buf8)
        extern_kernels._int_mm(buf9, w, out=buf10)
"""


def test_kernels_are_read_from_the_calls() -> None:
    assert [(str(one), one.integer, one.precision) for one in called_kernels(CODE)] == [
        ("product 1 (onednn.qconv_pointwise.tensor)", True, "int8"),
        ("product 2 (addmm)", False, "f32"),
        ("product 3 (mkldnn._convolution_pointwise.default)", False, "f32"),
        ("product 4 (convolution)", False, "f32"),
        ("product 5 (onednn.qlinear_pointwise.binary_tensor)", True, "int8"),
        ("product 6 (_int_mm)", True, "int8"),
    ]


def test_products_without_a_call_of_their_own_are_floats(quantized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What inductor writes out as loops does not show among the calls."""
    from torch._inductor.graph import GraphLowering

    executable = ExportedRuntime().load(quantized, threads=1)
    texts = ["buf4 = torch.ops.onednn.qconv_pointwise.tensor(buf0)\n", ""]

    def compiling(batch: torch.Tensor) -> None:
        for text in texts if (write := GraphLowering.save_output_code) is not None else ():
            write(text)

    monkeypatch.setattr(executable, "_compiled", compiling)
    executable(images()[:2])
    found = ("1 of 2 products (no kernel of their own)",)
    assert (executable.kind, executable.precision, executable.fallbacks) == ("simulated", "f32+int8", found)
    texts[1] = "buf5 = torch.ops.onednn.qlinear_pointwise.tensor(buf4)\n"
    executable(images()[:3])
    assert (executable.kind, executable.precision, executable.fallbacks) == ("integer", "int8", ())


def test_files_that_could_run_code_are_refused(tmp_path: Path) -> None:
    path = exported(tmp_path / "model.pt2", with_images=True)
    with pytest.raises(ArtifactError, match=r"^model\.pt2: holds pickled objects \(.*\.pt\); it is not loaded"):
        ExportedRuntime().load(path, threads=1)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(ArtifactError, match=r"^model\.pt2: (holds pickled objects|has no list)"):
        ExportedRuntime().load(path, threads=1)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a program" * 100], ids=["empty", "cut", "text"])
def test_broken_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt2").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"^model\.pt2: not a \.pt2 file of this PyTorch"):
        ExportedRuntime().load(tmp_path / "model.pt2", threads=1)
    with pytest.raises(ArtifactError, match=r"^absent\.pt2: not a \.pt2 file"):
        ExportedRuntime().load(tmp_path / "absent.pt2", threads=1)


def test_an_archive_of_something_else_is_refused(tmp_path: Path, quantized: Path) -> None:
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(quantized) as whole, zipfile.ZipFile(path, "w") as part:
        for entry in whole.infolist():
            if not entry.filename.endswith("models/model.json"):
                part.writestr(entry.filename, whole.read(entry))
    with pytest.raises(ArtifactError, match=r"^model\.pt2: PyTorch cannot load it: "):
        ExportedRuntime().load(path, threads=1)


def test_programs_are_for_another_runtime(tmp_path: Path) -> None:
    reason = ExportedRuntime().supports(float_program())
    assert reason is not None and "runtime=inductor compiles programs" in reason
    with pytest.raises(ArtifactError, match=r"^model\.qbench: runtime=exported runs \.pt2 files"):
        ExportedRuntime().load(tmp_path / "model.qbench", threads=1)


def test_without_a_compiler(quantized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda command: None)
    with pytest.raises(RuntimeUnavailable, match=r"^runtime=exported needs a C\+\+ compiler"):
        ExportedRuntime().load(quantized, threads=1)


def test_what_cannot_be_compiled_is_one_line(quantized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable = ExportedRuntime().load(quantized, threads=1)

    def failing(batch: torch.Tensor) -> None:
        raise torch._dynamo.exc.BackendCompilerFailed(failing, RuntimeError("g++: fatal error\n  no such file"), [])

    monkeypatch.setattr(executable, "_compiled", failing)
    with pytest.raises(RuntimeUnavailable, match=r"^runtime=exported: torch\.compile failed: .*no such file") as caught:
        executable(images())
    assert "\n" not in str(caught.value)


def test_more_batch_sizes_than_torch_keeps(quantized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[int] = []
    resets: list[int] = []
    executable = ExportedRuntime().load(quantized, threads=1)
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(len(compiled)))
    monkeypatch.setattr(executable, "_compiled", lambda batch: compiled.append(len(batch)))
    for size in [*range(1, 10), 9]:
        executable(torch.zeros(size, 3, 4, 4))
    assert resets == [16] and compiled[16:] == [9, 9, 9]
    monkeypatch.undo()


def test_importing_the_quantizer_changes_no_later_compilation() -> None:
    import torch._inductor.config as settings

    before = settings.pre_grad_custom_pass
    import_x86_quantizer()
    assert settings.pre_grad_custom_pass is before is None
