"""Every figure that the page of encrypted generation prints is the record's, and what a record lacks is said to lack.

The record's numbers are drawn so that no two are alike: a figure from another row or column is another number.
"""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.crypto_record import (
    CACHED,
    COMPOSED,
    COSTS,
    ENGINES,
    EXTRAPOLATED,
    IN_FULL,
    KIND,
    MEASURED,
    MODELS,
    OPERATORS,
)
from audit.provenance import Provenance
from audit.records import RunRecord, new_record
from reports import crypto_figures
from reports.crypto_figures import draw_crypto
from reports.crypto_page import REFERENCE, crypto_section
from reports.rows import NOT_MEASURED, rows_of

ORIGIN = Provenance(
    commit="0123abcd" * 5, dirty=False, versions={}, environment={}, created="2026-01-02T03:04:05+00:00",
    command="delaudit crypto compare",
)  # fmt: skip
TITLES = {"vanilla": "Vanilla", "mpcformer": "MPCFormer", "pcft": "PCFT", "merge": "MERGE"}
PROTOCOLS = ("spu-semi2k-2pc", "spu-cheetah-2pc")
GROUPS = (
    ("small", 16, IN_FULL, MEASURED), ("small", 64, IN_FULL, MEASURED), ("small", 64, CACHED, MEASURED),
    ("small", 512, IN_FULL, COMPOSED), ("smollm2-135m", 128, CACHED, EXTRAPOLATED),
)  # fmt: skip
LARGE = ("seconds", "bytes", "rounds", "ratio_seconds", "ratio_rounds", "ratio_bytes", "ratio_seconds_lan",
         "ratio_seconds_wan", "ratio_seconds_mpcformer")  # fmt: skip
RATIOS = ("perplexity", "perplexity_over_exact", "written_perplexity", "written_perplexity_over_exact")
SHARES = (
    "top1_agreement_with_exact",
    "written_distinct_tokens",
    "written_agreement_with_exact",
    "resent_agreement",
    "twin_agreement",
)
ERRORS = ("logit_error_mean", "logit_error_largest", "logit_error_expected")
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")

Values = Mapping[str, Any]


def figure(rng: np.random.Generator, key: str, *, most: float = 1e4) -> dict[str, float]:
    """A number with its interval, all three unlike any other."""
    value = math.exp(rng.uniform(0, math.log(most)))
    return {key: value, f"{key}_low": value / rng.uniform(1.1, 2), f"{key}_high": value * rng.uniform(1.1, 2)}


def share(rng: np.random.Generator, key: str) -> dict[str, float]:
    """A number between 0 and 1 with its interval."""
    low, value, high = sorted(rng.uniform(0, 1, 3))
    return {key: value, f"{key}_low": low, f"{key}_high": high}


def drawn_rows() -> list[dict[str, Any]]:
    """Two engines, every system's model, costs in five groups, operators."""
    rng = np.random.default_rng(11)
    rows: list[dict[str, Any]] = []
    for engine in PROTOCOLS:
        rows.append({
            "table": ENGINES, "engine": engine, "parties": int(rng.integers(2, 9)), "guarantee": f"promise of {engine}",
            "precision": rng.uniform(1e-6, 1e-4), "set_up_seconds": rng.uniform(1, 9),
            "set_up_bytes": rng.uniform(1e6, 9e7),
        })  # fmt: skip
        rows += [model_row(rng, engine, name) for name in TITLES]
        for model, length, way, basis in GROUPS:
            labels = {"engine": engine, "model": model, "length": length, "accounting": way, "basis": basis}
            rows += [labels | cost_row(rng, name) for name in TITLES]
        for operator in ("matmul (3, 4)", "softmax (5, 5)"):
            scaled = {key: 1e4 * value for key, value in figure(rng, "bytes").items()}
            own = {"table": OPERATORS, "engine": engine, "operator": operator, "repeats": 3}
            rows.append({**own, **figure(rng, "seconds"), **scaled, **figure(rng, "rounds")})
    return rows


def cost_row(rng: np.random.Generator, system: str) -> dict[str, Any]:
    """A token's cost."""
    row: dict[str, Any] = {"table": COSTS, "system": system, "title": TITLES[system], "repeats": 5}
    for key in LARGE:
        row |= figure(rng, key)
    row |= {key: 1e4 * value for key, value in figure(rng, "bytes").items()}
    return row | share(rng, "bytes_saved")


