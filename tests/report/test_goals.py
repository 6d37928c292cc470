"""Tables of goals are rebuilt from records; those that are committed are not stale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import yaml

from qbench.catalog import options
from qbench.details import Details, pack
from qbench.measure.intervals import paired_difference
from qbench.record import Record
from qbench.report.goals import goals_table, main

ROOT = Path(__file__).parents[2]
PEERS = {
    name: content["peer"]["runtime"] for name, one in options("method").items() if "peer" in (content := one.load())
}
RUN = "experiment=e method=ptq bits=4 method.rounding=adaround"


def record(run_id: str, **changes: Any) -> Record:
    params = {"rounding": "nearest", "range": "mse", "inner": {"lr": 0.01}, **changes.pop("params", {})}
    facts: dict[str, Any] = {
        "status": "ok", "dataset": "cifar10", "model": "vgg16", "method": "ptq", "seed": 0, "runtime": "torch",
        "weight_bits": 4, "act_bits": 8, "delta_points": -0.4, "delta_low_points": -0.625, "delta_high_points": 0.125,
        "size_bytes": 2_345_678, "size_baseline_bytes": 9_000_000, "fixed_width_bytes": 3_000_000,
        "pruned_bytes": 5_000_000, "compression_ratio": 3.837, "config": {"method": {"params": params}},
    }  # fmt: skip
    return Record(run_id=run_id, **{**facts, **changes})


def region(one: str = RUN, **changes: Any) -> dict[str, Any]:
    row = {"what": "W4A8", "run": one, "goal": 0.5}
    return {"dataset": "cifar10", "model": "vgg16", "columns": "loss", "rows": [row], **changes}


def cells(table: str) -> list[str]:
    return [cell.strip() for cell in table.splitlines()[2].strip("|").split("|")]


def test_a_row_is_that_of_the_record_its_command_makes() -> None:
    others = [
        record("a"),
        record("b", params={"rounding": "adaround"}, model="resnet20", delta_points=-9.0),
        record("c", params={"rounding": "adaround"}, weight_bits=8, delta_points=-8.0),
        record("d", params={"rounding": "adaround"}, runtime="integer", delta_points=-7.0),
        record("e", params={"rounding": "adaround"}, status="failed", delta_points=None),
        record("f", params={"rounding": "adaround"}),
    ]
    expected = ["W4A8", f"`qbench run {RUN}`", "0.5", "0.40 [-0.12, 0.62]", "2,346", "yes"]
    assert cells(goals_table(region(), others)) == expected
    assert cells(goals_table(region(), others[:5])) == ["W4A8", f"`qbench run {RUN}`", "0.5", "not run", "", ""]


def test_a_row_may_be_set_against_another_run() -> None:
    rows = [{"what": "w", "run": "method=hybrid", "against": "method=kmeans bits=3"}]
    one = record("a", method="hybrid", weight_bits=None, top1_percent=90.0, n_test=100, size_bytes=1000)
    other = record("b", method="kmeans", weight_bits=3, top1_percent=60.0, n_test=100, size_bytes=1000)
    right = {"a": [True] * 90 + [False] * 10, "b": [True] * 60 + [False] * 40}
    known = {name: Details(name, None, correct=pack(np.array(hits)), labels_sha256="l") for name, hits in right.items()}

    def last(*records: Record, details: Mapping[str, Details] = MappingProxyType({})) -> list[str]:
        return cells(goals_table(region(rows=rows), records, details))

    exact = paired_difference(np.array(right["a"]), np.array(right["b"]))
    shown = f"+30.00 [{exact.low:.2f}, {exact.high:.2f}], paired over images"
    start = ["w", "`qbench run method=hybrid`", "`method=kmeans bits=3`"]
    assert last(one, other, details=known) == [*start, "90.00", "1,000", "60.00", "1,000", shown, "yes"]
    assert last(one, other)[-2].endswith("from the two intervals")
    assert last(replace(one, size_bytes=1001), other, details=known)[-1] == "no"  # accuracy bought with bytes
    close = replace(one, top1_percent=61.0, top1_low_percent=51.2, top1_high_percent=70.0)
    assert last(close, other)[-1] == "no"  # may be chance
    assert last(one)[-4:] == ["not run", "", "", ""]


def test_a_pattern_is_text_and_bits_left_to_the_method_may_be_named() -> None:
    several = [
        record("a", params={"pattern": "2:4"}),
        record("b", params={"pattern": "2:4"}, weight_bits=3, size_bytes=1),
    ]
    row = {"what": "w", "run": "method=ptq method.pattern=2:4", "weight_bits": 4}
    assert cells(goals_table(region(rows=[row]), several))[-1] == "2,346"
    with pytest.raises(ValueError, match=r"several records fit .*: a, b"):
        goals_table(region(rows=[{"what": "w", "run": row["run"]}]), several)


def test_a_goal_may_hold_for_the_whole_interval() -> None:
    records = [record("f", params={"rounding": "adaround"})]
    assert cells(goals_table(region(judged_by="interval"), records))[-1] == "no"
    strict = region(rows=[{"what": "w", "run": RUN, "goal": 0.39}])
    assert cells(goals_table(strict, records))[-1] == "no"
    assert cells(goals_table(region(rows=[{"what": "w", "run": RUN}]), records))[2:] == ["0.40 [-0.12, 0.62]", "2,346"]


def test_parameters_of_steps_are_found_and_of_several_records_the_plainest_is_taken() -> None:
    records = [
        record("a", variant="inner.lr=0.01 range=mse", delta_points=-3.0),
        record("b", variant="range=mse", delta_points=-1.0),
    ]
    plain = goals_table(region("method=ptq method.range=mse"), records)
    assert "1.00" in plain and "3.00" not in plain
    assert "not run" in goals_table(region("method=ptq method.inner.lr=0.02"), records)
    assert "not run" in goals_table(region("method=ptq method.nothing=1"), records)
    with pytest.raises(ValueError, match="several records fit 'method=ptq': b, c"):
        goals_table(region("method=ptq"), [*records, record("c", variant="range=mse")])


def test_settings_of_the_runtime_and_of_training_are_told_apart() -> None:
    config = {"method": {"params": {}}, "runtime": {"params": {"exact": False}}, "train": {"epochs": 5}}
    made = record("a", config=config, **DEPLOYED)
    plain = {"run": None, "columns": "answers"}
    asked = "method=integer runtime=auto"
    for more, found in (
        ("runtime.exact=false train.epochs=5", True),
        ("runtime.exact=true", False),
        ("train.lr=1", False),
    ):
        table = goals_table(region(**plain, rows=[{"run": f"{asked} {more}"}]), [made])
        assert ("not run" not in table) is found
    shown = goals_table(region(**plain, rows=[{"run": asked}]), [made])
    assert cells(shown)[1:] == ["92.46", "99.50", "12.35", "0.123", "integer", "openvino", "2,346"]
    assert "×" not in shown and "goal" not in shown


def test_sizes_stand_in_the_order_of_the_steps() -> None:
    table = goals_table(region(columns="sizes"), [record("f", params={"rounding": "adaround"})])
    assert cells(table)[-5:] == ["9,000", "5,000", "3,000", "2,346", "3.8×"]


DEPLOYED: dict[str, Any] = {
    "method": "integer", "runtime": "auto", "runtime_chosen": "openvino", "latency_kind": "integer",
    "top1_percent": 92.456, "agreement_integer_percent": 99.5, "identical_logits_percent": 12.3456,
    "largest_logit_difference": 0.123456, "sums_rounded_once": ("add", "add_1"),
    "latency": ({"batch_size": 1, "ratio": 4.0, "ratio_low": 3.9, "ratio_high": 4.125, "same_runtime_ratio": 2.0,
                 "same_runtime_ratio_low": 1.5, "same_runtime_ratio_high": 2.5},
                {"batch_size": 32, "ratio": 3.0, "ratio_low": 2.5, "ratio_high": 3.5}),
}  # fmt: skip


def test_agreement_and_latency_of_deployed_files() -> None:
    run = "method=integer runtime=auto"
    asked = region(run="experiment=e", columns="agreement", rows=[{"run": run, "goal": 99.5}])
    table = goals_table(asked, [record("f", **DEPLOYED)])
    expected = [f"`{run}`", "92.46", "99.50", "12.35", "0.123", "2", "99.5: reached", "integer", "openvino", "2,346"]
    assert cells(table) == [*expected, "4.00 [3.90, 4.12]", "2.00 [1.50, 2.50]", "3.00 [2.50, 3.50]", ""]
    assert "× float on PyTorch, batch 32 [95 %]" in table.splitlines()[0]
    by_size = [{"runtime": name, "batch_size": size, "chosen": chosen} for name, size, chosen in
               (("openvino", 1, False), ("torch", 1, True), ("openvino", 32, True))]  # fmt: skip
    other = record("f", **{**DEPLOYED, "candidates": tuple(by_size), "agreement_integer_percent": 99.49})
    assert cells(goals_table(asked, [other]))[6:9] == [
        "99.5: missed",
        "integer",
        "torch (batch 1), openvino (batch 32)",
    ]
    assert cells(goals_table(asked, [])) == [f"`{run}`", "not run"]


def test_rows_of_other_libraries_have_no_agreement_and_simulated_ones_no_ratio() -> None:
    asked = region("method=nncf runtime=openvino", columns="agreement")
    blank = {"agreement_integer_percent": None, "identical_logits_percent": None, "largest_logit_difference": None}
    unsure = ({"batch_size": 1, "ratio": None, "ratio_low": None, "ratio_high": None},)
    peer = {**DEPLOYED, **blank, "method": "nncf", "runtime": "openvino", "runtime_chosen": None, "latency": unsure}
    found = cells(goals_table(asked, [record("f", **{**peer, "latency_kind": "simulated"})]))
    assert found[2:] == ["92.46", "", "", "", "", "", "simulated", "openvino", "2,346", "", "", "", ""]


@pytest.mark.parametrize("folder", ["accuracy", "agreement", "without_vnni"])
def test_the_committed_tables_are_not_stale(folder: str) -> None:
    """``make docs`` rebuilds them."""
    assert main([str(ROOT / "docs/results" / folder), "--check"]) == 0


@pytest.mark.parametrize("folder", ["accuracy", "agreement", "without_vnni"])
def test_goals_and_runs_name_the_same_commands(folder: str) -> None:
    """Whoever runs runs.txt gets every row: each goal's method, network and parameters stand in one of its lines."""
    goals = yaml.safe_load((ROOT / "docs/results" / folder / "goals.yaml").read_text())
    for run in (f"{one.get('run', '')} {row['run']}" for one in goals.values() for row in one["rows"]):
        asked = dict(word.split("=", 1) for word in run.split())
        if asked["method"] in PEERS:
            assert asked.pop("runtime") == PEERS[asked["method"]]  # which a file of theirs brings with it
        assert any(
            line.keys() >= asked.keys() - {"method.lr"}
            and all(value in (line[key], *line[key].split(",")) for key, value in asked.items() if key in line)
            for line in sweeps(folder)
        ), run


