"""``qbench report``: what it prints, and what it writes from records."""

from __future__ import annotations

import json

from calling import Bench

from qbench.record import Record


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


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
