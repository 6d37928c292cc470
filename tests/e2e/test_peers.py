"""Quantizers of other libraries through the command line: rows of the same table, and what they leave empty."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from calling import QUICK, Bench

from qbench.assess import _fallback_warnings
from qbench.foreign import artifact_of
from qbench.record import Record, load_records

DIGITS = ("dataset=digits", "model=small_cnn", "tiny=true", "threads=1")
MADE_OF_CODES = (
    *("bits_per_weight", "codes_bytes", "codebooks_bytes", "scales_bytes", "floats_bytes", "masks_bytes"),
    *("container_bytes", "fixed_width_bytes", "theoretical_bytes", "sparsity_percent", "parameters", "bops", "sqnr_db"),
    *("energy_modelled_uJ", "activation_bytes_peak", "activation_high_water_bytes", "weight_bits", "act_bits"),
    *("agreement_integer_percent", "identical_logits_percent", "largest_logit_difference"),
)
FILES = {
    "ort_static": ("onnxruntime", ["model.onnx"]),
    "nncf": ("openvino", ["model.bin", "model.xml"]),
    "torchao": ("exported", ["model.pt2"]),
}
OF_OTHERS = '''
from dataclasses import dataclass
from typing import ClassVar

from qbench.methods.base import External, Needs
from qbench.runtime.onnx import save_onnx


@dataclass(frozen=True)
class Theirs:
    """Hands in the float network as ONNX: it quantizes nothing."""

    needs: ClassVar[Needs] = Needs()

    def compress(self, baseline, context):
        path = (context.scratch or __import__("pathlib").Path()) / "theirs.onnx"
        save_onnx(baseline, path)
        return External(path, "onnxruntime")
'''


def records(bench: Bench) -> dict[str, Record]:
    found, problems = load_records(bench.outputs / "records")
    assert problems == []
    return {record.method: record for record in found}


def rows(bench: Bench) -> pd.DataFrame:
    return pd.read_csv(bench.outputs / "tables" / "results.csv").set_index("method")


@pytest.mark.parametrize("method", FILES)
def test_a_run_measures_the_librarys_file(bench: Bench, method: str) -> None:
    words = (*DIGITS, f"method={method}", "measure=quick", "measure.batch_sizes=[2]")
    done = bench("run", *words)
    assert done.code == 0, done.out + done.err
    record = records(bench)[method]
    runtime, names = FILES[method]
    assert (record.status, record.runtime, record.n_test) == ("ok", runtime, 128)
    assert record.latency_kind in ("integer", "simulated")
    folder = Path(record.artifact or "").parent
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, "model.json"])
    found = artifact_of(folder)
    assert record.artifact == str(found.path) and record.artifact_sha256 == found.sha256
    assert record.size_bytes == sum((folder / name).stat().st_size for name in names)
    baseline = record.size_baseline_bytes or 0
    assert record.compression_ratio == baseline / record.size_bytes and baseline > 100_000
    assert record.effective_parameters == record.size_bytes / 4 and record.macs is not None and record.macs > 10_000
    # the float network is right on most images, and eight bits cost little of that
    assert (record.top1_percent or 0) > 50 and abs(record.delta_points or 0) < 10
    assert (record.agreement_percent or 0) > 90 and record.delta_low_points is not None
    assert {name: getattr(record, name) for name in MADE_OF_CODES} == dict.fromkeys(MADE_OF_CODES)
    assert record.layers == () and record.sensitivity == ()
    (latency,) = record.latency
    assert latency["candidate_ms_median"] > 0 and latency["candidate_kind"] == record.latency_kind
    assert (record.latency_ratio is None) == (record.latency_kind == "simulated")
    assert record.peak_memory_bytes is not None and record.peak_memory_bytes > 10_000_000
    card = found.card
    assert card is not None and card.runtime == runtime and "unknown" not in card.packages.values()
    assert card.packages.items() <= record.environment.items()
    assert card.provenance["method"] == method and len(card.provenance["classes"]) == 10
    again = bench("run", *words, "dry=true")
    assert "to do" not in again.out


def test_one_table_has_ours_and_theirs(bench: Bench) -> None:
    methods = ["fp32", "ptq", "ort_static", "nncf"]
    done = bench("run", "-m", *DIGITS, f"method={','.join(methods)}", "measure=none", "runtime=torch,openvino")
    assert done.code == 0, done.out + done.err
    assert "note: runtime=torch does not apply to method=nncf, whose file runs on openvino alone" in done.out
    table = rows(bench)
    assert sorted(table.index) == ["fp32", "fp32", "nncf", "ort_static", "ptq", "ptq"]
    assert set(table["status"]) == {"ok"} and table["top1_baseline_percent"].nunique() == 1
    assert table.loc["nncf", "runtime"] == "openvino" and table.loc["ort_static", "runtime"] == "onnxruntime"
    assert table["size_baseline_bytes"].nunique() == 1
    theirs = table.loc[["nncf", "ort_static"]]
    assert theirs[[name for name in MADE_OF_CODES if name in table]].isna().all(axis=None)
    assert theirs[["top1_percent", "delta_low_points", "agreement_percent", "size_bytes"]].notna().all(axis=None)
    assert len(list(bench.store.glob("train/*/weights.safetensors"))) == 1
    markdown = (bench.outputs / "tables" / "results.md").read_text()
    assert "| nncf " in markdown and "| ort_static " in markdown
    assert "nncf" in done.out and "ort_static" in done.out
    shown, csv = done.out, (bench.outputs / "tables" / "results.csv").read_text()
    for path in (bench.outputs / "tables").iterdir():
        path.unlink()
    reported = bench("report")
    assert reported.code == 0 and (bench.outputs / "tables" / "results.csv").read_text() == csv
    assert (bench.outputs / "tables" / "results.md").read_text() == markdown
    assert all(name in shown and name in reported.out for name in methods)


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_file_in_the_store_is_made_anew(bench: Bench, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    run = ("run", *QUICK, "method=ort_static")
    assert bench(*run).code == 0
    before = records(bench)["ort_static"]
    (stored,) = bench.store.glob("quantize/*/model.onnx")
    content = stored.read_bytes()
    stored.unlink()
    if damage != "gone":
        stored.write_bytes(content[:-1] if damage == "cut" else bytes([content[0] ^ 1]) + content[1:])
    assert bench(*run).code == 0
    assert f"quantize/{stored.parent.name} is damaged (model.onnx" in caplog.text
    assert stored.read_bytes() == content == Path(before.artifact or "").read_bytes()
    assert records(bench)["ort_static"].artifact_sha256 == before.artifact_sha256
    assert stored.parent.with_name(f"{stored.parent.name}.damaged").is_dir()


def test_bits_of_ours_are_not_theirs(bench: Bench) -> None:
    done = bench("run", *QUICK, "method=ort_static", "bits=4")
    assert done.code == 2 and not bench.store.exists()
    assert "bits=4: method=ort_static has bits of its own; leave bits out." in done.err


def test_a_library_that_is_missing_is_a_failed_row(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    done = bench("run", "-m", *QUICK, "method=fp32,nncf")
    assert done.code == 1
    assert records(bench)["fp32"].status == "ok"
    failed = records(bench)["nncf"]
    assert (failed.error, failed.error_kind) == ('nncf is not installed; pip install "qbench[nncf]"', "expected")


def test_layers_that_ran_as_floats_are_named() -> None:
    def warned(kind: str, *fallbacks: str) -> list[str]:
        return _fallback_warnings({"latency_kind": kind, "fallbacks": list(fallbacks)})

    assert warned("integer") == [] and _fallback_warnings({"latency_kind": "simulated"}) == []
    assert warned("simulated", "a (Conv)", "b (Gemm)") == ["computed with floats: a (Conv), b (Gemm)"]
    assert warned("simulated", "conv1,Multiply_123,conv1/bias (jit_f32)") == ["computed with floats: conv1 (jit_f32)"]
    assert warned("simulated", *"abcdef") == ["computed with floats: a, b, c, d and 2 more"]
    assert warned("float") == ["not quantized: the file computes with floats alone"]


def test_verbs_for_files_of_ours_refuse_theirs(bench: Bench) -> None:
    assert bench("run", *QUICK, "method=ort_static").code == 0
    record = records(bench)["ort_static"]
    path = record.artifact or ""
    verbs = (("inspect",), ("evaluate", "dataset=synthetic"), ("export", "--format", "torch"))
    for verb, *more in verbs:
        done = bench(verb, path, *more)
        assert done.code == 2 and "Traceback" not in done.err and done.err.count("\n") == 1
        assert f"{path}: an ONNX file, without the layers and codes of a .qbench file; only `qbench run`" in done.err
    for given in (str(Path(path).parent), record.run_id):
        done = bench("export", given, "--format", "onnx")
        assert done.code == 2 and done.err.count("\n") == 1
        assert "holds the file of another library's quantizer; only `qbench run` uses such files" in done.err


@pytest.fixture
def theirs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's package with a method that hands in a file; the YAML is still to be written."""
    package = bench.home / "project" / "of_others"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(OF_OTHERS)
    (package.parent / "configs" / "method").mkdir(parents=True)
    monkeypatch.syspath_prepend(package.parent)
    return package.parent / "configs" / "method" / "theirs.yaml"


