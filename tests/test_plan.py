"""The plan: a key covers what its stage reads, and nothing else."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import qbench.identity
import qbench.plan
from qbench.compose import baseline_method, compose_cells
from qbench.config import RunConfig
from qbench.files import file_sha256
from qbench.identity import ENGINES, METHOD_VERSIONS, TORCH
from qbench.plan import Plan, candidates_of, make_plan
from qbench.store import Store

STAGES = ("train", "baseline", "quantize", "baseline_score", "score", "profile")
BASE = ("method=linear", "bits=4", "threads=1", "dataset=synthetic")


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("DATA", "STORE", "OUTPUTS"):
        monkeypatch.setenv(f"QBENCH_{variable}", str(tmp_path / variable.lower()))


def config_of(*overrides: str) -> RunConfig:
    (cell,) = compose_cells([*BASE, *overrides])
    assert cell.config is not None
    return cell.config


def plan_of(*overrides: str) -> Plan:
    return make_plan(config_of(*overrides), baseline_method())


def keys(plan: Plan) -> dict[str, str]:
    return {name: getattr(plan, name).key for name in STAGES if getattr(plan, name) is not None}


@pytest.mark.parametrize(
    "override, changed",
    [
        ("bits=2", {"quantize", "score", "profile"}),
        ("method.range=mse", {"quantize", "score", "profile"}),
        ("act_bits=8", {"quantize", "score", "profile"}),
        ("method=kmeans", {"quantize", "score", "profile"}),
        ("limit_test=100", {"baseline_score", "score"}),
        ("measure=quick", {"profile"}),
        ("runtime.channels_last=false", {"baseline_score", "score", "profile"}),
        ("measure.agreement=always", set()),
        ("runtime=integer", {"score", "profile"}),  # the baseline stays on PyTorch
        ("train.lr=0.2", set(STAGES)),
        ("train.augment=true", set(STAGES)),
        ("trainer.devices=2", set(STAGES)),
        ("trainer.accumulate=4", set(STAGES)),
        ("trainer.devices=1", set()),
        ("seed=1", set(STAGES)),
        ("threads=2", set(STAGES)),
        ("device=cuda", set(STAGES)),
        ("model=mlp", set(STAGES)),
        ("dataset.noise=0.3", set(STAGES)),
        ("dataset.split_seed=1", set(STAGES)),
        ("dataset.augment.flip=true", set(STAGES)),
        ("limit_train=500", set(STAGES)),
        ("dry=true", set()),
        ("traceback=true", set()),
        ("output_dir=elsewhere", set()),
        ("store_dir=elsewhere", set()),
        ("data_dir=elsewhere", set()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_change_reaches_the_stages_that_read_it_and_no_other(override: str, changed: set[str]) -> None:
    before, after = keys(plan_of()), keys(plan_of(override))
    assert {name for name in STAGES if before[name] != after[name]} == changed


def test_keys_of_what_was_trained_before_there_was_a_choice_of_devices_have_not_changed() -> None:
    """Many stores hold such trainings: these are the keys of the version before."""
    before = {"train": "cea9520e1af0ac10", "baseline": "39dcedc7588088b5", "quantize": "4e65c1c327a1b580"}
    found = keys(plan_of("dataset=digits", "trainer.accumulate=1"))
    assert {name: found[name] for name in before} == before


def test_what_trains_nothing_is_the_same_on_any_devices(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"given")
    words = (f"model.weights={weights}",)
    assert keys(plan_of(*words)) == keys(plan_of(*words, "trainer.devices=2"))


def test_where_data_comes_from_is_not_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "data" / "cifar10" / "train").mkdir(parents=True)
    first = plan_of("dataset=cifar10")
    assert keys(first) == keys(plan_of("dataset=cifar10", "dataset.download=false"))


def test_methods_of_a_sweep_share_training_and_baseline() -> None:
    cells = compose_cells([*BASE[2:], "method=linear,kmeans", "bits=4,2", "model=small_cnn"], multirun=True)
    plans = [make_plan(cell.config, baseline_method()) for cell in cells if cell.config is not None]
    assert len({plan.run_id for plan in plans}) == 4
    assert len({plan.train for plan in plans}) == len({plan.baseline for plan in plans}) == 1
    assert len({stage for plan in plans for stage in plan.stages}) == 3 + 4 * 3


def test_the_baseline_of_a_float_run_is_the_run_itself() -> None:
    plan = plan_of("method=fp32")
    assert plan.quantize == plan.baseline and plan.score == plan.baseline_score
    assert [stage.stage for stage in plan.stages] == ["train", "quantize", "score", "profile"]


def test_integers_are_computed_once_for_all_runtimes_of_an_artefact() -> None:
    """Whatever runs it, the reference has one key; the torch runtime is compared only where that is asked for."""
    plans = {
        "torch": plan_of("method=integer"),
        "asked": plan_of("method=integer", "measure.agreement=always"),
        "inductor": plan_of("method=integer", "runtime=inductor"),
        "auto": plan_of("method=integer", "runtime=auto"),
        "integer": plan_of("method=integer", "runtime=integer"),
        "never": plan_of("method=integer", "runtime=inductor", "measure.agreement=never"),
    }
    assert plans["torch"].reference is None and plans["never"].reference is None
    found = {plans[name].reference for name in ("asked", "inductor", "auto", "integer")}
    assert len(found) == 1 and None not in found
    assert plans["asked"].score == plans["torch"].score and plans["asked"].profile == plans["torch"].profile
    assert plans["asked"].run_id != plans["torch"].run_id
    assert [stage.stage for stage in plans["inductor"].stages][-4:] == ["quantize", "reference", "score", "profile"]


def test_validation_images_are_scored_where_that_is_asked_for() -> None:
    plain, plan = plan_of(), plan_of("measure.validation=true")
    assert plain.validate is None and plain.baseline_validate is None
    assert [stage.stage for stage in plan.stages][-3:] == ["validate", "validate", "profile"]
    assert plan.validate != plan.baseline_validate and plan.run_id != plain.run_id
    assert (plan.score, plan.profile, plan.quantize) == (plain.score, plain.profile, plain.quantize)
    same, other = plan_of("measure.validation=true", "limit_test=100"), plan_of("measure.validation=true", "bits=2")
    assert same.validate == plan.validate  # test images have nothing to do with it
    assert other.validate != plan.validate and other.baseline_validate == plan.baseline_validate


def test_another_artefact_or_test_set_has_another_reference() -> None:
    words = ("method=integer", "runtime=inductor")
    first = plan_of(*words).reference
    assert plan_of(*words, "measure=quick").reference == plan_of(*words, "runtime.freezing=false").reference == first
    for override in ("bits=8", "limit_test=100", "train.lr=0.2", "dataset.noise=0.3"):
        assert plan_of(*words, override).reference != first


def test_auto_chooses_before_it_scores() -> None:
    plan = plan_of("runtime=auto")
    assert plan.choose is not None and plan_of().choose is None
    assert [stage.stage for stage in plan.stages][-4:] == ["choose", "reference", "score", "profile"]
    assert plan.baseline_score == plan_of().baseline_score  # the float baseline stays on PyTorch
    for override in ("bits=2", "runtime.candidates=[torch]", "measure.batch_sizes=[1]", "threads=2"):
        after = plan_of("runtime=auto", override)
        assert after.choose is not None and after.choose.key != plan.choose.key
        assert after.score.key != plan.score.key and after.profile != plan.profile  # what was chosen may differ
    assert plan_of("runtime=auto", "measure.agreement=never").choose == plan.choose


def test_another_machine_or_engine_chooses_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan_of("runtime=auto")
    monkeypatch.setattr(qbench.identity, "cpu_model", lambda: "another processor")
    moved = plan_of("runtime=auto")
    monkeypatch.setattr(qbench.plan, "ENGINES", ("pytest",))
    updated = plan_of("runtime=auto")
    assert len({plan.choose for plan in (before, moved, updated)}) == 3


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torch", "integer"])
def test_another_version_of_an_engine_scores_and_times_anew(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan_of("method=integer", f"runtime={runtime}")
    real = qbench.identity.version
    monkeypatch.setattr(qbench.identity, "version", lambda name: "0" if name in ENGINES else real(name))
    after = plan_of("method=integer", f"runtime={runtime}")
    same = runtime in ("torch", "integer")
    assert (after.score == before.score) is same
    assert (after.profile == before.profile) is same
    assert after.quantize == before.quantize and after.baseline_score == before.baseline_score


@pytest.mark.parametrize(("runtime", "changes"), [("openvino", True), ("torch", False), ("integer", False)])
def test_a_processor_without_vnni_scores_engines_anew(
    runtime: str, changes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = []
    for has_vnni in (True, False):
        monkeypatch.setattr(qbench.identity, "sums_in_32_bits", lambda has_vnni=has_vnni: has_vnni)
        scores.append(plan_of("act_bits=8", f"runtime={runtime}").score.key)
    assert (scores[0] != scores[1]) is changes


def test_candidates_are_the_runtimes_of_their_yaml_files() -> None:
    runtime = config_of("runtime=auto", "runtime.candidates=[torch,inductor,torch]").runtime
    found = candidates_of(runtime)
    assert [candidate.name for candidate in found] == ["torch", "inductor"]
    assert found[0] == TORCH
    assert found[1].target.endswith("InductorRuntime") and found[1].params == {"channels_last": True, "freezing": True}


def test_nothing_to_measure_no_profile() -> None:
    assert plan_of("measure=none").profile is None
    assert plan_of("measure=none").run_id != plan_of().run_id


def test_subjects_name_what_is_made() -> None:
    plan = plan_of("act_bits=8", "method.range=mse")
    assert plan.train.subject == "small_cnn on synthetic"
    assert (plan.baseline.subject, plan.score.subject) == ("fp32", "linear range=mse w4a8")


def test_cached_is_what_the_store_has() -> None:
    config, plan = config_of(), plan_of()
    assert not any(stage.cached for stage in plan.stages)

    def fill(folder: Path) -> None:
        (folder / "x").touch()

    Store(config.store_dir).get_or_make("train", plan.train.key, fill)
    assert [stage.stage for stage in plan_of().stages if stage.cached] == ["train"]


def test_given_weights_are_known_by_their_content(tmp_path: Path) -> None:
    first, copy, other = (tmp_path / name for name in ("first.safetensors", "copy.safetensors", "other.safetensors"))
    first.write_bytes(b"weights")
    copy.write_bytes(b"weights")
    other.write_bytes(b"others")
    runs = [plan_of(f"model.weights={path}").train.key for path in (first, copy, other)]
    assert runs[0] == runs[1] != runs[2]


def test_an_edited_network_of_the_user_is_another_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_plan_net.py").write_text("raise RuntimeError('planning runs no user code')\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = ("model=custom", "model.target=own_plan_net.Net")
    first = plan_of(*words).train.key
    assert plan_of(*words).train.key == first
    (tmp_path / "own_plan_net.py").write_text("class Net: ...\n")
    assert plan_of(*words).train.key != first


def test_a_package_that_cannot_be_imported_does_not_stop_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_broken").mkdir()
    (tmp_path / "own_broken" / "__init__.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert plan_of("model=custom", "model.target=own_broken.net.Net").train.key
    assert plan_of("model=custom", "model.target=own_absent.net.Net").train.key


def test_another_machine_or_engine_measures_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(plan_of())
    monkeypatch.setattr(qbench.identity, "cpu_model", lambda: "another processor")
    after = keys(plan_of())
    assert {name for name in STAGES if before[name] != after[name]} == {"profile"}


def test_a_version_bump_reaches_what_is_built_on_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(plan_of())
    monkeypatch.setitem(qbench.plan.VERSIONS, "quantize", 99)
    after = keys(plan_of())
    assert {name for name in STAGES if before[name] != after[name]} == set(STAGES) - {"train"}


def test_a_method_that_changed_quantizes_anew_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    qat, linear = plan_of("method=qat"), plan_of()
    monkeypatch.setitem(METHOD_VERSIONS, "qbench.methods.qat.QAT", 99)
    changed = {"quantize", "score", "profile"}
    assert {name for name, key in keys(plan_of("method=qat")).items() if key != keys(qat)[name]} == changed
    assert keys(plan_of()) == keys(linear)


def test_every_versioned_method_is_there() -> None:
    for dotted in METHOD_VERSIONS:
        module, _, name = dotted.rpartition(".")
        assert hasattr(importlib.import_module(module), name), dotted


def test_a_new_recipe_field_keeps_the_keys_of_what_was_trained_before() -> None:
    # the recipe's part of a key holds what differs from the defaults alone
    assert keys(plan_of("train.momentum=0.9")) == keys(plan_of())


def test_checksums(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


PEER = ("method=ort_static", "dataset=synthetic", "threads=1")


def peer_plan(*overrides: str) -> Plan:
    (cell,) = compose_cells([*PEER, *overrides])
    assert cell.config is not None
    return make_plan(cell.config, baseline_method())


def test_another_librarys_file_has_one_runtime_whatever_is_asked_for() -> None:
    plan = peer_plan()
    assert [stage.stage for stage in plan.stages] == ["train", "quantize", "score", "quantize", "score", "profile"]
    for runtime in ("torch", "onnxruntime", "openvino", "integer", "auto"):
        assert peer_plan(f"runtime={runtime}") == plan
    assert peer_plan("measure.agreement=always") == plan
    changed = peer_plan("runtime=onnxruntime", "runtime.allow_spinning=false")
    assert changed.quantize == plan.quantize and changed.score != plan.score and changed.profile != plan.profile
    assert (plan.train, plan.baseline, plan.baseline_score) == (changed.train, changed.baseline, changed.baseline_score)


def test_the_librarys_version_is_in_the_key_of_its_file_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before, ours = keys(peer_plan()), keys(plan_of())
    installed = qbench.identity.version
    monkeypatch.setattr(qbench.identity, "version", lambda name: "99" if name == "onnxruntime" else installed(name))
    after = keys(peer_plan())
    assert {name for name in STAGES if before[name] != after[name]} == {"quantize", "score", "profile"}
    assert keys(plan_of()) == ours
