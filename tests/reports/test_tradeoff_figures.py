"""Trade-offs of conditions and charts over seeds: every curve and point is the one that its parameters make."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from scipy.special import ndtr, ndtri

from audit.audit_record import Tradeoff
from audit.provenance import Provenance
from audit.records import RunRecord, new_record
from defenses.privacy.binomial import StochasticQuantizationProfile
from defenses.privacy.theorem import SandwichProfile
from reports import tradeoff_figures
from reports.audit_figures import Point
from reports.charts import PAPERS, STRONGEST, Chart, overview_charts
from reports.overview import overview
from reports.tradeoff_figures import MOST, draw_conditions

ORIGIN = Provenance(
    commit="0123abcd" * 5, dirty=False, versions={}, environment={}, created="2026-01-02T03:04:05+00:00", command="x"
)


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a picture was to show."""

    path: Path
    title: str
    curve: Tradeoff
    ceiling: float | None
    attacks: tuple[Point, ...]


def row(**more: Any) -> dict[str, Any]:
    """DEL with all parameters of its curve."""
    return {
        "defence": "del", "projection": "d128-plain", "n": 4, "d": 128, "mu": 3.0, "a_over_c": 29.2, "delta": 1e-5,
        "claim": "mu-GDP (mu=3) per one token", "epsilon_exact_token": 15.5, "ceiling_exact": 0.42, "kappa": 0.066,
        "asr_prior": 0.061, "asr_top1_prior": 0.061, "asr_top1_cosine": 0.094, "asr_top1_cosine_low": 0.081,
        "asr_top1_cosine_high": 0.112, "asr_top1_hmm": 0.233, "asr_top1_resend-sends16": 0.71,
        "knowledge_resend-sends16": "mechanism; 16 messages of each prompt", **more,
    }  # fmt: skip


def experiment(*rows: dict[str, Any]) -> RunRecord:
    """An experiment of these rows."""
    return new_record("experiment", config={}, seed=0, rows=rows, provenance=ORIGIN)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """What would be drawn, in place of drawing it."""
    found: list[Asked] = []

    def draw(path: Path, title: str, curve: Tradeoff, ceiling: float | None, *, attacks: list[Point]) -> None:
        found.append(Asked(path, title, curve, ceiling, tuple(attacks)))

    monkeypatch.setattr(tradeoff_figures, "draw_tradeoff", draw)
    return found


def test_the_curves_are_those_of_the_rows_parameters(asked: list[Asked]) -> None:
    """If this failed, a picture would show another mechanism's curve, or another claim's, beside the attacks."""
    draw_conditions([experiment(row())], Path())
    curve = asked[0].curve
    levels = np.array(curve.curve[0])
    assert levels[0] == 0
    assert levels[-1] == 1
    assert len(levels) > 100
    assert (np.diff(levels) > 0).all()
    inner = slice(1, -1)
    np.testing.assert_allclose(curve.curve[1][inner], ndtr(ndtri(levels[inner]) + 3.0), rtol=1e-9)
    exact = StochasticQuantizationProfile.of(4, 128, 29.2)
    np.testing.assert_allclose(curve.exact or (), [1 - exact.tradeoff(level) for level in levels], atol=1e-9)
    paper = SandwichProfile.of(4, 128, 29.2)
    low, high = curve.sandwich or ((), ())
    least = ndtr(ndtri(np.maximum(0, levels - paper.gamma)) + paper.mu) - paper.gamma
    np.testing.assert_allclose(low, np.clip(least, 0, 1), atol=1e-9)
    np.testing.assert_allclose(high, [1 - paper.tradeoff(level) for level in levels], atol=1e-9)
    for power in (curve.exact, low, high, curve.curve[1]):
        assert min(power or ()) >= 0
        assert max(power or ()) <= 1
    assert (np.array(low) <= np.array(curve.exact) + 1e-9).all()
    assert (np.array(high) >= np.array(curve.exact) - 1e-9).all()
    assert curve.kappa == 0.066
    assert asked[0].ceiling == 0.42


@pytest.mark.parametrize("key", ["n", "d", "mu", "a_over_c"])
def test_every_parameter_moves_a_curve(asked: list[Asked], key: str) -> None:
    """If this failed, a picture would ignore a parameter of its condition."""
    draw_conditions([experiment(row()), experiment(row(**{key: 2 * row()[key]}))], Path())
    first, second = (one.curve for one in asked)
    assert (first.curve == second.curve) is (key != "mu")
    assert (first.exact == second.exact) is (key == "mu")


def test_attacks_are_points_at_the_rows_rates(asked: list[Asked]) -> None:
    """If this failed, an attack would stand where it did not reach, or one that saw more messages be its rival."""
    (drawn,), _ = draw_conditions([experiment(row())], Path())
    assert asked[0].attacks == (Point("cosine", 0.061, 0.094, (0.081, 0.112)), Point("hmm", 0.061, 0.233, None))
    assert drawn.alt.endswith("Attacks: cosine 9.4 % at 6.1 %, hmm 23.3 % at 6.1 %.")
    assert "mu = 3 allows" in drawn.alt
    (drawn,), _ = draw_conditions([experiment(row(asr_prior=None))], Path())
    assert asked[1].attacks == ()
    assert drawn.alt.endswith("Attacks: none.")