def run_theirs(bench: Bench, theirs: Path, yaml: str) -> Record:
    theirs.write_text(f"_target_: of_others.Theirs\nsummary: of other libraries\n{yaml}")
    bench("run", "--config-dir", str(theirs.parents[1]), *QUICK, "method=theirs")
    return records(bench)["theirs"]


def test_another_library_is_one_file_and_one_yaml(bench: Bench, theirs: Path) -> None:
    record = run_theirs(bench, theirs, "peer: {runtime: onnxruntime, packages: [onnx]}\n")
    assert (record.status, record.runtime, record.latency_kind) == ("ok", "onnxruntime", "float")
    assert record.warning == "not quantized: the file computes with floats alone"
    assert record.agreement_percent == 100.0 and record.delta_points == 0.0
    card = json.loads((Path(record.artifact or "").parent / "model.json").read_text())
    assert list(card["packages"]) == ["onnx"]


@pytest.mark.parametrize("yaml", ["", "peer: {runtime: torch}\n"], ids=["nothing said", "another runtime"])
def test_a_yaml_that_hides_the_runtime_is_told_what_to_say(bench: Bench, theirs: Path, yaml: str) -> None:
    record = run_theirs(bench, theirs, yaml)
    assert record.status == "failed" and record.error_kind == "expected"
    assert record.error == (
        "method=theirs: hands in a file for runtime=onnxruntime; its YAML must say "
        "peer: {runtime: onnxruntime, packages: [...]}"
    )