def model_row(rng: np.random.Generator, engine: str, system: str) -> dict[str, Any]:
    """A trained model beside its twin."""
    row: dict[str, Any] = {
        "table": MODELS, "system": system, "title": TITLES[system], "engine": engine, "layers": 3, "hidden": 96,
        "heads": 6, "vocabulary": 777, "resending": system == "merge", "source": f"paper of {system}",
        "deviations": f"what {system} does", "guarantee": "no differential privacy", "client_learns": "tokens",
        "party_learns": "lengths", "documents": 53, "twin_positions": int(rng.integers(100, 999)),
        "logit_error_explained": True,
    }  # fmt: skip
    for key in RATIOS:
        row |= figure(rng, key)
    for key in SHARES:
        row |= share(rng, key)
    return row | {key: rng.uniform(1e-6, 1.0) for key in ERRORS}


def record_of(rows: list[dict[str, Any]]) -> RunRecord:
    """A record with these rows."""
    return new_record(KIND, config={}, seed=0, rows=rows, provenance=ORIGIN)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page without its pictures, which have a test of their own."""
    monkeypatch.setattr("reports.crypto_page.draw_crypto", lambda *_: [])


def page(rows: list[dict[str, Any]]) -> str:
    """The page's text."""
    return "\n".join(crypto_section(record_of(rows), Path(), ""))


def tables(text: str) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Every table: the last line of text before it, and its rows by column."""
    before, head, body = "", [], []
    for line in [*text.splitlines(), ""]:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            if head:
                yield before, [dict(zip(head, row, strict=True)) for row in body[1:]]
                head, body = [], []
            before = line or before
        elif not head:
            head = cells
        else:
            body.append(cells)


def agrees(cell: str, row: Values, key: str, scale: float = 1.0, *, percent: bool = False) -> bool:
    """Whether a cell shows the figure with its interval where it has one, to three digits; shares to 0.1 %."""
    shown = [float(number.replace(",", "")) for number in NUMBER.findall(cell)]
    wanted = [scale * (100 if percent else 1) * row[name] for name in (key, f"{key}_low", f"{key}_high") if name in row]
    close = [abs(a - b) <= (0.0501 if percent else 0.00501 * abs(b)) for a, b in zip(shown, wanted, strict=False)]
    return len(shown) == len(wanted) and all(close)


COLUMNS: dict[str, tuple[str, float, bool]] = {
    "seconds": ("seconds", 1, False), "MB": ("bytes", 1e-6, False), "rounds": ("rounds", 1, False),
    "length": ("length", 1, False), "times as fast": ("ratio_seconds", 1, False),
    "bytes": ("bytes_saved", 1, True), "times fewer rounds": ("ratio_rounds", 1, False),
    "times as fast, LAN": ("ratio_seconds_lan", 1, False), "times as fast, WAN": ("ratio_seconds_wan", 1, False),
    "parties": ("parties", 1, False), "largest error of a product": ("precision", 1, False),
    "perplexity on true text": ("perplexity", 1, False), "over the exact model's": ("perplexity_over_exact", 1, False),
    "top-1 agreement with it": ("top1_agreement_with_exact", 1, True),
    "perplexity of what it writes, over the exact model's": ("written_perplexity_over_exact", 1, False),
    "tokens as the exact model writes": ("written_agreement_with_exact", 1, True),
    "different tokens": ("written_distinct_tokens", 1, True),
    "resent tokens as without resending": ("resent_agreement", 1, True), "positions": ("twin_positions", 1, False),
    "same next token": ("twin_agreement", 1, True), "mean error of a logit": ("logit_error_mean", 1, False),
    "largest": ("logit_error_largest", 1, False), "explained": ("logit_error_expected", 1, False),
}  # fmt: skip
"""A column's heading: the record's column, its scale, and whether it is a share."""
WORDS = {"system", "engine", "guarantee", "operator and shape", "source", "what differs", "within it", "what",
         "operators outside of it",
         "published", "ours, against our vanilla or MPCFormer", "ours is of", "links and keys, once"}  # fmt: skip


def the_row(rows: list[dict[str, Any]], before: str, cells: Mapping[str, str]) -> Values:
    """The record's row that a table's line is of, found by its words."""
    group = re.fullmatch(r"\*\*(.*), (the small models|the shape of .*), (.*)\*\* \((.*)\)", before)
    table = COSTS if group else next(
        kind for mark, kind in (("operator and shape", OPERATORS), ("parties", ENGINES), ("system", MODELS))
        if mark in cells
    )  # fmt: skip
    wanted: dict[str, Any] = {"table": table}
    wanted |= {"engine": cells["engine"]} if "engine" in cells else {}
    wanted |= {"title": cells["system"]} if "system" in cells else {}
    wanted |= {"operator": cells["operator and shape"]} if "operator and shape" in cells else {}
    if group:
        model = "small" if group[2] == "the small models" else group[2].removeprefix("the shape of ")
        length = int(cells["length"])
        wanted |= {"engine": group[1], "model": model, "accounting": group[3], "basis": group[4], "length": length}
    return next(row for row in rows if all(row.get(key) == value for key, value in wanted.items()))


def test_every_figure_of_every_table_is_the_record_s() -> None:
    """If this failed, a reader would read one system's, engine's or column's figure under another's name."""
    rows, seen, lines = drawn_rows(), set(), 0
    for before, body in tables(page(rows)):
        for cells in body:
            if "published" in cells:
                continue
            row = the_row(rows, before, cells)
            lines += 1
            for heading in cells.keys() - WORDS:
                key, scale, percent = COLUMNS[heading]
                seen.add(heading)
                if cells[heading] == "-":
                    assert row["system"] == REFERENCE or key == "resent_agreement"
                else:
                    assert agrees(cells[heading], row, key, scale, percent=percent), (heading, cells, row)
    assert seen == set(COLUMNS)
    assert lines == len(rows) + 2 * len(TITLES)  # every row once, and two tables that have a line for each system


def cost_of(rows: list[dict[str, Any]], system: str, **wanted: Any) -> Values:
    """One row of the costs of the first engine."""
    asked = {"table": COSTS, "system": system, "engine": PROTOCOLS[0], **wanted}
    return next(row for row in rows if all(row.get(key) == value for key, value in asked.items()))


def test_links_and_keys_are_the_engine_s() -> None:
    """If this failed, what CHEETAH pays once would be understated, or another engine's."""
    rows = drawn_rows()
    cells = [line["links and keys, once"] for _, body in tables(page(rows)) for line in body if "parties" in line]
    engines = [row for row in rows if row["table"] == ENGINES]
    for cell, engine in zip(cells, engines, strict=True):
        seconds, megabytes = cell.split(",", 1)
        assert agrees(seconds, engine, "set_up_seconds")
        assert agrees(megabytes, engine, "set_up_bytes", 1e-6)


