"""Every estimator: sound on mechanisms of known epsilon, tight where it can be, and never fooled by bad evidence.

The full soundness study is benchmarks/validity.py (docs/validity.md); here it is small and its false-alarm rate stated.
"""

import numpy as np
import pytest
from scipy.stats import binom

from audit.bounds import ESTIMATORS, AnyFamily, BinomialFamily, CanaryScores, EvidenceError, GdpFamily, Scores
from audit.bounds.base import lower_limit
from audit.bounds.clopper_pearson import corner_p_value
from audit.bounds.selection import choose, split
from audit.intervals import clopper_pearson
from audit.known import Known, all_known, gaussian, laplace, null, quantizer, randomized_response
from defenses.privacy.epsilon_delta import EpsilonDeltaProfile
from defenses.privacy.gaussian import GaussianProfile

TRAINED = ["order-statistic", "clopper-pearson", "credible"]
"""Those with a training part; the whole curve takes the score's direction as given."""
RUNS = 60


def bounds(name: str, known: Known, size: int, runs: int, *, own: bool) -> np.ndarray:
    """Lower bounds of independent runs."""
    one = ESTIMATORS[name]
    family = known.family if own else AnyFamily(known.delta)
    found = []
    for run in range(runs):
        rng = np.random.default_rng([run, size])
        evidence = known.scores(size, rng) if one.takes is Scores else known.canaries(size, rng)
        found.append(one.bound(evidence, family, known.delta, rng).epsilon)
    return np.array(found)


@pytest.mark.parametrize("name", list(ESTIMATORS))
@pytest.mark.parametrize("known", [null(), randomized_response(), quantizer(1, 1, 1.0)], ids=lambda known: known.name)
def test_bounds_stay_below_the_truth(name: str, known: Known) -> None:
    """At most a binomial's share of runs exceeds it; false alarm of this test below 1e-6 a case."""
    own = name in {"whole-curve", "one-run-fdp"}
    exceeded = int(np.count_nonzero(bounds(name, known, 200, RUNS, own=own) > known.epsilon * (1 + 1e-9)))
    assert exceeded <= binom.isf(1e-6, RUNS, 0.05)


def test_the_family_free_default_is_tight() -> None:
    """Medians over seeds at 1e4 draws a side: Gaussian mu = 1 at delta = 1e-5, and randomized response."""
    assert np.median(bounds("order-statistic", gaussian(), 10_000, 40, own=False)) >= 2.2
    response = bounds("order-statistic", randomized_response(), 10_000, 60, own=False)
    assert np.median(response) >= 1.94
    assert np.count_nonzero(response > 2.0) <= binom.isf(1e-6, 60, 0.05)


def test_the_claims_own_curve_is_tight() -> None:
    """Median over seeds of the GDP claim at 1e4 draws a side; the truth is 4.377."""
    assert np.median(bounds("whole-curve", gaussian(), 10_000, 15, own=True)) >= 4.05


@pytest.mark.slow
def test_tightness_at_a_million_draws() -> None:
    """Gaussian mu = 1: family-free, the GDP curve; and the quantizer against its own curve, within 10 %."""
    assert np.median(bounds("order-statistic", gaussian(), 1_000_000, 15, own=False)) >= 3.3
    assert np.median(bounds("whole-curve", gaussian(), 1_000_000, 9, own=True)) >= 4.35
    known = quantizer(4, 18, 1.0)
    assert np.median(bounds("whole-curve", known, 1_000_000, 9, own=True)) >= 0.9 * known.epsilon


