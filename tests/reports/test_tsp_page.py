"""The page of encrypted sampling: what is shown and what is not, tables, curves, and what is missing."""

from pathlib import Path
from typing import Any

import pytest

from audit.provenance import Provenance
from audit.records import Figure, RunRecord, new_record
from reports.rows import NOT_MEASURED, rows_of
from reports.tsp_figures import Measure, conditions, draw_changes, draw_measure
from reports.tsp_page import tsp_opening, tsp_section, verdict

ORIGIN = Provenance(
    commit="0123abcd" * 5, dirty=False, versions={"numpy": "2.0.0"}, environment={"cpu_count": 2},
    created="2026-01-02T03:04:05+00:00", command="delaudit crypto tsp",
)  # fmt: skip


def spread(name: str, value: float, share: float = 0.1) -> dict[str, float]:
    """A figure with an interval of plus and minus a share of it."""
    ends = sorted((value * (1 - share), value * (1 + share)))
    return {name: value, f"{name}_low": ends[0], f"{name}_high": ends[1]}


def row(order: str, depth: int, error: float, *, post: bool = False, **more: Any) -> dict[str, Any]:
    """One condition."""
    return {
        "defence": f"{order}, depth {depth}{', post-processed' if post else ''}", "order": order, "amplify": depth,
        "post": post, "levels": 2 * depth + 17, "resolution": 1e-4, "prompts": 48, "documents": 40, "tokens": 32,
        **spread("cosine_error", error), **spread("relative_error", 2 * error), "disagreement": 0.05,
        **spread("perplexity_over_clean", 1.5), **more,
    }  # fmt: skip


def figure(name: str, value: float, low: float, high: float) -> Figure:
    """A difference."""
    return Figure(name, value, low, high, 0.95, 40, "paired cluster bootstrap")


@pytest.fixture(scope="module")
def record() -> RunRecord:
    """Two depths, three orders; free generation of two."""
    rows: list[dict[str, Any]] = [
        {"defence": "clean model", "prompts": 48, "documents": 40, "tokens": 32, **spread("collapse", 0.04)}
    ]
    for depth, scale in ((6, 0.2), (12, 0.02)):
        rows += [
            row("identity", depth, scale, **spread("collapse", 0.5)),
            row("random", depth, 1.5 * scale),
            row("tsp", depth, 0.7 * scale, **spread("collapse", 0.4),
                **spread("cosine_error_minus_identity", -0.3 * scale),
                collapse_minus_identity=-0.1, collapse_minus_identity_low=-0.25, collapse_minus_identity_high=0.05),
            row("tsp", depth, 0.5 * scale, post=True, **spread("cosine_error_minus_plain", -0.2 * scale)),
        ]  # fmt: skip
    figures = [
        figure("cosine_error: tsp minus identity", -0.03, -0.04, -0.02),
        figure("collapse: tsp minus identity", -0.1, -0.25, 0.05),
        figure("cosine_error: post-processing minus none, tsp", 0.02, 0.01, 0.03),
        Figure("CKKS, V = 512: seconds", 250.0, None, None, None, 1, "OpenFHE, ring dimension 131072", "s"),
    ]
    facts = {
        "neighbour_distance": {"identity": 0.541, "tsp": 0.272},
        "collapse_rule": {"window": 16, "distinct": 0.25, "loss": 8.5, "texts": 48},
    }
    return new_record("tsp-ordering", config=facts, seed=0, rows=rows, figures=figures, provenance=ORIGIN)


