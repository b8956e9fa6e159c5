"""Every attack is an audit: guesses of known secrets test a claim, soundly, and catch a twin."""

import numpy as np
import pytest
from scipy.optimize import brentq

from attacks.base import Attack, Guess, Knowledge
from audit.adversaries import Adversary, adversary
from audit.claims import ClaimSpec, GuaranteeSpec, parse_claims
from audit.gather import gather
from audit.guarantees import exact_claim, guarantee_of
from audit.probes.guessing import collect_guesses, far_apart
from audit.probes.mechanism import corner_assets
from audit.targets import build_target
from audit.verdict import Verdict, judge
from defenses.base import View
from defenses.baselines.identity import Identity, IdentityConfig
from defenses.errors import UserError
from defenses.pipeline.defense import Del, DelConfig
from defenses.pipeline.mechanism import Quantizer
from defenses.pipeline.sampler import TableSampler

ASSETS = corner_assets(8)


def test_success_stays_below_the_ceiling_and_near_what_is_possible() -> None:
    """With two candidates in opposite corners map's success p solves p = 1 - f(1 - p), which is below 1 - f(1/2)."""
    defense = Del(DelConfig(n=4, mu=2.0), ASSETS)
    profile = defense.profile()
    probe = collect_guesses(defense, adversary("map"), 2000, np.random.default_rng(0), progress=False)
    possible = float(brentq(lambda p: p - 1 + profile.tradeoff(1 - p), 0.5, 1.0))
    assert float(probe.facts["success_low"]) <= possible <= float(probe.facts["success_high"])
    assert float(probe.facts["success_high"]) < 1 - profile.tradeoff(0.5)
    assert probe.facts["kappa"] == 0.5


@pytest.mark.parametrize("name", ["map", "hmm", "cosine", "latent-l2", "latent-ml"])
def test_a_true_claim_stands_and_half_of_it_falls(name: str) -> None:
    """The exact claim is not refuted by any attack's scores; a mu half as large is, by every one."""
    defense = Del(DelConfig(n=4, mu=2.0), ASSETS)
    probe = collect_guesses(defense, adversary(name), 600, np.random.default_rng(1), progress=False)
    claim = exact_claim(defense.profile())
    assert judge(claim, probe.scores, name="true", rng=np.random.default_rng(2), level=1e-3).verdict != Verdict.REFUTED
    half = exact_claim(Del(DelConfig(n=4, mu=1.0), ASSETS).profile())
    assert judge(half, probe.scores, name="false", rng=np.random.default_rng(2)).verdict == Verdict.REFUTED


def test_the_bound_is_sound_over_many_audits() -> None:
    """The lower bound on epsilon exceeds the truth in no more audits than its level allows."""
    defense = Del(DelConfig(n=2, mu=1.5), ASSETS)
    guarantee = guarantee_of(exact_claim(defense.profile()))
    above = 0
    for seed in range(40):
        probe = collect_guesses(defense, adversary("map"), 150, np.random.default_rng(seed), progress=False)
        result = judge(exact_claim(defense.profile()), probe.scores, name="x", rng=np.random.default_rng(seed))
        above += result.epsilon_lower > guarantee.epsilon
    assert above <= 7  # of 40 at 5 %: more has probability below 1e-3


def test_a_twin_with_too_little_noise_is_caught() -> None:
    """Six tenths of the claimed A are refuted through an attack."""
    defense = Del(DelConfig(n=4, mu=2.0), ASSETS)
    claim = exact_claim(defense.profile())
    ratio = 0.6 * defense.quantizer.a_over_c
    defense.sampler = TableSampler(Quantizer(n=4, d=8, clip=defense.quantizer.clip, a_over_c=ratio))
    probe = collect_guesses(defense, adversary("map"), 1500, np.random.default_rng(3), progress=False)
    assert judge(claim, probe.scores, name="twin", rng=np.random.default_rng(4)).verdict == Verdict.REFUTED


def test_candidates_lie_far_apart() -> None:
    """The first two are the opposite corners; none stands twice."""
    defense = Del(DelConfig(n=4, mu=2.0), ASSETS)
    pool = far_apart(defense, 10)
    assert set(pool[:2].tolist()) == {0, 1}
    assert len(set(pool.tolist())) == 10


class Blind(Attack):
    """Scores that have nothing to do with the view."""

    name = "blind"
    knowledge = Knowledge(mechanism=False)

    def guess(self, view: View) -> Guess:
        """The same for every view."""
        order = np.arange(self.defense.assets.vocabulary)
        return Guess(order[None, None], -order[None, None].astype(np.float32))


def test_a_blind_attack_shows_nothing() -> None:
    """An adversary that does not look gives a bound of zero, whatever it guesses."""
    defense = Del(DelConfig(n=4, mu=20.0), ASSETS)
    blind = Adversary(Blind, None, "blind")
    probe = collect_guesses(defense, blind, 500, np.random.default_rng(5), progress=False)
    result = judge(exact_claim(defense.profile()), probe.scores, name="blind", rng=np.random.default_rng(6))
    assert result.epsilon_lower == 0
    assert result.verdict == Verdict.INCONCLUSIVE


def test_what_cannot_be_audited_is_one_line() -> None:
    """No likelihood, or several messages of one secret."""
    with pytest.raises(UserError, match="identity has no tractable likelihood"):
        collect_guesses(Identity(IdentityConfig(), ASSETS), adversary("map"), 10, np.random.default_rng(0))
    with pytest.raises(UserError, match="one message of each secret"):
        collect_guesses(Del(DelConfig(), ASSETS), adversary("resend"), 10, np.random.default_rng(0))


def test_a_claims_file_can_look_through_an_attack() -> None:
    """With through = "attack" the evidence is guesses; attack without it, or with a pair, is refused."""
    spec = ClaimSpec(
        "guessed", "del", GuaranteeSpec("exact"), parameters={"n": 2, "mu": 1.0}, through="attack", samples=200
    )
    claim, probe = gather(build_target(spec), spec, np.random.default_rng(0))
    assert (probe.through, probe.uses, probe.scores.samples) == ("attack", 1, 200)
    assert claim.kind == "stochastic-quantization"
    table = {"name": "x", "defense": "del", "guarantee": "exact"}
    for extra, words in (({"attack": "map"}, "needs through"), ({"through": "attack", "pair": [0, 1]}, "remove pair")):
        with pytest.raises(UserError, match=words):
            parse_claims({"claims": [table | extra]})
