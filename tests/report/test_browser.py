"""The page in a real Chromium: sorting, filters, download, keyboard, colours, widths, and what axe has to say."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import PHONE, launched, opened
from playwright.sync_api import Browser, Page, expect
from records import DETAILS, OK, many

from qbench.catalog import options
from qbench.report.page import build_page
from qbench.report.tables import csv_text

SECTIONS = ("overview", "pareto", "comparisons", "run/" + f"{1:012x}")
ROWS = "#overview-box tbody tr"
SENSITIVITY = tuple(
    {"layer": name, "encoding": "kmeans", "bits": bits, "sensitivity": 0.1 / bits, "bytes": bits, "chosen": bits == 4}
    for name in ("stem", "head")
    for bits in (2, 4)
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Addresses of pages of 1, 30 and 1,000 runs."""
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for count in (1, 30, 1000):
        records = many(count)
        if count == 30:
            records[1] = replace(records[1], sensitivity=SENSITIVITY, agreement_integer_percent=99.0,
                                 identical_logits_percent=50.0, largest_logit_difference=0.25,
                                 sums_rounded_once=("add",))  # fmt: skip
        details = {r.run_id: replace(DETAILS, run_id=r.run_id) for r in records if r.status == "ok"}
        commands = {r.run_id: f"qbench run method={r.method} bits={r.weight_bits}" for r in records}
        path = folder / f"{count}.html"
        path.write_text(build_page(records, details, commands), encoding="utf-8")
        found[count] = path.as_uri()
    return found


def column(page: Page, title: str) -> list[str]:
    """The first line of every cell below a heading, where there is a cell."""
    script = """title => {
        const heads = [...document.querySelectorAll("#overview-box thead th")];
        const place = heads.findIndex((head) => head.querySelector(".title").textContent === title);
        return [...document.querySelectorAll("#overview-box tbody tr")].map((row) => row.children[place])
            .filter((cell) => cell && !cell.hasAttribute("colspan")).map((cell) => cell.firstChild?.textContent ?? "");
    }"""
    found: list[str] = page.evaluate(script, title)
    return found


def test_every_run_is_a_row_and_what_went_wrong_is_visible(browser: Browser, pages: dict[int, str]) -> None:
    with opened(browser, pages[30]) as page:
        expect(page.locator(ROWS)).to_have_count(30)
        expect(page.locator("#count")).to_have_text("30 runs")
        expect(page.locator("tr.baseline .tag").first).to_have_text("baseline")
        failed = page.locator(ROWS, has_text="✕ failed").first
        expect(failed).to_contain_text("no calibration images")
        expect(page.locator(ROWS, has_text="! warning").first).to_contain_text("chance level")
        expect(page.locator(ROWS, has_text="– skipped").first).to_contain_text("has no form")
    with opened(browser, pages[1]) as page:
        expect(page.locator(ROWS)).to_have_count(1)
        expect(page.locator("#count")).to_have_text("1 run")
        expect(page.locator("#summary")).to_have_text("1 run · data set cifar10 · network vgg16")


def test_headings_sort_with_mouse_and_keyboard(browser: Browser, pages: dict[int, str]) -> None:
    with opened(browser, pages[30]) as page:
        size = page.locator("#overview-box th", has=page.get_by_role("button", name="size"))
        usual = column(page, "size")
        assert size.get_attribute("aria-sort") is None
        size.get_by_role("button").click()
        expect(size).to_have_attribute("aria-sort", "ascending")
        numbers = [float(text.replace(",", "")) for text in column(page, "size")]
        assert numbers == sorted(numbers) and [f"{n:,.1f}" for n in numbers] != usual
        size.get_by_role("button").press("Enter")
        expect(size).to_have_attribute("aria-sort", "descending")
        assert [float(text.replace(",", "")) for text in column(page, "size")] == sorted(numbers, reverse=True)
        assert page.locator(f"{ROWS}:last-child .reason").count() == 1  # no figure: last in both directions
        bits = page.locator("#overview-box th", has=page.get_by_role("button", name="bits", exact=True))
        bits.get_by_role("button").press("Space")
        expect(bits).to_have_attribute("aria-sort", "ascending")
        assert size.get_attribute("aria-sort") is None
        labels = [text for text in column(page, "bits") if text]
        assert [label[:2] for label in labels] == sorted(label[:2] for label in labels)


