"""Mechanisms whose epsilon is known exactly: what every estimator is held against.

Each gives scores that rise with the likelihood ratio of two neighbouring inputs, so that an estimator sees all there is
to see, and its own exact profile.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audit.bounds import AnyFamily, BinomialFamily, CanaryScores, Family, GdpFamily, Scores
from audit.bounds.families import CurveFamily
from defenses.privacy.binomial import StochasticQuantizationProfile
from defenses.privacy.gaussian import GaussianProfile
from defenses.privacy.laplace import LaplaceProfile
from defenses.privacy.noise import a_over_c_for_mu
from defenses.privacy.profile import PrivacyProfile
from defenses.privacy.randomized_response import RandomizedResponseProfile

Float64 = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Known:
    """A mechanism with a known profile.

    Attributes:
        name: For tables.
        profile: Its exact profile.
        delta: Where its epsilon is stated.
        family: Its own family; "any" where it is the worst of all with its epsilon.
        draw: (secrets of shape (S,), rng) -> scores of shape (S,); the secret says which of the two inputs is used.
    """

    name: str
    profile: PrivacyProfile
    delta: float
    family: Family
    draw: Callable[[Bools, np.random.Generator], Float64]

    @property
    def epsilon(self) -> float:
        """The true epsilon at delta."""
        return self.profile.epsilon(self.delta)

    def scores(self, samples: int, rng: np.random.Generator) -> Scores:
        """Independent draws under both inputs."""
        return Scores(
            self.draw(np.zeros(samples, dtype=np.bool_), rng), self.draw(np.ones(samples, dtype=np.bool_), rng)
        )

    def canaries(self, number: int, rng: np.random.Generator) -> CanaryScores:
        """One run with independent canaries."""
        included = rng.random(number) < 0.5
        return CanaryScores(self.draw(included, rng), included)


def null() -> Known:
    """Outputs that do not depend on the input: epsilon = 0."""
    return Known("null", GaussianProfile(0.0), 0.0, AnyFamily(0.0), lambda secret, rng: rng.normal(size=len(secret)))


def gaussian(mu: float = 1.0, delta: float = 1e-5) -> Known:
    """The Gaussian mechanism with sensitivity mu and unit noise."""
    return Known(
        f"Gaussian mu={mu:g}",
        GaussianProfile(mu),
        delta,
        GdpFamily(),
        lambda secret, rng: rng.normal(size=len(secret)) + mu * secret,
    )


def laplace(epsilon: float = 1.0) -> Known:
    """The Laplace mechanism with sensitivity epsilon and unit scale."""
    return Known(
        f"Laplace eps={epsilon:g}",
        LaplaceProfile(epsilon),
        0.0,
        CurveFamily("laplace", LaplaceProfile),
        lambda secret, rng: rng.laplace(size=len(secret)) + epsilon * secret,
    )


def randomized_response(epsilon: float = 2.0) -> Known:
    """One bit, told truly with probability e^eps / (1 + e^eps)."""
    truth = 1 / (1 + np.exp(-epsilon))
    return Known(
        f"randomized response eps={epsilon:g}",
        RandomizedResponseProfile(epsilon),
        0.0,
        AnyFamily(0.0),
        lambda secret, rng: np.where(rng.random(len(secret)) < truth, secret, ~secret).astype(np.float64),
    )


def quantizer(n: int, d: int, mu: float, delta: float = 1e-5) -> Known:
    """Stochastic n-bit quantization of d coordinates, the two inputs in opposite corners; the count is sufficient."""
    profile = StochasticQuantizationProfile.of(n, d, a_over_c_for_mu(mu, n, d))
    high = 0.5 * (1 + 1 / profile.a_over_c)

    def draw(secret: Bools, rng: np.random.Generator) -> Float64:
        return rng.binomial(profile.trials, np.where(secret, high, 1 - high)).astype(np.float64)

    return Known(f"{n}-bit d={d} mu={mu:g}", profile, delta, BinomialFamily(profile.trials), draw)


def all_known() -> list[Known]:
    """The mechanisms of docs/validity.md."""
    return [
        null(),
        randomized_response(),
        laplace(),
        gaussian(),
        quantizer(1, 1, 1.0),
        quantizer(4, 18, 1.0),
        quantizer(2, 8, 3.0),
    ]
