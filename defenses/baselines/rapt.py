"""RAPT's text-to-text privatisation: noise on a token's embedding, then the nearest token, sent as text.

Li, Tan, Liu 2023, "Privacy-preserving prompt tuning for large language model services" (arXiv 2305.06212, section on
text-to-text privatisation), after Feyisetan, Balle, Drake, Diethe 2020 (WSDM): y = argmin_w |E[x] + z - E[w]| with the
density of z proportional to exp(-eta |z|). Choosing the nearest token is post-processing, so that eta times the
distance of two tokens bounds their loss; the exact profile of the noise bounds that of the text.

Cost: 2 bytes a token (4 above 65,536 tokens); the client multiplies each noisy vector by the table, V b products.

The code that circulates with it draws a radius for every coordinate in place of one for the vector. That law is here,
too, and claims nothing (see metric_noise.py). RAPT's prompt tuning on privatised text is a training method and no part
of this file.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from defenses.base import Assets, Claim, Float32, LikelihoodUnavailable, Tokens, View
from defenses.baselines.metric_noise import MetricNoise, MetricNoiseConfig, Radius
from defenses.errors import UserError
from defenses.privacy.bounding import BoundingProfile
from defenses.sent_text import SentText

_CELLS = 1 << 23  # scores at a time: 32 MiB of float32


@dataclass(frozen=True)
class RaptConfig:
    """How much noise.

    Attributes:
        eta: Epsilon per unit of Euclidean distance between embeddings, above 0; infinity sends the prompt itself.
        radius: "spherical": one radius a token, as published; "per-coordinate": one for each coordinate, no claim.
    """

    eta: float = 100.0
    radius: Radius = "spherical"

    def __post_init__(self) -> None:
        try:
            MetricNoiseConfig(on="embedding", eta=self.eta, radius=self.radius)
        except UserError as error:
            raise UserError(str(error).replace("metric-noise", "rapt", 1)) from error


class Rapt(SentText[RaptConfig]):
    """Token ids: the nearest one to a noisy embedding."""

    name = "rapt"
    Config = RaptConfig
    privacy_parameter = "eta"

    def __init__(self, config: RaptConfig, assets: Assets) -> None:
        super().__init__(config, assets)
        self._vectors = MetricNoise(MetricNoiseConfig("embedding", config.eta, config.radius), assets)

    @property
    def claim(self) -> Claim:
        """What holds of the noisy vector: eta per unit of distance under the spherical law; nothing without noise."""
        claim, source = self._vectors.claim, "Li, Tan, Liu 2023, after Feyisetan et al. 2020"
        published = self.config.radius == "spherical" and claim.kind != "none"
        return replace(claim, source=source) if published else claim

    def profile(self) -> BoundingProfile | None:
        """A bound for two tokens at distance 1: the profile of the noisy vector; None where nothing is claimed."""
        return None if self.claim.kind == "none" else self.profile_at(1.0)

    def worst_case(self) -> BoundingProfile | None:
        """The same at the diameter of the table."""
        found = self._vectors.worst_case()
        return None if found is None else BoundingProfile(found)

    def profile_at(self, distance: float) -> BoundingProfile:
        """A bound for two tokens this far apart, under the spherical law.

        Raises:
            ValueError: there is none for this law, or the distance is negative or not finite.
        """
        return BoundingProfile(self._vectors.profile_at(distance))

    def replace(self, tokens: Tokens, rng: np.random.Generator) -> Tokens:
        """The nearest token of each noisy embedding of tokens (B, T)."""
        if np.isinf(self.config.eta):
            return tokens
        flat, width = tokens.ravel(), self.assets.embedding.shape[1]
        sent = np.empty_like(flat)
        step = max(1, _CELLS // max(self.assets.vocabulary, width))
        for start in range(0, len(flat), step):
            part = flat[start : start + step]
            noisy = self._centred[part] + self._vectors.noise((len(part), width), rng)
            sent[start : start + step] = self._nearest(noisy.astype(np.float32))
        return sent.reshape(tokens.shape)

    def log_likelihood(self, view: View) -> Float32:  # noqa: ARG002 - there is none for any view
        """There is none.

        Raises:
            LikelihoodUnavailable: always.
        """
        raise LikelihoodUnavailable(
            f"{self.name} has no tractable likelihood: P(sent | token) is the noise's mass in the sent token's Voronoi "
            f"cell, in {self.assets.embedding.shape[1]} dimensions, for every pair of tokens"
        )

    def _nearest(self, points: Float32) -> Tokens:
        """The token whose embedding is nearest to each of points (N, b) around the mean, (N,)."""
        scores = points @ self._centred.T
        scores -= self._halves
        return np.asarray(scores.argmax(axis=1), dtype=np.int64)

    @cached_property
    def _centred(self) -> Float32:
        """The table around its mean, (V, b): a common offset would cost digits."""
        table = self.assets.embedding
        return np.asarray(table - table.mean(axis=0, dtype=np.float64), dtype=np.float32)

    @cached_property
    def _halves(self) -> Float32:
        """|E|^2 / 2 around the mean, (V,)."""
        return np.asarray(0.5 * np.einsum("vb,vb->v", self._centred, self._centred), dtype=np.float32)


DEFENSE = Rapt