def test_the_opening_has_the_figures_of_the_longest_measured_context() -> None:
    """If this failed, the paragraph that everybody reads would have other figures than the table below it."""
    rows = drawn_rows()
    first = page(rows).splitlines()[0]
    parts = first.split("At a context of ")[1:]
    assert len(parts) == 2
    for part, way in zip(parts, (IN_FULL, CACHED), strict=True):
        at = {"length": 64, "accounting": way, "basis": MEASURED}
        assert part.startswith("64 tokens, ")
        takes, *others = re.split(r"takes |; ", part)[1:]
        seconds, megabytes, rounds = re.split(r" s, | MB and ", takes)
        vanilla = cost_of(rows, "vanilla", **at)
        assert agrees(seconds, vanilla, "seconds")
        assert agrees(megabytes, vanilla, "bytes", 1e-6)
        assert agrees(rounds, vanilla, "rounds")
        for system, told in zip(list(TITLES)[1:], others, strict=True):
            fast, saved = re.fullmatch(rf"{TITLES[system]} is (.*) times as fast with (.*) bytes\.? ?", told).groups()
            assert agrees(fast, cost_of(rows, system, **at), "ratio_seconds")
            assert agrees(saved, cost_of(rows, system, **at), "bytes_saved", percent=True)


def test_what_stands_beside_published_figures_is_of_the_longest_context_in_full() -> None:
    """If this failed, ours would be of another length, model or accounting than the line says."""
    rows = drawn_rows()
    lines = [line for _, body in tables(page(rows)) for line in body if "published" in line]
    mine = [line for line in lines if PROTOCOLS[0] in line["ours is of"]]
    settings = {"length 64, measured": (64, MEASURED), f"length 512, {COMPOSED}": (512, COMPOSED)}
    assert len(lines) == 2 * len(mine) == 2 * 5 * len(settings)
    for line in mine:
        ((length, basis),) = (found for told, found in settings.items() if line["ours is of"].endswith(told))
        at = {"model": "small", "length": length, "accounting": IN_FULL, "basis": basis}
        system = "pcft" if line["what"].startswith("PCFT") else "merge"
        row, ours = cost_of(rows, system, **at), line["ours, against our vanilla or MPCFormer"]
        if "MPCFormer" in line["what"]:
            assert agrees(ours, row, "ratio_seconds_mpcformer")
        elif ours.endswith("bytes"):
            assert agrees(ours, row, "bytes_saved", percent=True)
        else:
            assert agrees(ours, row, "ratio_seconds")


