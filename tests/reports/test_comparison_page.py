"""The page of a comparison: ranks with ties, orders that turn round, what could not be compared, and the pictures."""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure as Picture

from audit.comparison_record import NO_PROMPT
from audit.provenance import Provenance
from audit.records import Figure, RunRecord, new_record
from reports.comparison_page import comparison_opening, verdict
from reports.ranking import crossings, flips, tables
from reports.report import write_report

# (mode, level) -> agreement of the three contenders; a and b turn round between exact epsilon and cosine's success,
# b and c cross within "nominal".
SEEN: dict[tuple[str, float], dict[str, float]] = {
    ("exact-epsilon", 10.0): {"a": 0.60, "b": 0.40, "c": 0.39},
    ("exact-epsilon", 100.0): {"a": 0.80, "b": 0.70, "c": 0.69},
    ("nominal", 20.0): {"a": 0.50, "b": 0.70, "c": 0.30},
    ("nominal", 60.0): {"a": 0.50, "b": 0.51, "c": 0.90},
    ("asr", 0.1): {"a": 0.30, "b": 0.55, "c": 0.54},
}
CLEAR = 0.05  # differences that the synthetic tests call significant


def row(mode: str, level: float, name: str, value: float, width: float = 0.02) -> dict[str, Any]:
    """A measured row in the columns of `audit.comparison`."""
    return {
        "defence": name, "projection": None, "mode": mode, "level": level, "contender": name, "parameter": "mu",
        "parameter_value": 3.5, "reason": None, "nominal_name": "mu", "nominal": 3.5, "nominal_unit": "one token",
        "epsilon_exact_token": None if name == "c" else 50.0 + ord(name), "delta": 1e-5,
        "epsilon_note": "none: no guarantee holds for every two tokens" if name == "c" else "bound",
        "agreement_top1": value, "agreement_top1_low": value - width, "agreement_top1_high": value + width,
        "perplexity_over_clean": 3 - value, "asr_top1_cosine": 0.1, "asr_top1_map": 0.1 + value / 2,
        "asr_strongest": 0.1 + value / 2, "strongest_attack": "map", "asr_prior": 0.06,
        "body_bytes_up_per_token": 66.0, "attack_tokens": 500, "attack_documents": 20, "attack_seeds": 1,
        "knowledge_map": "mechanism; one message",
    }  # fmt: skip


def differences(seen: Mapping[tuple[str, float], Mapping[str, float]]) -> list[dict[str, Any]]:
    """Paired notes: what differs by more than CLEAR is significant."""
    return [
        {
            "mode": mode, "level": level, "utility": "agreement_top1", "first": first, "second": second,
            "difference": found[first] - found[second], "p": 0.001,
            "p_holm": 0.003 if abs(found[first] - found[second]) > CLEAR else 0.4,
        }
        for (mode, level), found in seen.items() for first, second in itertools.combinations(found, 2)
    ]  # fmt: skip


def made(
    origin: Provenance,
    seen: Mapping[tuple[str, float], Mapping[str, float]] = SEEN,
    *,
    notes: Sequence[Mapping[str, Any]] | None = None,
    more: Sequence[Mapping[str, Any]] = (),
    utility: str = "agreement_top1",
) -> RunRecord:
    """A comparison's record."""
    rows = [row(mode, level, name, value) for (mode, level), found in seen.items() for name, value in found.items()]
    levels: dict[str, list[float]] = {}
    for mode, level in seen:
        levels.setdefault(mode, []).append(level)
    return new_record(
        "comparison", config={"utility": utility, "levels": levels}, seed=0, rows=[*rows, *more],
        examples=differences(seen) if notes is None else notes, provenance=origin,
    )  # fmt: skip


@pytest.fixture(scope="module")
def absent() -> dict[str, Any]:
    """A contender without a guarantee, where one is needed."""
    return {"defence": "d", "contender": "d|x", "mode": "exact-epsilon", "level": 10.0, "parameter": "snr",
            "parameter_value": None, "reason": "no guarantee holds for every two tokens"}  # fmt: skip