def test_filters_narrow_the_table_and_clear(browser: Browser, pages: dict[int, str]) -> None:
    with opened(browser, pages[30]) as page:
        page.get_by_label("Search").fill("kmeans W4")
        assert set(column(page, "method")) == {"kmeans"} and set(column(page, "bits")) == {"w4"}
        count = len(column(page, "bits"))
        expect(page.locator("#count")).to_have_text(f"{count} of 30 runs")
        page.get_by_label("Data set").select_option("cifar10")
        assert set(column(page, "data set")) == {"cifar10"} and 0 < len(column(page, "bits")) < count
        page.get_by_role("button", name="Clear").click()
        expect(page.locator(ROWS)).to_have_count(30)
        page.get_by_label("Status").select_option("failed")
        expect(page.locator(ROWS)).to_have_count(page.locator(ROWS, has_text="✕ failed").count())
        page.get_by_label("Search").fill("no such run")
        expect(page.locator("#count")).to_have_text("0 of 30 runs")


def test_the_download_is_the_csv_of_the_visible_rows(browser: Browser, pages: dict[int, str]) -> None:
    records = many(1000)
    with opened(browser, pages[1000], accept_downloads=True) as page:
        with page.expect_download() as started:
            page.get_by_role("button", name="Download CSV").click()
        assert started.value.suggested_filename == "results.csv"
        whole = list(csv.DictReader(io.StringIO(Path(started.value.path()).read_text(encoding="utf-8"))))
        page.get_by_label("Method").select_option("ptq")
        with page.expect_download() as started:
            page.get_by_role("button", name="Download CSV").click()
        part = list(csv.DictReader(io.StringIO(Path(started.value.path()).read_text(encoding="utf-8"))))
    expected = list(csv.DictReader(io.StringIO(csv_text(records))))
    assert len(whole) == 1000 and whole[0].keys() == expected[0].keys()
    assert [row["run_id"] for row in whole] == [row["run_id"] for row in expected]
    for name in ("status", "error", "top1_percent", "size_bytes", "delta_low_points", "warning", "traceback"):
        for row, one in zip(whole, expected, strict=True):
            assert row[name] == one[name] or float(row[name]) == float(one[name])
    assert [row["run_id"] for row in part] == [row["run_id"] for row in expected if row["method"] == "ptq"]


def test_a_thousand_runs_are_built_as_they_are_scrolled_to(browser: Browser, pages: dict[int, str]) -> None:
    with opened(browser, pages[1000]) as page:
        assert page.locator(ROWS).count() == 100
        expect(page.locator("#overview-box table")).to_have_attribute("aria-rowcount", "1001")
        page.locator("#overview-box").evaluate("box => box.scrollTo(0, box.scrollHeight)")
        expect(page.locator(ROWS)).to_have_count(200)
        # not click(), which first scrolls to the button: that shows more rows, and the button is another one then
        page.get_by_role("button", name="Show 800 more").dispatch_event("click")
        expect(page.locator(ROWS)).to_have_count(1000)
        page.get_by_label("Search").fill(f"{777:012x}")
        expect(page.locator(ROWS)).to_have_count(1)


def test_a_point_says_its_setting_and_command_and_opens_its_run(browser: Browser, pages: dict[int, str]) -> None:
    with opened(browser, pages[30] + "#pareto") as page:
        figures = page.locator("#pareto-figures figure")
        expect(figures).to_have_count(3)
        expect(figures.first.locator("svg")).to_be_visible()
        assert figures.first.locator(".mark-line path").count() == 1  # the front
        point = figures.first.locator(".mark-symbol.role-mark path").last
        point.hover()
        tooltip = page.locator("#vg-tooltip-element")
        expect(tooltip).to_contain_text("qbench run method=")
        expect(tooltip).to_contain_text("top-1, %")
        point.click()
        expect(page.locator("#run-title")).to_be_focused()
        assert page.url.rpartition("#")[2].startswith("run/")
        page.go_back()
        figures.first.locator("summary").click()
        table = figures.first.get_by_role("table")
        rows = table.locator("tbody tr")
        assert rows.count() == figures.first.locator(".mark-symbol.role-mark path").count()
        expect(rows.first).to_contain_text("on the front")
        expect(rows.first).to_contain_text("qbench run method=")


