"""Bad input is refused before anything runs: the exact words, all problems at once, exit code 2, no torch."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from calling import Bench

from qbench.catalog import options
from qbench.cli import VERBS

BITS = "whole numbers from 1 to 8"
DIGITS_KEYS = "augment, validation_fraction, calibration_images, split_seed"


def known(group: str) -> str:
    return f"Known: {', '.join(options(group))}."


def parameters(method: str) -> str:
    return f"Known: {', '.join(options('method')[method].parameters())}."


# fmt: off
REFUSED: dict[str, list[str]] = {
    "method=kmean": [f"method=kmean: unknown method. Did you mean kmeans? {known('method')}"],
    "method=null": [f"method=null: unknown method. {known('method')}"],
    "model=vgg61": [f"model=vgg61: unknown model. Did you mean vgg16? {known('model')}"],
    "trainer=many": [f"trainer=many: unknown trainer. {known('trainer')}"],
    "trainer.devices=0": ["trainer.devices=0: allowed for trainer=default: whole numbers from 1 to 64."],
    "trainer.accumulate=1.5": ["trainer.accumulate=1.5: allowed for trainer=default: whole numbers from 1 to 65536."],
    "trainer.precision=float32":
        ["trainer.precision: unknown key in trainer=default. Known: devices, accumulate, sync_batch_norm."],
    "trainer.devices=2 device=cuda:1": [
        "trainer.devices=2: not with device=cuda:1; allowed: cpu (processes that share its cores) and cuda (the first "
        "GPUs)."],
    "trainer.devices=2 trainer.sync_batch_norm=true": [
        "trainer.sync_batch_norm=true: needs device=cuda and trainer.devices of 2 or more; torch synchronizes batch "
        "norms on GPUs alone."],
    "trainer.devices=2 trainer.accumulate=3 train.batch_size=5": [
        "trainer.devices=2 x trainer.accumulate=3 are more parts than train.batch_size=5 has images; lower them or "
        "raise train.batch_size."],
    "train=slow": [f"train=slow: unknown train. {known('train')}"],
    "experiment=tine": [f"experiment=tine: unknown experiment. Did you mean tiny? {known('experiment')}"],
    "method=kmeans bits=0": [f"bits=0: allowed for method=kmeans: {BITS}."],
    "method=kmeans bits=64": [f"bits=64: allowed for method=kmeans: {BITS}."],
    "method=kmeans bits=9": [f"bits=9: allowed for method=kmeans: {BITS}."],
    "method=kmeans bits=abc": [f"bits=abc: allowed for method=kmeans: {BITS}."],
    "method=kmeans bits=4.5": [f"bits=4.5: allowed for method=kmeans: {BITS}."],
    "method=kmeans bits=true": [f"bits=true: allowed for method=kmeans: {BITS}."],
    "method=kmeans bits=": [f"bits=: allowed for method=kmeans: {BITS}."],
    "method=fp32 bits=64": ["bits=64: allowed: whole numbers from 1 to 16, or null."],
    "method=linear bits=4 method.weight_bits=8":
        ["bits=4 and method.weight_bits=8 contradict each other; give one of them."],
    "method=linear method.weight_bits=4 bits=8":
        ["bits=8 and method.weight_bits=4 contradict each other; give one of them."],
    "method=prune act_bits=8": ["act_bits=8: method=prune quantizes weights only; leave act_bits out."],
    "method=fp32 act_bits=8": ["act_bits=8: method=fp32 quantizes weights only; leave act_bits out."],
    "method=linear act_bits=1": ["act_bits=1: allowed for method=linear: whole numbers from 2 to 16, or null."],
    "method=linear method.scheme=symetric":
        ["method.scheme=symetric: allowed for method=linear: symmetric, affine. Did you mean symmetric?"],
    "method=linear method.fold_batch_norm=yes": [
        "method.fold_batch_norm=yes: allowed for method=linear: true, false."],
    "method=kmeans method.foo=3": [f"method.foo: unknown key in method=kmeans. {parameters('kmeans')}"],
    "method=kmeans method.weight_bit=3":
        [f"method.weight_bit: unknown key in method=kmeans. Did you mean weight_bits? {parameters('kmeans')}"],
    "method=kmeans method.limits=3": [f"method.limits: unknown key in method=kmeans. {parameters('kmeans')}"],
    "method=linear method.overrides.layer=3":
        ["method.overrides.layer: give the whole mapping, e.g. 'method.overrides={layer: VALUE}'."],
    "train.lr=fast": ["train.lr=fast: allowed for train=default: numbers from 0.0 to 10.0, or null."],
    "train.lr=nan": ["train.lr=nan: allowed for train=default: numbers from 0.0 to 10.0, or null."],
    "train.epochs=-1": ["train.epochs=-1: allowed for train=default: whole numbers from 0 to 10000, or null."],
    "dataset.augment.flip=maybe": ["dataset.augment.flip=maybe: allowed for dataset=digits: true, false."],
    "dataset.augment=3": ["dataset.augment=3: a mapping is needed for dataset=digits."],
    "dataset.augment.flop=true": [
        "dataset.augment.flop: unknown key in dataset.augment. Did you mean flip? Known: flip, crop_padding, cutout."],
    "dataset.images.channels=4": [
        "dataset.images.channels: unknown key in dataset=digits. Did you mean calibration_images? "
        f"Known: {DIGITS_KEYS}."],
    "measure.batch_sizes=[1,0]":
        ["measure.batch_sizes=[1, 0]: allowed for measure=default: a list of whole numbers from 1 to 65536."],
    "measure.batch_sizes=[]":
        ["measure.batch_sizes=[]: allowed for measure=default: a list of whole numbers from 1 to 65536."],
    "measure.batch_sizes=4":
        ["measure.batch_sizes=4: allowed for measure=default: a list of whole numbers from 1 to 65536."],
    "model=custom":
        ["model.target: a value is needed; allowed for model=custom: a dotted path like my_package.my_module.MyNet."],
    "model=custom model.target=MyNet":
        ["model.target=MyNet: allowed for model=custom: a dotted path like my_package.my_module.MyNet."],
    "model.weights=none.safetensors": ["model.weights=none.safetensors: no such file; give a safetensors file."],
    "device=tpu": ["device=tpu: allowed: cpu, cuda, cuda:1, mps."],
    "seed=null": ["seed: a value is needed; allowed: whole numbers from 0 to 1000000."],
    "seed=1.5": ["seed=1.5: allowed: whole numbers from 0 to 1000000."],
    "tiny=1": ["tiny=1: allowed: false, true."],
    "data_dir=3": ["data_dir=3: text is needed, like {home}/data."],
    "output_dir=null": ["output_dir=null: text is needed, like {home}/outputs."],
    "output_dir=a_file": ["output_dir=a_file: a_file is not a folder."],
    "store_dir=a_file/below": ["store_dir=a_file/below: a_file is not a folder."],
    "bits=${nothing}": ["bits: Interpolation key 'nothing' not found"],
    "kmeans": ["'kmeans' cannot be read as KEY=VALUE."],
    "=4": ["'=4' cannot be read as KEY=VALUE."],
    "data_dir=/données":
        ["'data_dir=/données' cannot be read as KEY=VALUE. "
         "Quote a value with special characters: \"data_dir='/données'\"."],
    "+bits=4": ["'+bits=4': only KEY=VALUE for a key that exists; keys are neither added nor deleted."],
    "~method": ["'~method': only KEY=VALUE for a key that exists; keys are neither added nor deleted."],
    "method@model=linear":
        ["'method@model=linear': only KEY=VALUE for a key that exists; keys are neither added nor deleted."],
    "hydra.run.dir=elsewhere":
        ["'hydra.run.dir=elsewhere': settings of Hydra have no effect here; sweeps and folders are qbench's own."],
    "bits=8,4": ["bits=8,4: several values need a sweep; add -m (qbench run -m ...)."],
    "-m bits=glob(*)": ["bits=glob(*): cannot be swept over; list the values."],
    "-m output_dir=a,b": ["output_dir=a,b: cannot be swept over; output_dir has one value for the whole sweep."],
    "-m method=kmeans bits=16,12":
        [f"bits=16: allowed for method=kmeans: {BITS}.", f"bits=12: allowed for method=kmeans: {BITS}."],
    "-m method=linear bits=8,99": ["bits=99: allowed for method=linear: whole numbers from 1 to 16."],
    "--dry": ["unknown flag '--dry'; flags of run are -m and --config-dir DIR, keys are KEY=VALUE."],
    "--config-dir nowhere": ["--config-dir nowhere: no such folder."],
    "--config-dir=nowhere": ["--config-dir nowhere: no such folder."],
    "--config-dir": ["--config-dir: a folder is missing after it."],
}
# fmt: on


@pytest.mark.parametrize("words", REFUSED, ids=str)
def test_run_refuses(bench: Bench, words: str) -> None:
    Path("a_file").touch()
    done = bench("run", *words.split())
    assert done.err.splitlines() == [f"qbench: {line.replace('{home}', str(bench.home))}" for line in REFUSED[words]]
    assert (done.code, done.out) == (2, "")
    assert not bench.outputs.exists() and not bench.store.exists()


def test_unknown_key_lists_the_keys_of_a_run(bench: Bench) -> None:
    done = bench("run", "bitts=4")
    assert done.err.startswith("qbench: bitts: unknown key. Did you mean bits? Known: bits, act_bits, seed, device,")
    for key in ("limit_train", "tiny", "data_dir", "method", "measure"):
        assert f" {key}," in done.err or f" {key}." in done.err
    for internal in ("limits", "choices", "hydra", "summary"):
        assert internal not in done.err


def test_all_problems_are_listed_at_once(bench: Bench) -> None:
    done = bench("run", "method=kmean", "model=vgg61", "train.lrr=1", "trin.lr=1", "seed=x", "bits=0", "device=gpu")
    starts = [line.removeprefix("qbench: ").split()[0] for line in done.err.splitlines()]
    assert starts == ["method=kmean:", "model=vgg61:", "train.lrr:", "trin.lr:", "seed=x:", "device=gpu:", "bits=0:"]
    assert done.code == 2


def test_all_unreadable_words_are_listed_at_once(bench: Bench) -> None:
    done = bench("run", "kmeans", "+x=1", "bits=")
    assert [line.split()[1] for line in done.err.splitlines()] == ["'kmeans'", "'+x=1':"]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> socket.socket:
        raise OSError("network is unreachable")

    for variable in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(socket, "create_connection", refuse)


def test_missing_data_names_the_ways_to_get_it(bench: Bench, offline: None, tmp_path: Path) -> None:
    done = bench("run", "dataset=cifar10", f"data_dir={tmp_path}")
    sources = "cifar-10-batches-py/data_batch_1 or cifar10/train or cifar-10-python.tar.gz"
    host = "www.cs.toronto.edu:443"
    assert done.err == (
        f"qbench: data set cifar10: no readable data in {tmp_path}, looked for {sources} and {host} does not answer, "
        f"so it cannot be downloaded now. Ways on: set data_dir=FOLDER to a folder that holds {sources}; put {sources} "
        f"under {tmp_path}; set dataset.download=true on a machine that can reach {host}; use dataset=digits or "
        "dataset=synthetic, which need no files.\n"
    )
    assert done.code == 2


def test_missing_data_is_said_once_in_a_sweep(bench: Bench, offline: None, tmp_path: Path) -> None:
    done = bench("run", "-m", "dataset=cifar10", f"data_dir={tmp_path}", "method=linear", "bits=8,4,2")
    assert len(done.err.splitlines()) == 1 and done.code == 2


def test_unreadable_data_dir(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # permissions do not stop the superuser, whom tests may run as: the answer of the system is simulated
    closed = tmp_path / "closed"
    (closed / "cifar10" / "train").mkdir(parents=True)
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed and allowed(path, mode))
    done = bench("run", "dataset=cifar10", f"data_dir={closed}")
    assert f"({closed} is unreadable (permission denied))" in done.err and done.code == 2


def test_unwritable_output_dir(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and allowed(path, mode))
    done = bench("run", f"output_dir={tmp_path}/new")
    assert done.err == f"qbench: output_dir={tmp_path}/new: {tmp_path} cannot be written to.\n"


@pytest.mark.parametrize(
    "words, message",
    [
        ("rn", f"unknown verb 'rn'. Did you mean run? Verbs: {', '.join(VERBS)}."),
        ("--frobnicate", f"unknown verb '--frobnicate'. Verbs: {', '.join(VERBS)}."),
        ("list methds", "list methds: unknown group. Did you mean method?"),
        ("list --config-dir nowhere", "--config-dir nowhere: no such folder."),
        ("report nowhere", "report nowhere: no such folder; run something first (qbench run), or give its records."),
        ("report a b", "report a b: give one folder or record file, or nothing for outputs/records; flags:"),
        ("inspect", "inspect: give one artefact, and --baseline FILE to see the error against float weights."),
        ("inspect a b", "inspect: give one artefact, and --baseline FILE to see the error against float weights."),
        ("inspect a --base b", "inspect: give one artefact, and --baseline FILE to see the error"),
        ("inspect a --baseline", "--baseline: a path is missing after it."),
        ("inspect nothing.qbench", "nothing.qbench: cannot be read: No such file or directory"),
        ("doctor now", "doctor now: takes no arguments."),
    ],
)
def test_other_verbs_refuse(bench: Bench, words: str, message: str) -> None:
    done = bench(*words.split())
    assert done.err.startswith(f"qbench: {message}") and len(done.err.splitlines()) == 1
    assert (done.code, done.out) == (2, "")


@pytest.mark.parametrize("words", ["run method=kmean bits=0", "lst", "run --config-dir nowhere"], ids=str)
def test_a_process_refuses_without_a_traceback(bench: Bench, words: str) -> None:
    done = bench.process(*words.split())
    assert (done.code, done.out) == (2, "")
    assert all(line.startswith("qbench: ") for line in done.err.splitlines()) and done.err


def test_refusing_and_planning_import_no_torch(bench: Bench) -> None:
    calls = ["run method=kmean", "run bits=0", "run model=vgg61 seed=x", "run dry=true", "list", "lst", "help"]
    code = (
        "import sys\nfrom qbench.cli import main\nresults = []\n"
        f"for call in {calls!r}:\n"
        "    try:\n        main(call.split())\n    except SystemExit as ended:\n        results.append(ended.code)\n"
        "print(results, sorted({'torch', 'torchvision', 'pandas', 'scipy'} & set(sys.modules)))"
    )
    done = bench.python("-c", code)
    assert done.out.splitlines()[-1] == "[2, 2, 2, 0, 0, 2, 0] []"
