"""The page of an audit: what it says of each verdict, what it never says, and pictures of the record's own points."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure as Picture
from scipy.special import ndtr, ndtri

from audit.audit_record import tradeoffs
from audit.intervals import clopper_pearson
from audit.provenance import Provenance
from audit.records import RunRecord, new_record
from audit.witness import Witness
from reports import audit_figures
from reports.audit_page import audit_opening
from reports.markdown import MARK
from reports.report import write_report
from reports.rows import NOT_MEASURED, rows_of

EVIL = "a | $\\alpha_$ <b>x</b>\n[l](http://e.vil) `漢` *b*"
COMMON: dict[str, Any] = {
    "defence": "del", "parameter_n": 4, "claim_kind": "mu-GDP", "claim_text": "mu-GDP (mu=1) per one token",
    "epsilon_claimed": 4.377, "delta": 1e-5, "unit": "one token", "relation": "replace a token by any other",
    "verdict": "CONSISTENT", "vacuous": False, "ceiling": 0.19, "p_value": 0.41, "alpha": 0.0125, "confidence": 0.95,
    "epsilon_lower": 3.98, "family": "gdp", "estimator": "supremum (Nasr 2023)", "correction": "one joint statistic",
    "samples": 2000, "detectable_violation": 1.12, "power_target": 0.8, "through": "wire", "score": "likelihood ratio",
    "seed": 0, "seconds": 1.9, "reason": "stays below the claim",
}  # fmt: skip


WITNESS = Witness(
    null=(4,), alternative=(9,), null_text=("|a|",), alternative_text=(" b",), requests=(1,), positions=(3,), tokens=5,
    event="the token sent is one of 14 tokens", threshold=0.5, above=True, sent=(9, 12), sent_text=(" b", "c"),
    sent_null=(3, 0), sent_alternative=(900, 70), kinds=14, null_count=5, alternative_count=1000, draws=1700,
    null_low=0.0008, null_high=0.0075, alternative_low=0.56, alternative_high=0.62, confidence=0.95, allowed=0.02,
)  # fmt: skip


def measured(mu: float, claimed: float, rng: np.random.Generator) -> dict[str, Any]:
    """ROC of the Gaussian mechanism at mu from 2,000 draws a side, beside the claimed curve; one point at rate 0."""
    fpr = np.concatenate([[0.0], np.geomspace(1e-3, 0.95, 12)])
    hits = [int((rng.normal(mu, size=2000) > -ndtri(level)).sum()) for level in fpr]
    ends = [clopper_pearson(count, 2000) for count in hits]
    grid = np.geomspace(1e-6, 1, 100)
    return {
        "fpr": fpr, "tpr": [count / 2000 for count in hits], "tpr_low": [end.low for end in ends],
        "tpr_high": [end.high for end in ends], "claimed_power": ndtr(ndtri(fpr) + claimed), "kappa": 0.031,
        "curve_fpr": grid, "curve_power": ndtr(ndtri(grid) + claimed), "curve_exact": ndtr(ndtri(grid) + 0.98 * mu),
        "curve_sandwich_low": ndtr(ndtri(grid) + 0.9 * mu), "curve_sandwich_high": ndtr(ndtri(grid) + 1.1 * mu),
    }  # fmt: skip


@pytest.fixture(scope="module")
def record() -> RunRecord:
    """A sound claim, a refuted one, a vacuous one with an evil name, and canaries of which little is known."""
    rng = np.random.default_rng(5)
    rows = [
        {**COMMON, "claim": "sound"},
        {**COMMON, "claim": "broken twin", "verdict": "REFUTED", "p_value": 0.0, "epsilon_lower": 6.2},
        {**COMMON, "claim": EVIL, "vacuous": True, "ceiling": 0.999, "epsilon_claimed": 400.0, "epsilon_lower": 7.1,
         "detectable_violation": 1.4, "violation_of": "the noise"},
        {"claim": "canaries", "verdict": "INCONCLUSIVE", "through": "canaries", "samples": 1000, "family": "any",
         "alpha": 0.0125, "epsilon_claimed": 8.0, "epsilon_lower": 0.0},
    ]  # fmt: skip
    points = [measured(1, 1, rng), measured(1.6, 1, rng), measured(5, 5, rng), {}]
    origin = Provenance(
        commit="0123abcd" * 5, dirty=False, versions={"numpy": "2.0.0"}, environment={"cpu_count": 2},
        created="2026-01-02T03:04:05+00:00", command="delaudit check claims.toml",
    )  # fmt: skip
    examples = [{"claim": row["claim"], "seed": 0, **found} for row, found in zip(rows, points, strict=True)]
    examples[0]["witness"] = dataclasses.asdict(WITNESS)  # of a claim that is not refuted
    return new_record("check", config={}, seed=0, rows=rows, examples=examples, provenance=origin)


@pytest.fixture(scope="module")
def folder(record: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report's folder."""
    return write_report([record], tmp_path_factory.mktemp("page") / "report")


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    """The run in full."""
    return in_full(folder)


