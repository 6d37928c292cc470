"""Pipelines on the command line: dotted keys, shorthands, limits and refusals of steps; and the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from qbench.assets import instantiate
from qbench.catalog import options
from qbench.compose import baseline_method, compose_cells
from qbench.config import Choice, RunConfig
from qbench.errors import ConfigError
from qbench.methods.kmeans import KMeans
from qbench.methods.pipeline import Pipeline
from qbench.methods.prune import Prune
from qbench.plan import make_plan
from qbench.steps import find, flat, flat_limits, steps, undescribed, with_value

PARAMS: dict[str, Any] = {
    "entropy_coding": True,
    "overrides": {"head*": 8},
    "prune": {"_target_": "a.Prune", "summary": "x", "sparsity": 0.9, "limits": {"sparsity": {"min": 0.0}}},
    "both": {"_target_": "a.Both", "inner": {"_target_": "a.Inner", "bits": 3}, "bits": 2},
    "limits": {"entropy_coding": [True, False]},
}


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("DATA", "STORE", "OUTPUTS"):
        monkeypatch.setenv(f"QBENCH_{variable}", str(tmp_path / variable.lower()))


def one(*overrides: str, config_dir: Path | None = None) -> RunConfig:
    (cell,) = compose_cells(overrides, config_dir)
    assert cell.config is not None
    return cell.config


def problems(*overrides: str, config_dir: Path | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        compose_cells(overrides, config_dir)
    return refused.value.problems


# --- the mappings


def test_parameters_by_dotted_key() -> None:
    assert flat(PARAMS) == {
        "entropy_coding": True,
        "overrides": {"head*": 8},  # a value, not a step
        "prune.sparsity": 0.9,
        "both.inner.bits": 3,
        "both.bits": 2,
    }
    assert list(steps(PARAMS)) == ["prune", "both"]
    assert flat_limits(PARAMS) == {"entropy_coding": [True, False], "prune.sparsity": {"min": 0.0}}


def test_finding_a_parameter() -> None:
    assert find(PARAMS, "entropy_coding") == "entropy_coding"
    assert find(PARAMS, "sparsity") == "prune.sparsity"
    assert find(PARAMS, "bits") == "both.bits"
    assert find({"a": {"_target_": "x", "bits": 1}, "b": {"_target_": "x", "bits": 2}}, "bits") == "b.bits"
    assert find(PARAMS, "weight_bits") is None


def test_setting_one_leaves_the_rest() -> None:
    changed = with_value(PARAMS, "both.inner.bits", 5)
    assert flat(changed) == {**flat(PARAMS), "both.inner.bits": 5} and flat(PARAMS)["both.inner.bits"] == 3
    assert with_value(PARAMS, "entropy_coding", False)["entropy_coding"] is False


def test_what_describes_is_left_out() -> None:
    assert undescribed(PARAMS) == {
        "entropy_coding": True,
        "overrides": {"head*": 8},
        "prune": {"_target_": "a.Prune", "sparsity": 0.9},
        "both": {"_target_": "a.Both", "inner": {"_target_": "a.Inner", "bits": 3}, "bits": 2},
    }


# --- the command line


def test_a_step_is_set_by_its_dotted_key() -> None:
    config = one("method=deep_compression", "method.prune.sparsity=0.9", "bits=5", "method.tune.epochs=3")
    assert flat(config.method.params)["prune.sparsity"] == 0.9
    assert flat(config.method.params)["kmeans.weight_bits"] == 5 == config.weight_bits
    assert config.method.title == "deep_compression prune.sparsity=0.9 tune.epochs=3 w5"
    assert config.act_bits is None
    made = instantiate("method", config.method)
    assert isinstance(made, Pipeline)
    assert dict(made.steps)["prune"] == Prune(sparsity=0.9, epochs=8) and dict(made.steps)["kmeans"] == KMeans(5)


def test_a_step_may_be_given_as_a_mapping() -> None:
    config = one("method=prune_kmeans", "method.prune={sparsity: 0.6, pattern: '2:4'}")
    assert flat(config.method.params)["prune.pattern"] == "2:4"
    assert flat(config.method.params)["prune.scope"] == "global"
    assert one("method=prune_kmeans", "method.prune.pattern=1:4").method.variant == "prune.pattern=1:4"


def test_activation_bits_reach_their_step() -> None:
    config = one("method=prune_linear", "bits=4", "act_bits=8")
    assert (config.weight_bits, config.act_bits) == (4, 8)
    assert config.method.title == "prune_linear w4a8"


def test_tiny_shrinks_steps_too() -> None:
    params = flat(one("method=deep_compression", "tiny=true").method.params)
    assert (params["prune.epochs"], params["tune.epochs"], params["tune.batch_size"]) == (1, 1, 32)
    assert flat(one("method=prune_kmeans", "tiny=true").method.params)["prune.epochs"] == 0


WRONG: dict[str, tuple[list[str], str]] = {
    "parameter": (
        ["method.prune.sparsty=0.5"],
        "method.prune.sparsty: unknown key in method.prune. Did you mean sparsity? Known: sparsity, scope,",
    ),
    "step": (
        ["method.prun.sparsity=0.5"],
        "method.prun.sparsity: unknown key in method=prune_kmeans. Did you mean prune? Known: prune, kmeans, entropy",
    ),
    "in a mapping": (["method.prune={scop: global}"], "method.prune.scop: unknown key in method.prune. Did you mean"),
    "number": (
        ["method.prune.sparsity=1.0"],
        "method.prune.sparsity=1.0: allowed for method=prune_kmeans: numbers from 0.0 to 0.99.",
    ),
    "pattern": (
        ["method.prune.pattern=2of4"],
        "method.prune.pattern=2of4: allowed for method=prune_kmeans: none, or N:M such as 2:4.",
    ),
    "tightened": (
        ["method.kmeans.granularity=per_channel"],
        "method.kmeans.granularity=per_channel: allowed for method=prune_kmeans: per_layer.",
    ),
    "shorthand": (["bits=9"], "bits=9: allowed for method=prune_kmeans: whole numbers from 1 to 8."),
    "contradiction": (
        ["bits=4", "method.kmeans.weight_bits=5"],
        "bits=4 and method.kmeans.weight_bits=5 contradict each other; give one of them.",
    ),
    "no step": (["method.prune=null"], "method.prune=null: a mapping is needed for method=prune_kmeans."),
    "a word": (["method.prune=strong"], "method.prune=strong: a mapping is needed for method=prune_kmeans."),
    "target": (["method.prune._target_=os.system"], "method.prune._target_: unknown key in method.prune."),
    "limits": (["method.prune.limits={}"], "method.prune.limits: unknown key in method.prune."),
}


@pytest.mark.parametrize(("overrides", "message"), WRONG.values(), ids=WRONG)
def test_wrong_keys_and_values_of_steps(overrides: list[str], message: str) -> None:
    (text,) = problems("method=prune_kmeans", *overrides)
    assert text.startswith(message)


def test_a_sweep_over_a_step() -> None:
    cells = compose_cells(["method=prune_kmeans", "method.prune.sparsity=0.5,0.8", "bits=4,2"], multirun=True)
    assert [cell.config.method.title for cell in cells if cell.config] == [
        *("prune_kmeans w4", "prune_kmeans w2"),
        *("prune_kmeans prune.sparsity=0.8 w4", "prune_kmeans prune.sparsity=0.8 w2"),
    ]


# --- keys


def test_steps_and_their_order_are_part_of_the_key() -> None:
    first = {"_target_": "qbench.methods.prune.Prune", "sparsity": 0.5}
    then = {"_target_": "qbench.methods.kmeans.KMeans", "weight_bits": 4}
    one_way = Choice("x", "qbench.methods.pipeline.Pipeline", {"a": first, "b": then})
    other_way = Choice("x", "qbench.methods.pipeline.Pipeline", {"b": then, "a": first})
    assert one_way.identity() != other_way.identity()
    assert one_way.identity()["steps"] == ["a", "b"]
    assert "steps" not in Choice("x", "a.B", {"overrides": {"head*": 8}}).identity()

    def key(*overrides: str) -> str:
        return make_plan(one("method=prune_kmeans", *overrides), baseline_method()).quantize.key

    assert key() == key("method.prune.sparsity=0.5") != key("method.prune.sparsity=0.7")


# --- the user's own


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / "method" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return folder


OWN = """
defaults: [prune@first, mine@then, _self_]
_target_: qbench.methods.pipeline.Pipeline
summary: a pipeline of one of qbench's methods and one of the user's
first:
  sparsity: 0.6
