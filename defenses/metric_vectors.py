"""What metric defences on vectors share: three laws of the noise, what each guarantees, their likelihoods.

Eta is the inverse scale of the noise and m the number of coordinates.

- "spherical": a uniform direction times one radius from Gamma(m, 1/eta): density proportional to exp(-eta |z|), the
  published law. Losses between two vectors are at most eta times their Euclidean distance.
- "per-coordinate": a uniform direction whose every coordinate has a Gamma(m, 1/eta) radius of its own. No guarantee is
  proved for it; an audit refutes the spherical one's.
- "independent": every coordinate is uniform on [-1, 1] times its own Gamma(m, 1/eta) radius. A coordinate then has the
  density eta Q(m - 1, eta |z|) / (2 (m - 1)) with Q the regularised upper incomplete gamma function. The slope of its
  logarithm is the hazard rate of Gamma(m - 1, 1/eta), which is below eta. So losses are at most eta times the sum of
  the coordinates' differences, and at most eta sqrt(m) times the Euclidean distance, for m >= 2; not eta times it.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar, Literal, TypeVar, get_args

import numpy as np

from defenses.base import NO_CLAIM, Assets, Claim, Float32, LikelihoodUnavailable, View
from defenses.errors import UserError
from defenses.independent_radius import IndependentRadius
from defenses.likelihood import CoordinateRadius, Distances
from defenses.noisy_vectors import NoisyVectors, Space, VectorConfig, check_scale, space_table
from defenses.privacy.bounding import BoundingProfile
from defenses.privacy.metric import MetricProfile
from defenses.privacy.profile import PrivacyProfile

Radius = Literal["spherical", "per-coordinate", "independent"]


@dataclass(frozen=True)
class MetricConfig(VectorConfig):
    """How much noise, on what.

    Attributes:
        on: As in VectorConfig; the distance of the claim is that of these vectors, which are not clipped.
        eta: Inverse scale of the noise, above 0; infinity turns the noise, and with it the claim, off.
        radius: The law of the noise, see this module.
    """

    defense: ClassVar[str] = "metric noise"
    on: Space = "embedding"
    eta: float = 100.0
    radius: Radius = "spherical"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.eta > 0:
            raise UserError(f"{self.defense}: eta must be positive, not {self.eta}; no noise is eta = inf")
        if self.radius not in get_args(Radius):
            raise UserError(f"{self.defense}: radius is one of {', '.join(get_args(Radius))}, not {self.radius!r}")


ConfigT = TypeVar("ConfigT", bound=MetricConfig)


class MetricVectors(NoisyVectors[ConfigT]):
    """Vectors plus noise of one of the three laws."""

    privacy_parameter = "eta"
    source: ClassVar[str] = "Feyisetan, Balle, Drake, Diethe 2020"

    def __init__(self, config: ConfigT, assets: Assets) -> None:
        super().__init__(config, assets)
        self.dimension = assets.embedding.shape[1] if config.on == "embedding" else assets.needed_projection().d
        check_scale(self.dimension / config.eta, self.name)

    @property
    def claim(self) -> Claim:
        """What holds per unit of Euclidean distance; nothing where nothing is proved, and nothing without noise."""
        rate = self.rate
        if rate is None:
            return NO_CLAIM
        known = self.config.radius == "spherical"
        return Claim(
            kind="metric-DP",
            parameters={"epsilon": rate},
            unit="unit of distance",
            relation="any two tokens",
            source=self.source if known else "the slope of each coordinate's log density is at most eta",
        )

    @property
    def rate(self) -> float | None:
        """The epsilon per unit of Euclidean distance that is proved: eta, eta sqrt(m), or None."""
        if np.isinf(self.config.eta) or self.config.radius == "per-coordinate":
            return None
        if self.config.radius == "spherical":
            return self.config.eta
        return self.config.eta * math.sqrt(self.dimension) if self.dimension > 1 else None

    def profile(self) -> PrivacyProfile | None:
        """The profile of two tokens at distance 1; None where nothing is claimed."""
        return None if self.rate is None else self.profile_at(1.0)

    def worst_case(self) -> PrivacyProfile | None:
        """The profile at the diameter of the table; None where nothing is claimed."""
        return None if self.rate is None else self.profile_at(self.distances.diameter)

    def profile_at(self, distance: float) -> PrivacyProfile:
        """The profile of two tokens this far apart: exact under the spherical law, else the pure bound.

        Raises:
            ValueError: nothing is claimed of this law, or the distance is negative or not finite.
        """
        if self.rate is None:
            raise ValueError("only noise of the spherical or the independent law has a profile per distance")
        if self.config.radius == "spherical":
            return MetricProfile(self.rate, self.dimension).at(distance)
        return BoundingProfile(MetricProfile(self.rate).at(distance))

    def noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Directions (B, T, m) times radii."""
        if np.isinf(self.config.eta):
            return np.zeros(shape)
        if self.config.radius == "independent":
            return rng.uniform(-1, 1, size=shape) * rng.gamma(shape[-1], 1 / self.config.eta, size=shape)
        direction = rng.normal(size=shape)
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        radii = shape if self.config.radius == "per-coordinate" else (*shape[:-1], 1)
        return direction * rng.gamma(shape[-1], 1 / self.config.eta, size=radii)

    def log_likelihood(self, view: View) -> Float32:
        """Log density of what was sent around every token's vector, (B, T, V), up to a constant.

        Spherical: -eta |y - x|. Independent: the exact sum over coordinates. Per coordinate: the approximation of
        `CoordinateRadius`.

        Raises:
            LikelihoodUnavailable: there is no noise, and so no density.
        """
        if np.isinf(self.config.eta):
            raise LikelihoodUnavailable(f"{self.name} with eta = inf has no density")
        points = self.latents(view).reshape(-1, self.dimension)
        return self.log_density(points).reshape(*view.shape, -1)

    def log_density(self, points: Float32) -> Float32:
        """Log density of points (N, m) around every row of the table, up to a constant, (N, V)."""
        eta = self.config.eta
        if self.config.radius == "per-coordinate":
            return CoordinateRadius(eta, self.dimension).log_density(points, self.distances)
        if self.config.radius == "independent":
            return self._independent.log_density(points)
        found = np.sqrt(self.distances.squared(points))
        found *= np.float32(-eta)
        return found

    @cached_property
    def _independent(self) -> IndependentRadius:
        return IndependentRadius(self.config.eta, self.clear)

    @property
    def distances(self) -> Distances:
        """To the vector of every token."""
        return _distances(self.assets, self.config.on)


@lru_cache(maxsize=2)
def _distances(assets: Assets, on: Space) -> Distances:
    """To the vectors of one space; a sweep over eta prepares them once."""
    return Distances(space_table(assets, on))
