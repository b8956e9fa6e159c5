"""A gallery of reports: one page that opens from disk, with a link, the main facts and a small picture of each."""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from markdown_it.token import Token

from audit.audit_record import KINDS as AUDITS
from audit.records import RunRecord
from audit.runs import parsed_record
from defenses.errors import UserError
from defenses.files import write_text
from reports.html_page import html_page, parsed, plain
from reports.markdown import MARK
from reports.report import PAGE
from reports.rows import NOT_MEASURED, code, escape, table

INDEX = "index.html"
IN_PLAIN_WORDS = "in plain words"
OURS = '<meta name="generator" content="delaudit">'
LARGEST_PICTURE, ALL_PICTURES = 60_000, 1_500_000  # bytes of SVG: of one, and of the page
_FINDING = 700  # characters
_REMARKS = 6
_HEAD = 4000  # characters of a page that hold its generator

_OLDEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Entry:
    """A report of the gallery.

    Attributes:
        place: Its folder, relative to the gallery's; "." for that itself.
        title: Its heading.
        finding: Its first paragraph in plain words; "" where it has none.
        records: What could be read of its records.
        wrong: What could not, one line each.
        picture: A small drawing from it; None where there is none.
        told: The picture's text alternative.
    """

    place: Path
    title: str
    finding: str
    records: tuple[RunRecord, ...]
    wrong: tuple[str, ...]
    picture: Path | None
    told: str

    @property
    def created(self) -> datetime:
        """When its youngest record was made; the oldest time where that is not known."""
        return max((_time(record.created) for record in self.records), default=_OLDEST)

    @property
    def link(self) -> str:
        """The address of its page, relative to the gallery's."""
        return quote(os.fsencode(self.place / PAGE))


def write_index(folder: Path) -> Path:
    """Write index.html over every report below a folder; the same reports make the same page.

    A report is a folder that holds report.html and either records/ or a report.md of ours. One whose records cannot be
    read is listed as such. Hidden folders are left out: a report that is being written stands in one.

    Args:
        folder: Where to look.

    Returns:
        The page's file.

    Raises:
        UserError: no such folder, no report below it, or an index.html that is not ours stands there.
    """
    page = folder / INDEX
    _demand_ours(folder, page)
    entries, unseen = _entries(folder)
    if not entries and not unseen:
        raise UserError(f"{folder}: there is no report below it; one is made by: delaudit report RUN -o FOLDER")
    with TemporaryDirectory() as made:
        pictures = Path(made)
        write_text(page, html_page(parsed(index_text(entries, unseen, pictures)), pictures))
    return page


def index_text(entries: Sequence[Entry], unseen: Sequence[str], pictures: Path) -> str:
    """The page in Markdown; its pictures are copied into a folder under plain names.

    Args:
        entries: In their order on the page.
        unseen: Folders that could not be looked into.
        pictures: An empty folder.
    """
    broken = sum(bool(one.wrong) for one in entries)
    counted = f"{len(entries)} report{'' if len(entries) == 1 else 's'}, the newest first."
    if broken:
        counted += f" **{broken} of them {'is' if broken == 1 else 'are'} broken**: see the remarks."
    body = [_row(one) for one in entries]
    header = [
        "report", "folder", "kind", "model", "created", "commit", "conditions", "claims", "refuted", "remarks"
    ]  # fmt: skip
    lines = ["# Reports", "", counted, "", table(header, body), ""]
    lines += [f"This folder could not be looked into: {escape(one)}.\n" for one in unseen]
    left = ALL_PICTURES
    for number, one in enumerate(entries, start=1):
        size = 0 if one.picture is None else one.picture.stat().st_size
        lines += _section(one, number, pictures if size <= left else None)
        left -= size if size <= left else 0
    return "\n".join(lines)