limits: {}
"""
MINE = "{_target_: mymethods.Mine, summary: mine, weight_bits: 3, limits: {weight_bits: {min: 2, max: 5}}}"


def test_a_pipeline_of_the_users_takes_steps_from_both_sides(tmp_path: Path) -> None:
    folder = write(write(tmp_path / "conf", "own", OWN), "mine", MINE)
    option = options("method", folder)["own"]
    assert list(option.load()) == ["first", "then", "_target_", "summary", "limits"]
    assert flat_limits(option.load())["then.weight_bits"] == {"min": 2, "max": 5}
    config = one("method=own", "bits=5", config_dir=folder)
    params = flat(config.method.params)
    assert (params["first.sparsity"], params["first.scope"], params["then.weight_bits"]) == (0.6, "global", 5)
    assert list(steps(config.method.params)) == ["first", "then"]
    (text,) = problems("method=own", "bits=6", config_dir=folder)
    assert text == "bits=6: allowed for method=own: whole numbers from 2 to 5."


def test_the_source_of_a_users_step_is_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(write(tmp_path / "conf", "own", OWN), "mine", MINE)
    (tmp_path / "mymethods.py").write_text("class Mine: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = one("method=own", config_dir=folder)
    before = make_plan(config, baseline_method()).quantize.key
    (tmp_path / "mymethods.py").write_text("class Mine: 'changed'\n")
    assert make_plan(config, baseline_method()).quantize.key != before


def test_a_step_that_is_not_there(tmp_path: Path) -> None:
    folder = write(tmp_path / "conf", "own", OWN)
    with pytest.raises(ConfigError, match=r"mine"):
        compose_cells(["method=own"], folder)
    with pytest.raises(ConfigError, match=r"mine.yaml: not a readable YAML"):
        options("method", folder)["own"].load()


def test_both_ways_of_reading_agree() -> None:
    """What the catalog says of a pipeline is what Hydra composes."""
    for name in ("prune_linear", "prune_kmeans", "deep_compression"):
        content = options("method")[name].load()
        assert flat(one(f"method={name}").method.params) == flat(content)
        assert list(steps(one(f"method={name}").method.params)) == list(steps(content))
        assert "defaults" not in content and yaml.safe_dump(content)
