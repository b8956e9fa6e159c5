"""Split-and-Denoise: metric noise on the whole embedding, scaled down to a public norm, and a denoiser for it.

Mai, Yan, Huang, Zhang, Hua 2024, "Split-and-Denoise: protect large language model inference with local differential
privacy" (ICML). The client adds noise of density proportional to exp(-eta |z|) to E[t] and scales what is longer than C
down to C, which is post-processing: eta-metric privacy stays, and may only get better. It sends b float32 a token, 4 b
bytes, and computes one look-up and b random numbers. Distances of the claim are those of E[t], before the scaling.

This is the wire. The paper's client then corrects the server's pooled output by a transformer of its own, which the
server trained on public text; its inputs are that output, E[t] and the noise that the client drew. In the authors' code
that noise is what the scaling left of it, `latents(view) - latent_table()[tokens]` here. So the client holds a denoiser
besides the embedding table; a denoiser at the server has the view alone.

The authors' code differs from the paper. Its noise has no common direction: every coordinate is uniform on [-1, 1]
times a Gamma(b, 1/eta) radius of its own (radius = "independent"). That is sqrt(b/3) times as much noise, and not
eta-metric private but eta sqrt(b)-metric private (`defenses.metric_vectors`). Later code divides by the direction's
norm and keeps a radius per coordinate ("per-coordinate"), for which no claim is proved. C is a constant for each model
there; here it is a quantile of the public table's norms.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from defenses.base import Float32, LikelihoodUnavailable, Tokens, View
from defenses.errors import UserError
from defenses.metric_vectors import MetricConfig, MetricVectors
from defenses.privacy.bounding import BoundingProfile
from defenses.privacy.profile import PrivacyProfile
from defenses.ray_integral import RayIntegral

_AT_BOUND = 1 - 2.0**-20  # rounding to float32 may shorten a vector by 2^-24 of itself


@dataclass(frozen=True)
class SplitAndDenoiseConfig(MetricConfig):
    """How much noise, and how long a sent vector may be.

    Attributes:
        clamp: Whether noisy vectors are scaled down to the norm C.
        clamp_quantile: C is this quantile of the norms of all V vectors, in (0, 1].
    """

    defense: ClassVar[str] = "split-and-denoise"
    clamp: bool = True
    clamp_quantile: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.clamp, bool):
            raise UserError(f"split-and-denoise: clamp is true or false, not {self.clamp!r}")
        if not 0 < self.clamp_quantile <= 1:
            raise UserError(
                f"split-and-denoise: clamp_quantile must be above 0 and at most 1, not {self.clamp_quantile}"
            )


class SplitAndDenoise(MetricVectors[SplitAndDenoiseConfig]):
    """Vectors plus metric noise, no longer than C."""

    name = "split-and-denoise"
    Config = SplitAndDenoiseConfig
    source = "Mai, Yan, Huang, Zhang, Hua 2024; Feyisetan, Balle, Drake, Diethe 2020"

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:
        """Noisy vectors of tokens (B, T), scaled down to the norm C."""
        clear = self.clear[tokens]
        noisy = clear + self.noise(clear.shape, rng)
        if self.config.clamp:
            norms = np.linalg.norm(noisy, axis=-1, keepdims=True)
            noisy *= np.minimum(1.0, self.bound / np.maximum(norms, 1e-30))
        return View(noisy.astype("<f4").tobytes(), (tokens.shape[0], tokens.shape[1]))

    def profile_at(self, distance: float) -> PrivacyProfile:
        """Of two tokens this far apart before the scaling; a bound where there is any.

        Raises:
            ValueError: nothing is claimed of this law, or the distance is negative or not finite.
        """
        found = super().profile_at(distance)
        return BoundingProfile(found) if self.config.clamp and found.exact else found

    @cached_property
    def bound(self) -> float:
        """C, the largest norm of a sent vector."""
        return float(np.quantile(self._norms, self.config.clamp_quantile))

    @cached_property
    def _norms(self) -> np.ndarray:
        return np.asarray(np.linalg.norm(self.clear.astype(np.float64), axis=1))

    def log_density(self, points: Float32) -> Float32:
        """Log density of sent vectors (N, m) around every token's, up to a constant for each, (N, V).

        A vector shorter than C has the noise's own density. One of norm C tells its direction alone, and its density
        is the integral over all norms from C on (`RayIntegral`): good to 0.05 nats where C is the largest norm; for a
        token whose norm is above C to 1e-3 of eta C.

        Raises:
            LikelihoodUnavailable: vectors are scaled down, and the law is not the spherical one.
        """
        if not self.config.clamp:
            return super().log_density(points)
        if self.config.radius != "spherical":
            raise LikelihoodUnavailable(
                f"{self.name}: the density of a direction is an integral over {self.dimension} coordinates' radii "
                f'under radius = "{self.config.radius}"; there is one with clamp = false'
            )
        found = np.sqrt(self.distances.squared(points))
        scaled = np.linalg.norm(points.astype(np.float64), axis=1) > self.bound * _AT_BOUND
        found[~scaled] *= np.float32(-self.config.eta)
        if scaled.any():
            found[scaled] = self._rays.log_density(found[scaled])
        return found

    @cached_property
    def _rays(self) -> RayIntegral:
        return RayIntegral(self.config.eta, self.dimension, self.bound, self._norms)


DEFENSE = SplitAndDenoise
