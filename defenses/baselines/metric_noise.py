"""Metric privacy by noise on one vector a token: the published spherical law, and the one that circulates in code.

Spherical: density proportional to exp(-eta |z|), a uniform direction times one radius from Gamma(m, 1/eta) (Feyisetan,
Balle, Drake, Diethe 2020, "Privacy- and utility-preserving textual analysis via calibrated multivariate
perturbations"). It is eta-metric private: the losses between two tokens are at most eta times their distance.

Per coordinate: the same direction, but every coordinate draws a radius of its own, as in the code that Split-and-
Denoise (Mai et al. 2024) and works after it released. Its density is another one, for which no metric claim is proved;
an audit refutes the spherical one's claim for it. Here it claims nothing.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from defenses.base import NO_CLAIM, Assets, Claim, Float32, LikelihoodUnavailable, View
from defenses.errors import UserError
from defenses.likelihood import CoordinateRadius, Distances
from defenses.noisy_vectors import NoisyVectors, Space, VectorConfig, check_scale, space_table
from defenses.privacy.metric import MetricProfile
from defenses.privacy.profile import PrivacyProfile

Radius = Literal["spherical", "per-coordinate"]


@dataclass(frozen=True)
class MetricNoiseConfig(VectorConfig):
    """How much noise, on what.

    Attributes:
        on: As in VectorConfig; the distance of the claim is that of these vectors, which are not clipped.
        eta: Epsilon per unit of Euclidean distance, above 0; infinity turns the noise, and with it the claim, off.
        radius: "spherical": one radius a token, as published; "per-coordinate": one for each coordinate, no claim.
    """

    on: Space = "embedding"
    eta: float = 100.0
    radius: Radius = "spherical"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.eta > 0:
            raise UserError(f"metric-noise: eta must be positive, not {self.eta}; no noise is eta = inf")
        if self.radius not in get_args(Radius):
            raise UserError(f"metric-noise: radius is one of {', '.join(get_args(Radius))}, not {self.radius!r}")


class MetricNoise(NoisyVectors[MetricNoiseConfig]):
    """Vectors plus a uniform direction times a Gamma radius."""

    name = "metric-noise"
    Config = MetricNoiseConfig
    privacy_parameter = "eta"

    def __init__(self, config: MetricNoiseConfig, assets: Assets) -> None:
        super().__init__(config, assets)
        width = assets.embedding.shape[1] if config.on == "embedding" else assets.needed_projection().d
        check_scale(width / config.eta, self.name)

    @property
    def claim(self) -> Claim:
        """Eta per unit of distance of the spherical law; none of the other, and none without noise."""
        if not self._claims:
            return NO_CLAIM
        return Claim(
            kind="metric-DP",
            parameters={"epsilon": self.config.eta},
            unit="unit of distance",
            relation="any two tokens",
            source="Feyisetan, Balle, Drake, Diethe 2020",
        )

    def profile(self) -> PrivacyProfile | None:
        """The exact profile of two tokens at distance 1; None where nothing is claimed."""
        return self.profile_at(1.0) if self._claims else None

    def worst_case(self) -> PrivacyProfile | None:
        """The profile at the diameter of the table, under the spherical law."""
        return self.profile_at(_distances(self.assets, self.config.on).diameter) if self._claims else None

    def profile_at(self, distance: float) -> PrivacyProfile:
        """The exact profile of two tokens this far apart, under the spherical law.

        Raises:
            ValueError: there is none for this law, or the distance is negative or not finite.
        """
        if not self._claims:
            raise ValueError("only spherical noise has a profile per distance")
        return MetricProfile(self.config.eta, self.clear.shape[1]).at(distance)

    def noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Directions (B, T, m) times radii."""
        if np.isinf(self.config.eta):
            return np.zeros(shape)
        direction = rng.normal(size=shape)
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        radii = shape if self.config.radius == "per-coordinate" else (*shape[:-1], 1)
        return direction * rng.gamma(shape[-1], 1 / self.config.eta, size=radii)

    def log_likelihood(self, view: View) -> Float32:
        """Log density of what was sent around every token's vector, (B, T, V), up to a constant.

        Spherical: -eta |y - x|. Per coordinate: the approximation of `CoordinateRadius`.

        Raises:
            LikelihoodUnavailable: there is no noise, and so no density.
        """
        eta = self.config.eta
        if np.isinf(eta):
            raise LikelihoodUnavailable(f"{self.name} with eta = inf has no density")
        points = self.latents(view).reshape(-1, self.clear.shape[1])
        if self.config.radius == "per-coordinate":
            found = CoordinateRadius(eta, self.clear.shape[1]).log_density(points, self._distances)
        else:
            found = np.sqrt(self._distances.squared(points))
            found *= np.float32(-eta)
        return found.reshape(*view.shape, -1)

    @property
    def _distances(self) -> Distances:
        """To the vector of every token."""
        return _distances(self.assets, self.config.on)

    @property
    def _claims(self) -> bool:
        return self.config.radius == "spherical" and np.isfinite(self.config.eta)


@lru_cache(maxsize=2)
def _distances(assets: Assets, on: Space) -> Distances:
    """To the vectors of one space; a sweep over eta prepares them once."""
    return Distances(space_table(assets, on))


DEFENSE = MetricNoise