def test_prose_about_models_has_their_figures() -> None:
    """If this failed, what resending costs in quality, or the models' shape, would be told wrongly."""
    rows, text = drawn_rows(), page(drawn_rows())
    merge = next(row for row in rows if row["table"] == MODELS and row["system"] == "merge")
    told = re.search(r"what MERGE writes has (.*) times the perplexity .*, and (.*) of its tokens", text)
    assert agrees(told[1], merge, "written_perplexity_over_exact")
    assert agrees(told[2], merge, "resent_agreement", percent=True)
    assert "Every model has 3 layers, 96 wide, 6 heads, 777 tokens in the vocabulary" in text
    assert "figures are of 53 documents" in text


def printed_keys() -> list[tuple[str, str]]:
    """Table and key of every number in the record, interval ends aside."""
    found = dict.fromkeys(
        (str(row["table"]), key)
        for row in drawn_rows() for key, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and not key.endswith(("_low", "_high"))
    )  # fmt: skip
    return list(found)


def victim_of(rows: list[dict[str, Any]], table: str, system: str) -> dict[str, Any]:
    """The first row of a table; of costs, one at the longest context that was measured, which prose is about too."""
    mine = [row for row in rows if row["table"] == table and row.get("system", system) == system]
    return next(row for row in mine if row.get("length", 64) == 64)


SHAPE = {"layers", "hidden", "heads", "vocabulary", "documents"}
"""Of all models alike, and so told of the first."""
UNPRINTED = {(COSTS, "repeats"), (COSTS, "ratio_bytes"), (OPERATORS, "repeats"), (MODELS, "written_perplexity")}


@pytest.mark.parametrize("value", [None, math.nan], ids=["missing", "nan"])
@pytest.mark.parametrize(("table", "key"), printed_keys())
def test_a_number_that_is_missing_is_said_to_be_so(table: str, key: str, value: float | None) -> None:
    """If this failed, a broken measurement would be printed as zero or as a Python word, or stop the report."""
    rows, whole = drawn_rows(), page(drawn_rows())
    victim = victim_of(rows, table, "vanilla" if key in SHAPE else "merge")
    for name in [name for name in victim if name in {key, f"{key}_low", f"{key}_high"}]:
        if value is None:
            del victim[name]
        else:
            victim[name] = value
    text = page(rows)
    assert not re.search(r"\b(None|nan|NaN|inf)\b", text)
    if (table, key) in UNPRINTED:
        assert text == whole
    else:
        assert text.count(NOT_MEASURED) > whole.count(NOT_MEASURED)


@pytest.mark.parametrize(
    ("table", "key"),
    [
        (ENGINES, "guarantee"), (ENGINES, "engine"), (MODELS, "title"), (MODELS, "guarantee"), (MODELS, "source"),
        (MODELS, "client_learns"), (MODELS, "party_learns"), (MODELS, "deviations"), (MODELS, "engine"),
        (MODELS, "logit_error_explained"), (COSTS, "title"), (COSTS, "model"), (COSTS, "basis"),
        (COSTS, "accounting"), (OPERATORS, "operator"), (OPERATORS, "engine"),
    ],
)  # fmt: skip
def test_a_word_that_is_missing_is_said_to_be_so(table: str, key: str) -> None:
    """If this failed, a promise to nobody would be printed as "None", or a record without a name stop the report."""
    rows, whole = drawn_rows(), page(drawn_rows())
    del victim_of(rows, table, "merge")[key]
    text = page(rows)
    assert not re.search(r"\bNone\b", text)
    assert text.count(NOT_MEASURED) > whole.count(NOT_MEASURED)


