"""Single coordinates: the law of their counts, and what an audit sees of them at the noise that the paper uses."""

import numpy as np
import pytest
from scipy.stats import binom, chisquare

from audit.bounds import ESTIMATORS, BinomialFamily
from audit.probes.base import Inputs
from audit.probes.coordinates import collect_coordinates
from audit.probes.mechanism import corner_assets
from defenses.baselines.identity import DEFENSE as IDENTITY
from defenses.errors import UserError
from defenses.pipeline.defense import Del, DelConfig
from defenses.privacy.binomial import StochasticQuantizationProfile

PAIR = Inputs(np.array([0]), np.array([1]))


def test_pooled_counts_have_the_coordinate_s_own_law() -> None:
    """Turned about their middle, all coordinates of one side are one binomial: chi-square at 1e-6."""
    defense = Del(DelConfig(n=2, mu=6.0), corner_assets(16))
    scores = collect_coordinates(defense, PAIR, 8000, np.random.default_rng(0)).scores
    high = 0.5 * (1 + 1 / defense.quantizer.a_over_c)
    for side, share in ((scores.null, 1 - high), (scores.alternative, high)):
        seen = np.bincount((side + 1.5).astype(int), minlength=4)
        assert seen.sum() == 8000
        assert chisquare(seen, 8000 * binom.pmf(np.arange(4), 3, share)).pvalue > 1e-6


def test_a_missing_tenth_of_the_noise_is_seen_at_the_paper_s_mu() -> None:
    """At mu = 20 and d = 128: the twin is refuted in all of 5 runs, the sound original in at most 3 of 5 (1e-3)."""
    assets = corner_assets(128, width=128)
    sound = Del(DelConfig(n=4, mu=20.0), assets)
    twin = Del(DelConfig(n=4, a_over_c=0.9 * sound.quantizer.a_over_c), assets)
    profile = StochasticQuantizationProfile.of(4, 1, sound.quantizer.a_over_c)
    refuted = {"sound": 0, "twin": 0}
    for run in range(5):
        for name, defense in (("sound", sound), ("twin", twin)):
            rng = np.random.default_rng([run, 1])
            scores = collect_coordinates(defense, PAIR, 20_000, rng).scores
            p_value = ESTIMATORS["whole-curve"].p_value(scores, profile, BinomialFamily(profile.trials), rng)
            refuted[name] += p_value <= 0.05
    assert refuted["twin"] == 5
    assert refuted["sound"] <= 3


def test_what_has_no_coordinates_is_named() -> None:
    """Another defence, tokens that share every coordinate, or more than one token."""
    assets = corner_assets(8)
    rng = np.random.default_rng(2)
    with pytest.raises(UserError, match="no quantized coordinates"):
        collect_coordinates(IDENTITY(IDENTITY.Config(), assets), PAIR, 100, rng)
    defense = Del(DelConfig(n=4, mu=5.0), assets)
    with pytest.raises(UserError, match="no coordinate at opposite ends"):
        collect_coordinates(defense, Inputs(np.array([5]), np.array([6])), 100, rng)
    with pytest.raises(ValueError, match="one token differs"):
        collect_coordinates(defense, Inputs(np.array([0, 0]), np.array([1, 1])), 100, rng)