def test_the_smallest_epsilon_of_each_curve_is_drawn(asked: list[Asked]) -> None:
    """If this failed, a weaker promise would be drawn in place of the strongest, or a curve not at all."""
    rows = [
        row(mu=9.0, epsilon_exact_token=80.0), row(mu=5.0, epsilon_exact_token=30.0),
        row(n=8, mu=7.0, epsilon_exact_token=50.0), row(n=8, mu=6.0, epsilon_exact_token=40.0),
        row(projection="d128-noise-aware", mu=4.0, epsilon_exact_token=20.0),
    ]  # fmt: skip
    drawn, left = draw_conditions([experiment(*rows)], Path("figures"))
    assert [one.title.split(":")[0] for one in asked] == [
        "del d128-noise-aware n=4 mu=4", "del d128-plain n=4 mu=5", "del d128-plain n=8 mu=6",
    ]  # fmt: skip
    assert left == 2
    assert [one.file for one in drawn] == [one.path.name for one in asked]
    assert len({one.file for one in drawn}) == 3


def test_runs_keep_their_own_curves(asked: list[Asked]) -> None:
    """If this failed, two runs' conditions of one name would share a picture, or not be told apart."""
    _, left = draw_conditions([experiment(row()), experiment(row(epsilon_exact_token=9.0))], Path())
    assert [one.title for one in asked] == [
        f"del d128-plain n=4 mu=3, run {run}: promised, not audited" for run in (2, 1)
    ]  # fmt: skip
    assert left == 0


def test_there_are_not_too_many_pictures(asked: list[Asked]) -> None:
    """If this failed, a grid of settings would fill the report with pictures, or those left out go uncounted."""
    drawn, left = draw_conditions([experiment(*(row(n=n) for n in range(1, MOST + 4)))], Path())
    assert len(drawn) == len(asked) == MOST <= 6
    assert left == 3


@pytest.mark.parametrize("key", ["n", "d", "mu", "a_over_c", "epsilon_exact_token"])
@pytest.mark.parametrize("value", [None, math.nan])
def test_a_row_without_its_parameters_has_no_curve(asked: list[Asked], key: str, value: float | None) -> None:
    """If this failed, a curve would be drawn of a number that nobody knows."""
    assert draw_conditions([experiment(row(**{key: value}))], Path()) == ([], 0)
    assert asked == []


@pytest.mark.parametrize(
    "more", [{"a_over_c": 1.0}, {"a_over_c": -2.0}, {"d": 0}, {"n": 0}, {"mu": math.inf}, {"mu": -1.0}], ids=str
)
def test_parameters_of_no_mechanism_end_no_report(asked: list[Asked], more: dict[str, Any]) -> None:
    """If this failed, one impossible number in a record would leave its reader without any report."""
    drawn, _ = draw_conditions([experiment(row(**more), row(n=8))], Path())
    assert [one.title.split(":")[0] for one in drawn] == ["del d128-plain n=8 mu=3"]


def test_controls_have_no_curve(asked: list[Asked]) -> None:
    """If this failed, a control would be drawn as if it promised something."""
    assert draw_conditions([experiment(row(defence="identity"))], Path()) == ([], 0)


def test_a_condition_that_was_audited_is_not_called_unaudited(tmp_path: Path) -> None:
    """If this failed, a picture would say "not audited" of a claim that the same report's audit has refuted."""
    claim = {"claim": "wire", "defence": "del", "claim_text": row()["claim"], "parameter_n": 4, "verdict": "REFUTED",
             "epsilon_claimed": 12.0, "epsilon_lower": 15.0}  # fmt: skip
    audit = new_record("audit", config={}, seed=0, rows=[claim], provenance=ORIGIN)
    (tmp_path / "figures").mkdir()
    text = "\n".join(overview([experiment(row()), audit], tmp_path, ["1.json", "2.json"], ["", ""]))
    assert "not audited" not in text.partition("## Trade-off of each claim")[2].partition("\n## ")[0]


def test_a_picture_is_drawn_in_both_formats(tmp_path: Path) -> None:
    """If this failed, a picture would be missing or blank, or a name be a formula or markup in it."""
    evil = "<b>$x_$|evil</b> ünd"
    (drawn,), _ = draw_conditions([experiment(row(settings=evil, **{f"asr_top1_{evil}": 0.4}))], tmp_path)
    assert float(np.std(imread(tmp_path / drawn.file)[..., :3])) > 0.02
    drawing = (tmp_path / drawn.file).with_suffix(".svg").read_text(encoding="utf-8")
    assert "<b>" not in drawing
    assert "$x_$|evil" in drawing
    assert drawn.title == "del d128-plain n=4 mu=3 <b>$x_$|evil</b> ?nd: promised, not audited"


