"""The verbs that only look, the plan of a sweep, shell completion: what they print, at the width of a pipe."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from calling import QUICK, Bench

import qbench.cli
import qbench.doctor
from qbench import __version__
from qbench.artifact import save
from qbench.catalog import GROUPS, builtin_configs, options
from qbench.cli import HELP, VERBS
from qbench.export.base import FORMATS as EXPORTS
from qbench.methods.base import Context
from qbench.methods.linear import Linear
from qbench.program.encodings import Float
from qbench.program.graph import Node, Program
from qbench.record import Record
from qbench.reporting import FORMATS, METRICS
from qbench.usage import USAGES


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


# --- help


@pytest.mark.parametrize("words", ["", "help", "--help", "-h", "help nothing", "run -h method=kmeans"], ids=str)
def test_help(bench: Bench, words: str) -> None:
    done = bench(*words.split())
    assert (done.code, done.out, done.err) == (0, HELP, "")


def test_help_names_every_verb_key_and_group() -> None:
    for verb in VERBS:
        assert re.search(rf"^  {verb} ", HELP, re.MULTILINE)
    keys = [
        line.split(":")[0]
        for line in (builtin_configs() / "config.yaml").read_text().splitlines()
        if line[:1].isalpha()
    ]
    for key in {*keys, *GROUPS} - {"defaults", "limits", "hydra", "experiment"}:
        assert key in HELP
    assert all(len(line) <= 120 for line in HELP.splitlines())


FLAGS = {
    "run": "-m --config-dir",
    "list": "--config-dir",
    "report": "--html --output --pareto --format",
    "inspect": "--baseline",
    "evaluate": "--config-dir dataset= runtime= threads= limit_test= data_dir= store_dir=",
    "predict": "--json --top runtime= threads=",
    "export": "--format --output --images",
    "store": "--store --keep-bytes --older-than --dry-run --repair",
    "study": "--config-dir",
    "doctor": "",
}


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_says_how_it_is_used(bench: Bench, verb: str) -> None:
    """Wherever the flag stands, and although the other words are wrong."""
    for words in ([verb, "--help"], [verb, "-h"], [verb, "no such thing", "--nonsense", "--help"], ["help", verb]):
        done = bench(*words)
        assert (done.code, done.out, done.err) == (0, USAGES.get(verb, HELP), "")
    assert f"usage: qbench {'VERB' if verb == 'run' else verb}" in done.out
    assert all(len(line) <= 120 for line in done.out.splitlines())
    assert all(flag in done.out for flag in FLAGS[verb].split())


def test_usages_name_formats_metrics_and_groups() -> None:
    assert {*USAGES} == {*VERBS} - {"run"}
    assert all(f" {name}: " in USAGES["export"] for name in EXPORTS)
    assert all(name in USAGES["report"] for name in (*METRICS, *FORMATS))
    assert all(name in USAGES["list"] for name in GROUPS)


def test_version(bench: Bench) -> None:
    assert bench("--version").out == f"qbench {__version__}\n"


# --- list


@pytest.fixture
def two_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config folder whose listing does not change with qbench's."""
    folder = tmp_path / "configs"
    (folder / "method").mkdir(parents=True)
    (folder / "method" / "plain.yaml").write_text("_target_: a.Plain\nsummary: does nothing [yet]\n")
    (folder / "method" / "rounded.yaml").write_text(
        "_target_: a.Rounded\nsummary: rounds\nweight_bits: 4\nrange: minmax\nfold: true\nlayers: {}\nlast: null\n"
        "limits:\n  weight_bits: {min: 1, max: 8}\n  range: [minmax, mse]\n  fold: [true, false]\n  last: {min: 2}\n"
    )
    monkeypatch.setattr("qbench.catalog.builtin_configs", lambda: folder)
    return folder


