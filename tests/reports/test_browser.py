"""The HTML page in a real browser: silent, self-contained, accessible, printable; each control does what it says."""

from pathlib import Path
from typing import Any

import pytest

from audit.records import RunRecord
from reports.report import PAGE, write_report


@pytest.fixture(scope="module")
def page_file(record: RunRecord, attack_record: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two runs, with prompts that hold markup."""
    return write_report([record, attack_record], tmp_path_factory.mktemp("pages") / "report") / PAGE


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_renders_in_silence_and_passes_axe(examined: Any, page_file: Path, width: int, scheme: str) -> None:
    """If this failed, there would be an error, a request, text that is cut off or a breach of WCAG 2.2 AA."""
    examined(page_file, width, scheme)


def test_nothing_of_a_prompt_runs(opened: Any, page_file: Path) -> None:
    """If this failed, text from data sets would be markup: the fixtures' prompts hold an element and its end."""
    with opened(page_file) as page:
        assert page.tab.locator("main b").count() == 0
        assert page.tab.get_by_text("<b>$x_$|evil</b>").count() > 0


def test_it_is_complete_without_scripts(opened: Any, page_file: Path) -> None:
    """If this failed, a reader without JavaScript would miss tables or pictures, or meet dead controls."""
    with opened(page_file) as whole, opened(page_file, java_script_enabled=False) as plain:
        for what in ("main table", "main tbody tr", "main img", "main h2", "main h3"):
            assert plain.tab.locator(what).count() == whole.tab.locator(what).count() > 0
        assert plain.tab.locator("button:visible, input:visible").count() == 0
        assert plain.tab.locator("main tbody tr:visible").count() == plain.tab.locator("main tbody tr").count()


def test_dark_colours_are_switched(opened: Any, page_file: Path) -> None:
    """If this failed, the button would not turn the page dark and light again, or say which it is."""
    with opened(page_file, color_scheme="light") as page:
        button = page.tab.get_by_role("button", name="Dark colours")
        shade = "getComputedStyle(document.body).backgroundColor"
        light = page.tab.evaluate(shade)
        for pressed, same in (("true", False), ("false", True)):
            button.click()
            assert button.get_attribute("aria-pressed") == pressed
            assert (page.tab.evaluate(shade) == light) is same


def _column(table: Any, number: int) -> list[str]:
    return [row.locator("th, td").nth(number).inner_text() for row in table.locator("tbody tr:visible").all()]


def test_columns_are_sorted_and_rows_filtered(opened: Any, page_file: Path) -> None:
    """If this failed, a reader would take an unsorted column for a sorted one, or lose rows for good."""
    with opened(page_file) as page:
        table = page.tab.locator("main table").filter(has_text="what the guarantee is worth").first
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


def test_charts_are_live(opened: Any, page_file: Path) -> None:
    """If this failed, a control of a chart would do nothing: hover, choice of curves, scale of the axes."""
    with opened(page_file) as page:
        charts = page.tab.locator("figure[data-chart]")
        charts.locator(".chart svg").last.wait_for()
        assert charts.count() == charts.locator(".chart svg").count() >= 3
        assert charts.locator("img:visible").count() == 0
        first = charts.first
        marks = first.locator(".mark-symbol.role-mark path")
        marks.first.hover()
        tooltip = page.tab.locator("#vg-tooltip-element")
        tooltip.wait_for()
        assert "del d128-noise-aware n=4" in tooltip.inner_text()
        assert "[" in tooltip.inner_text()
        before = {mark.get_attribute("opacity") for mark in marks.all()}
        first.locator(".role-legend-symbol path").first.click(force=True)
        page.tab.wait_for_function(
            "(before) => new Set([...document.querySelectorAll('figure[data-chart] .mark-symbol.role-mark path')]"
            ".map((mark) => mark.getAttribute('opacity'))).size > before",
            arg=len(before),
        )
        ticks = first.locator(".role-axis-label text")
        logarithmic = ticks.all_text_contents()
        first.get_by_label("Logarithmic axes").uncheck()
        page.tab.wait_for_function(
            "(before) => [...document.querySelector('figure[data-chart]').querySelectorAll('.role-axis-label text')]"
            ".map((tick) => tick.textContent).join() !== before",
            arg=",".join(logarithmic),
        )
        page.tab.emulate_media(media="print")
        assert charts.locator(".chart:visible").count() == 0
        assert charts.locator("img:visible").count() == charts.count()


def test_it_prints(opened: Any, page_file: Path, tmp_path: Path) -> None:
    """If this failed, nobody could hand the report to a board: several pages, and no controls on them."""
    with opened(page_file, color_scheme="dark") as page:
        page.tab.emulate_media(media="print")
        assert page.tab.locator(".control:visible, .filter:visible, nav:visible").count() == 0
        assert page.tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        printed = page.tab.pdf(path=str(tmp_path / "report.pdf"), format="A4")
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") >= 3
