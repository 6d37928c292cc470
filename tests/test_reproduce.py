"""The command written from a record configures the very run that it is the record of."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from calling import QUICK

import qbench.compose
from qbench.compose import compose_cells
from qbench.config import RunConfig
from qbench.record import Record, load_records
from qbench.reproduce import command
from qbench.rows import ABOUT_THE_CALL, blank_record

ROOT = Path(__file__).parents[1]
COMMITTED = [record for folder in ("records", "accuracy/records", "agreement/records") for record in
             load_records(ROOT / "docs" / "results" / folder)[0]]  # fmt: skip
SETTINGS = [
    ["method=kmeans", "bits=3", "seed=7"],
    ["method=linear", "method.overrides={head: 8, body.*: 2}", "train.lr=0.25", "train.epochs=3"],
    ["method=prune_kmeans", "method.prune.sparsity=0.75", "bits=3"],
    ["method=hybrid", "method.budget='avg_bits:3'", "method.candidates=[2,4]"],
    ["method=ptq", "act_bits=4", "runtime=auto", "runtime.candidates=[torch,onnxruntime]"],
    ["dataset.validation_fraction=0.25", "dataset.augment.flip=true", "measure=quick", "measure.batch_sizes=[1,8]"],
    ["tiny=true", "limit_test=50", "device=cuda:1", "threads=3"],
    ["method=fp32", "trainer.devices=2", "trainer.accumulate=4"],
    ["method=qat", "measure=none", "measure.agreement=always", "method.granularity=per_tensor"],
]


def configured(overrides: list[str]) -> RunConfig:
    (cell,) = compose_cells(overrides)
    assert cell.config is not None
    return cell.config


def plain(config: RunConfig) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return {key: value for key, value in found.items() if key not in ABOUT_THE_CALL}


@pytest.mark.parametrize("overrides", [["dataset=synthetic", *QUICK[1:2], *one] for one in SETTINGS], ids=" ".join)
def test_the_command_gives_the_same_config(overrides: list[str]) -> None:
    config = configured(overrides)
    text = command(blank_record(config, "x", "ok"))
    assert text is not None
    words = shlex.split(text)
    assert words[:2] == ["qbench", "run"]
    again = plain(configured(words[2:]))
    again["method"]["variant"] = again["model"]["choice"]["variant"] = ""
    expected = plain(config)
    expected["method"]["variant"] = expected["model"]["choice"]["variant"] = ""
    assert again == expected


@pytest.mark.parametrize("record", COMMITTED[::7], ids=lambda record: record.run_id)
def test_committed_records_are_repeated_by_their_commands(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that newer versions have added aside, and whether the data are here.

    So is the label of what is no default: it goes by the defaults of its time; the parameters themselves are all there.
    """
    monkeypatch.setattr(qbench.compose, "environment_problems", lambda *_: [])
    again = plain(configured(shlex.split(str(command(record)))[2:]))

    then = {**record.config, "method": {**record.config["method"], "variant": again["method"]["variant"]}}

    def known(now: Any, then: Any) -> Any:
        return {key: known(now[key], value) for key, value in then.items()} if isinstance(then, dict) else now

    assert known(again, then) == then


def test_only_what_differs_is_said() -> None:
    record = blank_record(configured(["method=kmeans", "threads=2"]), "x", "ok")
    assert command(record) == "qbench run dataset=digits model=small_cnn method=kmeans runtime=torch threads=2"
    assert command(replace(record, config={})) is None


def test_options_of_the_users_own_need_their_folder() -> None:
    record = blank_record(configured(["method=kmeans", "threads=2"]), "x", "ok")
    own = {**record.config, "method": {"name": "mine", "target": "my.Method", "params": {"alpha": 1}, "variant": ""}}
    text = command(replace(record, config=own))
    assert text is not None and text.startswith("qbench run --config-dir FOLDER ") and "method.alpha=1" in text
