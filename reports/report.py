"""A report folder from run records: one page as HTML and as Markdown, tables, pictures, copies of the records."""

from collections.abc import Sequence
from pathlib import Path

from audit.records import RunRecord
from reports.folder import Kind, written
from reports.html_page import html_page, parsed
from reports.markdown import MARK, file_name, report_text
from reports.reading_page import reading_fragments
from reports.table_files import write_tables

PAGE = "report.html"
PARTS = frozenset({PAGE, "report.md", "figures", "tables", "records"})
REPORT = Kind("report", "report.md", MARK, PARTS, ("figures", "tables", "records"))


def write_report(records: Sequence[RunRecord], out_dir: Path) -> Path:
    """Write a report folder in one step.

    The folder is made beside its place and renamed. A report that is there already is replaced; a folder that holds
    anything else is left alone.

    Returns:
        The folder: report.html, which opens from disk and needs nothing beside it; report.md with the same content;
        figures/ (SVG and PNG), tables/ (CSV and LaTeX), records/.

    Raises:
        UserError: `out_dir` holds something that is not a report, or cannot be written.
        ValueError: No records.
    """
    if not records:
        raise ValueError("a report needs at least one record")
    with written(out_dir, REPORT) as folder:
        _fill(records, folder)
    return out_dir


def _fill(records: Sequence[RunRecord], folder: Path) -> None:
    for index, record in enumerate(records, start=1):
        record.write(folder / "records" / file_name(records, index))
    text = report_text(records, folder)
    (folder / "report.md").write_text(text, encoding="utf-8")
    fragments = reading_fragments(records)
    tokens = parsed(text, fragments)
    write_tables(tokens, folder / "tables")
    (folder / PAGE).write_text(html_page(tokens, folder, fragments), encoding="utf-8")
