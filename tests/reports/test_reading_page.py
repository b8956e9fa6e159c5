"""Prompts as an adversary reads them: marks are the record's, any token is text, and nothing is left out unsaid."""

import html
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from audit.provenance import Provenance
from audit.records import RunRecord, new_record
from reports.html_page import html_page, parsed
from reports.reading_page import BLANK, BREAK, SHOWN, UNKNOWN, begin, end, reading_fragments, reading_section
from reports.rows import NOT_MEASURED

ORIGIN = Provenance(
    commit="0123abcd" * 5, dirty=False, versions={}, environment={}, created="2026-01-02T03:04:05+00:00", command="x"
)
MARKUP = [
    "<script>alert(1)</script>", "|", "a|b", "]", "[x](http://e.vil)", "![x](http://e.vil/p.png)", "`", "```", "*",
    "**", "_", "~~", "$x$", "&lt;", "&", "\\", "</span>", '" onmouseover="alert(1)', "'", "<!-- reading 1 ends -->",
    "a\n<!-- reading 1 ends -->\nb", "\n## Head\n", "http://e.vil", "{{ 7 * 7 }}", "{% raw %}", "<",
]  # fmt: skip
BLOCKS = ["#", "# Head", "##", "-", "+", "1.", "1)", ">", "---", "===", ":---"]
INVISIBLE = ["\uf8ff", "\uf8ff0\uf8ff", "\u200d", "a\u200b", "\u200bb", "\x00", "\x07"]


class Tokens(HTMLParser):
    """The marked tokens of a page: (text, guess or None, classes, title), and every element's name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str | None, list[str], str]] = []
        self.told: list[str] = []
        self.elements: list[str] = []
        self._within: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element opens."""
        given = {name: value or "" for name, value in attrs}
        self.elements.append(tag)
        self._within.append(tag)
        if tag == "span" and "token" in given.get("class", ""):
            self.found.append(("", None, given["class"].split(), given["title"]))
        if given.get("class") == "read-title":
            self.told.append("")

    def handle_endtag(self, tag: str) -> None:
        """An element closes."""
        if tag in self._within:
            del self._within[len(self._within) - 1 - self._within[::-1].index(tag) :]

    def handle_data(self, data: str) -> None:
        """Text."""
        inside = self._within[-1:] or [""]
        if "span" in self._within and inside[0] != "rp":
            text, guess, *rest = self.found[-1]
            whole = (text, (guess or "") + data) if inside[0] == "rt" else (text + data, guess)
            self.found[-1] = (*whole, rest[0], rest[1])  # type: ignore[assignment]
        elif inside[0] == "p" and self.told and not self.found:
            self.told[-1] += data


def read(fragment: str) -> Tokens:
    """A page or a part of it, as a browser reads it."""
    tokens = Tokens()
    tokens.feed(fragment)
    return tokens


def row(rate: float = 0.4, **more: Any) -> dict[str, Any]:
    """A condition that was attacked."""
    return {"defence": "del", "n": 4, "mu": 20.0, "strongest_attack": "hmm", "asr_strongest": rate,
            "asr_top1_hmm": rate, **more}  # fmt: skip


def reading(place: str = "most", of: int = 0, **more: Any) -> dict[str, Any]:
    """A prompt of three tokens of which two are read."""
    return {"row": of, "place": place, "attack": "hmm", "share": 2 / 3, "secret": ["My", " name", " is"],
            "guess": ["My", " name", " was"], "hit": [True, True, False], "posterior": [0.912, 0.371, 0.05],
            **more}  # fmt: skip


def made(*marks: dict[str, Any], rows: list[dict[str, Any]] | None = None) -> RunRecord:
    """An experiment with these readings."""
    return new_record("experiment", config={}, seed=0, rows=rows or [row()], readings=marks, provenance=ORIGIN)


def of_tokens(secret: list[str], guess: list[str], hit: list[bool]) -> RunRecord:
    """One reading of these tokens."""
    return made(reading(secret=secret, guess=guess, hit=hit, posterior=None))


def text_of(*records: RunRecord) -> str:
    """The section's Markdown."""
    return "\n".join(reading_section(records))


def rendered(record: RunRecord) -> str:
    """The Markdown as any reader of CommonMark with tables shows it, without the page's own marks."""
    return str(MarkdownIt("commonmark", {"html": False}).enable("table").render(text_of(record)))


def page(tmp_path: Path, *records: RunRecord) -> str:
    """The section on the HTML page, with a section behind it."""
    fragments = reading_fragments(records)
    return html_page(parsed(f"{text_of(*records)}\n## Behind\n\nThe end.\n", fragments), tmp_path, fragments)


def test_tokens_are_told_with_hits_guesses_and_posteriors() -> None:
    """If this failed, a token would be marked as read that was not, or another's guess or posterior stand beside it."""
    text = text_of(made(reading()))
    assert "### del n=4 mu=20\n" in text
    assert "*The prompt that was read most, by hmm: 2 of 3 tokens, 66.7 %*" in text
    assert "**My** (91) · **name** (37) · is → was (5)" in text
    assert "**My** · **name** · is → was\n" in text_of(made(reading(posterior=None)))