def in_full(folder: Path) -> str:
    """The report's last part."""
    return (folder / "report.md").read_text(encoding="utf-8").partition(" in full: ")[2]


def tables(text: str) -> list[list[list[str]]]:
    """Every table of the text as rows of cells, its header first."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    return [
        [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines()]
        for block in blocks
    ]


def opening(record: RunRecord, rows: list[dict[str, Any]]) -> str:
    """The opening of the record with other rows."""
    changed = dataclasses.replace(record, rows=rows, nonfinite={}, examples=[])
    return audit_opening(changed, rows_of(changed))


def test_the_verdict_table_says_what_was_promised_and_found(text: str) -> None:
    """Verdict, bound at its confidence beside the claim, p-value beside the level, power and evidence, row by row."""
    body = tables(text)[0][2:]
    assert body[0][1:] == [
        "sound", "mu-GDP (mu=1) per one token", "**CONSISTENT**", "", "3.98 (95.0 %), if gdp", "4.38 (δ = 1e-05)",
        "0.41", "0.013", "factor 1.12 (power 80.0 %)", "2,000 samples a side",
    ]  # fmt: skip
    assert body[1][3] == "**REFUTED**"
    assert body[1][7] == "below 1e-300"
    assert body[2][4] == "**VACUOUS**: the claim allows an adversary to be right up to 99.9 % of the time"
    assert body[2][9] == "factor 1.4 of the noise (power 80.0 %)"
    assert body[3][1:] == [
        "canaries", NOT_MEASURED, "**INCONCLUSIVE**", NOT_MEASURED, f"0 (confidence {NOT_MEASURED})", "8",
        NOT_MEASURED, "0.013", NOT_MEASURED, "1,000 canaries",
    ]  # fmt: skip


def test_every_claim_states_its_assumptions(text: str) -> None:
    """Family, estimator, correction, unit and source stand under each claim; what is unknown says so."""
    assumptions = [dict(cells for cells in table[2:]) for table in tables(text)[1:5]]
    assert assumptions[0]["assumed of the mechanism"].startswith("gdp (Gaussian: the figures test a claim")
    assert assumptions[3]["assumed of the mechanism"].startswith("any (none:")
    assert assumptions[0]["its parameters"] == "n = 4"
    assert assumptions[0]["correction for many looks"] == "one joint statistic"
    assert assumptions[0]["source of the claim"] == NOT_MEASURED
    assert {assumptions[3][key] for key in ("unit", "neighbours", "estimator", "seed", "time")} == {NOT_MEASURED}


def test_names_cannot_inject_markup(text: str) -> None:
    """An evil claim name arrives as text in tables, headings, sentences and alt texts; tables stay rectangular."""
    assert "<b>" not in text
    assert not re.search(r"(?<!\\)\]\(http", text)
    assert not re.search(r"(?<!\\)\$", text)
    for table in tables(text):
        assert len({len(cells) for cells in table}) == 1
    (heading,) = [line for line in text.splitlines() if line.startswith("#### 3.")]
    assert heading.startswith(r"#### 3. a \| \$\\alpha\_\$ &lt;b&gt;x&lt;/b&gt; ⏎ \[l\]")


def refuted(record: RunRecord, witness: Witness | None) -> RunRecord:
    """One refuted claim with its witness."""
    row = {**COMMON, "claim": "a", "verdict": "REFUTED", "p_value": 1e-9}
    example = {**record.examples[1], "claim": "a"}
    if witness is not None:
        example["witness"] = dataclasses.asdict(witness)
    return dataclasses.replace(record, rows=[row], nonfinite={}, examples=[example])


def page(record: RunRecord, folder: Path) -> str:
    """The page's text."""
    return in_full(write_report([record], folder))