def test_the_page_of_a_run_shows_all_of_it(browser: Browser, pages: dict[int, str]) -> None:
    with opened(browser, pages[30] + f"#run/{1:012x}") as page:
        content = page.locator("#run-content")
        expect(content.locator("h2")).to_have_text(
            ["Repeat it", "Where the bytes went", "Layers", "Weights and levels", "Training", "What was confused",
             "Against the integer reference", "Latency", "Plan", "Config", "Environment", "Memory"]
        )  # fmt: skip
        expect(content.locator("figure svg")).to_have_count(9)
        histogram = content.locator("figure", has_text="Weights of stem")
        assert histogram.locator(".mark-rule.role-mark line").count() == 16
        page.get_by_role("combobox", name="Layer").select_option("head")
        expect(
            content.locator("figure", has_text="Weights of head").locator(".mark-rule.role-mark line")
        ).to_have_count(16)
        expect(content).to_contain_text("2 images of 200 differ")
        expect(content).to_contain_text("1 sum of two values rounded once by this engine, and twice by the reference.")
        expect(content.locator("table", has_text="none (NaN)")).to_be_visible()
        page.locator("#run-form select").select_option(f"{7:012x}")
        expect(content.locator(".notice.bad")).to_contain_text("failed: MethodError: stem: no calibration images")


def test_a_record_of_an_older_version_says_what_it_lacks(browser: Browser, tmp_path: Path) -> None:
    older = replace(OK, layers=(), history=(), latency=(), stage_keys={}, environment={}, config={})
    path = tmp_path / "old.html"
    path.write_text(build_page([older]), encoding="utf-8")
    with opened(browser, path.as_uri() + "#run") as page:
        missing = page.locator("#run-content .missing")
        expect(missing.filter(has_text="not recorded")).to_have_count(10)
        expect(missing.filter(has_text="histograms of the weights")).to_be_visible()


def test_a_figure_is_saved_for_papers(browser: Browser, pages: dict[int, str]) -> None:
    with opened(browser, pages[30] + "#pareto", accept_downloads=True, color_scheme="dark") as page:
        for kind, begins in (("SVG", b"<svg"), ("PNG", b"\x89PNG")):
            with page.expect_download() as started:
                page.get_by_role("button", name=f"{kind} of Top-1 accuracy against size").click()
            assert started.value.suggested_filename.startswith("pareto_size_")
            content = Path(started.value.path()).read_bytes()
            assert content.startswith(begins) and len(content) > 2000


def test_colours_follow_the_system_and_the_button(browser: Browser, pages: dict[int, str]) -> None:
    def paper(page: Page) -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    with opened(browser, pages[30] + "#pareto", color_scheme="dark") as page:
        dark = paper(page)
        labels = page.locator("#pareto-figures figure svg text").first
        of_dark = labels.get_attribute("fill")
        button = page.get_by_role("button", name="Dark")
        expect(button).to_have_attribute("aria-pressed", "true")
        button.press("Enter")
        expect(button).to_have_attribute("aria-pressed", "false")
        light = paper(page)
        assert sum(map(int, light[4:-1].split(","))) > 600 > 150 > sum(map(int, dark[4:-1].split(",")))
        expect(page.locator("#pareto-figures figure svg text").first).not_to_have_attribute("fill", of_dark or "")
    with opened(browser, pages[1]) as page:
        assert paper(page) == light


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("width", [320, 390, 768, 1600])
def test_no_width_makes_the_page_scroll_sideways(
    browser: Browser, pages: dict[int, str], section: str, width: int
) -> None:
    with opened(browser, f"{pages[30]}#{section}", viewport={"width": width, "height": 800}) as page:
        if section != "overview":
            page.locator("main figure svg").last.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if section == "overview" and width < 1000:
            box = page.locator("#overview-box")
            assert box.evaluate("box => box.scrollWidth > box.clientWidth")  # the table scrolls in its own box