def test_the_pages_marks_are_the_records() -> None:
    """If this failed, the page would mark other tokens than the Markdown and the record do."""
    (fragment,) = reading_fragments([made(reading())]).values()
    found = read(fragment)
    assert found.found == [
        ("My", None, ["token", "shade-4", "hit"], "My: read rightly, posterior 91.2 %"),
        ("name", None, ["token", "shade-1", "hit"], "name: read rightly, posterior 37.1 %"),
        ("is", "was", ["token", "shade-0"], "is: read as was, posterior 5.0 %"),
    ]
    assert [one.strip() for one in found.told] == ["The prompt that was read most, by hmm: 2 of 3 tokens, 66.7 %"]
    unsure = read(next(iter(reading_fragments([made(reading(posterior=[None, 1.0, 0.0]))]).values()))).found
    assert [one[2][1] for one in unsure] == ["shade-none", "shade-4", "shade-0"]
    assert unsure[0][3] == "My: read rightly"


def test_prompts_stand_from_the_most_to_the_least_read() -> None:
    """If this failed, the order of the record's list would decide which prompt a reader sees first."""
    text = text_of(made(*(reading(place) for place in ("least", "median", "most"))))
    assert re.findall(r"^\*(The .*?), by", text, flags=re.MULTILINE) == [
        "The prompt that was read most", "The median prompt", "The prompt read least",
    ]  # fmt: skip


@pytest.mark.parametrize("hit", [True, False])
@pytest.mark.parametrize("token", [*MARKUP, *BLOCKS, *INVISIBLE], ids=ascii)
def test_any_token_is_text_in_markdown(token: str, *, hit: bool) -> None:
    """If this failed, a token of a prompt would be a heading, a list, a link or an element, or be shown as nothing."""
    body = rendered(of_tokens([token, "after"], [token if hit else "x", "after"], [hit, True]))
    told = body.partition("</em></p>\n")[2].partition("\n<p>&lt;!-- reading 1 ends --&gt;</p>\n")[0]
    assert set(re.findall(r"<(\w+)", told)) == {"p", "strong"}
    marked = [html.unescape(one).strip() for one in re.findall(r"<strong>(.*?)</strong>", told, flags=re.DOTALL)]
    assert len(marked) == (2 if hit else 1)
    assert marked[-1] == "after"
    before, arrow, _ = html.unescape(told.removeprefix("<p>")).partition(" → ")
    assert bool(arrow) is not hit
    shown = marked[0] if hit else before.strip()
    assert shown
    if token.replace("\n", "").isprintable():
        assert re.sub(f"[{BREAK}\\s]", "", shown) == re.sub(r"\s", "", token)


@pytest.mark.parametrize("hit", [True, False])
@pytest.mark.parametrize("token", [*MARKUP, *BLOCKS, *INVISIBLE], ids=ascii)
def test_any_token_is_text_on_the_page(token: str, tmp_path: Path, *, hit: bool) -> None:
    """If this failed, a token would run, end its part, or take the place of another part of the page."""
    first = of_tokens([token, "after"], [token if hit else token + "x", "after"], [hit, True])
    whole = page(tmp_path, first, made(reading(), rows=[row(0.9, mu=60.0)]))
    found = read(whole)
    text = "".join(sign if sign.isprintable() else BREAK if sign == "\n" else UNKNOWN for sign in token.strip(" "))
    assert [one[0] for one in found.found] == [text or BLANK, "after", "My", "name", "is"]
    assert [("hit" in one[2]) for one in found.found] == [hit, True, True, True, False]
    assert found.elements.count("script") == read(page(tmp_path, made(reading()))).elements.count("script")
    assert "\uf8ff" not in whole
    main = whole.partition("<main")[2]
    assert re.findall(r"<h[23][^>]*>(.*?)</h[23]>", main) == [
        "What an adversary reads", "del n=4 mu=20 (run 1)", "del n=4 mu=60 (run 2)", "Behind",
    ]  # fmt: skip
    assert "reading 1 begins" not in whole
    assert main.count('class="reading"') == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8), st.booleans()), min_size=1, max_size=6))
def test_every_token_of_any_text_is_on_the_page(tokens: list[tuple[str, str, bool]]) -> None:
    """If this failed, some text of a data set would add, hide or split tokens of the page."""
    secret, guess, hit = (list(one) for one in zip(*tokens, strict=True))
    (fragment,) = reading_fragments([of_tokens(secret, guess, hit)]).values()
    found = read(fragment)
    assert len(found.found) == len(tokens)
    assert [("hit" in one[2]) for one in found.found] == hit
    assert all(one[0] for one in found.found)
    assert set(found.elements) <= {"p", "span", "strong", "ruby", "rp", "rt"}


