"""The stochastic n-bit quantizer: its law, its reference sampler, its decoder and its likelihood.

Gu, Jin, Ji, Jin, Xu, "Differentially Private and Communication Efficient Large Language Model Split Inference via
Stochastic Quantization and Soft Prompt", arXiv 2602.11513, section 4. Symbols: n bits per coordinate, d coordinates,
u = 2^n - 1 trials per coordinate, N = u d trials per token, latents v in [-c, c], amplitude A > c.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from defenses.privacy.noise import a_over_c_for_mu, mu_for_a_over_c

Counts = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

MAX_BITS = 8
MAX_RATIO = 1e6  # of A/c where it is finite: beyond it mu is nil and decoded latents leave an LLM's number range


@dataclass(frozen=True)
class Quantizer:
    """K_j ~ Binomial(u, (A + v_j) / (2A)), independent over the d coordinates of a token.

    The privacy of the mechanism depends on A/c alone, so A/c is the parameter and A follows. A/c = infinity is the
    null: every count is Binomial(u, 1/2) whatever the latent, and a view carries nothing.

    Attributes:
        n: Bits per coordinate, 1 to 8.
        d: Coordinates per token, 1 to 65,535.
        clip: c > 0. It is rounded to float32, because latents are float32 and |v| <= c must be exact.
        a_over_c: A/c > 1 and at most 1e6, or math.inf for the null.

    Raises:
        ValueError: where a parameter is outside its range.
    """

    n: int
    d: int
    clip: float
    a_over_c: float

    def __post_init__(self) -> None:
        if not 1 <= self.n <= MAX_BITS:
            raise ValueError(f"n must be 1 to {MAX_BITS} bits, not {self.n}")
        if not 1 <= self.d < 1 << 16:
            raise ValueError(f"d must be 1 to 65535 coordinates, not {self.d}")
        clip = float(np.float32(self.clip))
        if not 0 < clip < math.inf:
            raise ValueError(f"the clip must be a positive number, not {self.clip}")
        if not 1 < self.a_over_c <= MAX_RATIO and not self.a_over_c == math.inf:
            raise ValueError(f"A/c must be above 1 and at most {MAX_RATIO:g}, or infinite, not {self.a_over_c}")
        object.__setattr__(self, "clip", clip)

    @classmethod
    def from_mu(cls, *, n: int, d: int, clip: float, mu: float) -> Self:
        """The quantizer of a nominal mu per token: A = c sqrt(1 + 4N / mu^2), from Theorem 4.2.

        mu = 0 is the null.

        Raises:
            ValueError: where mu is negative or not finite, or its A/c is outside the range of the class.
        """
        return cls(n=n, d=d, clip=clip, a_over_c=a_over_c_for_mu(mu, n, d))

    @property
    def trials(self) -> int:
        """Trials per coordinate, u = 2^n - 1."""
        return (1 << self.n) - 1

    @property
    def amplitude(self) -> float:
        """A = c (A/c); infinite for the null."""
        return self.clip * self.a_over_c

    @property
    def mu(self) -> float:
        """The nominal mu per token, 2 sqrt(N) / sqrt((A/c)^2 - 1); 0 for the null."""
        return mu_for_a_over_c(self.a_over_c, self.n, self.d)

    def probability(self, latents: Float32 | Float64) -> Float64:
        """The probability of a trial, p = (A + v) / (2A), the same shape as `latents`, in [p_lo, p_hi]."""
        return 0.5 + 0.5 * self._relative(latents)

    def sample(self, latents: Float32 | Float64, rng: np.random.Generator) -> Counts:
        """Counts for any float latents: (..., d) -> (..., d), through the generator's own binomial.

        This is the reference path. `TableSampler` draws the same law faster where latents come from a table.

        Raises:
            ValueError: where the last axis is not d, or a latent is NaN or outside [-c, c]. Clipping here would hide
                a client that forgot to, and the guarantee rests on the clip.
        """
        if latents.shape[-1:] != (self.d,):
            raise ValueError(f"latents of shape {latents.shape} do not end with d = {self.d}")
        if not bool(np.all(np.abs(latents) <= self.clip)):
            raise ValueError(f"a latent is NaN or outside [-{self.clip:g}, {self.clip:g}]: clip before the sampler")
        return rng.binomial(self.trials, self.probability(latents)).astype(np.uint8)

    def decode(self, counts: Counts) -> Float32:
        """The unbiased estimate v^ = A (2K/u - 1), the same shape as `counts`.

        The null has no finite estimate, so it decodes to zeros: the server then sees one constant input.

        Raises:
            ValueError: where a count is above u.
        """
        if counts.size and int(counts.max()) > self.trials:
            raise ValueError(f"a count of {int(counts.max())} is above the {self.trials} trials of n = {self.n}")
        if math.isinf(self.a_over_c):
            return np.zeros(counts.shape, dtype=np.float32)
        levels = self.amplitude * (2.0 * np.arange(self.trials + 1) / self.trials - 1.0)
        return levels.astype(np.float32)[counts]

    def variance(self, latents: Float32 | Float64) -> Float64:
        """Var(v^_j) = (A^2 - v_j^2) / u, the same shape as `latents`.

        For the null it is the limit, infinity; the zeros that `decode` then returns are no draw from it.
        """
        squares = np.square(latents, dtype=np.float64)
        return (self.amplitude**2 - squares) / self.trials

    def likelihood_terms(self, latents: Float32 | Float64) -> tuple[Float64, Float64]:
        """The weight and bias that make log P(k | v) linear in the counts k.

        log P(k | v) = k . weight + bias + (binomial coefficients, which no latent changes), with
        weight_j = logit p_j and bias = u sum_j log(1 - p_j).

        Args:
            latents: Shape (..., d).

        Returns:
            weight, shape (..., d), and bias, shape (...).
        """
        relative = self._relative(latents)
        weight = 2.0 * np.arctanh(relative)
        bias = self.trials * np.sum(np.log1p(-relative) - math.log(2.0), axis=-1)
        return weight, bias

    def scoring_terms(self, latents: Float32) -> Float32:
        """What `score` multiplies with: the weights of V latents (V, d) and their biases as a last row, (d + 1, V).

        They are those of counts centred at u/2, so that large terms do not cancel in float32.
        """
        weight, bias = self.likelihood_terms(latents)
        terms = np.empty((weight.shape[-1] + 1, len(weight)), dtype=np.float32)
        terms[:-1] = weight.T
        terms[-1] = bias + 0.5 * self.trials * weight.sum(axis=-1)
        return terms

    def score(self, counts: Counts, terms: Float32) -> Float32:
        """Log P(counts | latents), less the binomial coefficients, as one float32 matmul.

        Args:
            counts: K, shape (..., d).
            terms: `scoring_terms` of V latents; they are worth keeping, as they depend on the table alone.

        Returns:
            Shape (..., V).
        """
        scores: Float32 = np.matmul(self.centred(counts), terms)
        return scores.reshape(*counts.shape[:-1], -1)

    def centred(self, counts: Counts) -> Float32:
        """What `score` multiplies with its terms: counts (..., d) less u/2, and a last column of ones, (N, d + 1)."""
        centred = np.ones((counts.size // self.d, self.d + 1), dtype=np.float32)
        np.subtract(counts.reshape(-1, self.d), np.float32(0.5 * self.trials), out=centred[:, :-1])
        return centred

    def _relative(self, latents: Float32 | Float64) -> Float64:
        """The ratio v / A, computed as (v / c) / (A/c) so that v = c gives exactly c/A, and the null 0."""
        return latents.astype(np.float64) / self.clip / self.a_over_c
