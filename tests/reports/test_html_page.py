"""The HTML page and the table files: the same content as the Markdown, nothing fetched, nothing injected."""

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from audit.records import RunRecord
from reports.html_page import html_page, parsed
from reports.report import PAGE, PARTS, write_report
from reports.table_files import csv_of, latex_of, tables_of

TEXT = """<!-- delaudit report -->
# A title with <b>markup</b> &amp; more

A paragraph with **weight** and `code`.

## Run 1: first

### Verdicts

| claim | value |
| --- | --- |
| *a* \\| b | 1,234.5 [1,200, 1,300] |
| =SUM(A1) | 50 % & more_ {x} |

### Verdicts

| other |
| --- |
| &lt;script&gt;alert(1)&lt;/script&gt; |

![What it shows: 3 \\[2, 4\\].](figures/one.png)
"""


class Reader(HTMLParser):
    """Elements with their attributes, and the cells of tables."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self._cell: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element opens."""
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"th", "td"}:
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        """An element closes."""
        if tag in {"th", "td"} and self._cell is not None:
            self.tables[-1][-1].append("".join(self._cell))
            self._cell = None

    def handle_data(self, data: str) -> None:
        """Text."""
        if self._cell is not None:
            self._cell.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of every element of this name."""
        return [attributes for name, attributes in self.elements if name == tag]


def read(page: str) -> Reader:
    """The page, read as a browser would."""
    reader = Reader()
    reader.feed(page)
    return reader


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A report's folder with one picture, as SVG and as PNG."""
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "one.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>", encoding="utf-8")
    (tmp_path / "figures" / "one.png").write_bytes(b"\x89PNG")
    return tmp_path


def test_the_page_has_headers_names_and_anchors(folder: Path) -> None:
    """If this failed, a screen reader would read cells without their columns, or links would go nowhere."""
    found = read(html_page(parsed(TEXT), folder))
    scopes = [one["scope"] for one in found.of("th")]
    assert scopes == ["col", "col", "row", "row", "col", "row"]
    regions = [one for one in found.of("div") if one.get("role") == "region"]
    assert [one["aria-label"] for one in regions] == ["Table 1: Verdicts", "Table 2: Verdicts"]
    assert all(one["tabindex"] == "0" for one in regions)
    anchors = [one["id"] for name in ("h1", "h2", "h3") for one in found.of(name)]
    assert len(set(anchors)) == len(anchors) == 4
    linked = {str(one["href"]).removeprefix("#") for one in found.of("a")}
    assert linked == {*anchors[1:], "report"}
    assert found.of("html")[0]["lang"] == "en"


def test_pictures_are_in_the_page_with_their_text(folder: Path) -> None:
    """If this failed, the page would need files beside it, or say nothing to who cannot see the picture."""
    (image,) = read(html_page(parsed(TEXT), folder)).of("img")
    assert str(image["src"]).startswith("data:image/svg+xml;base64,")
    assert image["alt"] == "What it shows: 3 [2, 4]."
    (folder / "figures" / "one.svg").unlink()
    (image,) = read(html_page(parsed(TEXT), folder)).of("img")
    assert str(image["src"]).startswith("data:image/png;base64,")


def test_nothing_is_fetched_and_nothing_from_text_becomes_markup(folder: Path) -> None:
    """If this failed, opening a report would tell somebody so, or run what a prompt holds."""
    page = html_page(parsed(TEXT + "\n<img src=x onerror=alert(1)>\n\n[a](javascript:alert(1))\n"), folder)
    found = read(page)
    assert not [one for one in found.of("b") if one]
    assert len(found.of("script")) == 1
    assert len(found.of("img")) == 1
    sources = [one.get(key) for _, one in found.elements for key in ("src", "href", "action")]
    assert all(str(one).startswith(("#", "data:")) for one in sources if one is not None)
    policy = next(one["content"] for one in found.of("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'; img-src data:")
    assert "@import" not in page
    assert "A title with <b>markup</b>" not in page


def test_every_table_is_the_markdowns(record: RunRecord, tmp_path: Path) -> None:
    """If this failed, page, CSV and Markdown would show other figures than one another."""
    out = write_report([record], tmp_path / "report")
    text = (out / "report.md").read_text(encoding="utf-8")
    shown = read((out / PAGE).read_text(encoding="utf-8")).tables
    tables = list(tables_of(parsed(text)))
    assert [[list(one.header), *map(list, one.rows)] for one in tables] == shown
    files = sorted((out / "tables").glob("*.csv"))
    assert len(files) == len(tables) > 5
    for path, table in zip(files, shown, strict=True):
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
        assert [[cell.removeprefix("'") for cell in row] for row in rows] == table
    assert {path.name for path in out.iterdir()} == PARTS
    assert {path.stem for path in (out / "figures").glob("*.svg")} == {
        path.stem for path in (out / "figures").glob("*.png")
    }


def test_cells_are_plain_and_no_formulae() -> None:
    """If this failed, a spreadsheet would compute what a prompt says, or a minus or a percentage would be lost."""
    first, second = tables_of(parsed(TEXT))
    assert (first.part, first.title, first.header) == ("Run 1: first", "Verdicts", ("claim", "value"))
    assert first.rows == (("a | b", "1,234.5 [1,200, 1,300]"), ("=SUM(A1)", "50 % & more_ {x}"))
    assert second.rows == (("<script>alert(1)</script>",),)
    assert csv_of(first).splitlines()[1:] == ['a | b,"1,234.5 [1,200, 1,300]"', "'=SUM(A1),50 % & more_ {x}"]


def test_tables_are_latex_with_rules() -> None:
    """If this failed, a paper's table would not compile, or its rows have another number of columns than its head."""
    found = latex_of(next(iter(tables_of(parsed(TEXT)))))
    assert [rule in found for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [True] * 3
    assert r"=SUM(A1) & 50 \% \& more\_ \{x\} \\" in found
    assert r"\caption{Run 1: first: Verdicts}" in found
    lines = [line for line in found.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {1}
    assert latex_of(next(iter(tables_of(parsed("| ε_x |\n| --- |\n| ≥ 1 |\n"))))).count("$") == 4
