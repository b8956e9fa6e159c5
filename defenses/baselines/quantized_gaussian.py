"""Gaussian noise, then deterministic n-bit rounding: the Gaussian mechanism at DEL's number of bits.

Clip to an l2 norm of C, add N(0, sigma^2 I), round each coordinate to one of 2^n bins of a public grid, send n bits.
Rounding is post-processing, so that one token keeps the Gaussian mechanism's mu = 2 C / sigma (Dong, Roth, Su 2022,
Theorem 2.7 and Proposition 4) as a bound: what is cut off and rounded away can only hide more. DEL's own comparison
(arXiv 2602.11513) has its stochastic quantizer in this place, whose noise is the rounding itself.

n m bits a token; the client adds m draws to a row of a table and rounds.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array
from scipy.special import log_ndtr

from defenses.base import Assets, Claim, Float32, LikelihoodUnavailable, Tokens, View
from defenses.baselines.gaussian import Gaussian, GaussianConfig
from defenses.errors import UserError
from defenses.privacy.gaussian import GaussianProfile
from defenses.uniform_grid import Codes, Float64, UniformGrid, check_bits

_KNOTS = 1 << 14  # of one coordinate's log probability; between them it is linear to 1e-5 nats up to mu = 1,000
_CELLS = 1 << 22  # log probabilities at a time


@dataclass(frozen=True)
class QuantizedGaussianConfig(GaussianConfig):
    """How much noise, how many bits.

    Attributes:
        n: Bits per coordinate, 1..16.
        reach: How many sigma the grid reaches beyond the greatest clear value of each coordinate, at least 0.
    """

    n: int = 4
    reach: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bits(self.n, "quantized-gaussian")
        if not 0 <= self.reach < np.inf:
            raise UserError(f"quantized-gaussian: reach must be finite and not negative, not {self.reach}")


@dataclass(frozen=True)
class RoundedGaussianProfile(GaussianProfile):
    """The Gaussian's curve, which bounds that of its rounded draws."""

    exact = False


class QuantizedGaussian(Gaussian):
    """Rounded noisy vectors, packed."""

    name = "quantized-gaussian"
    Config = QuantizedGaussianConfig
    config: QuantizedGaussianConfig

    def __init__(self, config: QuantizedGaussianConfig, assets: Assets) -> None:
        super().__init__(config, assets)

    @property
    def claim(self) -> Claim:
        """The Gaussian's; none without noise."""
        claim = super().claim
        return replace(claim, source=f"{claim.source}, and rounding is post-processing") if self.sigma else claim

    def profile(self) -> RoundedGaussianProfile | None:
        """The Gaussian's as a bound; None without noise."""
        return RoundedGaussianProfile(self.mu) if self.sigma else None

    @cached_property
    def grid(self) -> UniformGrid:
        """From the public table and the public sigma."""
        most = np.abs(self.clear).max(axis=0).astype(np.float64)
        return UniformGrid(self.config.n, most + self.config.reach * self.sigma)

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:
        """Packed codes of noisy vectors of tokens (B, T)."""
        clear = self.clear[tokens]
        codes = self.grid.codes(clear + self.noise(clear.shape, rng))
        return View(self.grid.bodies(codes), (tokens.shape[0], tokens.shape[1]))

    def codes(self, view: View) -> Codes:
        """What was sent, (B, T, m)."""
        return self.grid.parse(view.payload, view.shape)

    def latents(self, view: View) -> Float32:
        """The bins' centres, (B, T, m)."""
        return self.grid.values(self.codes(view))

    def log_likelihood(self, view: View) -> Float32:
        """Log P(codes | token) = sum_j log(Phi((hi_j - x_j) / sigma) - Phi((lo_j - x_j) / sigma)), (B, T, V).

        A coordinate's terms are computed once for every distinct code, not for every position; positions choose among
        them by a sparse matrix of ones.

        Raises:
            LikelihoodUnavailable: there is no noise.
        """
        if not self.sigma:
            raise LikelihoodUnavailable(f"{self.name} with sigma = 0 is a function of the token")
        codes = self.codes(view).reshape(-1, self.clear.shape[1])
        seen, places = zip(*(np.unique(column, return_inverse=True) for column in codes.T), strict=True)
        ends = np.cumsum([len(one) for one in seen])
        columns = np.stack(places, axis=1) + np.append(0, ends[:-1])
        starts = np.arange(0, columns.size + 1, columns.shape[1])
        chosen = csr_array((np.ones(columns.size, np.float32), columns.ravel(), starts), shape=(len(codes), ends[-1]))
        found = np.empty((len(codes), len(self.clear)), dtype=np.float32)
        step = max(1, _CELLS // int(ends[-1]))
        for start in range(0, len(self.clear), step):
            rows = self.clear[start : start + step].astype(np.float64)
            parts = [
                law.log_probability(one, rows[:, j]) for j, (law, one) in enumerate(zip(self._laws, seen, strict=True))
            ]
            found[:, start : start + step] = chosen @ np.concatenate(parts).astype(np.float32)
        return found.reshape(*view.shape, -1)

    @cached_property
    def _laws(self) -> "list[BinLaw]":
        """Of every coordinate, 64 KiB each."""
        most = np.abs(self.clear).max(axis=0)
        return [BinLaw.of(self.grid, j, self.sigma, float(most[j])) for j in range(len(most))]


@dataclass(frozen=True, eq=False)
class BinLaw:
    """Log probabilities of one coordinate's bins as a function of the value before the noise.

    All inner bins have the same width, so that one table serves them: log(Phi(z + w) - Phi(z - w)) at z >= 0, w half
    a bin, both in units of sigma, linear between its knots.

    Attributes:
        low: The grid's lower end; the upper one is its negative.
        step: Of the grid.
        bins: 2^n.
        sigma: Of the noise.
        values: At even steps of z, shape (_KNOTS + 1,).
        scale: Knots per unit of z.
    """

    low: float
    step: float
    bins: int
    sigma: float
    values: Float32
    scale: float

    @classmethod
    def of(cls, grid: UniformGrid, j: int, sigma: float, most: float) -> "BinLaw":
        """Of coordinate j, for values of at most `most` on either side."""
        bound, step = float(grid.bounds[j]), float(grid.steps[j])
        reach = (bound + most) / sigma + 1e-6
        values = log_interval(np.linspace(0, reach, _KNOTS + 1), 0.5 * step / sigma)
        return cls(-bound, step, 1 << grid.n, sigma, values.astype(np.float32), _KNOTS / reach)

    def log_probability(self, codes: Codes, values: Float64) -> Float64:
        """Of codes (L,), for values (K,) before the noise; shape (L, K)."""
        centres = self.low + (codes.astype(np.float64)[:, None] + 0.5) * self.step
        places = np.abs(values - centres) * (self.scale / self.sigma)
        knots = places.astype(np.intp)
        left = self.values[knots]
        found = left + (places - knots) * (self.values[knots + 1] - left)
        found[codes == 0] = log_ndtr((self.low + self.step - values) / self.sigma)
        found[codes == self.bins - 1] = log_ndtr((values + self.low + self.step) / self.sigma)
        return np.asarray(found, dtype=np.float64)


def log_interval(z: Float64, w: float) -> Float64:
    """log(Phi(z + w) - Phi(z - w)) for z >= 0 and w > 0, shape of z: from the lower tails, so that no digit cancels."""
    upper, lower = log_ndtr(w - z), log_ndtr(-w - z)
    return np.asarray(upper + np.log(-np.expm1(lower - upper)), dtype=np.float64)


DEFENSE = QuantizedGaussian