def test_blanks_and_breaks_have_signs() -> None:
    """If this failed, a token of nothing but space would be invisible, or a line break look like a blank."""
    record = of_tokens([" ", "\n", ""], ["\n", " ", "x"], [False, False, False])
    (fragment,) = reading_fragments([record]).values()
    assert [one[:2] for one in read(fragment).found] == [(BLANK, BREAK), (BREAK, BLANK), (BLANK, "x")]
    assert f"\n{BLANK} → {BREAK} · {BREAK} → {BLANK} · {BLANK} → x\n" in text_of(record)


MALFORMED = {
    "a guess too few": {"guess": ["My"]}, "a hit too many": {"hit": [True] * 4}, "no tokens": {"secret": None},
    "tokens as one text": {"secret": "abc"}, "a posterior too few": {"posterior": [0.5]},
    "posteriors as a number": {"posterior": 0.5}, "nothing at all": {"secret": [], "guess": [], "hit": []},
    "a place of a newer version": {"place": "worst"}, "no place": {"place": None},
    "a place that is a list": {"place": ["most"]}, "a place that is a mapping": {"place": {"most": 1}},
}  # fmt: skip


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_readings_are_left_out_and_others_stay(what: str) -> None:
    """If this failed, one odd reading of a newer or broken record would end the report, or hide the sound ones."""
    sound = reading("least", secret=["Sound"], guess=["Sound"], hit=[True], posterior=[0.5])
    record = made(reading(**MALFORMED[what]), sound)
    text = text_of(record)
    assert "**Sound** (50)" in text
    assert text.count("*The prompt") == 1
    assert "→" not in text
    assert len(read("".join(reading_fragments([record]).values())).found) == 1


def test_readings_of_other_rows_are_not_mixed() -> None:
    """If this failed, a prompt would stand under a condition at which it was not read, or a control have one."""
    rows = [{"defence": "identity", "perplexity": 2.0, "asr_top1_cosine": 1.0}, row(0.9, mu=60.0), row(0.1, mu=5.0)]
    record = made(reading(of=0, secret=["a", "b", "c"]), reading(of=2, secret=["five", "b", "c"]),
                  reading(of=1, secret=["sixty", "b", "c"]), rows=rows)  # fmt: skip
    parts = text_of(record).split("\n### ")[1:]
    assert [part.partition("\n")[0] for part in parts] == ["del n=4 mu=5", "del n=4 mu=60"]
    assert "**five**" in parts[0]
    assert "**sixty**" in parts[1]
    found = reading_fragments([record])
    assert list(found) == [begin(1), begin(2)]
    assert [read(one).found[0][0] for one in found.values()] == ["five", "sixty"]


@pytest.mark.parametrize(("count", "left"), [(SHOWN, 0), (SHOWN + 1, 1), (30, 30 - SHOWN)])
def test_many_conditions_are_thinned_and_counted(count: int, left: int) -> None:
    """If this failed, a page of hundreds would be unreadable, or those left out would go unsaid."""
    rows = [row(0.9 - 0.02 * place, mu=float(place)) for place in range(count)]
    record = made(*(reading(of=place) for place in range(count)), rows=rows)
    text = text_of(record)
    shown = [float(mu) for mu in re.findall(r"^### del n=4 mu=(\d+)$", text, flags=re.MULTILINE)]
    assert len(shown) == len(set(shown)) == SHOWN == len(reading_fragments([record]))
    assert shown == sorted(shown, reverse=True)  # the least read first
    assert (shown[0], shown[-1]) == (count - 1, 0)
    said = re.findall(rf"^(\d+) further condition.*these {SHOWN} are spread evenly", text, flags=re.MULTILINE)
    assert said == ([str(left)] if left else [])


def test_no_readings_are_not_measured(tmp_path: Path) -> None:
    """If this failed, a report without prompts would look as if an adversary had read nothing."""
    for record in (made(), made(reading(hit=[True]))):
        text = text_of(record)
        assert f"Prompts token by token: {NOT_MEASURED}, or of text that may not be shown." in text
        assert reading_fragments([record]) == {}
        assert NOT_MEASURED in page(tmp_path, record)


def test_every_part_is_closed_by_its_own_comment() -> None:
    """If this failed, the page would put one condition's prompts where another's stand."""
    rows = [row(0.1 * place, mu=float(place)) for place in (1, 2, 3)]
    lines = text_of(made(*(reading(of=place) for place in range(3)), rows=rows)).splitlines()
    comments = [line for line in lines if line.startswith("<!--")]
    assert comments == [one(place) for place in (1, 2, 3) for one in (begin, end)]


def test_names_of_conditions_and_attacks_are_no_markup(tmp_path: Path) -> None:
    """If this failed, a name from a user's file would be markup above its prompts."""
    evil = "<script>x</script> | [l](http://e.vil)\n<!-- reading 1 ends -->\n*b*"
    record = made(reading(attack=evil), rows=[row(settings=evil)])
    body = rendered(record)
    assert "<script" not in body
    assert "<a " not in body
    assert text_of(record).splitlines().count("<!-- reading 1 ends -->") == 1
    whole = page(tmp_path, record)
    assert len(read(whole).found) == 3
    assert "<script>x" not in whole
