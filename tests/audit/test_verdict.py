"""Verdicts: what refutes, what is consistent, what is too weak, what is vacuous, and what is refused."""

import math

import numpy as np
import pytest

from audit.bounds import GdpFamily, Scores
from audit.guarantees import exact_claim, guarantee_of
from audit.known import Known, gaussian, laplace, quantizer, randomized_response
from audit.verdict import Verdict, judge
from defenses.base import NO_CLAIM, Claim
from defenses.errors import UserError
from defenses.privacy.binomial import StochasticQuantizationProfile


def claim(kind: str, **parameters: float) -> Claim:
    """A claim about one token."""
    return Claim(kind, parameters, "one token", "replace a token by any other", "test")


def verdict(what: Claim, known: Known, samples: int, seed: int = 0, **options: object) -> object:
    """The result of one audit of a known mechanism."""
    rng = np.random.default_rng(seed)
    return judge(what, known.scores(samples, rng), name="c", rng=rng, **options)  # type: ignore[arg-type]


def test_a_broken_claim_is_refuted_with_its_reason() -> None:
    """25 % too little noise against a GDP claim."""
    result = verdict(claim("mu-GDP", mu=1.0), gaussian(1.33), 4000)
    assert result.verdict is Verdict.REFUTED  # type: ignore[attr-defined]
    assert result.p_value <= 0.05  # type: ignore[attr-defined]
    assert result.epsilon_lower > result.epsilon_claimed  # type: ignore[attr-defined]
    assert "contradicts the claim" in result.reason  # type: ignore[attr-defined]


def test_an_honest_claim_is_consistent_and_says_what_it_would_have_seen() -> None:
    """The smallest detectable violation is stated, and real: a violation of that size is refuted in most runs."""
    result = verdict(claim("mu-GDP", mu=1.0), gaussian(), 4000)
    assert result.verdict is Verdict.CONSISTENT  # type: ignore[attr-defined]
    detectable = result.detectable_violation  # type: ignore[attr-defined]
    assert 1.0 < detectable <= 1.1
    assert "no proof" in result.reason  # type: ignore[attr-defined]
    twins = [verdict(claim("mu-GDP", mu=1.0), gaussian(detectable), 4000, seed).verdict for seed in range(1, 31)]  # type: ignore[attr-defined]
    # At 80 % power fewer than 16 of 30 have a probability of 2e-4.
    assert sum(one is Verdict.REFUTED for one in twins) >= 16


def test_a_weak_audit_is_inconclusive() -> None:
    """Fifty draws say little; a score without information says nothing."""
    result = verdict(claim("mu-GDP", mu=1.0), gaussian(), 50)
    assert result.verdict is Verdict.INCONCLUSIVE  # type: ignore[attr-defined]
    rng = np.random.default_rng(1)
    blind = judge(claim("mu-GDP", mu=1.0), Scores(np.zeros(500), np.zeros(500)), name="blind", rng=rng)
    assert blind.verdict is Verdict.INCONCLUSIVE
    assert blind.detectable_violation > 2


def test_a_claim_of_near_certainty_is_vacuous() -> None:
    """Beside the verdict, whatever that is."""
    result = verdict(claim("epsilon-DP", epsilon=8.0), randomized_response(8.0), 2000)
    assert result.vacuous  # type: ignore[attr-defined]
    assert not verdict(claim("epsilon-DP", epsilon=1.0), randomized_response(1.0), 2000).vacuous  # type: ignore[attr-defined]


def test_the_exact_claim_of_the_quantizer() -> None:
    """Its own pair of binomials: consistent for itself, refuted for one with a smaller range."""
    known = quantizer(4, 18, 1.0)
    own = exact_claim(known.profile)  # type: ignore[arg-type]
    assert verdict(own, known, 5000).verdict is Verdict.CONSISTENT  # type: ignore[attr-defined]
    assert verdict(own, quantizer(4, 18, 1.2), 5000).verdict is Verdict.REFUTED  # type: ignore[attr-defined]


def test_a_conversion_that_the_claim_does_not_license_is_refused() -> None:
    """A GDP figure of a mechanism that claims pure epsilon."""
    with pytest.raises(UserError, match="conversion through the gdp curve is refused"):
        verdict(claim("epsilon-DP", epsilon=2.0), randomized_response(), 500, family=GdpFamily())


def test_the_estimator_follows_the_claim_and_the_evidence() -> None:
    """Curves get curve tests, canaries get one-run tests."""
    rng = np.random.default_rng(2)
    canaries = gaussian().canaries(200, rng)
    gdp, plain = claim("mu-GDP", mu=1.0), claim("(epsilon, delta)-DP", epsilon=4.377, delta=1e-5)
    assert judge(gdp, canaries, name="c", rng=rng).estimator == "one-run-fdp"
    assert judge(plain, canaries, name="c", rng=rng).estimator == "one-run"
    assert verdict(gdp, gaussian(), 200).estimator == "whole-curve"  # type: ignore[attr-defined]
    assert verdict(plain, gaussian(), 200).estimator == "order-statistic"  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="there is no estimator 'median'"):
        verdict(gdp, gaussian(), 200, estimator="median")


@pytest.mark.parametrize(
    ("what", "epsilon", "delta"),
    [
        (claim("mu-GDP", mu=1.0), 4.377, 1e-5),
        (claim("(epsilon, delta)-DP", epsilon=3.0, delta=1e-6), 3.0, 1e-6),
        (claim("epsilon-DP", epsilon=2.0), 2.0, 0.0),
        (claim("metric-DP", epsilon=0.5, distance=3.0), 1.5, 0.0),
        (claim("laplace", epsilon=1.0), laplace().profile.epsilon(1e-5), 1e-5),
        (claim("randomized-response", epsilon=2.0), 2.0, 1e-5),
        (exact_claim(StochasticQuantizationProfile(1, 2.0)), StochasticQuantizationProfile(1, 2.0).epsilon(1e-5), 1e-5),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_every_kind_of_claim_becomes_a_curve(what: Claim, epsilon: float, delta: float) -> None:
    """With its own epsilon and delta."""
    guarantee = guarantee_of(what)
    assert guarantee.epsilon == pytest.approx(epsilon, abs=1e-3)
    assert guarantee.delta == delta
    assert guarantee.profile.epsilon(delta) == pytest.approx(
        guarantee.family.epsilon(guarantee.parameter, delta), rel=1e-6
    )


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (NO_CLAIM, "cannot be tested"),
        (claim("mu-GDP"), "lacks its parameter 'mu'"),
        (claim("mu-GDP", mu=-1.0), "malformed"),
        (claim("epsilon-DP", epsilon=math.nan), "malformed"),
    ],
)
def test_what_cannot_be_tested_is_named(what: Claim, message: str) -> None:
    """One line."""
    with pytest.raises(UserError, match=message):
        guarantee_of(what)


def test_points_hold_the_measured_and_the_claimed_curve() -> None:
    """Rates lie within their own limits; the claimed curve is a curve."""
    points = verdict(claim("mu-GDP", mu=1.0), gaussian(), 1000).points  # type: ignore[attr-defined]
    for rate in ("fpr", "tpr"):
        assert all(
            a <= b <= c for a, b, c in zip(points[f"{rate}_low"], points[rate], points[f"{rate}_high"], strict=True)
        )
    assert points["curve_fpr"] == sorted(points["curve_fpr"])
    assert points["curve_power"] == sorted(points["curve_power"])
