"""The HTML page in a real browser: silent, self-contained, accessible, printable; each control does what it says."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from audit.records import RunRecord
from reports.report import PAGE, write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[test]'")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe: pip install -e '.[test]'")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window: the system's, or Playwright's own."""
    with sync_api.sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(
                executable_path=next(filter(None, map(shutil.which, BROWSERS)), None), args=["--no-sandbox"]
            )
        except sync_api.Error:
            pytest.skip("needs a browser: apt install chromium, or playwright install chromium")
        yield found
        found.close()


@pytest.fixture(scope="module")
def page_file(record: RunRecord, attack_record: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two runs, with prompts that hold markup."""
    return write_report([record, attack_record], tmp_path_factory.mktemp("pages") / "report") / PAGE


class Opened:
    """The page in a tab, with what the browser said and asked for."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        self.tab = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.tab.on("console", lambda message: self.said.append(message.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.goto(path.as_uri())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_renders_in_silence_and_passes_axe(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    """If this failed, there would be an error, a request, text that is cut off or a breach of WCAG 2.2 AA."""
    with Opened(browser, page_file, width, color_scheme=scheme) as opened:
        found = axe.Axe().run(
            opened.tab, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
        )
        assert found.violations_count == 0, found.generate_report()
        assert opened.said == []
        assert [url for url in opened.asked if not url.startswith("data:")] == [page_file.as_uri()]
        assert opened.tab.evaluate("document.documentElement.scrollWidth") == width


def test_nothing_of_a_prompt_runs(browser: Any, page_file: Path) -> None:
    """If this failed, text from data sets would be markup: the fixtures' prompts hold an element and its end."""
    with Opened(browser, page_file) as opened:
        assert opened.tab.locator("main b").count() == 0
        assert opened.tab.get_by_text("<b>$x_$|evil</b>").count() > 0


def test_it_is_complete_without_scripts(browser: Any, page_file: Path) -> None:
    """If this failed, a reader without JavaScript would miss tables or pictures, or meet dead controls."""
    with Opened(browser, page_file) as whole, Opened(browser, page_file, java_script_enabled=False) as plain:
        for what in ("main table", "main tbody tr", "main img", "main h2", "main h3"):
            assert plain.tab.locator(what).count() == whole.tab.locator(what).count() > 0
        assert plain.tab.locator("button:visible, input:visible").count() == 0
        assert plain.tab.locator("main tbody tr:visible").count() == plain.tab.locator("main tbody tr").count()


def test_dark_colours_are_switched(browser: Any, page_file: Path) -> None:
    """If this failed, the button would not turn the page dark and light again, or say which it is."""
    with Opened(browser, page_file, color_scheme="light") as opened:
        button = opened.tab.get_by_role("button", name="Dark colours")
        shade = "getComputedStyle(document.body).backgroundColor"
        light = opened.tab.evaluate(shade)
        for pressed, same in (("true", False), ("false", True)):
            button.click()
            assert button.get_attribute("aria-pressed") == pressed
            assert (opened.tab.evaluate(shade) == light) is same


def _column(table: Any, number: int) -> list[str]:
    return [row.locator("th, td").nth(number).inner_text() for row in table.locator("tbody tr:visible").all()]


def test_columns_are_sorted_and_rows_filtered(browser: Any, page_file: Path) -> None:
    """If this failed, a reader would take an unsorted column for a sorted one, or lose rows for good."""
    with Opened(browser, page_file) as opened:
        table = opened.tab.locator("main table").filter(has_text="what the guarantee is worth").first
        before = _column(table, 0)
        assert len(before) >= 8
        heads = table.locator("thead th")
        number = next(place for place in range(heads.count()) if heads.nth(place).inner_text() == "perplexity")
        for direction in ("ascending", "descending"):
            heads.nth(number).get_by_role("button").click()
            assert heads.nth(number).get_attribute("aria-sort") == direction
            values = [
                float(cell.split(" ")[0].rstrip(":").replace(",", ""))
                for cell in _column(table, number)
                if cell[0].isdigit()
            ]
            assert values == sorted(values, reverse=direction == "descending")
            assert len(set(values)) > 3
        assert sorted(_column(table, 0)) == sorted(before)
        box = table.locator("xpath=../preceding-sibling::*[1]").get_by_label("Show rows with")
        box.fill("mu=20 n=8")
        assert all("mu=20" in cell and "n=8" in cell for cell in _column(table, 0))
        assert 0 < len(_column(table, 0)) < len(before)
        box.fill("")
        assert sorted(_column(table, 0)) == sorted(before)


def test_charts_are_live(browser: Any, page_file: Path) -> None:
    """If this failed, a control of a chart would do nothing: hover, choice of curves, scale of the axes."""
    with Opened(browser, page_file) as opened:
        charts = opened.tab.locator("figure[data-chart]")
        charts.locator(".chart svg").last.wait_for()
        assert charts.count() == charts.locator(".chart svg").count() >= 3
        assert charts.locator("img:visible").count() == 0
        first = charts.first
        marks = first.locator(".mark-symbol.role-mark path")
        marks.first.hover()
        tooltip = opened.tab.locator("#vg-tooltip-element")
        tooltip.wait_for()
        assert "del d128-noise-aware n=4" in tooltip.inner_text()
        assert "[" in tooltip.inner_text()
        before = {mark.get_attribute("opacity") for mark in marks.all()}
        first.locator(".role-legend-symbol path").first.click(force=True)
        opened.tab.wait_for_function(
            "(before) => new Set([...document.querySelectorAll('figure[data-chart] .mark-symbol.role-mark path')]"
            ".map((mark) => mark.getAttribute('opacity'))).size > before",
            arg=len(before),
        )
        ticks = first.locator(".role-axis-label text")
        logarithmic = ticks.all_text_contents()
        first.get_by_label("Logarithmic axes").uncheck()
        opened.tab.wait_for_function(
            "(before) => [...document.querySelector('figure[data-chart]').querySelectorAll('.role-axis-label text')]"
            ".map((tick) => tick.textContent).join() !== before",
            arg=",".join(logarithmic),
        )
        opened.tab.emulate_media(media="print")
        assert charts.locator(".chart:visible").count() == 0
        assert charts.locator("img:visible").count() == charts.count()


def test_it_prints(browser: Any, page_file: Path, tmp_path: Path) -> None:
    """If this failed, nobody could hand the report to a board: several pages, and no controls on them."""
    with Opened(browser, page_file, color_scheme="dark") as opened:
        opened.tab.emulate_media(media="print")
        assert opened.tab.locator(".control:visible, .filter:visible, nav:visible").count() == 0
        assert opened.tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        printed = opened.tab.pdf(path=str(tmp_path / "report.pdf"), format="A4")
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") >= 3