def test_a_refutation_shows_its_witness(record: RunRecord, tmp_path: Path) -> None:
    """Both inputs with text and id, where they differ, the event, both rates with intervals, and what is allowed."""
    text = page(refuted(record, WITNESS), tmp_path / "r")
    shown, sent = tables(text)[1:3]
    values = dict(shown[2:])
    assert values["the inputs"] == "prompts of 5 tokens, which differ at position 3"
    assert values["the event"] == "The token sent is one of 14 tokens."
    assert values[r'under "\|a\|" (id 4)'] == "5 of 1,700 draws: 0.294 % [0.080 %, 0.750 %]"
    assert values['under " b" (id 9)'] == "1,000 of 1,700 draws: 58.8 % [56.0 %, 62.0 %]"
    assert values["the claim allows the latter"].startswith("at most 2.0 %")
    assert "contradicts the claim" in values["by itself"]
    assert sent[2:] == [['" b" (id 9)', "3", "900"], ['"c" (id 12)', "0", "70"], ["12 more", "2", "30"]]


def test_a_weak_event_and_a_missing_one_are_said(record: RunRecord, tmp_path: Path) -> None:
    """An event that the claim allows is not called a contradiction; an old record says that it has none."""
    weak = page(refuted(record, dataclasses.replace(WITNESS, allowed=0.9, sent=(), sent_text=())), tmp_path / "w")
    assert "does not contradict the claim at its interval" in weak
    assert "sent token of the event" not in weak
    old = page(refuted(record, None), tmp_path / "o")
    assert f"Witness: {NOT_MEASURED}" in old
    assert "**The witness**" not in old


def test_only_a_refuted_claim_has_a_witness(text: str) -> None:
    """The record's witness of a sound claim is not shown: it would read as a contradiction."""
    assert "**The witness**" not in text
    assert text.count(f"Witness: {NOT_MEASURED}") == 1


def test_the_picture_marks_the_witness() -> None:
    """One mark at both rates, with the ends of both intervals."""
    axes = Picture().add_subplot()
    audit_figures._witness(axes, WITNESS)
    (mark,) = axes.containers
    assert mark.lines[0].get_xdata().tolist() == [5 / 1700]
    assert mark.lines[0].get_ydata().tolist() == [1000 / 1700]
    ends = sorted(value for bar in mark.lines[2] for value in bar.get_segments()[0].ravel().tolist())
    assert ends == pytest.approx(sorted([0.0008, 0.0075, 0.56, 0.62, 5 / 1700, 5 / 1700, 1000 / 1700, 1000 / 1700]))


