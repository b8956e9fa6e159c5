"""Token inversion as an experiment: who is the strongest, what is left out, what the columns say."""

import numpy as np
import pytest

from attacks.base import Guess
from audit.adversaries import token_adversaries
from audit.inversion import ceilings, figures, hold_back, invert
from audit.recovery import Prompts
from defenses.base import Assets
from defenses.baselines.identity import Identity, IdentityConfig
from defenses.errors import UserError
from defenses.pipeline.defense import Del, DelConfig
from defenses.privacy.gaussian import GaussianProfile

PUBLIC = np.minimum(np.random.default_rng(1).geometric(0.03, (150, 12)), 255)
VICTIMS = np.minimum(np.random.default_rng(2).geometric(0.03, (40, 12)), 255)
PROMPTS = Prompts(VICTIMS, np.arange(40) // 2)
NAMES = ["prior", "cosine", "map", "hmm", "resend"]


def test_the_strongest_is_chosen_on_the_adversarys_own_text(assets: Assets) -> None:
    """The choice is the same whatever the victims are, and its figures are those of its own columns."""
    defense = Del(DelConfig(n=4, mu=15.0), assets)
    found, other = (
        invert(defense, token_adversaries(NAMES), PUBLIC, victims, seed=0, seeds=2)
        for victims in (VICTIMS, VICTIMS[::-1] * 0 + 7)
    )
    assert found.calibration == other.calibration
    assert found.strongest == other.strongest
    assert found.strongest in {"map", "hmm"}
    assert found.calibration[found.strongest] == max(
        rate for label, rate in found.calibration.items() if label != "resend"
    )
    row = figures(found, PROMPTS)
    assert row["strongest_attack"] == found.strongest
    assert row["asr_strongest"] == row[f"asr_top1_{found.strongest}"] > row["asr_top1_cosine"]
    assert row["asr_strongest_low"] < row["asr_strongest"] < row["asr_strongest_high"]
    assert row["attack_seeds"] == 2
    assert row["knowledge_resend"].endswith("4 messages of each prompt")
    assert row["asr_top1_resend"] > row["asr_strongest"]


def test_at_the_null_the_advantage_covers_nothing(assets: Assets) -> None:
    """With A = infinity the interval of every advantage holds 0, and a blind guess is as strong as any."""
    defense = Del(DelConfig(n=4, a_over_c=float("inf")), assets)
    row = figures(invert(defense, token_adversaries(["quick"]), PUBLIC, VICTIMS, seed=0, seeds=3), PROMPTS)
    for label in ("map", "hmm", "resend"):
        assert row[f"advantage_{label}_low"] <= 0 <= row[f"advantage_{label}_high"]
    for label in ("cosine", "latent-l2", "latent-ml"):  # without a prior they read less than a blind guess
        assert row[f"advantage_{label}_low"] <= 0
    assert row["asr_strongest"] <= row["asr_prior_high"]


def test_never_weaker_than_the_blind_prior(assets: Assets) -> None:
    """At any noise the strongest attack's advantage is above minus the interval."""
    for mu in (0.5, 3.0, 10.0, 40.0):
        defense = Del(DelConfig(n=4, mu=mu), assets)
        row = figures(invert(defense, token_adversaries(NAMES[:-1]), PUBLIC, VICTIMS, seed=1), PROMPTS)
        assert row[f"advantage_{row['strongest_attack']}_high"] >= 0


def test_an_attack_that_cannot_run_says_why(assets: Assets) -> None:
    """The identity has no likelihood: map's columns are empty and its reason is kept; the others run."""
    found = invert(Identity(IdentityConfig(), assets), token_adversaries(NAMES), PUBLIC, VICTIMS, seed=0)
    row = figures(found, PROMPTS)
    assert row["asr_top1_map"] is None
    assert "no tractable likelihood" in row["unavailable_map"]
    assert row["asr_top1_cosine"] == 1.0
    assert row["strongest_attack"] == "cosine"


def test_full_figures_compare_with_the_papers_attack(assets: Assets) -> None:
    """Every figure of recovery, and paired gains over cosine with Holm's adjustment."""
    defense = Del(DelConfig(n=4, mu=15.0), assets)
    row = figures(invert(defense, token_adversaries(NAMES), PUBLIC, VICTIMS, seed=0, seeds=2), PROMPTS, full=True)
    assert row["gain_map_over_cosine_low"] > 0
    assert row["gain_map_over_cosine_p"] <= row["gain_map_over_cosine_p_holm"] <= 0.05
    assert abs(row["posterior_mean_map"] - row["asr_top1_map"]) < 0.08
    assert row["exact_map"] is not None


def test_seeds_are_coins(assets: Assets) -> None:
    """Each seed protects anew; the same seed gives the same guesses."""
    defense = Del(DelConfig(n=4, mu=10.0), assets)
    one, two = (invert(defense, token_adversaries(["map"]), PUBLIC, VICTIMS, seed=3, seeds=2) for _ in range(2))
    first, second = one.guesses["map"]
    assert isinstance(first, Guess)
    assert (first.scores != second.scores).any()
    np.testing.assert_array_equal(first.scores, two.guesses["map"][0].scores)


def test_the_ceiling_is_the_curve_at_the_blind_guess(assets: Assets) -> None:
    """1 - f(kappa) of the exact curve and of the nominal Gaussian one; nothing where nothing is promised."""
    defense = Del(DelConfig(n=4, mu=3.0), assets)
    found = ceilings(defense, 0.05, 1e-5)
    assert found["ceiling_claimed"] == pytest.approx(1 - GaussianProfile(3.0).tradeoff(0.05))
    assert found["ceiling_exact"] == pytest.approx(1 - defense.profile().tradeoff(0.05))
    assert ceilings(Identity(IdentityConfig(), assets), 0.05, 1e-5) == {"kappa": 0.05}


def test_public_text_is_held_back_at_its_end() -> None:
    """At most a fifth of it, never all; too little is one line."""
    fitting, own = hold_back(PUBLIC)
    assert len(fitting) + len(own) == len(PUBLIC)
    assert len(own) == 30
    np.testing.assert_array_equal(own, PUBLIC[-30:])
    with pytest.raises(UserError, match="too little public text"):
        hold_back(PUBLIC[:1])
    with pytest.raises(UserError, match="at least one seed"):
        invert(None, [], PUBLIC, VICTIMS, seed=0, seeds=0)  # type: ignore[arg-type]  # refused before it is asked