def test_many_methods_of_long_names_fit_a_phone_and_are_told_apart(browser: Browser, tmp_path: Path) -> None:
    names = sorted(options("method"))
    records = [replace(OK, run_id=f"{place:012x}", method=name) for place, name in enumerate(names)]
    path = tmp_path / "methods.html"
    path.write_text(build_page(records, {}, {}), encoding="utf-8")
    with opened(browser, path.as_uri(), viewport=PHONE) as page:
        page.locator(ROWS).first.wait_for()
        widths = page.locator("#overview-box tbody th").evaluate_all(
            "ths => ths.map(th => [th.scrollWidth, th.clientWidth])"
        )
        assert len(widths) == len(names)
        assert all(needed <= there for needed, there in widths)
        page.goto(path.as_uri() + "#pareto")
        chart = page.locator("#pareto-figures svg").first
        chart.wait_for()
        inside = chart.bounding_box()
        assert inside is not None
        labels = chart.locator(".role-legend-label text").all()
        assert {label.text_content() for label in labels} == {*names}
        for label in labels:
            box = label.bounding_box()
            assert box is not None and box["x"] + box["width"] <= inside["x"] + inside["width"]
        marks = chart.locator(".role-legend-symbol path").evaluate_all(
            "marks => marks.map((mark) => mark.getAttribute('d') + mark.getAttribute('fill'))"
        )
        assert len({*marks}) == len(names)


def test_everything_is_reached_with_the_keyboard(browser: Browser, pages: dict[int, str]) -> None:
    with opened(browser, pages[30]) as page:
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        reached = []
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.textContent.trim().slice(0, 30)"))
        assert {"Overview", "Pareto fronts", "Comparisons", "Runs", "Dark", "Download CSV"} <= {*reached}
        page.locator("#overview-box").focus()
        page.keyboard.press("End")
        page.wait_for_function("document.getElementById('overview-box').scrollTop > 0")
        page.get_by_role("link", name="Comparisons").press("Enter")
        expect(page.locator("#comparisons-title")).to_be_focused()
        expect(page.get_by_role("link", name="Comparisons")).to_have_attribute("aria-current", "page")


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", ["desktop", "phone"])
def test_axe_finds_nothing_serious(
    browser: Browser, pages: dict[int, str], section: str, scheme: str, device: str
) -> None:
    options = {"viewport": PHONE} if device == "phone" else {}
    with opened(browser, f"{pages[30]}#{section}", color_scheme=scheme, **options) as page:
        if section != "overview":
            page.locator("main figure svg").last.wait_for()
        found = Axe().run(page).response["violations"]
    assert [
        (one["id"], one["impact"], [node["html"][:200] for node in one["nodes"]][:3])
        for one in found
        if one["impact"] in ("serious", "critical")
    ] == []


def test_text_of_records_is_shown_as_text(browser: Browser, tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=\"document.title='hacked'\"><b>bold</b>"
    records = [
        replace(OK, method=hostile, model=hostile, warning=hostile, config={hostile: hostile}, layers=()),
        replace(OK, run_id="second", method="linear", model=hostile, top1_percent=80.0, size_bytes=20000),
    ]
    path = tmp_path / "hostile.html"
    path.write_text(build_page(records, {}, {"ok": hostile, "second": hostile}), encoding="utf-8")
    for section in ("overview", "pareto", "comparisons", "run/ok"):
        with opened(browser, f"{path.as_uri()}#{section}") as page:
            if section == "pareto":
                page.locator("#pareto-figures figure .mark-symbol.role-mark path").last.hover()
                expect(page.locator("#vg-tooltip-element")).to_contain_text("<b>bold</b>")
            assert page.locator("img, main b").count() == 0
            assert page.title() == "qbench report"
