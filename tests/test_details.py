"""Details: what is written is what is read, what is none is named, and they are found beside their records."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from qbench.details import Details, find_details, load_details, pack, unpack

DETAILS = Details(
    run_id="abc",
    artifact_sha256="0" * 64,
    weights=({"layer": "head", "low": -1.0, "high": 1.0, "counts": [1, 2], "levels": None, "channel": None},),
    classes=("cat", "dog"),
    confusion=((3, 1), (0, 2)),
    correct=pack(np.array([True, False, True, True, True, False])),
    labels_sha256="1" * 64,
    fine_tuning=([{"epoch": 0, "train_loss": 1.5}],),
    disagreements={"n_test": 6, "count": 1, "shown": [[4, 0, 1, 0]]},
)


def test_round_trip(tmp_path: Path) -> None:
    path = DETAILS.save(tmp_path / "details")
    assert path == tmp_path / "details" / "abc.json"
    assert load_details(path) == DETAILS
    assert json.loads(path.read_text()) == json.loads(json.dumps(asdict(DETAILS)))


@pytest.mark.parametrize("count", [1, 7, 8, 9, 200])
def test_booleans_survive_packing(count: int) -> None:
    values = np.random.default_rng(count).random(count) < 0.5
    assert unpack(pack(values), count).tolist() == values.tolist()


def test_the_most_significant_bit_is_the_first_image() -> None:
    assert pack(np.array([True, False, False, False, False, False, False, False, True])) == "gIA="  # 0x80 0x80


@pytest.mark.parametrize("text", ["gIA=", "not base64!"], ids=["too few", "not base64"])
def test_what_cannot_be_unpacked_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        unpack(text, 17)


@pytest.mark.parametrize(
    "content, reason",
    [("{", "Expecting"), ("{}", "no 'format'"), ('{"format": 2, "run_id": "abc"}', "this qbench reads 1")],
    ids=["broken", "empty", "newer"],
)
def test_other_files_are_named(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "abc.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=reason) as refused:
        load_details(path)
    assert str(path) in str(refused.value)


def test_details_are_found_beside_records_and_below_a_folder_of_several(tmp_path: Path) -> None:
    (tmp_path / "one" / "records").mkdir(parents=True)
    record = tmp_path / "one" / "records" / "abc.json"
    record.write_text("{}")
    DETAILS.save(tmp_path / "one" / "details")
    for place in (record, record.parent, tmp_path):
        assert find_details(place, ["abc", "def"]) == ({"abc": DETAILS}, [])


def test_a_damaged_file_is_a_line_and_the_rest_is_read(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    DETAILS.save(tmp_path / "details")
    (tmp_path / "details" / "bad.json").write_text("no JSON")
    found, problems = find_details(tmp_path / "records", ["bad", "abc"])
    assert (found, len(problems)) == ({"abc": DETAILS}, 1)
    assert "bad.json: not the details of a run" in problems[0]