def test_the_opening_counts_and_warns(record: RunRecord) -> None:
    """How many claims, which are refuted, what could have been found, what nothing proves, what is worth nothing."""
    words = audit_opening(record, rows_of(record))
    for part in (
        "This check tested 4 claims. **1 is refuted**: *broken twin*.",
        "2 are consistent with the evidence: the smallest violation that those audits could have detected",
        "with a probability of 80.0 % or more is a factor of 1.12 to 1.4.",
        "1 audit was too weak to say anything: *canaries*.",
        "**Not refuted is no proof.**",
        "1 of the claims is **vacuous**",
        "The levels spent add up to 0.05:",
    ):
        assert part in words


@pytest.mark.parametrize(
    ("rows", "present", "absent"),
    [
        ([], "tested no claim", "refuted"),
        ([{**COMMON, "claim": "a"}], "**None is refuted.** 1 is consistent with the evidence", "too weak"),
        ([{"claim": "a", "verdict": "CONSISTENT"}], f"the smallest detectable violation was {NOT_MEASURED}", "add up"),
        ([{"claim": "a"}], "1 audit was too weak", "consistent"),
        ([{**COMMON, "claim": str(i), "verdict": "REFUTED"} for i in range(7)], "and 2 more", "consistent with"),
    ],
)
def test_the_opening_says_no_more_than_the_record(
    record: RunRecord, rows: list[dict[str, Any]], present: str, absent: str
) -> None:
    """No claim, no power, no verdict and no level each change the words; many names are cut short and counted."""
    words = opening(record, rows)
    assert present in words
    assert absent not in words


def test_no_claim_is_ever_called_private(text: str, record: RunRecord) -> None:
    """Neither the page nor an audit without any refutation says that something is private, safe or proven."""
    clean = opening(record, [{**COMMON, "claim": "a"}])
    for words in (text, clean):
        assert not re.search(r"\b(is|are) (private|safe|secure|proven)\b", words)


def test_pictures_are_linked_and_described(text: str, folder: Path) -> None:
    """One picture per claim with points and one of all bounds, each with an alt text; the fourth says it has none."""
    text = (folder / "report.md").read_text(encoding="utf-8")
    links = dict(re.findall(r"!\[((?:\\.|[^\]\\]){20,})\]\(figures/([\w-]+\.png)\)", text))
    assert sorted(links.values()) == ["claim-1.png", "claim-2.png", "claim-3.png", "lower-bounds.png"]
    for file in links.values():
        assert (folder / "figures" / file).read_bytes().startswith(b"\x89PNG")
    assert f"Pictures of these claims: {NOT_MEASURED}, their records have no points: canaries." in text
    assert any("4: claimed 8, at least 0" in alt for alt in links)


def test_pictures_hold_the_records_points(record: RunRecord) -> None:
    """Marked points are those whose interval is above the claim; together the two kinds are all of the record's."""
    points = tradeoffs(record)[1]
    assert points is not None
    axes = Picture().add_subplot()
    audit_figures._panel(axes, points, 0.19)
    drawn = {box.get_label(): box.lines[0] for box in axes.containers}
    above = drawn["measured, whole interval above what is allowed"]
    rest = drawn["measured, interval reaches what is allowed"]
    wanted = [low > most for low, most in zip(points.low, points.claimed, strict=True)]
    assert above.get_xdata().tolist() == [x for x, marked in zip(points.fpr, wanted, strict=True) if marked]
    assert above.get_ydata().tolist() == [y for y, marked in zip(points.tpr, wanted, strict=True) if marked]
    assert len(above.get_xdata()) + len(rest.get_xdata()) == len(points.fpr)
    assert len(above.get_xdata()) >= 8
    curve = next(line for line in axes.lines if line.get_label() == "greatest power that the claim allows")
    assert curve.get_xydata().tolist() == [list(pair) for pair in zip(*points.curve, strict=True)]