LISTING = """\
method=
  name      what it is           parameters = default (allowed)
 ──────────────────────────────────────────────────────────────────────────
  plain     does nothing [yet]
  rounded   rounds               weight_bits=4 (whole numbers from 1 to 8)
                                 range=minmax (minmax, mse)
                                 fold=true (true, false)
                                 layers={}
                                 last=null (whole numbers from 2 up)
"""


@pytest.mark.parametrize("words", ["", "method", "methods"], ids=str)
def test_list(bench: Bench, two_options: Path, words: str) -> None:
    done = bench("list", *words.split())
    assert done.code == 0 and lines(done.out) == LISTING.splitlines()


def test_list_shows_every_option_of_every_group(bench: Bench) -> None:
    text = bench("list").out
    for group in GROUPS:
        assert f"{group}=" in text
        for name in options(group):
            assert re.search(rf"^  {name} ", text, re.MULTILINE), name
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("flag", [["--config-dir", "own"], ["--config-dir=own"]], ids=str)
def test_list_shows_the_users_own_options(bench: Bench, flag: list[str]) -> None:
    path = Path("own/method/mine.yaml")
    path.parent.mkdir(parents=True)
    path.write_text("_target_: my.Method\nsummary: my own\n")
    assert re.search(r"^  mine +my own", bench("list", "method", *flag).out, re.MULTILINE)
    path.write_text("_target_: [my.Method\n")
    done = bench("list", "method", *flag)
    assert done.code == 2 and done.err.startswith("qbench: own/method/mine.yaml: not a readable YAML: ")


# --- report


def record(run_id: str, **changes: object) -> Record:
    facts = {"run_id": run_id, "status": "ok", "dataset": "digits", "model": "mlp", "method": "fp32", "seed": 0}
    return Record(**{**facts, "runtime": "torch", "top1_percent": 90.0, "size_bytes": 1000, **changes})  # type: ignore[arg-type]


def test_report_rebuilds_the_tables_from_the_records(bench: Bench) -> None:
    folder = bench.outputs / "records"
    record("a").save(folder)
    record("b", method="linear", weight_bits=4, top1_percent=80.0).save(folder)
    record("c", model="small_cnn").save(folder)
    done = bench("report")
    assert done.code == 0
    assert lines(done.out)[0] == "dataset digits, model mlp, seed 0" and done.out.count("dataset digits") == 2
    written = [bench.outputs / "tables" / f"results.{suffix}" for suffix in ("csv", "md", "json")]
    *_, figures, first, second, third = done.out.splitlines()
    assert [first, second, third] == [f"written: {path}" for path in written]
    assert figures.startswith("written: ") and figures.endswith(f"figures in {bench.outputs}/figures")
    assert len(json.loads(written[2].read_text())) == 3
    before = [path.read_bytes() for path in written]
    assert bench("report", str(bench.outputs)).code == bench("report", str(folder)).code == 0
    assert [path.read_bytes() for path in written] == before


def test_report_names_what_is_no_record(bench: Bench) -> None:
    folder = bench.outputs / "records"
    record("a").save(folder)
    (folder / "notes[1].json").write_text("{}")
    done = bench("report")
    assert done.code == 0
    assert done.err == f"note: {folder}/notes[1].json: not a record of this qbench (no 'format')\n"


def test_report_of_one_record_writes_nothing(bench: Bench) -> None:
    path = record("a").save(bench.outputs / "records")
    done = bench("report", str(path))
    assert done.code == 0 and "90.00" in done.out and "written" not in done.out
    assert [*path.parent.iterdir()] == [path] and not (bench.outputs / "tables").exists()


def test_report_without_records(bench: Bench) -> None:
    (bench.outputs / "records").mkdir(parents=True)
    done = bench("report")
    assert done.code == 2
    assert done.err == f"qbench: report {bench.outputs}/records: holds no records; run something first (qbench run).\n"


# --- inspect


