"""Energy counters from a made-up powercap folder."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from qbench.measure.latency import WorkerTurns
from qbench.measure.latency_worker import serve
from qbench.measure.rapl import energy_meter


def zone(root: Path, folder: str, name: str, energy_uJ: int, range_uJ: int = 1_000_000) -> Path:
    place = root / folder
    place.mkdir(parents=True)
    for file, value in {"name": name, "energy_uj": energy_uJ, "max_energy_range_uj": range_uJ}.items():
        (place / file).write_text(f"{value}\n")
    return place / "energy_uj"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return zone(tmp_path, "intel-rapl:0", "package-0", 500_000)


def test_energy_is_the_difference_of_two_readings(tmp_path: Path, package: Path) -> None:
    meter = energy_meter(tmp_path)
    assert meter is not None
    before = meter.read()
    package.write_text("750000\n")
    assert meter.joules(before, meter.read()) == pytest.approx(0.25)


def test_a_counter_that_wrapped_around(tmp_path: Path, package: Path) -> None:
    meter = energy_meter(tmp_path)
    assert meter is not None
    before = meter.read()
    package.write_text("100000\n")  # 500000 to the end of its range, and 100000 more
    assert meter.joules(before, meter.read()) == pytest.approx(0.6)


def test_packages_and_their_memory_are_summed_and_nothing_is_counted_twice(tmp_path: Path, package: Path) -> None:
    counters = [
        package,
        zone(tmp_path, "intel-rapl:1", "package-1", 0),
        zone(tmp_path, "intel-rapl:0:1", "dram", 0),
    ]
    for folder, name in (("intel-rapl:0:0", "core"), ("intel-rapl:2", "psys"), ("intel-rapl-mmio:0", "package-0")):
        zone(tmp_path, folder, name, 0)
    (tmp_path / "intel-rapl").mkdir()
    meter = energy_meter(tmp_path)
    assert meter is not None
    before = meter.read()
    assert before is not None and set(before) == set(counters)
    for step, counter in enumerate(counters):
        counter.write_text(str(before[counter] + 10**step))
    assert meter.joules(before, meter.read()) == pytest.approx(111e-6)


def test_no_counters_no_meter(tmp_path: Path) -> None:
    assert energy_meter(tmp_path) is None and energy_meter(tmp_path / "absent") is None


@pytest.mark.parametrize("broken", ["energy_uj", "max_energy_range_uj", "name"])
def test_a_sum_without_one_of_its_parts_is_no_sum(tmp_path: Path, package: Path, broken: str) -> None:
    zone(tmp_path, "intel-rapl:1", "package-1", 0)
    (tmp_path / "intel-rapl:1" / broken).unlink()
    (tmp_path / "intel-rapl:1" / broken).mkdir()  # reading fails, as without the right, for root too
    assert energy_meter(tmp_path) is None


def test_a_counter_that_vanishes_gives_nothing(tmp_path: Path, package: Path) -> None:
    meter = energy_meter(tmp_path)
    assert meter is not None
    before = meter.read()
    package.unlink()
    assert meter.read() is None
    assert meter.joules(before, None) is None and meter.joules(None, before) is None


def test_a_worker_measures_its_timed_calls_alone(tmp_path: Path, package: Path) -> None:
    """Each call of this engine takes 100 microjoules per image."""

    def engine(batch_size: int) -> None:
        package.write_text(str(int(package.read_text()) + batch_size * 100))

    answers = io.StringIO()
    requests = io.StringIO('{"batch_size": 4, "inner": 3}\n{"batch_size": 1, "inner": 2}\n')
    serve(engine, requests, answers, energy_meter(tmp_path))
    joules = [json.loads(line)["joules"] for line in answers.getvalue().splitlines()]
    assert joules == pytest.approx([4 * 3 * 100e-6, 2 * 100e-6])  # the call before them is not among them


def test_a_worker_without_counters_says_so() -> None:
    answers = io.StringIO()
    serve(lambda batch_size: None, io.StringIO('{"batch_size": 1, "inner": 1}\n'), answers, None)
    assert json.loads(answers.getvalue())["joules"] is None


class FakeWorker:
    """Answers with given joules per request."""

    def __init__(self, joules: list[float | None]) -> None:
        self.joules = joules

    def request(self, batch_size: int, inner: int) -> dict[str, object]:
        return {"seconds": [0.001] * inner, "joules": self.joules.pop(0)}


@pytest.mark.parametrize(
    ("joules", "expected"),
    [([99.0, 1.0, 2.0, 3.0], 6.0 / (3 * 5 * 4)), ([99.0, 1.0, None, 3.0], None), ([None] * 4, None)],
    ids=["read", "one missing", "none"],
)
def test_energy_per_image_leaves_the_warm_up_out(joules: list[float | None], expected: float | None) -> None:
    turns = WorkerTurns(FakeWorker(joules), batch_size=4)  # type: ignore[arg-type]
    turns(2)
    for _ in range(3):
        assert len(turns(5)) == 5
    assert turns.energy_J(3 * 5) == (None if expected is None else pytest.approx(expected))
