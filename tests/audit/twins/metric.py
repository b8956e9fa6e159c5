"""Metric privacy on embeddings: the l2-Laplace mechanism, and Split-and-Denoise's radius drawn for each coordinate."""

from dataclasses import dataclass

import numpy as np

from defenses.base import Claim, Defense, Float32, Tokens, View
from defenses.privacy.epsilon_delta import EpsilonDeltaProfile


@dataclass(frozen=True)
class MetricConfig:
    """The noise.

    Attributes:
        eta: Epsilon per unit of Euclidean distance.
    """

    eta: float = 1.0


class L2Laplace(Defense[MetricConfig]):
    """Embeddings plus noise of density proportional to exp(-eta |z|) (Feyisetan et al. 2020), as float32."""

    name = "l2-laplace"
    Config = MetricConfig

    @property
    def claim(self) -> Claim:
        """Eta per unit of Euclidean distance."""
        return Claim("metric-DP", {"epsilon": self.config.eta}, "unit of distance", "any two tokens", "Feyisetan 2020")

    def profile(self) -> EpsilonDeltaProfile:
        """Of two inputs at distance 1."""
        return EpsilonDeltaProfile(self.config.eta)

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:
        """Noised embeddings, (B, T, b) as little-endian float32."""
        clear = self.assets.embedding[tokens]
        direction = rng.normal(size=clear.shape)
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        noisy = clear + direction * self.radius(clear.shape, rng)
        return View(noisy.astype("<f4").tobytes(), (tokens.shape[0], tokens.shape[1]))

    def radius(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """One radius a token, Gamma(b, 1/eta), shape (B, T, 1)."""
        return rng.gamma(shape[-1], 1 / self.config.eta, size=(*shape[:-1], 1))

    def restore(self, view: View) -> Float32:
        """They are the embeddings themselves."""
        return np.frombuffer(view.payload, dtype="<f4").reshape(*view.shape, -1).astype(np.float32)

    def log_likelihood(self, view: View) -> Float32:
        """Log density up to a constant, (B, T, V)."""
        gaps = self.restore(view)[..., None, :] - self.assets.embedding
        return np.asarray(-self.config.eta * np.linalg.norm(gaps, axis=-1), dtype=np.float32)


class RadiusPerCoordinate(L2Laplace):
    """Every coordinate of the direction gets a radius of its own: no longer the density that the claim needs."""

    name = "radius-per-coordinate"

    def radius(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """One radius for each coordinate, shape (B, T, b)."""
        return rng.gamma(shape[-1], 1 / self.config.eta, size=shape)
