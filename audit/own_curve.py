"""What a defence's own accountant says of an audited claim: exact epsilons, the exact curve, and the paper's sandwich.

None of it decides a verdict: it stands beside the claim, so that a reader sees how far the two lie apart.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from audit.claims import ClaimSpec
from defenses.base import Defense
from defenses.privacy.binomial import StochasticQuantizationProfile
from defenses.privacy.composed import ComposedProfile
from defenses.privacy.gaussian import GaussianProfile
from defenses.privacy.profile import PrivacyProfile
from defenses.privacy.theorem import SandwichProfile

COARSE = 256  # points of a numerical composition's grid over a prompt; more move 8,192 Laplace uses by under 1e-5


def own_epsilons(defense: Defense[Any], tokens: int, delta: float) -> dict[str, Any]:
    """Exact epsilons of one token and of a prompt, by the columns of a record; none where nothing is accounted for.

    Args:
        defense: Configured.
        tokens: Of a prompt, all of which differ between neighbours.
        delta: At which epsilons are reported.

    Returns:
        "epsilon_exact_token", which a promise about whole prompts has none of; of prompts of two tokens or more
        "epsilon_exact_prompt", whether it is exact, else an upper bound, and "prompt_tokens".
    """
    profile = defense.profile()
    if profile is None or "distance" in defense.claim.unit:  # its profile is at distance 1
        return {}
    if "token" not in defense.claim.unit:
        return {
            "prompt_tokens": tokens,
            "epsilon_exact_prompt": profile.epsilon(delta),
            "prompt_is_exact": profile.exact,
        }
    token = {"epsilon_exact_token": profile.epsilon(delta)}
    if tokens == 1:
        return token
    whole, exact = _of_prompt(profile, tokens, delta)
    return {**token, "prompt_tokens": tokens, "epsilon_exact_prompt": whole, "prompt_is_exact": exact}


def _of_prompt(profile: PrivacyProfile, tokens: int, delta: float) -> tuple[float, bool]:
    """Epsilon of that many uses, and whether it is exact.

    A numerical composition is an upper bound at any width of its grid; of thousands of uses it is made on a coarse one.
    Where there are more uses than it takes, the bound is T times epsilon at delta / T (basic composition).
    """
    try:
        whole = profile.compose(tokens)
    except ValueError:
        return tokens * profile.epsilon(delta / tokens), False
    if isinstance(whole, ComposedProfile):
        whole = replace(whole, points=min(whole.points, COARSE))
    return whole.epsilon(delta), whole.exact


def own_curves(defense: Defense[Any], spec: ClaimSpec, levels: list[float]) -> Mapping[str, list[float]]:
    """The greatest powers at given levels that the mechanism itself allows for the audited unit.

    Returns:
        "curve_exact", where a profile is known to be exact; of stochastic quantization also the ends of Theorem 4.2 of
        arXiv 2602.11513, as powers: "curve_sandwich_low" and "curve_sandwich_high".
    """
    profile = _of_unit(defense, spec)
    if profile is None or not profile.exact:
        return {}
    grid = np.array(levels, dtype=np.float64)
    found = {"curve_exact": _powers(profile, grid)}
    if isinstance(profile, StochasticQuantizationProfile):
        paper = SandwichProfile(profile.trials, profile.a_over_c)
        found |= sandwich(paper, grid)
    return found


def sandwich(paper: SandwichProfile, levels: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, list[float]]:
    """Both ends of the theorem at levels, as powers: 1 less the upper curve, and 1 less the lower one."""
    least = GaussianProfile(paper.mu).powers(np.maximum(0.0, levels - paper.gamma)) - paper.gamma
    return {
        "curve_sandwich_low": np.clip(least, 0.0, 1.0).tolist(), "curve_sandwich_high": paper.powers(levels).tolist()
    }  # fmt: skip


def _of_unit(defense: Defense[Any], spec: ClaimSpec) -> PrivacyProfile | None:
    """The defence's profile for the unit of a claim; None where there is none."""
    profile = defense.profile()
    if profile is None or "distance" in defense.claim.unit:
        return None
    if spec.unit == "prompt" and "token" in defense.claim.unit:
        return profile.compose(spec.tokens)
    if spec.unit == "coordinate":
        if not isinstance(profile, StochasticQuantizationProfile):
            return None
        return StochasticQuantizationProfile.of(defense.config.n, 1, profile.a_over_c)
    return profile


def _powers(profile: PrivacyProfile, grid: np.ndarray[Any, np.dtype[np.float64]]) -> list[float]:
    powers: list[float] = np.clip(profile.powers(grid), 0.0, 1.0).tolist()
    return powers
