"""The report that the README shows is what its records say today."""

from pathlib import Path

import pytest

from audit.records import RunRecord
from reports.plain_words import plain_words
from reports.report import PAGE, PARTS
from reports.verdict_table import verdict_section

FOLDER = Path(__file__).parents[2] / "docs" / "example-report"
AGAIN = "make it anew: delaudit report docs/example-report/records/*.json -o docs/example-report"


@pytest.fixture(scope="module")
def records() -> list[RunRecord]:
    """Its records, in their order."""
    if not FOLDER.is_dir():
        pytest.skip("needs a checkout: the example report is no part of the package")
    return [RunRecord.read(path) for path in sorted((FOLDER / "records").glob("*.json"))]


def test_it_says_what_its_records_say(records: list[RunRecord]) -> None:
    """If this failed, the report that everybody looks at first would be of another version."""
    text = (FOLDER / "report.md").read_text(encoding="utf-8")
    for lines in (plain_words(records), verdict_section(records)):
        assert "\n".join(lines) in text, AGAIN


def test_it_is_whole_and_small(records: list[RunRecord]) -> None:
    """If this failed, a part would be missing, or the page too large to send."""
    assert {item.name for item in FOLDER.iterdir()} == PARTS
    assert (FOLDER / PAGE).stat().st_size < 5e6
    assert [record.dirty for record in records] == [False] * 3
