"""The page as text: whole, self-contained, the same for the same records, and safe whatever a record says."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from records import DETAILS, OK, many

import qbench.report.figures
from qbench.errors import RuntimeUnavailable
from qbench.record import Record
from qbench.report.figures import chart, filled
from qbench.report.page import build_page
from qbench.report.tables import csv_text, grid, sort_records

HOSTILE = "</script><script>window.hacked=1</script><!--DATA--><img src=x onerror=alert(1)>\u2028&amp;"


class Parsed(HTMLParser):
    """Elements in order, and the text of each script by its id."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self._open: str | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._open = dict(attrs).get("id") or f"script {len(self.scripts)}"
            self.scripts[self._open] = ""

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.scripts[self._open] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._open = None


@pytest.fixture(autouse=True)
def _no_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vega is a megabyte that these tests do not look at."""
    monkeypatch.setattr("qbench.report.page.vega_bundle", lambda: "window.vegaEmbed = null;")


@pytest.mark.parametrize("count", [1, 30, 1000])
def test_every_run_is_in_the_page(count: int) -> None:
    records = many(count)
    found = Parsed(build_page(records, {}, {records[0].run_id: "qbench run x"}))
    data = json.loads(found.scripts["data"])
    assert len(data["table"]["rows"]) == len(data["table"]["bits"]) == count
    assert sum(name.startswith("run-") for name in found.scripts) == count
    assert data["table"]["columns"] == grid(records)[0]
    assert sorted(filter(None, data["table"]["commands"])) == ["qbench run x"]
    place = data["table"]["columns"].index("run_id")
    assert [row[place] for row in data["table"]["rows"]] == [record.run_id for record in sort_records(records)]


def test_the_rows_are_those_of_the_csv() -> None:
    records = many(40)
    data = json.loads(Parsed(build_page(records)).scripts["data"])
    rows = list(csv.DictReader(io.StringIO(csv_text(records))))
    for row, expected in zip(data["table"]["rows"], rows, strict=True):
        for name, value in zip(data["table"]["columns"], row, strict=True):
            text = expected[name]
            assert value is None if text == "" else str(value) == text or float(value) == float(text), name


def test_nothing_is_fetched() -> None:
    page = build_page(many(30), {"ok": DETAILS})
    found = Parsed(page)
    assert {tag for tag, _ in found.tags} & {"link", "img", "iframe", "object", "base"} == set()
    assert not [attributes for _, attributes in found.tags if "src" in attributes]
    links = [attributes["href"] for tag, attributes in found.tags if tag == "a"]
    assert links and all(str(link).startswith("#") for link in links)
    assert re.findall(r"url\(|@import", page) == []
    (policy,) = [a["content"] for _, a in found.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none';") and "http" not in str(policy)


def test_text_of_records_cannot_leave_its_place() -> None:
    hostile = replace(
        OK, method=HOSTILE, variant=HOSTILE, dataset=HOSTILE, model=HOSTILE, warning=HOSTILE, runtime=HOSTILE,
        config={HOSTILE: HOSTILE}, environment={"cpu_model": HOSTILE}, stage_keys={HOSTILE: HOSTILE},
        layers=({**OK.layers[0], "layer": HOSTILE},),
    )  # fmt: skip
    details = {"ok": replace(DETAILS, classes=(HOSTILE,) * 10)}
    plain = Parsed(build_page([OK], {"ok": DETAILS}, {"ok": "qbench"}))
    found = Parsed(build_page([hostile], details, {"ok": HOSTILE}, title=HOSTILE))
    assert found.tags == plain.tags  # not one element more
    assert found.scripts.keys() == plain.scripts.keys()
    run = json.loads(found.scripts["run-ok"])
    assert run["config"] == {HOSTILE: HOSTILE} and run["layers"]["layer"] == [HOSTILE]
    data = json.loads(found.scripts["data"])
    assert data["table"]["commands"] == [HOSTILE]
    assert data["table"]["rows"][0][data["table"]["columns"].index("warning")] == HOSTILE


def test_the_same_records_give_the_same_page_in_any_order() -> None:
    records = many(30)
    assert build_page(records) == build_page(records[::-1])


def test_what_was_not_recorded_is_left_out() -> None:
    bare = Record("bare", "ok", "digits", "small_cnn", "kmeans", 0, "torch", top1_percent=50.0)
    run = json.loads(Parsed(build_page([bare])).scripts["run-bare"])
    assert "details" not in run and run["layers"] == {} and run["sensitivity"] is None


def test_details_of_another_artefact_are_not_shown() -> None:
    own = Parsed(build_page([OK], {"ok": DETAILS})).scripts["run-ok"]
    stale = Parsed(build_page([OK], {"ok": replace(DETAILS, artifact_sha256="f" * 64)})).scripts["run-ok"]
    assert "details" in json.loads(own) and "details" not in json.loads(stale)


def test_what_runs_share_is_there_once() -> None:
    page = build_page(many(200), {})
    assert page.count(json.dumps(OK.environment["cpu_model"])) < 10
    data = json.loads(Parsed(page).scripts["data"])
    assert len(data["shared"]) <= 4  # history and environment, and those of runs that have none


def test_infinite_numbers_do_not_break_the_page() -> None:
    odd = replace(OK, sqnr_db=float("inf"), layers=({**OK.layers[0], "sqnr_db": float("nan")},), loss=float("-inf"))
    scripts = Parsed(build_page([odd])).scripts

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(scripts["data"], parse_constant=refuse)
    assert json.loads(scripts["run-ok"], parse_constant=refuse)["layers"]["sqnr_db"] == [None]


def test_without_the_extra_the_page_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qbench.report.figures, "available", lambda: False)
    with pytest.raises(RuntimeUnavailable, match=re.escape('pip install "qbench[figures]"')):
        qbench.report.figures.vega_bundle()


def test_a_template_without_its_value_is_refused() -> None:
    assert filled({"a": ["$x", {"$schema": "$kept", "b": "plain $x"}]}, {"x": 1}) == {
        "a": [1, {"$schema": "$kept", "b": "plain $x"}]
    }
    with pytest.raises(KeyError, match="bars"):
        chart("bars", {"description": "", "title": None, "width": 1, "height": 1, "x_title": "", "y_title": ""})
