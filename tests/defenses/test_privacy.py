"""What all privacy profiles have in common: the ranges they refuse, and which libraries they load."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest

from defenses.privacy.binomial import MAX_TRIALS, StochasticQuantizationProfile, a_over_c_for_mu, mu_for_a_over_c
from defenses.privacy.composed import MAX_USES, ComposedProfile
from defenses.privacy.exponential import ExponentialMechanismProfile
from defenses.privacy.gaussian import GaussianProfile, mu_for_epsilon
from defenses.privacy.laplace import LaplaceProfile
from defenses.privacy.metric import L2LaplaceProfile, MetricProfile
from defenses.privacy.profile import PrivacyProfile
from defenses.privacy.randomized_response import RandomizedResponseProfile
from defenses.privacy.theorem import SandwichProfile, theorem_gamma

PROFILES = [
    StochasticQuantizationProfile(18, 1.5),
    GaussianProfile(1.3),
    LaplaceProfile(1.5),
    LaplaceProfile(0.0),
    RandomizedResponseProfile(1.5),
    RandomizedResponseProfile(1.5, 7),
    RandomizedResponseProfile(0.0, 3),
    ExponentialMechanismProfile(1.5),
    ExponentialMechanismProfile(0.0),
    L2LaplaceProfile(3.0, 6),
    ComposedProfile.of(LaplaceProfile(0.4), 5),
    SandwichProfile(1920, 40.0),
]


@pytest.mark.parametrize("profile", PROFILES, ids=str)
def test_curves_of_a_profile_belong_together(profile: PrivacyProfile) -> None:
    """Delta falls, epsilon is its inverse, the trade-off is convex and symmetric enough, and delta is its conjugate."""
    epsilons = np.linspace(0, 6, 25)
    deltas = [profile.delta(float(epsilon)) for epsilon in epsilons]
    assert all(0 <= after <= before <= 1 for before, after in itertools.pairwise(deltas))
    levels = np.linspace(0, 1, 2001)
    powers = profile.powers(levels)
    assert (np.diff(powers) >= -1e-12).all()
    assert (powers >= levels - 1e-12).all()
    assert powers == pytest.approx([1 - profile.tradeoff(float(level)) for level in levels], abs=1e-9)
    for epsilon, delta in zip(epsilons, deltas, strict=True):
        reached = float((powers - math.exp(epsilon) * levels).max())
        # A grid of levels misses the best one by at most its step times the slope there, e^eps.
        assert reached - 2e-6 <= delta <= max(0.0, reached) + math.exp(epsilon) / 2000 + 1e-9
        if 1e-6 < delta < deltas[0]:
            back = profile.epsilon(delta)
            assert profile.delta(back) <= delta * (1 + 1e-6)
            assert back <= epsilon + 1e-6


@pytest.mark.parametrize("profile", PROFILES, ids=str)
def test_profiles_are_hashable_and_compose_once_to_themselves(profile: PrivacyProfile) -> None:
    """A profile can be a key of a cache, and one use of it is itself."""
    assert len({profile, profile.compose(1)}) == 1
    assert profile.compose(2).delta(0.5) >= profile.delta(0.5)


@pytest.mark.parametrize(
    "build",
    [
        lambda: StochasticQuantizationProfile(0, 2.0),
        lambda: StochasticQuantizationProfile(MAX_TRIALS + 1, 2.0),
        lambda: StochasticQuantizationProfile(5, 1.0),
        lambda: StochasticQuantizationProfile(5, math.nan),
        lambda: StochasticQuantizationProfile(5, 2.0).delta(-0.1),
        lambda: StochasticQuantizationProfile(5, 2.0).epsilon(math.nan),
        lambda: StochasticQuantizationProfile(5, 2.0).tradeoff(1.1),
        lambda: StochasticQuantizationProfile(5, 2.0).compose(0),
        lambda: a_over_c_for_mu(-1.0, 1, 1),
        lambda: a_over_c_for_mu(1e12, 1, 1),
        lambda: a_over_c_for_mu(1.0, 0, 1),
        lambda: mu_for_a_over_c(1.0, 1, 1),
        lambda: GaussianProfile(math.inf),
        lambda: GaussianProfile(1.0).delta(math.nan),
        lambda: GaussianProfile(1.0).compose(0),
        lambda: theorem_gamma(0, 2.0),
        lambda: SandwichProfile(5, 0.9),
        lambda: SandwichProfile(5, 2.0).epsilon(1.5),
        lambda: StochasticQuantizationProfile(5, 2.0).powers(np.array([0.1, math.nan])),
        lambda: GaussianProfile(1.0).powers(np.array([-0.1])),
        lambda: SandwichProfile(5, 2.0).powers(np.array([1.1])),
        lambda: mu_for_epsilon(math.inf, 1e-5),
        lambda: mu_for_epsilon(1.0, 0.0),
        lambda: LaplaceProfile(-1.0),
        lambda: LaplaceProfile(math.inf),
        lambda: LaplaceProfile(1.0).powers(np.array([2.0])),
        lambda: LaplaceProfile(1.0).compose(0),
        lambda: RandomizedResponseProfile(1.0, 1),
        lambda: RandomizedResponseProfile(math.nan),
        lambda: RandomizedResponseProfile(1.0).compose(0),
        lambda: RandomizedResponseProfile(1.0).tradeoff(-1.0),
        lambda: ExponentialMechanismProfile(math.nan),
        lambda: ExponentialMechanismProfile(1.0).delta(-1.0),
        lambda: ExponentialMechanismProfile(1.0).compose(0),
        lambda: MetricProfile(0.0),
        lambda: MetricProfile(1.0, 0),
        lambda: MetricProfile(1.0).at(math.inf),
        lambda: MetricProfile(1.0, 5).at(1e9),
        lambda: L2LaplaceProfile(1.0, 1),
        lambda: L2LaplaceProfile(1.0, 5).epsilon(2.0),
        lambda: ComposedProfile(()),
        lambda: ComposedProfile.of(GaussianProfile(1.0), 0),
        lambda: ComposedProfile.of(GaussianProfile(1.0), MAX_USES + 1),
        lambda: ComposedProfile(((GaussianProfile(1.0), 1),), points=2),
        lambda: ComposedProfile.of(GaussianProfile(1.0), 2).delta_bounds(-1.0),
    ],
)
def test_values_out_of_range_are_refused(build: object) -> None:
    """Each number out of its range is a ValueError that names it."""
    with pytest.raises(ValueError, match=r"must be|too large|must not|needs at least|at most"):
        build()  # type: ignore[operator]  # a lambda of the list above


def test_closed_forms_need_no_scipy() -> None:
    """The client's module of closed forms imports neither scipy nor torch."""
    code = (
        "import sys, defenses.privacy.noise, defenses.privacy.binomial;"
        "sys.exit(any(m in sys.modules for m in ('scipy', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603 - our own code
