"""DEL as a defence: latent table, stochastic n-bit quantizer and wire on one side, decoder on the other."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from defenses.base import Assets, Claim, Defense, Float32, Projection, Tokens, View
from defenses.errors import UserError
from defenses.pipeline.latents import LatentTable
from defenses.pipeline.mechanism import Counts, Quantizer
from defenses.pipeline.sampler import TableSampler
from defenses.pipeline.wire import WireLimits, messages, parse_each
from defenses.privacy.binomial import StochasticQuantizationProfile, a_over_c_for_epsilon


@dataclass(frozen=True)
class DelConfig:
    """How much noise, and how many bits.

    Attributes:
        n: Bits per coordinate, 1..8.
        mu: Nominal mu of the paper's Theorem 4.2; one of mu, a_over_c and epsilon is given.
        a_over_c: A / c itself; infinity is the null mechanism.
        epsilon: Exact epsilon of one token at `delta`: the smallest A / c that keeps it is taken.
        delta: Used with `epsilon`.
        norm_clamp: Largest norm of a decoded latent vector, in units of c sqrt(d); None leaves it as it is.
    """

    n: int = 4
    mu: float | None = None
    a_over_c: float | None = None
    epsilon: float | None = None
    delta: float = 1e-5
    norm_clamp: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.n <= 8:
            raise UserError(f"DEL: n must be 1..8 bits per coordinate, not {self.n}")
        given = [value for value in (self.mu, self.a_over_c, self.epsilon) if value is not None]
        if not given:
            object.__setattr__(self, "mu", 60.0)
        elif len(given) > 1:
            raise UserError("DEL: give one of mu, a_over_c and epsilon, not several")
        if self.a_over_c is not None and not self.a_over_c > 1:
            raise UserError(f"DEL: A / c must be above 1, not {self.a_over_c}")
        if self.mu is not None and not 0 < self.mu < np.inf:
            raise UserError(f"DEL: mu must be positive and finite, not {self.mu}; the null is a_over_c = inf")
        if self.norm_clamp is not None and not self.norm_clamp > 0:
            raise UserError(f"DEL: norm_clamp must be positive, not {self.norm_clamp}")


class Del(Defense[DelConfig]):
    """The DEL mechanism over a trained projection (arXiv 2602.11513)."""

    name = "del"
    Config = DelConfig
    privacy_parameter = "mu"
    parameter_range = (1e-2, 2e3)

    def __init__(self, config: DelConfig, assets: Assets) -> None:
        super().__init__(config, assets)
        self.table = _table(assets)
        self.projection = assets.needed_projection()
        self.quantizer = _quantizer(config, self.projection)
        self.sampler = TableSampler(self.quantizer)

    @classmethod
    def reads_latents(cls, config: DelConfig) -> bool:  # noqa: ARG003 - whatever it says
        """Always."""
        return True

    @property
    def claim(self) -> Claim:
        """The paper's nominal claim; the exact one is `profile`."""
        return Claim(
            kind="mu-GDP",
            parameters={"mu": self.quantizer.mu},
            unit="one token",
            relation="replace a token by any other",
            source="arXiv 2602.11513, Theorem 4.2",
        )

    def profile(self) -> StochasticQuantizationProfile:
        """The exact worst case of one token: a pair of binomials."""
        return StochasticQuantizationProfile.of(self.config.n, self.projection.d, self.quantizer.a_over_c)

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:
        """One wire message per prompt of tokens (B, T)."""
        counts = self.sampler.sample(self.table.rows(tokens), rng)
        ratio, name = self.quantizer.a_over_c, self.table.projection_id
        return View(messages(self.config.n, ratio, name, counts), (tokens.shape[0], tokens.shape[1]))

    def counts(self, view: View) -> Counts:
        """The counts K (B, T, d) that a view's messages carry."""
        limits = WireLimits(max_tokens=max(1, view.shape[1]), max_bytes=len(view.payload) + 1)
        return parse_each(view.bodies(), limits)

    def restore(self, view: View) -> Float32:
        """x^ = W_dec v^, shape (B, T, b)."""
        return restore_counts(self.counts(view), self.quantizer, self.projection, self.config.norm_clamp)

    def latents(self, view: View) -> Float32:
        """The unbiased estimates v^, (B, T, d)."""
        return self.quantizer.decode(self.counts(view))

    def latent_table(self) -> Float32:
        """The coded latents of every token, (V, d)."""
        return self.table.latents(np.arange(self.table.vocabulary))

    def likelihood_factors(self, view: View) -> tuple[Float32, Float32]:
        """Centred counts (B T, d + 1) and weights (d + 1, V): log P(K | token) up to the binomial coefficients."""
        return self.quantizer.centred(self.counts(view)), self._scoring_terms

    @cached_property
    def _scoring_terms(self) -> Float32:
        """Likelihood weights and biases of the whole vocabulary, (d + 1, V)."""
        return self.quantizer.scoring_terms(self.latent_table())


def restore_counts(
    counts: Counts,
    quantizer: Quantizer,
    projection: Projection,
    norm_clamp: float | None = None,
) -> Float32:
    """The server's half: decode counts (..., d), clamp their norm where asked, project up to (..., b)."""
    latents = quantizer.decode(counts)
    if norm_clamp is not None:
        limit = norm_clamp * quantizer.clip * np.sqrt(quantizer.d)
        norm = np.linalg.norm(latents, axis=-1, keepdims=True)
        latents = latents * np.minimum(1.0, limit / np.maximum(norm, 1e-30)).astype(np.float32)
    return np.asarray(latents @ projection.decoder.T, dtype=np.float32)


def _quantizer(config: DelConfig, projection: Projection) -> Quantizer:
    if config.mu is not None:
        return Quantizer.from_mu(n=config.n, d=projection.d, clip=projection.clip, mu=config.mu)
    if config.epsilon is not None:
        ratio = a_over_c_for_epsilon(config.epsilon, config.delta, config.n, projection.d)
    else:
        ratio = float(config.a_over_c or np.inf)
    return Quantizer(n=config.n, d=projection.d, clip=projection.clip, a_over_c=ratio)


@lru_cache(maxsize=2)
def _table(assets: Assets) -> LatentTable:
    """The latent table of these assets; a sweep over mu folds the encoder in once."""
    return LatentTable.from_projection(assets.needed_projection(), assets.embedding)


DEFENSE = Del
