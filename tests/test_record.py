"""Records: what is written is what is read, and what is none is named."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest

from qbench.files import read_sealed_json, sealed_json
from qbench.record import NOT_IN_TABLES, Record, load_for_tables, load_record, load_records

RECORD = Record(
    run_id="abc123",
    status="ok",
    dataset="digits",
    model="small_cnn",
    method="kmeans",
    seed=0,
    runtime="torch",
    weight_bits=4,
    variant="granularity=per_channel",
    top1_percent=95.5,
    size_bytes=12345,
    latency=({"batch_size": 1, "ratio": 1.5},),
    layers=({"layer": "head", "shape": [10, 64]},),
    candidates=({"runtime": "torch", "batch_size": 1, "chosen": True},),
    energy_modelled_uJ=12.5,
    history=({"epoch": 0, "lr": 0.1},),
    memory={"own": {"peak_memory_bytes": 7}},
    stage_keys={"train:small_cnn on digits": "0" * 16},
    config={"seed": 0, "method": {"params": {"overrides": {}}}},
    environment={"torch": "2.12.0"},
)


def test_round_trip(tmp_path: Path) -> None:
    path = RECORD.save(tmp_path / "records")
    assert path == tmp_path / "records" / "abc123.json"
    assert load_record(path) == RECORD


def test_the_same_record_has_the_same_bytes(tmp_path: Path) -> None:
    first = RECORD.save(tmp_path / "a").read_bytes()
    assert RECORD.save(tmp_path / "b").read_bytes() == first
    assert load_record(tmp_path / "a" / "abc123.json").save(tmp_path / "c").read_bytes() == first


def test_what_was_not_measured_is_null(tmp_path: Path) -> None:
    blank = Record(
        run_id="b", status="failed", dataset="d", model="m", method="x", seed=0, runtime="torch", error="broke"
    )
    content = json.loads(blank.save(tmp_path).read_text())
    for name in ("top1_percent", "size_bytes", "latency_ratio", "train_seconds", "weight_bits"):
        assert content[name] is None
    assert load_record(tmp_path / "b.json") == blank


def test_numbers_that_are_none_become_null(tmp_path: Path) -> None:
    odd = replace(RECORD, loss=math.inf, latency=({"ratio": math.nan},), history=({"validation_loss": -math.inf},))
    again = load_record(odd.save(tmp_path))
    assert (again.loss, again.latency[0]["ratio"], again.history[0]["validation_loss"]) == (None, None, None)
    assert again.top1_percent == 95.5


def test_units_are_in_the_names() -> None:
    numbers = {f.name for f in fields(Record) if str(f.type).startswith(("float", "int"))}
    counts = {"seed", "threads", "n_test", "batch_size", "parameters", "effective_parameters", "macs", "bops", "format"}
    units = ("_percent", "_points", "_bytes", "_ms_median", "_ms_iqr", "_ratio", "_ratio_low", "_ratio_high", "_db")
    units += ("_seconds", "_bits", "bits_per_weight", "_p_value", "loss", "_uJ", "_J", "_bytes_peak")
    units += ("largest_logit_difference",)
    assert {name for name in numbers if not name.endswith(units)} == counts


@pytest.mark.parametrize(
    "content, reason",
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[]", "list indices must be integers"),
        ("3", "'int' object is not subscriptable"),
        ('{"format": 0}', "record format 0, this qbench reads 1: another version wrote it"),
        ('{"name": "package"}', "no 'format'"),
        ('{"format": 99}', "record format 99, this qbench reads 1: another version wrote it"),
        ('{"format": 1, "run_id": "x"}', "missing 6 required positional arguments"),
    ],
    ids=["empty", "cut", "list", "number", "older", "foreign", "newer", "incomplete"],
)
def test_what_is_no_record_is_named_and_the_others_are_read(tmp_path: Path, content: str, reason: str) -> None:
    RECORD.save(tmp_path)
    stranger = tmp_path / "below" / "stranger.json"
    stranger.parent.mkdir()
    stranger.write_text(content)
    records, problems = load_records(tmp_path)
    assert records == [RECORD]
    (problem,) = problems
    assert problem.startswith(f"{stranger}: not a record of this qbench (") and reason in problem


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
    records, (problem,) = load_records(tmp_path)
    assert records == [] and "x.json: not a record" in problem


def test_a_file_stands_for_itself(tmp_path: Path) -> None:
    path = RECORD.save(tmp_path)
    replace(RECORD, run_id="other").save(tmp_path)
    assert load_records(path) == ([RECORD], [])


def test_fields_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    path = RECORD.save(tmp_path)
    path.write_bytes(sealed_json({**read_sealed_json(path.read_bytes()), "energy_joules": 3.0}))
    assert load_record(path) == RECORD


def test_a_record_of_an_earlier_version_has_no_checksum_and_is_read(tmp_path: Path) -> None:
    path = RECORD.save(tmp_path)
    content = json.loads(path.read_text())
    del content["~sha256"]
    path.write_text(json.dumps(content, indent=1, sort_keys=True))
    assert load_record(path) == RECORD
    assert load_for_tables(tmp_path)[0] == [RECORD]


@pytest.mark.parametrize("position", [0.02, 0.3, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("bit", [1, 64])
def test_a_flipped_bit_is_never_read(tmp_path: Path, position: float, bit: int) -> None:
    path = RECORD.save(tmp_path)
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= bit
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{path.name}: not a record .*(checksum|JSON|decode|Expecting)"):
        load_record(path)
    assert load_for_tables(tmp_path)[0] == load_records(tmp_path)[0] == []


def test_no_single_bit_changes_what_is_read(tmp_path: Path) -> None:
    """Every bit of a small sealed file: refused, or, where it hits the seal's own name, the content as it was."""
    sealed = sealed_json({"top1_percent": 95.5, "run_id": "abc"})
    for index in range(8 * len(sealed)):
        data = bytearray(sealed)
        data[index // 8] ^= 1 << index % 8
        try:
            content = read_sealed_json(bytes(data))
        except ValueError:
            continue
        assert (content["top1_percent"], content["run_id"]) == (95.5, "abc")


def test_tables_need_not_read_everything(tmp_path: Path) -> None:
    path = RECORD.save(tmp_path)
    (brief,), (data,), problems = load_for_tables(tmp_path)
    emptied = {name: type(getattr(RECORD, name))() for name in NOT_IN_TABLES if name != "memory"}
    assert brief == replace(RECORD, **emptied, memory=None) and problems == []
    assert data == path.read_bytes()
