"""The Gaussian mechanism on one vector a token, calibrated exactly.

Clip to an l2 norm of C, add N(0, sigma^2 I), send float32. Any two tokens are at most 2 C apart, so one token is
mu-GDP with mu = 2 C / sigma (Dong, Roth, Su 2022, Theorem 2.7), and its (epsilon, delta) curve is the analytic one of
Balle and Wang 2018, "Improving the Gaussian mechanism for differential privacy", Theorem 8.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from defenses.base import NO_CLAIM, Assets, Claim, Float32, LikelihoodUnavailable, View
from defenses.errors import UserError
from defenses.noisy_vectors import NoisyVectors, VectorConfig, check_scale
from defenses.privacy.gaussian import GaussianProfile, mu_for_epsilon

_INWARD = 1 - 2.0**-22  # rounding to float32 may lengthen a vector by 2^-24 of itself


@dataclass(frozen=True)
class GaussianConfig(VectorConfig):
    """How much noise, on what.

    Attributes:
        sigma: Standard deviation of each coordinate; 0 turns the noise, and with it the claim, off. One of sigma, mu
            and epsilon is given; mu = 60 where none is.
        mu: mu-GDP of one token, above 0.
        epsilon: Epsilon of one token at `delta`, above 0.
        delta: Used with `epsilon`, in (0, 1).
        clip: C, the largest l2 norm; None takes it from the public table.
        clip_quantile: Then, C is this quantile of the norms of all V vectors, in (0, 1].
    """

    sigma: float | None = None
    mu: float | None = None
    epsilon: float | None = None
    delta: float = 1e-5
    clip: float | None = None
    clip_quantile: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [value for value in (self.sigma, self.mu, self.epsilon) if value is not None]
        if not given:
            object.__setattr__(self, "mu", 60.0)
        elif len(given) > 1:
            raise UserError("gaussian: give one of sigma, mu and epsilon, not several")
        if self.sigma is not None and not 0 <= self.sigma < np.inf:
            raise UserError(f"gaussian: sigma must be finite and not negative, not {self.sigma}")
        for name, value in (("mu", self.mu), ("epsilon", self.epsilon), ("clip", self.clip)):
            if value is not None and not 0 < value < np.inf:
                raise UserError(f"gaussian: {name} must be positive and finite, not {value}; no noise is sigma = 0")
        if not 0 < self.delta < 1:
            raise UserError(f"gaussian: delta must lie between 0 and 1, not {self.delta}")
        if not 0 < self.clip_quantile <= 1:
            raise UserError(f"gaussian: clip_quantile must be above 0 and at most 1, not {self.clip_quantile}")


class Gaussian(NoisyVectors[GaussianConfig]):
    """Clipped vectors plus N(0, sigma^2 I)."""

    name = "gaussian"
    Config = GaussianConfig
    privacy_parameter = "mu"

    def __init__(self, config: GaussianConfig, assets: Assets) -> None:
        super().__init__(config, assets)
        check_scale(self.sigma, "gaussian")

    @property
    def claim(self) -> Claim:
        """mu-GDP of one token; none without noise."""
        if not self.sigma:
            return NO_CLAIM
        return Claim(
            kind="mu-GDP",
            parameters={"mu": self.mu},
            unit="one token",
            relation="replace a token by any other",
            source="Gaussian mechanism, Dong, Roth, Su 2022, Theorem 2.7",
        )

    def profile(self) -> GaussianProfile | None:
        """The exact profile of two vectors 2 C apart; None without noise."""
        return GaussianProfile(self.mu) if self.sigma else None

    @property
    def bound(self) -> float:
        """C, the largest l2 norm before the noise."""
        return self._clipped[1]

    @property
    def clear(self) -> Float32:
        """The clipped vector of every token, (V, m)."""
        return self._clipped[0]

    @cached_property
    def _clipped(self) -> tuple[Float32, float]:
        """The clipped table and C."""
        table = self.encoded()
        norms = np.linalg.norm(table.astype(np.float64), axis=1)
        bound = self.config.clip or float(np.quantile(norms, self.config.clip_quantile))
        shrink = np.minimum(1.0, bound * _INWARD / np.maximum(norms, 1e-30))
        return (table * shrink[:, None]).astype(np.float32), bound

    @cached_property
    def sigma(self) -> float:
        """Standard deviation of the noise on each coordinate."""
        config = self.config
        if config.sigma is not None:
            return config.sigma
        mu = config.mu if config.epsilon is None else mu_for_epsilon(config.epsilon, config.delta)
        return 2 * self.bound / float(mu or 60.0)

    @property
    def mu(self) -> float:
        """2 C / sigma; infinity without noise."""
        return 2 * self.bound / self.sigma if self.sigma else np.inf

    def noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Independent normal draws."""
        return rng.normal(0.0, self.sigma, size=shape) if self.sigma else np.zeros(shape)

    def likelihood_factors(self, view: View) -> tuple[Float32, Float32]:
        """Log density (y.t - |t|^2 / 2) / sigma^2 of y around every token's t: [y, 1] (B T, m + 1) and (m + 1, V).

        Both y and t are taken from the table's mean, which changes a position's values by one constant and keeps the
        numbers small. Terms without t are left out.

        Raises:
            LikelihoodUnavailable: there is no noise, and so no density.
        """
        if not self.sigma:
            raise LikelihoodUnavailable(f"{self.name} with sigma = 0 has no density")
        origin, terms = self._scoring_terms
        points = self.latents(view).reshape(-1, len(origin))
        return np.column_stack([points - origin, np.ones(len(points), dtype=np.float32)]), terms

    @cached_property
    def _scoring_terms(self) -> tuple[Float32, Float32]:
        """The table's mean (m,); the weights and, as a last row, the bias of every token, (m + 1, V)."""
        origin = self.clear.mean(axis=0, dtype=np.float64)
        gaps = self.clear - origin
        terms = np.empty((gaps.shape[1] + 1, len(gaps)), dtype=np.float32)
        terms[:-1] = gaps.T / self.sigma**2
        terms[-1] = np.einsum("vm,vm->v", gaps, gaps) / (-2 * self.sigma**2)
        return origin.astype(np.float32), terms


DEFENSE = Gaussian