@pytest.fixture
def artefacts(tmp_path: Path) -> tuple[Path, Path]:
    """The same small network as float and as 4-bit integers, of weights that no training made."""
    nodes = (
        Node("conv", "conv2d", ("input",), {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}),
        Node("relu", "relu", ("conv",)),
        Node("flatten", "flatten", ("relu",)),
        Node("head", "linear", ("flatten",)),
    )
    tensors = {
        "conv.weight": Float(torch.linspace(-1, 1, 54).view(6, 1, 3, 3)),
        "conv.bias": Float(torch.zeros(6)),
        "head.weight": Float(torch.linspace(-2, 2, 240).view(10, 24)),
        "head.bias": Float(torch.zeros(10)),
    }
    program = Program((1, 4, 4), nodes, tensors, {})
    quantized = Linear(weight_bits=4).compress(program, Context())
    assert isinstance(quantized, Program)
    made = {"method": "linear", "params": {"weight_bits": 4, "act_bits": None, "fold_batch_norm": True}}
    paths = tmp_path / "float.qbench", tmp_path / "four.qbench"
    save(program, paths[0])
    save(replace(quantized, provenance={**made, "model": "toy", "dataset": "digits"}), paths[1])
    return paths


def test_inspect(bench: Bench, artefacts: tuple[Path, Path]) -> None:
    done = bench("inspect", str(artefacts[1]))
    assert done.code == 0
    shown = lines(done.out)
    start = next(index for index, line in enumerate(shown) if line.split()[:2] == ["layer", "op"])
    assert "".join(shown[:start]).replace("\n", "").strip() == str(artefacts[1])
    assert [line.split() for line in shown[start + 2 : start + 4]] == [
        # 54 x 4 bits and 6 scales; 6 x 2 x 2 outputs of 9 products; 4 x 32 bits; see below for the energies
        ["conv", "conv2d", "6x1x3x3", "affine", "4", "32", "51", "216", "27,648", "0.0134"],
        ["head", "linear", "10x24", "affine", "4", "32", "160", "240", "30,720", "0.0338"],  # 240 x 4 bits, 10 scales
    ]
    facts = {line[:12].strip(): line[12:] for line in shown[start + 4 :]}
    assert facts["made by"] == "linear act_bits=null fold_batch_norm=true weight_bits=4"
    assert facts["network"] == "toy on digits, input (1, 4, 4)"
    # pJ of the layers: float MACs, weights and biases from DRAM, floats in and out of 8 KiB of SRAM
    conv = 216 * 4.6 + (51 + 24) * 8 * 1300 / 64 + (16 + 24) * 32 * 10 / 64
    head = 240 * 4.6 + (160 + 40) * 8 * 1300 / 64 + (24 + 10) * 32 * 10 / 64
    assert (f"{conv / 1e6:.3g}", f"{head / 1e6:.3g}") == (shown[start + 2].split()[-1], shown[start + 3].split()[-1])
    assert facts["energy"] == f"{(conv + head) / 1e6:.4g} µJ per image, modelled (45nm-v1)"
    assert facts["operations"] == "456 MACs, 58,368 BOPs per image"
    assert facts["parameters"] == "310" and facts["activations"] == "float"
    assert facts["memory"] == "160 bytes of activations at once, for one image"  # 16 in and 24 out, 4 bytes each
    effective = artefacts[1].stat().st_size / 4
    assert facts["effective"] == f"{effective:,.1f} parameters of 32 bits would take as many bytes"
    size = artefacts[1].stat().st_size
    total, parts = facts["bytes"].replace(",", "").split("; ")[0].split(" = ")
    assert int(total) == size == sum(int(part.split()[-1]) for part in parts.split(" + "))


def test_inspect_beside_the_float_weights(bench: Bench, artefacts: tuple[Path, Path]) -> None:
    expected = bench("inspect", str(artefacts[1]), "--baseline", str(artefacts[0])).out
    assert bench("inspect", f"--baseline={artefacts[0]}", str(artefacts[1])).out == expected
    rows = {line.split()[0]: line.split() for line in lines(expected) if line.split()[0] in ("conv", "head")}
    # evenly spread values in steps of S: noise S^2 / 12, S the largest of a channel over 7, give or take a few dB
    assert all(15 < float(row[-1]) < 30 for row in rows.values())
    assert "SQNR dB" in expected


