"""RAPT's text-to-text privatisation: its law by simulation, its bound, an audit, and a twin with half the noise."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import gammainc
from scipy.stats import chi2_contingency, chisquare

from audit.bounds import ESTIMATORS, AnyFamily
from audit.check import audit_claim
from audit.claims import parse_claims
from audit.probes import at_distance, collect
from audit.targets import build_target
from audit.verdict import Verdict
from defenses.base import NO_CLAIM, Assets, LikelihoodUnavailable, Tokens
from defenses.baselines.rapt import Rapt, RaptConfig
from defenses.errors import UserError
from defenses.privacy.epsilon_delta import EpsilonDeltaProfile
from defenses.privacy.metric import MetricProfile
from defenses.randomness import seeded_rng

PLANE = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
LINE = np.array([[0.0], [1.0]], dtype=np.float32)


def made(assets: Assets, **keys: Any) -> Rapt:
    """Configured."""
    return Rapt(RaptConfig(**keys), assets)


def sent_for(defense: Rapt, token: int, count: int, seed: int) -> np.ndarray:
    """How often each token is sent for one, (V,)."""
    view = defense.protect(np.full((1, count), token), seeded_rng(seed, "rapt"))
    return np.bincount(defense.sent_tokens(view).ravel(), minlength=defense.assets.vocabulary)


class HalfTheNoise(Rapt):
    """The noise of twice the eta that is claimed."""

    name = "half-the-noise"

    def replace(self, tokens: Tokens, rng: np.random.Generator) -> Tokens:
        """RAPT's at twice its eta."""
        return Rapt(RaptConfig(eta=2 * self.config.eta), self.assets).replace(tokens, rng)


@pytest.mark.parametrize("radius", ["spherical", "per-coordinate"])
def test_without_noise_the_prompt_itself_is_sent(assets: Assets, radius: Any) -> None:
    """Eta = infinity: the same ids and their embeddings; nothing is claimed."""
    tokens = np.array([[5, 17, 17, 200], [0, 255, 3, 5]])
    defense = made(assets, eta=math.inf, radius=radius)
    view = defense.protect(tokens, seeded_rng(0))
    np.testing.assert_array_equal(defense.sent_tokens(view), tokens)
    np.testing.assert_array_equal(defense.restore(view), assets.embedding[tokens])
    assert defense.claim == NO_CLAIM
    assert defense.profile() is defense.worst_case() is None
    with pytest.raises(LikelihoodUnavailable, match="rapt"):
        defense.log_likelihood(view)


@pytest.mark.parametrize("radius", ["spherical", "per-coordinate"])
@pytest.mark.parametrize("eta", [2.0, 8.0])
def test_the_output_law_is_that_of_a_loop(eta: float, radius: Any) -> None:
    """20,000 draws of three words in the plane against as many by an oracle, two samples by chi-square at 1e-4.

    The oracle draws the angle and the radius, adds them in double precision and looks for the nearest word one by one.
    """
    defense = made(Assets(PLANE), eta=eta, radius=radius)
    rng = np.random.default_rng(1)
    for word in (3, 20, 44):
        angle = rng.uniform(0, 2 * math.pi, 20_000)
        radii = rng.gamma(2, 1 / eta, (20_000, 1 if radius == "spherical" else 2))
        noisy = PLANE[word].astype(float) + np.stack([np.cos(angle), np.sin(angle)], axis=1) * radii
        nearest = [int(np.hypot(*(PLANE - point).T).argmin()) for point in noisy]
        table = np.stack([sent_for(defense, word, 20_000, word), np.bincount(nearest, minlength=50)])
        rare = table.sum(axis=0) < 20
        table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
        assert chi2_contingency(table[:, table.sum(axis=0) > 0]).pvalue > 1e-4


