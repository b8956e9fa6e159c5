"""The gallery in a real browser: silent, self-contained, accessible; its links open the reports."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from audit.records import RunRecord
from reports.index_page import write_index
from reports.report import write_report

ODD = "a b#c%20 (1) [x] é"


@pytest.fixture(scope="module")
def page_file(record: RunRecord, attack_record: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of two reports, one without its record."""
    folder = tmp_path_factory.mktemp("gallery")
    write_report([record], folder / ODD)
    shutil.rmtree(write_report([attack_record], folder / "broken") / "records")
    return write_index(folder)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_renders_in_silence_and_passes_axe(examined: Any, page_file: Path, width: int, scheme: str) -> None:
    """If this failed, there would be an error, a request, text that is cut off or a breach of WCAG 2.2 AA."""
    examined(page_file, width, scheme)


def test_each_report_has_its_picture(opened: Any, page_file: Path) -> None:
    """If this failed, a gallery would be a list."""
    with opened(page_file) as page:
        assert page.tab.locator("main img").count() == 2


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
