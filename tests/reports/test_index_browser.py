"""The gallery in a real browser: silent, self-contained, accessible; its links open the reports."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audit.records import RunRecord
from reports.index_page import write_index
from reports.report import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[test]'")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe: pip install -e '.[test]'")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
ODD = "a b#c%20 (1) [x] é"


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
    """A gallery of two reports, one without its record."""
    folder = tmp_path_factory.mktemp("gallery")
    write_report([record], folder / ODD)
    shutil.rmtree(write_report([attack_record], folder / "broken") / "records")
    return write_index(folder)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_renders_in_silence_and_passes_axe(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    """If this failed, there would be an error, a request, text that is cut off or a breach of WCAG 2.2 AA."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab, said, asked = context.new_page(), [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page_file.as_uri())
    found = axe.Axe().run(
        tab, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
    )
    assert found.violations_count == 0, found.generate_report()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page_file.as_uri()]
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.locator("main img").count() == 2
    context.close()


def test_its_links_open_the_reports(browser: Any, page_file: Path) -> None:
    """If this failed, a folder's name would lead the browser elsewhere."""
    context = browser.new_context()
    tab = context.new_page()
    tab.goto(page_file.as_uri())
    for link in tab.locator("main table a").all():
        page = context.new_page()
        page.goto(link.evaluate("(one) => one.href"))
        assert page.locator("h1").count() == 1
        assert page.url.endswith("/report.html")
    context.close()