@pytest.fixture(scope="module")
def folder(origin: Provenance, absent: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report's folder."""
    return write_report([made(origin, more=[absent])], tmp_path_factory.mktemp("page") / "report")


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    """The report's text."""
    return (folder / "report.md").read_text(encoding="utf-8")


def lines(text: str, title: str) -> dict[str, list[str]]:
    """First cell -> the others, of the tables below a heading."""
    part = text.split(f"### {title}\n", 1)[1].split("\n### ", 1)[0]
    found = [re.split(r"(?<!\\)\|", line)[1:-1] for line in part.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in found}


def test_ranks_are_shared_by_ties(origin: Provenance) -> None:
    """Where b and c cannot be told apart, both are second; the best value still stands first."""
    first = tables(made(origin))[0]
    assert (first.mode, first.level) == ("exact-epsilon", 10.0)
    assert {name: first.rank(name) for name in first.rows} == {"a": 1, "b": 2, "c": 2}
    assert list(first.rows) == ["a", "b", "c"]
    assert first.order("c", "a") == "a"
    assert first.order("b", "c") is None


def test_a_pair_turns_round_where_each_mode_has_one_order(origin: Provenance) -> None:
    """Pairs a, b and a, c turn round; b and c, whose order depends on the level, are not counted for that mode."""
    found = tables(made(origin))
    turned = {(flip.first, flip.second): flip for flip in flips(found)}
    assert set(turned) == {("a", "b"), ("a", "c")}
    assert turned["a", "b"].won("a") == ["exact-epsilon"]
    assert turned["a", "b"].won("b") == ["nominal", "asr"]
    assert turned["a", "c"].won("c") == ["asr"]
    assert (("b", "c"), "nominal") in crossings(found)
    assert (("a", "c"), "nominal") in crossings(found)


def test_the_page_says_which_ranking_changes(text: str) -> None:
    """The opening names the pairs, the table has the numbers of both orders, the crossings are told apart."""
    assert "3 contenders" not in text  # the absent one is a contender too
    assert "4 contenders were put on equal terms in 3 ways" in text
    assert "**The ranking changes with the mode**: 2 of 2 pairs" in text
    assert (
        "a is better than b at equal exact ε per token, and worse at equal nominal parameter and equal success" in text
    )
    cells = lines(text, "What changes with the mode")["a and b"]
    assert "10: a 60.0 % [58.0 %, 62.0 %] over b 40.0 % [38.0 %, 42.0 %]" in cells[0]
    assert "10.0 % read: b 55.0 %" in cells[1]
    assert "a and c (equal nominal parameter)" in text
    assert lines(text, "Ranks at a glance")["b"] == ["2", "2", "1", "2", "1"]


def test_each_level_has_its_table_with_what_is_not_equal(text: str) -> None:
    """Rank, parameter, claim, exact epsilon with its note, utility, attacks; and what the terms leave unequal."""
    cells = lines(text, "Equal success of the paper's attack: 10.0 % read")
    assert list(cells) == ["rank", "---", "1", "3"]  # two contenders share rank 1
    assert cells["3"][0] == "a"
    assert cells["3"][1:4] == ["mu = 3.5", "mu = 3.5 per one token", "147 (bound)"]
    assert "none: no guarantee holds for every two tokens" in text
    assert "the exact ε runs from 147 (a) to 148 (b)" in text
    assert "the strongest attack reads from 25.0 % (a) to 37.5 % (b)" in text


def test_what_could_not_be_compared_has_its_reason(text: str) -> None:
    """Nobody is silently left out; names are escaped."""
    assert lines(text, "Not compared")["d\\|x"] == [
        "equal exact ε per token", "10", "no guarantee holds for every two tokens",
    ]  # fmt: skip


def test_who_is_no_better_than_no_prompt_is_said(origin: Provenance, tmp_path: Path) -> None:
    """The floor stands in the opening, and cells say who is not above it, or below it; without a floor, nothing is."""
    seen = {("asr", 0.1): {"a": 0.55, "b": 0.42, "c": 0.25}}
    met = {key: {**found, NO_PROMPT: 0.4} for key, found in seen.items()}
    figure = Figure("agreement_top1_without_prompt_text", 0.4, 0.35, 0.45, 0.95, 20, "cluster bootstrap")
    record = dataclasses.replace(made(origin, seen, notes=differences(met)), figures=[figure])
    (one,) = tables(record)
    assert (one.above, one.below, one.floored) == ({"a"}, {"c"}, True)
    assert {name: one.rank(name) for name in one.rows} == {"a": 1, "b": 2, "c": 3}
    opening = comparison_opening(record)
    assert "Without any prompt the server's figure is 40.0 % [35.0 %, 45.0 %]" in opening
    assert "**2 of 3 measured conditions are not known to be better than no prompt at all**; 1 of them" in opening
    page = (write_report([record], tmp_path / "report") / "report.md").read_text(encoding="utf-8")
    assert "55.0 % [53.0 %, 57.0 %] |" in page
    assert "42.0 % [40.0 %, 44.0 %], no better than no prompt at all |" in page
    assert "25.0 % [23.0 %, 27.0 %], worse than no prompt at all |" in page
    assert "Without any prompt" not in comparison_opening(made(origin))
    assert not tables(made(origin))[0].floored


def test_a_ranking_that_holds_is_said_to_hold(origin: Provenance) -> None:
    """No pair turns round, none can be told apart, or there is one mode only: three different sentences."""
    steady = {("exact-epsilon", 10.0): {"a": 0.6, "b": 0.4}, ("asr", 0.1): {"a": 0.7, "b": 0.5}}
    assert "**The ranking does not change with the mode**: of 1 pair whose order" in verdict(
        tables(made(origin, steady))
    )
    level = {("exact-epsilon", 10.0): {"a": 0.6, "b": 0.6}, ("asr", 0.1): {"a": 0.7, "b": 0.5}}
    assert "cannot be said: no pair of contenders has, in two modes" in verdict(tables(made(origin, level)))
    crossed = {("exact-epsilon", 1.0): {"a": 0.6, "b": 0.4}, ("nominal", 1.0): {"a": 0.6, "b": 0.4},
               ("nominal", 2.0): {"a": 0.6, "b": 0.8}}  # fmt: skip
    assert "and is the same at every level" in verdict(tables(made(origin, crossed)))
    alone = {("asr", 0.1): {"a": 0.7, "b": 0.5}}
    assert "only one mode was run" in verdict(tables(made(origin, alone)))
    assert "Nothing follows" in comparison_opening(made(origin, {}))


def test_without_paired_differences_intervals_must_not_overlap(origin: Provenance, tmp_path: Path) -> None:
    """The conservative rule, which the page says; of a perplexity less is better; no interval, no order."""
    record = made(origin, notes=[])
    assert tables(record)[0].better == {("a", "b"), ("a", "c")}
    page = (write_report([record], tmp_path / "report") / "report.md").read_text(encoding="utf-8")
    assert "do not overlap, which is conservative" in page
    rows = [
        {**one, "perplexity_over_clean_low": 2.95 - one["agreement_top1"],
         "perplexity_over_clean_high": 3.05 - one["agreement_top1"]} for one in record.rows
    ]  # fmt: skip
    falling = dataclasses.replace(record, rows=rows, config={**record.config, "utility": "perplexity_over_clean"})
    assert tables(falling)[0].better == {("a", "b"), ("a", "c")}
    assert list(tables(falling)[0].rows) == ["a", "b", "c"]
    bare = dataclasses.replace(record, config={**record.config, "utility": "coherence"})
    assert all(not one.rows for one in tables(bare))


def test_a_note_without_numbers_leaves_a_tie(origin: Provenance) -> None:
    """What JSON could not hold is no order."""
    notes = [{**note, "p_holm": None} for note in differences(SEEN)]
    assert not tables(made(origin, notes=notes))[0].better
    assert not tables(made(origin, notes=[{**note, "difference": math.nan} for note in differences(SEEN)]))[0].better


def test_pictures_show_every_mode_and_all_together(folder: Path, text: str) -> None:
    """One picture a mode and one of all; each is drawn, named in the text, and has a text of its own."""
    names = {"compared-exact-epsilon.png", "compared-nominal.png", "compared-asr.png", "compared-all.png"}
    assert {path.name for path in (folder / "figures").glob("compared-*.png")} == names
    for name in names:
        assert f"figures/{name}" in text
        assert (folder / "figures" / name).read_bytes().startswith(b"\x89PNG")
    assert "a: 60.0 % to 80.0 %" in text


def test_a_picture_has_a_curve_for_each_contender(
    origin: Provenance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three curves with their levels across, on a logarithmic axis for epsilons and a linear one for shares."""
    drawn: list[Picture] = []
    monkeypatch.setattr("reports.comparison_figures.save_picture", lambda picture, path: drawn.append(picture))
    from reports.comparison_figures import draw_comparison

    floor = Figure("agreement_top1_without_prompt_text", 0.4, 0.35, 0.45, 0.95, 20, "cluster bootstrap")
    draw_comparison(dataclasses.replace(made(origin), figures=[floor]), tmp_path, "")
    first, share = drawn[0].axes[0], drawn[2].axes[0]
    across = [list(one.lines[0].get_xdata()) for one in first.containers]
    assert across[1] == [10.0, 100.0]
    assert across[0] == pytest.approx([10.0, 100.0], rel=0.07)  # a little aside, so that intervals can be seen
    assert across[0][0] < 10.0 < across[2][0]
    assert (first.get_xscale(), share.get_xscale()) == ("log", "linear")
    assert len(first.containers) == 3
    assert [line.get_ydata()[0] for line in share.lines if line.get_label() == "no prompt at all"] == [40.0]