def test_many_points_are_thinned_with_both_ends(record: RunRecord) -> None:
    """Of a thousand points forty are drawn, the first and the last among them."""
    points = tradeoffs(record)[0]
    assert points is not None
    many = np.linspace(0.001, 0.999, 1000)
    wide = dataclasses.replace(
        points, fpr=tuple(many), tpr=tuple(many), low=tuple(many / 2), high=tuple((1 + many) / 2),
        claimed=tuple(ndtr(ndtri(many) + 1)), fpr_ends=(tuple(many / 2), tuple(np.sqrt(many))),
    )  # fmt: skip
    axes = Picture().add_subplot()
    audit_figures._panel(axes, wide, None)
    across = axes.containers[0].lines[0].get_xdata()
    assert (len(across), across[0], across[-1]) == (40, 0.001, 0.999)


@pytest.mark.parametrize(
    ("values", "scale"), [((4.4, 3.9), "linear"), ((400.0, 0.5), "symlog"), ((0.0, 0.0), "linear")]
)
def test_all_bounds_share_one_legible_axis(values: tuple[float, ...], scale: str) -> None:
    """Epsilons far apart are on a logarithmic axis that keeps zero; every value is within the limits."""
    axes = Picture().add_subplot()
    audit_figures._overview_scale(axes, values)
    low, high = axes.get_xlim()
    assert axes.get_xscale() == scale
    assert low < min(0.0, *values) <= max(values) < high


def test_one_bound_needs_no_overview(record: RunRecord, tmp_path: Path) -> None:
    """With fewer than two finite pairs there is no picture of all bounds."""
    rows = [{**COMMON, "claim": "a"}, {**COMMON, "claim": "b", "epsilon_claimed": math.inf}]
    changed = dataclasses.replace(record, rows=rows, nonfinite={}, examples=[])
    assert audit_figures.draw_overview(changed, tmp_path, "") is None


@given(st.text(max_size=200), st.integers(min_value=4, max_value=80))
def test_names_in_pictures_are_short_plain_lines(name: str, width: int) -> None:
    """Whatever the name: printable ASCII on one line, no longer than asked for."""
    shown = audit_figures.plain(name, width)
    assert len(shown) <= width
    assert all(" " <= sign <= "~" for sign in shown)


@pytest.mark.parametrize("kind", ["audit", "check"])
def test_audits_have_their_own_page(record: RunRecord, kind: str, tmp_path: Path) -> None:
    """Both kinds get the audit's page with provenance and the command; no section of experiments is in it."""
    text = (write_report([dataclasses.replace(record, kind=kind)], tmp_path / "r") / "report.md").read_text("utf-8")
    assert text.startswith(f"{MARK}\n# What the claims are worth\n\n## In plain words\n\nThis report tested 4 claims")
    assert f"\n\nThis {kind} tested 4 claims." in text
    assert "`delaudit check claims.toml`" in text
    assert "0123abcd" in text
    assert "### Utility" not in text


def test_audits_and_experiments_share_a_report(record: RunRecord, tmp_path: Path) -> None:
    """Each record gets the page of its kind, and their pictures do not collide."""
    other = new_record("experiment", config={}, seed=0, rows=[{"defence": "identity", "perplexity": 26.5}])
    out = write_report([record, other, record], tmp_path / "r")
    text = (out / "report.md").read_text("utf-8")
    assert text.count("### Claim by claim") == 2
    assert text.count("### Utility") == 1
    assert {file.name for file in (out / "figures").glob("*.png")} == {
        f"{prefix}-{name}.png" for prefix in (1, 3) for name in ("claim-1", "claim-2", "claim-3", "lower-bounds")
    }


def test_an_audit_without_anything_is_still_a_page(record: RunRecord, tmp_path: Path) -> None:
    """A record of one bare row keeps every heading, all of it not measured, and has no picture."""
    bare = dataclasses.replace(record, rows=[{"claim": "x"}], nonfinite={}, examples=[])
    out = write_report([bare], tmp_path / "r")
    (cells,) = tables(in_full(out))[0][2:]
    assert set(cells[2:]) == {NOT_MEASURED}
    assert list((out / "figures").iterdir()) == []
