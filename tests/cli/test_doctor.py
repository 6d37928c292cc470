"""``qbench doctor``: what is found on the machine."""

from __future__ import annotations

import pytest
from calling import Bench

import qbench.cli
import qbench.doctor
from qbench.catalog import options


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