def test_inspect_refuses_the_baseline_of_another_network(
    bench: Bench, artefacts: tuple[Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other.qbench"
    nodes = (Node("flatten", "flatten", ("input",)), Node("fc", "linear", ("flatten",)))
    save(Program((1, 4, 4), nodes, {"fc.weight": Float(torch.ones(10, 16))}, {}), other)
    done = bench("inspect", str(artefacts[1]), "--baseline", str(other))
    assert (done.code, done.err) == (2, f"qbench: {other}: is of another network than {artefacts[1]}\n")


# --- doctor


def test_doctor(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"qbench": "1.2.3", "python": "3.11.7", "platform": "an-os", "torch": "2.6.0", "torchvision": "0.21.0",
             "cpu_model": "a processor", "cpu_flags": ["avx2", "amx_int8"]}  # fmt: skip
    monkeypatch.setattr(qbench.doctor, "environment", lambda: facts)
    (bench.store / "train" / "0123").mkdir(parents=True)
    (bench.store / "train" / "0123" / "manifest.json").write_text("{}")
    done = bench("doctor")
    assert done.code == 0
    rows = {line[:22].strip(): line[22:].strip() for line in done.out.splitlines() if line[2:3].strip()}
    assert rows["qbench"] == "1.2.3" and rows["python"] == "3.11.7 on an-os"
    assert rows["torch"] == "2.6.0, torchvision 0.21.0: a matching pair"
    assert rows["processor"] == "a processor"
    assert rows["instructions"].startswith("avx2, amx_int8; not avx512f, avx512_vnni,")
    assert rows["devices"].startswith("cpu") and rows["training"].startswith("train.precision=auto means ")
    assert rows["store"] == f"{bench.store}: 1 finished stages, 0.0 MB"
    assert rows["data: digits"] == rows["data: synthetic"] == "embedded"
    assert rows["data: mnist"].startswith(f"no readable data in {bench.home}")
    assert {f"data: {name}" for name in options("dataset")} <= set(rows)


def test_doctor_finds_data(bench: Bench) -> None:
    (bench.home / "data" / "images" / "train").mkdir(parents=True)
    assert f"data: image_folder    found in {bench.home}" in bench("doctor").out


def test_doctor_warns_of_a_pair_that_does_not_match() -> None:
    assert qbench.doctor._pair({"torch": "2.6.1+cpu", "torchvision": "0.22.0"}) == (
        "NOT a pair; torch 2.6.1+cpu goes with torchvision 0.21"
    )
    assert qbench.doctor._pair({"torch": "9.9.0", "torchvision": "9.9"}) == "not a pair this qbench knows"


# --- the plan of a sweep


def test_dry_run_of_a_sweep(bench: Bench) -> None:
    done = bench("run", "-m", *QUICK, "method=fp32,linear", "bits=8,4,2", "dry=true")
    assert (done.code, done.err) == (0, "")
    shown = [re.sub(r"[0-9a-f]{16}", "KEY", line) for line in lines(done.out)]
    assert shown == PLAN.splitlines()
    assert not bench.outputs.exists() and not bench.store.exists()


PLAN = """\
plan
┏━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━┳━━━━━━━┓
┃ stage    ┃ of                     ┃ key              ┃       ┃
┡━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━╇━━━━━━━┩
│ train    │ small_cnn on synthetic │ KEY │ to do │
│ quantize │ fp32                   │ KEY │ to do │
│ score    │ fp32                   │ KEY │ to do │
│ quantize │ linear w8              │ KEY │ to do │
│ score    │ linear w8              │ KEY │ to do │
│ quantize │ linear w4              │ KEY │ to do │
│ score    │ linear w4              │ KEY │ to do │
│ quantize │ linear w2              │ KEY │ to do │
│ score    │ linear w2              │ KEY │ to do │
└──────────┴────────────────────────┴──────────────────┴───────┘
6 cells: 4 distinct runs; 9 stages, 9 to do: time unknown
note: bits does not apply to method=fp32 and is ignored
"""


def test_dry_run_counts_what_it_skips(bench: Bench) -> None:
    done = bench("run", "-m", *QUICK, "method=linear,kmeans", "bits=16,8", "dry=true")
    assert "4 cells: 3 distinct runs, 1 skipped; 9 stages, 9 to do" in done.out


# --- Hydra's own flags


def test_cfg_prints_the_config(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    done = bench.process("run", "--cfg", "job", "method=linear", "bits=3")
    assert (done.code, done.err) == (0, "")
    assert "bits: 3\n" in done.out and "  _target_: qbench.methods.linear.Linear\n" in done.out
    assert [*bench.home.iterdir()] == [bench.home / "tmp"]


def test_cfg_names_an_option_that_is_not_there(bench: Bench) -> None:
    done = bench.process("run", "--cfg", "job", "method=linearr")
    assert done.code != 0 and "Could not find 'method/linearr'" in done.err and "Traceback" not in done.err


def completed(bench: Bench, monkeypatch: pytest.MonkeyPatch, line: str) -> list[str]:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    monkeypatch.setattr("sys.argv", ["qbench"])
    done = bench("-sc", "query=bash")
    assert (done.code, done.err) == (0, "")
    return done.out.split()


@pytest.mark.parametrize(
    "line, words",
    [
        ("qbench ", list(VERBS)),
        ("qbench r", ["run", "report"]),
        ("qbench x", []),
        ("qbench list m", ["model", "method", "measure"]),
        ("qbench run method=li", ["method=linear"]),
        ("qbench run -m dataset=digits model=vgg16_", ["model=vgg16_imagenet", "model=vgg16_plain"]),
        ("qbench run limit_", ["limit_test=", "limit_train="]),
        ("qbench run method=kmeans method.gr", ["method.granularity="]),
        ("qbench run --config-dir ", []),
        ("qbench inspect ", []),
    ],
)
def test_completion(bench: Bench, monkeypatch: pytest.MonkeyPatch, line: str, words: list[str]) -> None:
    assert completed(bench, monkeypatch, line) == words


def test_completion_offers_every_method_and_nothing_internal(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed(bench, monkeypatch, "qbench run method=") == [f"method={name}" for name in options("method")]
    offered = completed(bench, monkeypatch, "qbench run ") + completed(
        bench, monkeypatch, "qbench run method=linear method."
    )
    assert {"bits=", "method=", "train.", "dry=", "method.scheme="} <= set(offered)
    assert not [word for word in offered if any(part in word for part in ("hydra", "limits", "_target_", "summary"))]


def test_completion_as_a_shell_asks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "qbench run method=f"
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert bench.process("-sc", "query=bash").out.split() == ["method=fixed_point", "method=fp16", "method=fp32"]
    installed = bench.process("-sc", "install=bash")
    assert installed.code == 0 and "complete -o nospace -o default -F hydra_bash_completion qbench" in installed.out


# --- ending


def test_interrupted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(qbench.cli.VERBS, "run", interrupt)
    done = bench("run")
    assert done.code == 130 and done.err.startswith("interrupted; finished stages are kept")


def test_a_closed_pipe_is_no_traceback(bench: Bench) -> None:
    command, pipe = [sys.executable, "-m", "qbench", "list"], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=bench.environment()) as listing:
        assert listing.stdout is not None and listing.stderr is not None
        listing.stdout.close()
        assert listing.stderr.read() == b""
    assert listing.returncode == 1


def test_plain_output_has_no_colours(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b" not in bench("list", "method").out + bench("run", "dry=true").out
    assert os.environ["QBENCH_STORE"] == str(bench.store)