def test_two_words_in_the_plane_have_the_integrated_law() -> None:
    """The other word is sent with the noise's mass beyond the bisector: an integral over the angle, at 1e-4."""
    defense = made(Assets(np.array([[0, 0], [1, 0]], dtype=np.float32)), eta=3.0)
    beyond = quad(lambda angle: 1 - gammainc(2, 3.0 * 0.5 / math.cos(angle)), -math.pi / 2, math.pi / 2)[0]
    share = beyond / (2 * math.pi)
    assert chisquare(sent_for(defense, 0, 50_000, 1), [50_000 * (1 - share), 50_000 * share]).pvalue > 1e-4


def test_the_bound_is_the_noises_profile(assets: Assets) -> None:
    """Per distance and at the diameter the profile of the noisy vector, which is said to be a bound."""
    defense = made(assets, eta=20.0)
    assert defense.claim.parameters == {"epsilon": 20.0}
    profile, worst = defense.profile(), defense.worst_case()
    assert profile is not None
    assert worst is not None
    assert not profile.exact
    truth = MetricProfile(20.0, 32)
    table = assets.embedding.astype(float)
    diameter = max(float(np.linalg.norm(table - row, axis=1).max()) for row in table)
    assert profile.epsilon(1e-5) == truth.at(1.0).epsilon(1e-5)
    assert worst.epsilon(1e-5) == pytest.approx(truth.at(diameter).epsilon(1e-5), rel=1e-4)
    assert worst.powers(np.array([0.1]))[0] == pytest.approx(1 - worst.tradeoff(0.1), abs=1e-9)
    assert worst.compose(2).epsilon(1e-5) > worst.epsilon(1e-5)
    loose = made(assets, eta=20.0, radius="per-coordinate")
    assert loose.claim == NO_CLAIM
    assert loose.profile() is loose.worst_case() is None
    with pytest.raises(ValueError, match="profile"):
        loose.profile_at(1.0)


def test_the_exact_law_keeps_the_claim_and_the_twins_does_not() -> None:
    """Two words on a line: the loss by formula is within eta times the distance, and with half the noise it is not."""
    for noise, kept in ((1.0, True), (2.0, False)):
        flipped = 0.5 * math.exp(-noise * 0.5)
        assert (math.log((1 - flipped) / flipped) <= 1.0) is kept


@pytest.mark.parametrize(("kind", "refuted"), [(Rapt, 0), (HalfTheNoise, 3)])
def test_the_audit_refutes_half_the_noise_alone(kind: type[Rapt], refuted: int) -> None:
    """3,000 draws a side of two words at distance 1 with eta = 1, at 1e-3: the twin in each of three seeds."""
    defense, family = kind(RaptConfig(eta=1.0), Assets(LINE)), AnyFamily(0.0)
    found = 0
    for seed in range(3):
        rng = np.random.default_rng([seed, refuted])
        probe = collect(defense, at_distance(LINE, 0, 1), 3000, rng, family=family, progress=False)
        assert probe.distance == 1
        test = ESTIMATORS["order-statistic"]
        found += test.p_value(probe.scores, EpsilonDeltaProfile(probe.distance), family, rng) <= 1e-3
    assert found == refuted


def test_the_audit_does_not_refute_the_claim() -> None:
    """2,000 draws a side of pairs at several distances of the synthetic table: not refuted at 1e-3."""
    tables = {"name": "r", "defense": "rapt", "parameters": {"eta": 60.0}, "guarantee": "claimed"}
    spec = parse_claims({"claims": [{**tables, "samples": 2000}]}).claims[0]
    result, claim, _ = audit_claim(spec, build_target(spec), level=1e-3)
    assert claim.kind == "metric-DP"
    assert result.verdict is not Verdict.REFUTED


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"eta": 0.0}, "rapt: eta must be positive"),
        ({"radius": "square"}, "rapt: radius is one of"),
        ({"eta": 1e-20}, "float32 cannot carry"),
    ],
)
def test_bad_settings_are_said_in_one_line(assets: Assets, keys: dict[str, Any], message: str) -> None:
    """Each bad value is refused with the defence's own name."""
    with pytest.raises(UserError, match=message) as caught:
        made(assets, **keys)
    assert "\n" not in str(caught.value)