def points(chart: Chart) -> list[dict[str, Any]]:
    """The marks of a chart."""
    sets = chart.spec.get("datasets", {}).values()
    layers = (one.get("data", {}).get("values", []) for one in (chart.spec, *chart.spec["layer"]))
    return next(found for found in (*sets, *layers) if found and "curve" in found[0])


def charts(*records: RunRecord) -> dict[str, Chart]:
    """By name."""
    return {chart.name: chart for chart in overview_charts(records)}


def seeds(*changes: dict[str, Any]) -> RunRecord:
    """One condition under several seeds."""
    figures = [
        {"perplexity": 40.0, "perplexity_low": 38.0, "perplexity_high": 42.0, "asr_top1_cosine": 0.1,
         "asr_top1_cosine_low": 0.08, "asr_top1_cosine_high": 0.12, "asr_top1_hmm": 0.2},
        {"perplexity": 46.0, "perplexity_low": 45.0, "perplexity_high": 51.0, "asr_top1_cosine": 0.13,
         "asr_top1_cosine_low": 0.11, "asr_top1_cosine_high": 0.15, "asr_top1_hmm": 0.3},
        {"perplexity": 43.0, "perplexity_low": 36.0, "perplexity_high": 44.0, "asr_top1_cosine": 0.1,
         "asr_top1_cosine_low": 0.07, "asr_top1_cosine_high": 0.11, "asr_top1_hmm": 0.4},
    ]  # fmt: skip
    chosen = {"strongest_attack": "hmm"}
    changed = (*changes, *({} for _ in figures))
    return experiment(*(
        row() | chosen | one | {"seed": seed} | more
        for seed, (one, more) in enumerate(zip(figures, changed, strict=False))
    ))  # fmt: skip


def test_seeds_of_a_condition_are_one_point() -> None:
    """If this failed, repeats would look like conditions, or a mean stand with one repeat's narrower interval."""
    (point,) = points(charts(seeds())["utility-epsilon"])
    assert (point["x"], point["x_low"], point["x_high"]) == (15.5, 15.5, 15.5)
    assert (point["y"], point["y_low"], point["y_high"]) == (pytest.approx(43.0), 36.0, 51.0)
    assert point["condition"] == "del d128-plain n=4 mu=3, 3 seeds"
    assert point["up"] == "43 [36, 51]"


def test_seeds_are_one_point_of_each_attack() -> None:
    """If this failed, the picture of what is read would average over attacks, or show one seed's rate."""
    found = {one["attack"]: one for one in points(charts(seeds())["read-epsilon"])}
    assert set(found) == {STRONGEST, PAPERS}
    assert [found[PAPERS][key] for key in ("y", "y_low", "y_high")] == pytest.approx([11.0, 7.0, 15.0])
    assert [found[STRONGEST][key] for key in ("y", "y_low", "y_high")] == pytest.approx([30.0, 20.0, 40.0])
    assert {one["condition"] for one in found.values()} == {"del d128-plain n=4 mu=3, 3 seeds"}
    assert {one["x"] for one in found.values()} == {15.5}


def test_a_tooltip_tells_the_seeds() -> None:
    """If this failed, nobody who points at a mark would see that it is a mean over seeds."""
    for chart in charts(seeds()).values():
        told = [layer["encoding"]["tooltip"] for layer in chart.spec["layer"] if "tooltip" in layer.get("encoding", {})]
        assert [one[0]["field"] for one in told] == ["condition"]


def test_a_seed_without_its_figure_makes_no_mean() -> None:
    """If this failed, a mean over two seeds would pass for one over three."""
    chart = charts(seeds({"perplexity": math.nan}), experiment(row(perplexity=30.0)))["utility-epsilon"]
    assert [one["curve"] for one in points(chart)] == ["run 2: del"]
    assert "Not drawn, for want of a finite figure: 1 of 2 points." in chart.alt


def test_other_conditions_are_not_averaged() -> None:
    """If this failed, conditions that differ in more than the seed would be shown as one."""
    for change in ({"mu": 4.0}, {"a_over_c": 9.0}, {"prompt_name": "soft"}, {"settings": "clip=2"}):
        found = points(charts(seeds(change))["utility-epsilon"])
        assert sorted(one["condition"].endswith(", 2 seeds") for one in found) == [False, True]


def test_claims_of_an_audit_are_no_missing_points() -> None:
    """If this failed, a chart would tell of points that it lacks where an audit measures no utility by design."""
    claim = {"claim": "wire", "defence": "del", "claim_text": "x", "verdict": "CONSISTENT", "epsilon_exact_token": 4.0}
    audit = new_record("audit", config={}, seed=0, rows=[claim], provenance=ORIGIN)
    for chart in charts(experiment(row(perplexity=30.0)), audit).values():
        assert "Not drawn" not in chart.alt