@pytest.fixture(scope="module")
def page(record: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The section and the folder of its pictures."""
    folder = tmp_path_factory.mktemp("figures")
    return "\n".join(tsp_section(record, folder, "")), folder


def test_the_opening_says_at_which_depths_something_is_shown(record: RunRecord) -> None:
    """Less, more and not shown, each by its own interval, with the deepest value and what it comes to."""
    rows = [dict(one) for one in record.rows]
    told = tsp_opening(rows_of(record))
    assert (
        "the cosine error is less at depth 6 12 (at 12: -0.006 [-0.0066, -0.0054], to 0.014 [0.0126, 0.0154])" in told
    )
    assert "collapse is not shown to change at depth 6 12 (at 12: -0.1 [-0.25, 0.05], to 0.4 [0.36, 0.44])" in told
    assert "**Post-processing in the tour's order**: the cosine error is less at depth 6 12" in told
    assert "Post-processing in the model's own order" not in told
    rows[3] |= spread("cosine_error_minus_identity", 0.05)
    turned = new_record("tsp-ordering", config={}, seed=0, rows=rows, provenance=ORIGIN)
    assert "the cosine error is less at depth 12, **more** at depth 6 (at 12:" in tsp_opening(rows_of(turned))
    assert "Nothing follows" in tsp_opening([])


def test_every_condition_has_its_row(page: tuple[str, Path]) -> None:
    """Orders, levels, intervals; what an order did not do is not measured, what the clean model cannot have a dash."""
    text, _ = page
    assert "identity 0.541, tsp 0.272" in text
    assert "| clean model | - | - | - | - | - | - | 4.0 % [3.6 %, 4.4 %] | - |" in text
    line = next(one for one in text.splitlines() if one.startswith("| random, depth 6 |"))
    assert "| 29 | 0.0001 | 0.3 [0.27, 0.33] | 0.6 [0.54, 0.66] | 95.0 % |" in line
    assert NOT_MEASURED in line
    assert "48 prompts of 40 documents, 32 tokens each" in text


def test_differences_are_bold_only_where_they_are_shown(page: tuple[str, Path]) -> None:
    """At each depth against the own order, and post-processing against none."""
    text, _ = page
    part = text.split("### What the tour changes at each depth", 1)[1]
    line = next(one for one in part.splitlines() if one.startswith("| tsp, depth 6 |"))
    assert "**-0.06 [-0.066, -0.054]**" in line
    assert "| -0.1 [-0.25, 0.05] |" in line
    post = part.split("### What post-processing changes", 1)[1]
    assert "| tsp, depth 12, post-processed | **-0.004 [-0.0044, -0.0036]** |" in post


def test_the_rule_and_ckks_are_told(page: tuple[str, Path]) -> None:
    """What counts as collapse, and what the circuit costs encrypted, apart from the differences."""
    text, _ = page
    assert "some 16 tokens of it hold fewer than 25 % distinct ones, or have a mean loss above 8.5 nats" in text
    together = text.split("### All depths together", 1)[1]
    assert "CKKS" not in together.split("### The same circuit under CKKS", 1)[0]
    assert "| CKKS, V = 512: seconds | 250 s |" in together


def test_curves_are_drawn_over_depth(record: RunRecord, page: tuple[str, Path]) -> None:
    """One picture for each measure, with a curve for each order and post-processing in rising depth."""
    _, folder = page
    names = {"tsp-cosine.png", "tsp-collapse.png", "tsp-perplexity.png", "tsp-changes.png"}
    assert {path.name for path in folder.glob("*.png")} == names
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in names)
    curves = conditions(rows_of(record))
    assert list(curves) == ["own order", "random order", "tour", "tour, post-processed"]
    assert [one.number("amplify") for one in curves["tour"]] == [6, 12]
    drawn = draw_measure(rows_of(record), Measure("collapse", "Title", "collapsed"), folder, "again.png")
    assert drawn is not None
    assert drawn.alt == "collapsed, at the greatest depth: own order 0.5 [0.45, 0.55]; tour 0.4 [0.36, 0.44]."


def test_a_bare_record_says_what_is_missing(tmp_path: Path) -> None:
    """No rows, no figures, no facts: words in place of pictures and tables."""
    bare = new_record("tsp-ordering", config={}, seed=0, rows=[], provenance=ORIGIN)
    text = "\n".join(tsp_section(bare, tmp_path, ""))
    assert "Nothing was compared" in text
    assert text.count("ot measured") >= 6
    assert list(tmp_path.iterdir()) == []
    assert draw_changes([], tmp_path, "x.png") is None


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(-2.0, -1.0, "better"), (1.0, 2.0, "worse"), (-1.0, 1.0, "no difference"), (None, None, "without an interval")],
)
def test_the_verdict_follows_the_interval(low: float | None, high: float | None, words: str) -> None:
    """Only an interval on one side of zero shows a difference."""
    level = None if low is None else 0.95
    assert verdict(Figure("x", 0.0, low, high, level, 3, "method")).startswith(words)
