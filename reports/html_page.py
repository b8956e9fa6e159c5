"""A report's Markdown as one HTML page that opens from disk: its pictures are in it, and nothing is fetched.

The Markdown is the report; this is another dress of it, by markdown-it (CommonMark with tables, raw HTML switched off,
so that a prompt that holds markup shows as text). Headings get anchors, tables headers and a name, pictures their
caption. Scripts add sorting, filtering and dark colours; without them the page is complete.
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import vl_convert
from jinja2 import Environment, StrictUndefined, Template
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from reports.charts import SPEC

ASSETS = Path(__file__).with_name("assets")
IN_CONTENTS = ("h2", "h3")
LARGE = 200_000
"""Bytes of an SVG above which a page takes the PNG, if that is smaller."""
_COMMENTS = re.compile(r"^<!-- [a-z0-9 ]* -->$", re.MULTILINE)
_PLACE = "\uf8ff{}\uf8ff"  # of a fragment: a private sign, which `reports.rows.escape` lets nobody write
_KINDS = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class Entry:
    """A line of the table of contents.

    Attributes:
        level: 2 or 3.
        id: Of the heading.
        text: Of the heading.
    """

    level: int
    id: str
    text: str


def html_page(tokens: list[Token], folder: Path, fragments: Mapping[str, str] | None = None) -> str:
    """The page.

    Args:
        tokens: The report's Markdown as `parsed` gives it, with the same fragments; they are changed. Links to pictures
            are relative to `folder`.
        folder: The report's folder; of a picture the SVG is taken where there is one.
        fragments: Comment "<!-- NAME begins -->" -> HTML that takes the place of what stands between it and
            "<!-- NAME ends -->", both alone on their lines; its maker has escaped it.
    """
    contents = list(_anchored(tokens))
    _label_tables(tokens)
    charts = _embed_pictures(tokens, folder)
    title = next((plain(tokens[place + 1]) for place, one in enumerate(tokens) if one.tag == "h1"), "delaudit report")
    style, script = ((ASSETS / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    body = _markdown().renderer.render(tokens, _markdown().options, {})
    for number, fragment in enumerate((fragments or {}).values()):
        body = body.replace(f"<p>{_PLACE.format(number)}</p>", fragment)
    return _template().render(
        title=title, contents=contents, style=Markup(style), script=Markup(script), body=Markup(body),  # noqa: S704 - ours
        charts=[Markup(_inert(chart)) for chart in charts],  # noqa: S704 - no tag can end or begin in it
        library=Markup(_library() if charts else ""),  # noqa: S704 - Vega's own
    )  # fmt: skip


def _with_places(text: str, fragments: Mapping[str, str]) -> str:
    """The Markdown with a paragraph in place of every part that has a fragment."""
    for number, begin in enumerate(fragments):
        before, _, rest = text.partition(f"\n{begin}\n")
        _, end, after = rest.partition(f"\n{begin.replace('begins', 'ends')}\n")
        if end:
            text = f"{before}\n\n{_PLACE.format(number)}\n\n{after}"
    return text


def parsed(text: str, fragments: Mapping[str, str] | None = None) -> list[Token]:
    """The Markdown's tokens, without our own comments, each of which has a line to itself.

    Args:
        text: The Markdown.
        fragments: As for `html_page`: a place is left for each.
    """
    return _markdown().parse(_COMMENTS.sub("", _with_places(text, fragments or {})))


def plain(inline: Token) -> str:
    """What an inline token says, without markup."""
    return "".join(one.content for one in inline.children or ()).strip()


@cache
def _markdown() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table")


@cache
def _template() -> Template:
    page = (ASSETS / "page.html").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(page)


def _anchored(tokens: Sequence[Token]) -> Iterator[Entry]:
    """Give every heading an id; the entries of the contents."""
    used: dict[str, int] = {}
    for place, one in enumerate(tokens):
        if one.type == "heading_open":
            text = plain(tokens[place + 1])
            name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "part"
            used[name] = used.get(name, 0) + 1
            anchor = name if used[name] == 1 else f"{name}-{used[name]}"
            one.attrSet("id", anchor)
            if one.tag in IN_CONTENTS:
                yield Entry(int(one.tag[1]), anchor, text)


def _label_tables(tokens: list[Token]) -> None:
    """Scopes for header cells, the first column as headers of rows, and a region that scrolls around each table."""
    heading, column, place, number = "", 0, 0, 0
    while place < len(tokens):
        one = tokens[place]
        if one.type == "heading_open":
            heading = plain(tokens[place + 1])
        elif one.type == "tr_open":
            column = 0
        elif one.type == "th_open":
            one.attrSet("scope", "col")
        elif one.type == "td_open":
            if column == 0:
                one.tag = tokens[place + 2].tag = "th"
                one.attrSet("scope", "row")
            column += 1
        elif one.type in ("table_open", "table_close"):
            opening = one.type == "table_open"
            around = Token("region_open" if opening else "region_close", "div", 1 if opening else -1, block=True)
            if opening:
                number += 1
                attributes = {"class": "table", "role": "region", "tabindex": "0",
                              "aria-label": f"Table {number}: {heading}"}  # fmt: skip
                for name, value in attributes.items():
                    around.attrSet(name, value)
            tokens.insert(place if opening else place + 1, around)
            place += 1
        place += 1


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script, as `vl_convert` carries them."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")


def _inert(chart: str) -> str:
    """JSON that ends no element: in strings a slash may be escaped."""
    return json.dumps(json.loads(chart)).replace("<", "\\u003c")


def _embed_pictures(tokens: Sequence[Token], folder: Path) -> list[str]:
    """Every picture as a figure, in the page itself; its text alternative stays the image's own.

    Returns:
        The specifications of charts, in order; their figures have the number as `data-chart`.
    """
    charts: list[str] = []
    for place, one in enumerate(tokens):
        if one.type != "inline" or [child.type for child in one.children or ()] != ["image"]:
            continue
        image = (one.children or [])[0]
        path = folder / str(image.attrGet("src"))
        image.attrSet("src", _data_uri(_drawing(path)))
        tokens[place - 1].tag = tokens[place + 1].tag = "figure"
        tokens[place - 1].hidden = tokens[place + 1].hidden = False
        spec = path.with_name(path.stem + SPEC)
        if spec.exists():
            tokens[place - 1].attrSet("data-chart", str(len(charts)))
            charts.append(spec.read_text(encoding="utf-8"))
    return charts


def _drawing(path: Path) -> Path:
    """The SVG beside a picture, where there is one; the picture itself where a large SVG is the larger of the two."""
    drawing = path.with_suffix(".svg")
    if not drawing.exists():
        return path
    size = drawing.stat().st_size
    return path if size > LARGE and path.exists() and path.stat().st_size < size else drawing


def _data_uri(path: Path) -> str:
    return f"data:{_KINDS[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
