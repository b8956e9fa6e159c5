"""The discrete Gaussian mechanism on one vector of integers a token.

Canonne, Kamath, Steinke 2020, "The discrete Gaussian for differential privacy" (NeurIPS). Clip every coordinate to
[-c, c], round it to a public grid of granularity c / levels, add N_Z(0, sigma^2) in grid steps, send 16-bit integers.
No noise is ever rounded, so that what is proved of the law holds for the bytes. The paper states rho-zCDP with
rho = m (2 levels)^2 / (2 sigma^2) for m coordinates; the profile here is the exact one, by composing its losses.

Sums outside 16 bits do not wrap: they are held at +-32,767, which is post-processing. The grid is chosen so that this
takes 8 sigma of noise. 2 m bytes a token; the client adds m draws to a row of a table. The authors' sampler uses exact
fractions one draw at a time; `discrete_normal` is the same algorithm in double precision, vectorised.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from defenses.base import NO_CLAIM, Assets, Claim, Float32, LikelihoodUnavailable, Tokens, View
from defenses.clipped_vectors import ClipConfig, boxed
from defenses.discrete_normal import discrete_normal
from defenses.errors import UserError
from defenses.likelihood import Distances
from defenses.noisy_vectors import NoisyVectors
from defenses.privacy.discrete_gaussian import DiscreteGaussianProfile
from defenses.privacy.gaussian import mu_for_epsilon
from defenses.privacy.solve import greatest_within

MOST = 32_767
"""The largest integer that is sent."""

_ROOM = 8  # sigma between the largest clear integer and MOST
_LEVELS = 128
_SHARPEST = 1000.0  # shift over sigma: losses of one coordinate then stay below 1e6


@dataclass(frozen=True)
class DiscreteGaussianConfig(ClipConfig):
    """How much noise, on which grid.

    Attributes:
        sigma: Of each coordinate, in units of the vectors; 0 turns the noise, and with it the claim, off. One of
            sigma, rho and epsilon is given; rho = 1800 where none is, about mu = 60.
        rho: Of zCDP of one token, above 0: half of mu squared.
        epsilon: Exact epsilon of one token at `delta`, above 0.
        delta: Of the claim, in (0, 1).
        levels: Grid steps from 0 to c, 1 to 32,767; None takes 128, or as many as leave room for the noise.
    """

    sigma: float | None = None
    rho: float | None = None
    epsilon: float | None = None
    delta: float = 1e-5
    levels: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [value for value in (self.sigma, self.rho, self.epsilon) if value is not None]
        if not given:
            object.__setattr__(self, "rho", 1800.0)
        elif len(given) > 1:
            raise UserError("discrete-gaussian: give one of sigma, rho and epsilon, not several")
        if self.sigma is not None and not 0 <= self.sigma < np.inf:
            raise UserError(f"discrete-gaussian: sigma must be finite and not negative, not {self.sigma}")
        for name, value in (("rho", self.rho), ("epsilon", self.epsilon)):
            if value is not None and not 0 < value < np.inf:
                raise UserError(
                    f"discrete-gaussian: {name} must be positive and finite, not {value}; no noise is sigma = 0"
                )
        if not 0 < self.delta < 1:
            raise UserError(f"discrete-gaussian: delta must lie between 0 and 1, not {self.delta}")
        if self.levels is not None and not 1 <= self.levels <= MOST:
            raise UserError(f"discrete-gaussian: levels must be 1..{MOST} grid steps, not {self.levels}")


class DiscreteGaussian(NoisyVectors[DiscreteGaussianConfig]):
    """Clipped vectors on a grid plus discrete Gaussian noise, little-endian int16."""

    name = "discrete-gaussian"
    Config = DiscreteGaussianConfig
    privacy_parameter = "rho"
    parameter_range = (5e-3, 2e6)

    def __init__(self, config: DiscreteGaussianConfig, assets: Assets) -> None:
        super().__init__(config, assets)
        table, self.bound = boxed(assets, config)
        width = table.shape[1]
        ratio = _ratio(config, self.bound, width)
        self.levels = config.levels or max(1, min(_LEVELS, int(MOST / (1 + _ROOM * ratio))))
        self.sigma = _sigma(config, self.levels, ratio, width)
        self._check_range()
        self.granularity = self.bound / self.levels
        steps = np.rint(table.astype(np.float64) / self.granularity)
        self.steps = np.clip(steps, -self.levels, self.levels).astype(np.float32)

    def _check_range(self) -> None:
        """Refuse what 16 bits, or the accountant, cannot hold.

        Raises:
            UserError: they cannot.
        """
        if self.levels + _ROOM * self.sigma > MOST:
            raise UserError(
                f"{self.name}: {self.levels} levels and sigma = {self.sigma:.3g} steps do not fit in 16 bits: "
                "ask for fewer levels or less noise"
            )
        if self.sigma and 2 * self.levels > _SHARPEST * self.sigma:
            raise UserError(f"{self.name}: sigma is below c / {_SHARPEST / 2:g}: ask for more noise, or none")

    @property
    def claim(self) -> Claim:
        """Exact epsilon at the config's delta; none without noise."""
        profile = self.profile()
        if profile is None:
            return NO_CLAIM
        return Claim(
            kind="(epsilon, delta)-DP",
            parameters={"epsilon": profile.epsilon(self.config.delta), "delta": self.config.delta},
            unit="one token",
            relation="replace a token by any other",
            source="exact accounting of Canonne, Kamath, Steinke 2020",
        )

    def profile(self) -> DiscreteGaussianProfile | None:
        """Of opposite corners of the grid, 2 levels apart in every coordinate; None without noise."""
        if not self.sigma:
            return None
        return DiscreteGaussianProfile(self.sigma, 2 * self.levels, int(self.steps.shape[1]))

    @cached_property
    def clear(self) -> Float32:
        """The grid vector of every token, in units of the vectors, (V, m)."""
        return np.asarray(self.steps * self.granularity, dtype=np.float32)

    def noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Independent discrete Gaussian draws, in grid steps."""
        return discrete_normal(self.sigma, shape, rng) if self.sigma else np.zeros(shape, dtype=np.int64)

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:
        """Noisy integers of tokens (B, T), held within 16 bits."""
        clear = self.steps[tokens].astype(np.int64)
        sent = np.clip(clear + self.noise(clear.shape, rng), -MOST, MOST)
        return View(sent.astype("<i2").tobytes(), (tokens.shape[0], tokens.shape[1]))

    def integers(self, view: View) -> Float32:
        """What was sent, (B, T, m); float32 holds 16 bits exactly."""
        return np.frombuffer(view.payload, dtype="<i2").reshape(*view.shape, -1).astype(np.float32)

    def latents(self, view: View) -> Float32:
        """What was sent, in units of the vectors, (B, T, m)."""
        return np.asarray(self.integers(view) * self.granularity, dtype=np.float32)

    def log_likelihood(self, view: View) -> Float32:
        """Log P(integers | token) = -|y - x|^2 / (2 sigma^2) up to a constant, (B, T, V).

        An integer held at the end of the range is scored as if it were one draw; that takes 8 sigma.

        Raises:
            LikelihoodUnavailable: there is no noise.
        """
        if not self.sigma:
            raise LikelihoodUnavailable(f"{self.name} with sigma = 0 is a function of the token")
        found = self._distances.squared(self.integers(view).reshape(-1, self.steps.shape[1]))
        found *= np.float32(-0.5 / self.sigma**2)
        return found.reshape(*view.shape, -1)

    @cached_property
    def _distances(self) -> Distances:
        """To the grid vector of every token, in steps."""
        return Distances(self.steps)


def _ratio(config: DiscreteGaussianConfig, bound: float, width: int) -> float:
    """Sigma over c: exactly, or for an epsilon as the continuous Gaussian would have it."""
    if config.sigma is not None:
        return config.sigma / bound
    if config.epsilon is not None:
        return 2 * math.sqrt(width) / mu_for_epsilon(config.epsilon, config.delta)
    return math.sqrt(2 * width / float(config.rho or 1800.0))


def _sigma(config: DiscreteGaussianConfig, levels: int, ratio: float, width: int) -> float:
    """Of the noise, in grid steps."""
    if config.epsilon is None:
        return ratio * levels
    return _sigma_within(config.epsilon, config.delta, levels, width, 0.99 / (ratio * levels))


@lru_cache(maxsize=64)
def _sigma_within(epsilon: float, delta: float, levels: int, width: int, start: float) -> float:
    """The least sigma whose exact profile keeps (epsilon, delta); `start` is about its inverse."""

    def curve(inverse: float) -> DiscreteGaussianProfile:
        return DiscreteGaussianProfile(1 / inverse, 2 * levels, width)

    return 1 / greatest_within(curve, epsilon, delta, start)


DEFENSE = DiscreteGaussian