def test_deployed_networks_are_six_on_every_runtime() -> None:
    """Each network with each runtime, and other libraries' files of two, as one plan that composes."""
    runs = [
        (line["experiment"], method, runtime)
        for line in sweeps("agreement")
        for method in line["method"].split(",")
        for runtime in line.get("runtime", PEERS.get(method, "")).split(",")
    ]
    assert len(runs) == len(set(runs)) == 6 * 5 + 2 * 3
    experiments = options("experiment")
    goals = yaml.safe_load((ROOT / "docs/results/agreement/goals.yaml").read_text())
    for one in goals.values():
        chosen = experiments[one["run"].split()[0].removeprefix("experiment=")].load()["defaults"]
        assert {"override /dataset": one["dataset"]} in chosen and {"override /model": one["model"]} in chosen


def sweeps(folder: str) -> list[dict[str, str]]:
    lines = (ROOT / "docs/results" / folder / "runs.txt").read_text().splitlines()
    return [dict(word.split("=", 1) for word in line.split()) for line in lines if line and line[0] != "#"]


def test_rows_without_a_goal_have_no_columns_for_it_and_ratios_are_shown_where_asked() -> None:
    plain = {"what": "W4A8", "run": RUN}
    table = goals_table(region(rows=[plain], ratio=True), [record("f", params={"rounding": "adaround"})])
    titles = [cell.strip() for cell in table.splitlines()[0].strip("|").split("|")]
    assert titles == ["what", "command", "points lost [95 %]", "file, kB", "smaller"]
    assert cells(table)[2:] == ["0.40 [-0.12, 0.62]", "2,346", "3.84×"]
    assert "goal" not in goals_table(region(rows=[plain]), []) and "not run" in goals_table(region(rows=[plain]), [])


