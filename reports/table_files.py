"""Every table of a report as CSV and as LaTeX (booktabs), read from the Markdown, so that all show the same cells."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markdown_it.token import Token

from reports.html_page import plain

_FORMULA = tuple("=+-@\t")
_NUMBER = re.compile(r"[-+]?\d")
_GREEK = {
    "ε": r"$\varepsilon$", "μ": r"$\mu$", "δ": r"$\delta$", "κ": r"$\kappa$", "η": r"$\eta$",
    "\N{GREEK SMALL LETTER ALPHA}": r"$\alpha$", "\N{GREEK SMALL LETTER GAMMA}": r"$\gamma$",
    "\N{GREEK SMALL LETTER SIGMA}": r"$\sigma$", "β": r"$\beta$",
    "≥": r"$\geq$", "≤": r"$\leq$", "⏎": r"$\hookleftarrow$",
}  # fmt: skip


@dataclass(frozen=True)
class Cells:
    """A table of a report.

    Attributes:
        part: The run that it belongs to, where a report has several; else "".
        title: The heading above it.
        header: Names of the columns.
        rows: Cells as plain text.
    """

    part: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables_of(tokens: Sequence[Token]) -> Iterator[Cells]:
    """The tables of a report's Markdown as `parsed` gives it, in order."""
    part = title = ""
    rows: list[list[str]] = []
    for place, one in enumerate(tokens):
        if one.type == "heading_open":
            title = plain(tokens[place + 1])
            part = title if one.tag == "h2" else part
        elif one.type == "table_open":
            rows = []
        elif one.type == "tr_open":
            rows.append([])
        elif one.type in ("th_open", "td_open"):
            rows[-1].append(_cell(tokens[place + 1]))
        elif one.type == "table_close":
            yield Cells(part, title, tuple(rows[0]), tuple(map(tuple, rows[1:])))


def write_tables(tokens: Sequence[Token], folder: Path) -> list[Path]:
    """Write every table of a report's Markdown twice, NN-title.csv and NN-title.tex.

    Args:
        tokens: The Markdown as `parsed` gives it.
        folder: Where they go; it must exist.

    Returns:
        The files, in order.
    """
    written = []
    for number, table in enumerate(tables_of(tokens), start=1):
        name = re.sub(r"[^a-z0-9]+", "-", table.title.lower()).strip("-")[:60] or "table"
        for suffix, content in ((".csv", csv_of(table)), (".tex", latex_of(table))):
            path = folder / f"{number:02}-{name}{suffix}"
            path.write_text(content, encoding="utf-8", newline="")
            written.append(path)
    return written


def csv_of(table: Cells) -> str:
    """Comma-separated, as RFC 4180 has it.

    A text that a spreadsheet would take for a formula gets an apostrophe in front: prompts come from anywhere.
    """
    safe = [[_inert(cell) for cell in row] for row in table.rows]
    return _frame(table.header, safe).to_csv(index=False, lineterminator="\r\n")


def latex_of(table: Cells) -> str:
    """A table environment with booktabs' rules; letters beyond Latin-1 want XeLaTeX or LuaLaTeX."""
    caption = f"{table.part}: {table.title}" if table.part not in ("", table.title) else table.title
    header = [_latex(name) for name in table.header]
    styled = _frame(header, table.rows).style.format(formatter=_latex).hide(axis="index")
    body = styled.to_latex(
        hrules=True,
        caption=_latex(caption),
        column_format="l" * len(header),
        position="htbp",
        position_float="centering",
    )
    return "% needs \\usepackage{booktabs}\n" + _greek(body)


def _frame(header: Sequence[str], rows: Sequence[Sequence[str]]) -> pd.DataFrame:
    return pd.DataFrame([list(row) for row in rows], columns=pd.Index(list(header)), dtype="string")


def _cell(inline: Token) -> str:
    """A cell's plain text: code spans and emphasis lose their marks."""
    return plain(inline)


def _inert(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) and not _NUMBER.match(cell) and cell != "-" else cell


def _latex(text: object) -> str:
    """Text with LaTeX's own signs escaped."""
    signs = {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    }  # fmt: skip
    return "".join(signs.get(sign, sign) for sign in str(text))


def _greek(text: str) -> str:
    return "".join(_GREEK.get(sign, sign) for sign in text)