@pytest.mark.slow
def test_what_is_refutable_of_the_quantizer_without_its_family() -> None:
    """Family-free at 1e6, within 10 % of the best that any single threshold can refute, which is computed."""
    known, size = quantizer(4, 18, 1.0), 1_000_000
    trials, share = known.profile.trials, 0.5 * (1 + 1 / known.profile.a_over_c)  # type: ignore[attr-defined]
    best = 0.0
    for count in range(trials // 2, trials + 1):
        false, true = (binom.sf(count - 1, trials, p) * size for p in (1 - share, share))
        if false < 1 or true < 1:
            continue
        counts = round(false), round(true), size
        best = max(
            best, lower_limit(lambda e, at=counts: corner_p_value(EpsilonDeltaProfile(e, 1e-5), *at), 20.0, 0.05)
        )
    found = float(np.median(bounds("order-statistic", known, size, 9, own=False)))
    assert best > 2.5
    assert found >= 0.9 * best


def test_clopper_pearson_is_the_two_limits_and_nothing_more() -> None:
    """The p-value reaches the level exactly where the two one-sided limits meet on the curve."""
    false, true, draws, level = 12, 60, 400, 0.05
    high = clopper_pearson(false, draws, 1 - level).high
    low = clopper_pearson(true, draws, 1 - level).low
    touching = float(np.log(low / high))
    below, above = (corner_p_value(EpsilonDeltaProfile(touching + step), false, true, draws) for step in (-1e-6, 1e-6))
    assert below < level < above
    assert above == pytest.approx(level, rel=1e-4)


@pytest.mark.parametrize("name", TRAINED)
def test_a_flipped_score_is_no_obstacle(name: str) -> None:
    """Scores that fall with the likelihood ratio are turned round by the training part, where there is one."""
    scores = randomized_response().scores(2000, np.random.default_rng(3))
    turned = Scores(-scores.null, -scores.alternative)
    found = ESTIMATORS[name].bound(turned, AnyFamily(0.0), 0.0, np.random.default_rng(4)).epsilon
    assert found > 1.5


def test_delta_is_paid_for() -> None:
    """A larger delta lowers the bound from the same draws; a delta that the family does not have is refused."""
    scores = gaussian(2.0).scores(3000, np.random.default_rng(5))
    found = [
        ESTIMATORS["order-statistic"].bound(scores, AnyFamily(delta), delta, np.random.default_rng(6)).epsilon
        for delta in (0.0, 0.1, 0.4)
    ]
    assert found[0] > found[1] > found[2]
    with pytest.raises(ValueError, match="at delta = 0"):
        ESTIMATORS["order-statistic"].bound(scores, AnyFamily(0.0), 1e-5, np.random.default_rng(6))


def test_a_bound_carries_its_assumptions() -> None:
    """Family, correction, counts and threshold are part of the result."""
    scores = gaussian().scores(1000, np.random.default_rng(7))
    found = ESTIMATORS["whole-curve"].bound(scores, GdpFamily(), 1e-5, np.random.default_rng(8))
    assert (found.family, found.method, found.n, found.confidence) == ("gdp", "whole-curve", 1000, 0.95)
    assert found.counts["simulations"] >= 999
    single = ESTIMATORS["order-statistic"].bound(scores, AnyFamily(1e-5), 1e-5, np.random.default_rng(8))
    assert single.counts["judged"] == 850
    assert single.threshold is not None
    assert "split" in single.correction


@pytest.mark.parametrize(
    ("null_side", "other", "message"),
    [
        ([0.0, np.nan], [1.0, 2.0], "1 of the 2 scores of the null side are NaN"),
        ([0.0, 1.0], [1.0, np.inf], "NaN or infinite"),
        ([0.0, 1.0, 2.0], [1.0, 2.0], "unequal counts"),
        ([[0.0], [1.0]], [1.0, 2.0], "shape"),
        ([0.0], [1.0], "too few"),
        (["a", "b"], [1.0, 2.0], "not numbers"),
    ],
)
def test_malformed_scores_are_one_clear_error(null_side: list[float], other: list[float], message: str) -> None:
    """Never a bound."""
    with pytest.raises(EvidenceError, match=message):
        Scores(null_side, other)  # type: ignore[arg-type]


def test_malformed_canaries_are_one_clear_error() -> None:
    """Coins must be truth values, one per canary."""
    with pytest.raises(EvidenceError, match="one truth value per canary"):
        CanaryScores(np.zeros(5), np.ones(5))  # type: ignore[arg-type]
    with pytest.raises(EvidenceError, match="one truth value per canary"):
        CanaryScores(np.zeros(5), np.ones(4, dtype=bool))


def test_the_wrong_kind_of_evidence_is_named() -> None:
    """Canaries are correlated: a Clopper-Pearson bound on them would be wrong."""
    canaries = gaussian().canaries(100, np.random.default_rng(9))
    with pytest.raises(EvidenceError, match="takes Scores, not CanaryScores"):
        ESTIMATORS["clopper-pearson"].bound(canaries, AnyFamily(0.0), 0.0, np.random.default_rng(0))


def test_the_split_uses_every_draw_once() -> None:
    """Training and judged parts are disjoint and complete."""
    scores = Scores(np.arange(100.0), np.arange(100.0, 200.0))
    train, judged = split(scores, 0.15, np.random.default_rng(10))
    assert (train.samples, judged.samples) == (15, 85)
    assert sorted([*train.null, *judged.null]) == scores.null.tolist()
    assert sorted([*train.alternative, *judged.alternative]) == scores.alternative.tolist()


def test_the_choice_depends_on_the_training_part_alone() -> None:
    """The same training part gives the same choice."""
    train = gaussian().scores(300, np.random.default_rng(11))
    assert choose(train, AnyFamily(1e-5), 5000) == choose(train, AnyFamily(1e-5), 5000)


def test_lower_limit_rounds_down() -> None:
    """It returns a parameter that is refuted, just below the one that is not."""
    limit = lower_limit(lambda value: 0.01 if value <= 1.7 else 0.9, 64.0, 0.05)
    assert 1.695 < limit <= 1.7
    assert lower_limit(lambda _: 0.9, 64.0, 0.05) == 0.0


def test_power_is_what_repetition_gives() -> None:
    """The order statistic's exact power, and the curve's simulated one, against 200 audits; false alarm below 1e-4."""
    truth, claim = randomized_response(2.3), EpsilonDeltaProfile(2.0)
    stated = ESTIMATORS["order-statistic"].power(
        truth.profile, claim, AnyFamily(0.0), size=3000, rng=np.random.default_rng(0)
    )
    seen = np.mean(
        [
            ESTIMATORS["order-statistic"].p_value(
                truth.scores(3000, np.random.default_rng(run)), claim, AnyFamily(0.0), np.random.default_rng(run)
            )
            <= 0.05
            for run in range(200)
        ]
    )
    assert abs(stated - seen) < 0.15  # the training part misses the best rank a little
    curve = ESTIMATORS["whole-curve"]
    stated = curve.power(
        GaussianProfile(1.08), GaussianProfile(1.0), GdpFamily(), size=2500, rng=np.random.default_rng(1)
    )
    seen = np.mean(
        [
            curve.p_value(
                gaussian(1.08).scores(2500, np.random.default_rng(run)),
                GaussianProfile(1.0),
                GdpFamily(),
                np.random.default_rng(run),
            )
            <= 0.05
            for run in range(100)
        ]
    )
    assert abs(stated - seen) < 0.2


@pytest.mark.parametrize("known", [gaussian(), laplace(), quantizer(2, 8, 3.0)], ids=lambda known: known.name)
def test_the_curve_statistic_sees_what_a_corner_does_not(known: Known) -> None:
    """The claim's own curve gives more than any single threshold does, at the same draws."""
    corner = np.median(bounds("order-statistic", known, 1000, 7, own=False))
    curve = np.median(bounds("whole-curve", known, 1000, 7, own=True))
    assert curve > corner


def test_power_against_ten_percent_too_little_noise() -> None:
    """Refuted in 80 % of runs with 2,500 draws a side and in 95 % with 4,500: 60 runs, each side's claim exact."""
    twins = [
        (gaussian(1 / 0.9), GaussianProfile(1.0), GdpFamily()),
        (_smaller_range(), quantizer(4, 18, 1.0).profile, BinomialFamily(270)),
    ]
    for twin, claim, family in twins:
        for size, least in ((2500, 0.8), (4500, 0.95)):
            p_values = [
                ESTIMATORS["whole-curve"].p_value(
                    twin.scores(size, np.random.default_rng([run, size])), claim, family, np.random.default_rng(run)
                )
                for run in range(60)
            ]
            assert np.mean(np.array(p_values) <= 0.05) >= least


def _smaller_range() -> Known:
    """The quantizer whose A is 10 % too small for what it claims."""
    honest = quantizer(4, 18, 1.0).profile
    ratio = 0.9 * honest.a_over_c  # type: ignore[attr-defined]
    return quantizer(4, 18, 2 * np.sqrt(270) / np.sqrt(ratio**2 - 1))


def test_the_literal_gdp_claim_of_del() -> None:
    """Refuted at one trial with 1e5 draws, and not at 960 trials: nominal mu-GDP is unsound with few bits."""
    curve = ESTIMATORS["whole-curve"]
    few = quantizer(1, 1, 1.0).scores(100_000, np.random.default_rng(12))
    many = quantizer(4, 64, 1.0).scores(100_000, np.random.default_rng(13))
    assert curve.p_value(few, GaussianProfile(1.0), GdpFamily(), np.random.default_rng(0)) <= 0.01
    assert curve.p_value(many, GaussianProfile(1.0), GdpFamily(), np.random.default_rng(0)) > 0.05


def test_known_mechanisms_draw_what_their_profiles_say() -> None:
    """Bounds by the exact curve end between 80 % of the truth and the truth: profiles are neither loose nor wrong."""
    for known in all_known()[1:]:
        scores = known.scores(10_000, np.random.default_rng(14))
        family = known.family
        if isinstance(family, AnyFamily):
            continue
        rng = np.random.default_rng(15)
        limit = ESTIMATORS["whole-curve"].bound(scores, family, known.delta, rng, 0.999).epsilon
        assert 0.8 * known.epsilon < limit <= known.epsilon