def test_details_of_runs_set_against_others_are_taken_and_no_more(tmp_path: Path) -> None:
    source = tmp_path / "made"
    for name, bits in (("a" * 12, 3), ("b" * 12, 4), ("c" * 12, 8)):
        record(name, method="linear", weight_bits=bits).save(tmp_path / "docs" / "records")
        Details(name, None).save(source)
    row = {"what": "x", "dataset": "cifar10", "model": "vgg16", "run": "method=linear bits=4"}
    goals = {"one": {"rows": [{**row, "against": "method=linear bits=3"}]}, "two": {"rows": [row]}}
    (tmp_path / "docs" / "goals.yaml").write_text(yaml.safe_dump(goals))
    regions = "".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in goals)
    (tmp_path / "docs" / "README.md").write_text(regions)
    assert main([str(tmp_path / "docs"), "--details", str(source)]) == 0
    assert sorted(path.stem for path in (tmp_path / "docs" / "details").iterdir()) == ["a" * 12, "b" * 12]


def test_a_stale_folder_is_rewritten(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    record("f", params={"rounding": "adaround"}).save(tmp_path / "records")
    (tmp_path / "goals.yaml").write_text(yaml.safe_dump({"one": region()}))
    (tmp_path / "README.md").write_text("# A\n\n<!-- one:begin -->\nold\n<!-- one:end -->\nend\n")
    assert main([str(tmp_path), "--check"]) == 1
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text()
    assert "0.40 [-0.12, 0.62]" in text and "old" not in text and text.endswith("end\n")
    assert main([str(tmp_path), "--check"]) == 0
