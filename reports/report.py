"""A report folder from run records: one page as HTML and as Markdown, tables, pictures, copies of the records."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from audit.records import RunRecord
from defenses.errors import UserError
from reports.html_page import html_page
from reports.markdown import MARK, file_name, report_text
from reports.reading_page import reading_fragments
from reports.table_files import write_tables

PAGE = "report.html"
PARTS = {PAGE, "report.md", "figures", "tables", "records"}


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
    out = out_dir.resolve()
    _demand_replaceable(out)
    partial = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        for part in ("figures", "tables", "records"):
            (partial / part).mkdir(parents=True)
        _fill(records, partial)
        _swap(partial, out)
    except OSError as error:
        raise UserError(f"{out}: the report cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out_dir


def _fill(records: Sequence[RunRecord], folder: Path) -> None:
    for index, record in enumerate(records, start=1):
        record.write(folder / "records" / file_name(records, index))
    text = report_text(records, folder)
    (folder / "report.md").write_text(text, encoding="utf-8")
    (folder / PAGE).write_text(html_page(text, folder, reading_fragments(records)), encoding="utf-8")
    write_tables(text, folder / "tables")


def _demand_replaceable(out: Path) -> None:
    if not out.exists():
        return
    names = {item.name for item in out.iterdir()} if out.is_dir() else {out.name}
    report = out / "report.md"
    ours = names <= PARTS and report.is_file() and report.read_bytes().startswith(MARK.encode())
    if names and not ours:
        raise UserError(f"{out}: holds something other than a delaudit report; name another folder")


def _swap(partial: Path, out: Path) -> None:
    """Put the new folder in place of the old one, which comes back if that fails."""
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    if out.exists():
        out.rename(old)
    try:
        partial.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