def test_a_cost_of_no_system_is_compared_with_none() -> None:
    """If this failed, a row without its system would stop the report, or stand for another system in prose."""
    rows = drawn_rows()
    del victim_of(rows, COSTS, "merge")["system"]
    lines = [line for _, body in tables(page(rows)) for line in body if "published" in line]
    asked = [line["what"] for line in lines if line["ours is of"].endswith("length 64, measured")]
    assert [what.split()[0] for what in asked] == [*["PCFT"] * 2, *["MERGE"] * 3, *["PCFT"] * 2]


def test_an_interval_that_is_missing_is_left_out_and_not_invented() -> None:
    """If this failed, a figure without an interval would be printed with that of another, or not at all."""
    rows = drawn_rows()
    victim = cost_of(rows, "merge", length=64, accounting=CACHED)
    del victim["seconds_low"], victim["seconds_high"]
    lines = [(before, line) for before, body in tables(page(rows)) for line in body if "times as fast, WAN" in line]
    (line,) = (line for before, line in lines if the_row(rows, before, line) is victim)
    assert "[" not in line["seconds"]
    assert agrees(line["seconds"], victim, "seconds")
    assert "[" in line["rounds"]


def test_pictures_hold_the_record_s_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a curve would be another system's, or megabytes be bytes; what did not run has a hollow mark."""
    pictures = []
    monkeypatch.setattr(crypto_figures, "save_picture", lambda picture, path: pictures.append(picture))
    rows = [row for row in drawn_rows() if row.get("engine") == PROTOCOLS[0] and row["table"] == COSTS]
    told = draw_crypto(rows_of(record_of(rows)), tmp_path, "")
    assert len(told) == len(pictures) == 3
    mine = [row for row in rows if row["model"] == "small" and row["accounting"] == IN_FULL]
    for axes, (key, scale) in zip(pictures[0].axes, (("seconds", 1), ("bytes", 1e-6), ("rounds", 1)), strict=True):
        assert [tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 1] == [(512,)] * len(TITLES)
        for system, bars in zip(TITLES, axes.containers, strict=True):
            own = sorted((row for row in mine if row["system"] == system), key=lambda row: row["length"])
            assert bars[0].get_xdata().tolist() == [16, 64, 512]
            assert bars[0].get_ydata() == pytest.approx([scale * row[key] for row in own])
            ends = [[float(y) for _, y in segment] for segment in bars[2][0].get_segments()]
            wanted = [[scale * row[f"{key}_low"], scale * row[f"{key}_high"]] for row in own]
            assert np.array(ends) == pytest.approx(np.array(wanted))
    longest = [row for row in mine if row["length"] == 512]
    for row, words in zip(longest, told[0].alt.split("At 512 tokens: ")[1].split("; "), strict=True):
        seconds, megabytes = re.fullmatch(rf"{row['title']} (.*) s and (.*) MB\.?", words).groups()
        assert agrees(seconds, row, "seconds")
        assert agrees(megabytes, {"bytes": row["bytes"]}, "bytes", 1e-6)


@pytest.mark.parametrize("key", ["seconds", "bytes", "rounds", "length"])
def test_a_picture_without_a_number_leaves_its_point_out(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, a figure that was not measured would be drawn at zero, or stop the report."""
    pictures = []
    monkeypatch.setattr(crypto_figures, "save_picture", lambda picture, path: pictures.append(picture))
    rows = [row for row in drawn_rows() if row.get("engine") == PROTOCOLS[0] and row.get("accounting") == CACHED]
    rows = [row for row in rows if row["model"] == "small"]
    del rows[0][key]
    (told,) = draw_crypto(rows_of(record_of(rows)), tmp_path, "")
    panel = ("seconds", "bytes", "rounds").index(key) if key != "length" else 0
    assert [len(bars[0].get_xdata()) for bars in pictures[0].axes[panel].containers] == [0, 1, 1, 1]
    if key in {"seconds", "bytes"}:
        assert NOT_MEASURED in told.alt