def _demand_ours(folder: Path, page: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    if (folder / PAGE).exists():
        raise UserError(f"{folder}: is a report itself; name the folder above it")
    if page.is_dir() or (page.exists() and OURS not in page.read_text(encoding="utf-8", errors="replace")[:_HEAD]):
        raise UserError(f"{page}: is no page of delaudit and stays as it is; move it, or name another folder")


def _entries(folder: Path) -> tuple[list[Entry], list[str]]:
    """Every report below a folder, the newest first; and the folders that could not be looked into."""
    unseen: list[OSError] = []
    found = []
    for place, inside, files in os.walk(folder, onerror=unseen.append):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        if PAGE in files and _is_report(Path(place)):
            found.append(_entry(Path(place), folder))
            inside.clear()  # a report's own folders hold no other report
    found.sort(key=lambda one: one.place.as_posix())
    found.sort(key=lambda one: one.created, reverse=True)
    names = (os.path.relpath(str(error.filename), folder) for error in unseen)
    return found, [f"{_shown(name)} ({error.strerror})" for name, error in zip(names, unseen, strict=True)]


def _is_report(folder: Path) -> bool:
    return (folder / "records").is_dir() or _report_text(folder).startswith(MARK)


def _report_text(folder: Path) -> str:
    try:
        return (folder / "report.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _entry(folder: Path, root: Path) -> Entry:
    tokens = parsed(_report_text(folder))
    records, wrong = _records(folder / "records")
    heading = next((plain(tokens[place + 1]) for place, one in enumerate(tokens) if one.tag == "h1"), "")
    picture = _picture(folder / "figures")
    return Entry(
        folder.relative_to(root), heading or "A report without a title", _finding(tokens), tuple(records), tuple(wrong),
        picture, _alternative(tokens, picture),
    )  # fmt: skip


def _records(folder: Path) -> tuple[list[RunRecord], list[str]]:
    """A report's records, and what is amiss with them."""
    records, wrong = [], []
    files = sorted(folder.glob("*.json"))
    for file in files:
        try:
            records.append(parsed_record(file.read_text(encoding="utf-8"), f"records/{file.name}"))
        except (OSError, UnicodeDecodeError, UserError) as error:
            wrong.append(f"record {file.name} cannot be read: {error}")
    return records, wrong if files else ["it holds no record"]


def _finding(tokens: Sequence[Token]) -> str:
    """The first paragraph under the heading "In plain words"."""
    under = False
    for place, one in enumerate(tokens):
        if one.type == "heading_open":
            under = plain(tokens[place + 1]).lower() == IN_PLAIN_WORDS
        elif under and one.type == "paragraph_open":
            return _shortened(_words(tokens[place + 1]))
    return ""


def _words(inline: Token) -> str:
    parts = (" " if one.type in ("softbreak", "hardbreak") else one.content for one in inline.children or ())
    return " ".join("".join(parts).split())


def _shortened(text: str) -> str:
    return text if len(text) <= _FINDING else f"{text[:_FINDING].rsplit(' ', 1)[0]} ..."


def _picture(folder: Path) -> Path | None:
    """The first drawing by name that is small enough."""
    small = (file for file in sorted(folder.glob("*.svg")) if 0 < file.stat().st_size <= LARGEST_PICTURE)
    return next(small, None)


def _alternative(tokens: Sequence[Token], picture: Path | None) -> str:
    """What the report says of a picture to a reader who cannot see it."""
    if picture is None:
        return ""
    images = (child for one in tokens for child in one.children or () if child.type == "image")
    same = (one for one in images if Path(str(one.attrGet("src"))).stem == picture.stem)
    found = next(same, None)
    return (found.content if found is not None else "") or f"a picture of this report: {picture.stem}"


def _row(one: Entry) -> list[str]:
    claims = [row for record in one.records if record.kind in AUDITS for row in record.rows]
    conditions = sum(len(record.rows) for record in one.records if record.kind not in AUDITS)
    refuted = sum(row.get("verdict") == "REFUTED" for row in claims)
    known = bool(one.records)
    return [
        f"[{escape(one.title)}]({one.link})", code(_shown(one.place)),
        _each(record.kind for record in one.records), _each(_model(record) for record in one.records),
        _each(record.created for record in one.records), _each(_commit(record) for record in one.records),
        str(conditions) if known else NOT_MEASURED, str(len(claims)) if known else NOT_MEASURED,
        f"**{refuted}**" if refuted else "0" if claims else "none tested" if known else NOT_MEASURED, _remarks(one),
    ]  # fmt: skip


def _each(texts: Iterator[str]) -> str:
    """Different texts, in order."""
    return ", ".join(escape(text) for text in dict.fromkeys(texts)) or NOT_MEASURED


def _model(record: RunRecord) -> str:
    model = record.config.get("model")
    return model if isinstance(model, str) else "none named"


def _commit(record: RunRecord) -> str:
    if record.commit is None:
        return "not from a checkout"
    return record.commit[:7] + (" with changes" if record.dirty else "")


def _remarks(one: Entry) -> str:
    told = dict.fromkeys([*one.wrong, *(remark for record in one.records for remark in record.remarks)])
    shown = [escape(remark) for remark in list(told)[:_REMARKS]]
    return "; ".join(shown) + (f"; and {len(told) - _REMARKS} more" if len(told) > _REMARKS else "") or "none"


def _section(one: Entry, number: int, pictures: Path | None) -> list[str]:
    """A report's own part; without room for its picture, a word on that."""
    lines = [f"## {escape(one.title)}: {escape(_shown(one.place))}", ""]
    if one.wrong:
        lines += [f"**Broken:** {'; '.join(map(escape, one.wrong))}.", ""]
    lines += [f"In plain words: {escape(one.finding or one.title)}", ""]
    if one.picture is not None and pictures is None:
        lines += ["Its picture is left out: this page holds as many as it may.", ""]
    elif one.picture is not None and pictures is not None:
        shutil.copy(one.picture, pictures / f"{number}.svg")
        lines += [f"![{escape(one.told)}]({number}.svg)", ""]
    return [*lines, f"[Open report {number}: {escape(one.title)}]({one.link})", ""]


def _shown(path: str | Path) -> str:
    """A path as text, whatever bytes its name has."""
    return os.fsencode(path).decode(errors="replace")


def _time(text: str) -> datetime:
    """When; texts without a zone are UTC, and what is no time is the oldest."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return _OLDEST
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
