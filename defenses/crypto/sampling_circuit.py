"""Sampling a token by polynomials alone, as a server must that sees probabilities only under encryption; in float64.

Rho, Seo et al., arXiv 2510.12343: with cumulative probabilities P_k and a uniform r in (0, 1), the sampled token is the
only one with I_k = [P_{k-1} < r <= P_k] = (1 - [P_{k-1} > r]) [P_k > r], and each comparison becomes a composition of
odd cubics. An amplifier g1 (Cheon et al., "Efficient homomorphic comparison methods with optimal complexity",
ASIACRYPT 2020) drives |P_k - r| up by 2126 / 1024 = 2.08 an iteration, f1(x) = (3x - x^3) / 2 pulls the result to a
sign, H = (1 + sign) / 2 is the step, and f(x) = 3x^2 - 2x^3 sharpens it. Since f(H) = (1 + f1(2H - 1)) / 2, sharpening
the step is nothing but more iterations of f1 on the sign; it stays a parameter of its own, as in the paper.

What is sampled is nearly one-hot only: where a boundary lies closer to r than the amplifier resolves, both
comparisons hang between 0 and 1, and every unlikely token at that boundary weighs up to 1 / 4. The weights are not
normalised: many such tokens add up to more than one.

P_{-1} is 0 here. The authors' program takes the last token's comparison for it, which gives token 0 no weight.

Symbols: B distributions over V tokens, in the order in which they are cumulated; b coordinates of an embedding.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defenses.errors import UserError

Float64 = NDArray[np.float64]

G1_LINEAR, G1_CUBIC = 2126 / 1024, 1359 / 1024
_NEGLIGIBLE = 2.0**-60  # weights that no sum of float64 embeddings can show


@dataclass(frozen=True)
class SamplingCircuit:
    """A circuit's polynomial depth. The defaults are those of the authors' program.

    Attributes:
        amplify: Iterations of g1: 15 of the amplifier and 2 of the sign.
        sign: Iterations of f1.
        sharpen: Iterations of f on the step H.
        post: Whether the weights are post-processed, I' = f(I).

    Raises:
        UserError: an iteration count is negative.
    """

    amplify: int = 17
    sign: int = 3
    sharpen: int = 5
    post: bool = False

    def __post_init__(self) -> None:
        if min(self.amplify, self.sign, self.sharpen) < 0:
            raise UserError(f"amplify, sign and sharpen are numbers of iterations, 0 or more, not {self}")

    @property
    def levels(self) -> int:
        """Multiplicative depth: two for each cubic, one for the product of both steps."""
        return 2 * (self.amplify + self.sign + self.sharpen + self.post) + 1

    def step(self, x: ArrayLike) -> Float64:
        """H(x), near 0 for x < 0 and near 1 for x > 0, any shape; x between -1 and 1."""
        y = np.array(x, dtype=np.float64)
        for _ in range(self.amplify):
            y *= G1_LINEAR - G1_CUBIC * y * y
        for _ in range(self.sign):
            y *= 1.5 - 0.5 * y * y
        y += 1
        y /= 2
        for _ in range(self.sharpen):
            y *= y * (3 - 2 * y)
        return y

    def weights(self, probabilities: ArrayLike, r: ArrayLike) -> Float64:
        """I (or I' with `post`): how much of each token is sampled.

        Args:
            probabilities: (B, V), each row sums to 1 up to rounding.
            r: The coins, (B,), in [0, 1]. At exactly 0 or 1, as at any tie, a comparison gives 1 / 2.

        Returns:
            (B, V), each between 0 and 1.

        Raises:
            ValueError: shapes that do not fit, or numbers out of range.
        """
        step = self.step(differences(probabilities, r))
        found = (1 - step[:, :-1]) * step[:, 1:]
        return post_processed(found) if self.post else found

    def resolution(self, sharpness: float = 2.0**-10) -> float:
        """The least |P_k - r| at which H is within `sharpness` of 0 or 1; infinite where it never is."""
        grid = np.concatenate([np.geomspace(1e-16, 1, 4001), np.linspace(1e-3, 1, 4001)])
        grid.sort()
        good = self.step(grid) >= 1 - sharpness
        if not good[-1]:
            return float("inf")
        bad = np.flatnonzero(~good)
        return float(grid[bad[-1] + 1]) if bad.size else float(grid[0])


def differences(probabilities: ArrayLike, r: ArrayLike) -> Float64:
    """P_k - r for k = -1 .. V - 1 with P_{-1} = 0, (B, V + 1).

    Args:
        probabilities: (B, V).
        r: (B,), in [0, 1].

    Raises:
        ValueError: shapes that do not fit, negative or non-finite probabilities, a sum further than 1e-6 from 1, or
            coins out of range.
    """
    rows, coins = np.asarray(probabilities, dtype=np.float64), np.asarray(r, dtype=np.float64)
    if rows.ndim != 2 or coins.shape != rows.shape[:1]:
        raise ValueError(f"probabilities must be (B, V) and r (B,), not {rows.shape} and {coins.shape}")
    cumulative = np.cumsum(rows, axis=1)
    sums = cumulative[:, -1] if rows.shape[1] else np.zeros(len(rows))
    if not (np.isfinite(rows).all() and (rows >= 0).all() and (np.abs(sums - 1) < 1e-6).all()):
        raise ValueError("each row of probabilities must be finite, not negative and sum to 1")
    if not ((coins >= 0) & (coins <= 1)).all():
        raise ValueError("coins r must lie in [0, 1]")
    cumulative = np.minimum(cumulative, 1.0)
    return np.concatenate([np.zeros((len(rows), 1)), cumulative], axis=1) - coins[:, None]


def sampled(probabilities: ArrayLike, r: ArrayLike) -> NDArray[np.int64]:
    """The token that exact comparisons sample, (B,): the first k with r <= P_k."""
    gaps = differences(probabilities, r)[:, 1:]
    return np.asarray(np.where(gaps[:, -1] >= 0, (gaps >= 0).argmax(axis=1), gaps.shape[1] - 1), dtype=np.int64)


def post_processed(weights: Float64) -> Float64:
    """I' = f(I) = 3 I^2 - 2 I^3, any shape: what is below a half shrinks, what is above grows."""
    return np.asarray(weights * weights * (3 - 2 * weights))


def mixed_embeddings(weights: Float64, table: NDArray[np.floating]) -> Float64:
    """The next input embeddings sum_k I_k E_k.

    Args:
        weights: (B, V), in the order of the table's rows. Weights below 2^-60 are left out.
        table: E, (V, b).

    Returns:
        (B, b).

    Raises:
        ValueError: shapes that do not fit.
    """
    if weights.ndim != 2 or table.ndim != 2 or weights.shape[1] != len(table):
        raise ValueError(f"weights must be (B, V) and the table (V, b), not {weights.shape} and {table.shape}")
    found = np.zeros((len(weights), table.shape[1]))
    for row, own in enumerate(weights):
        kept = np.flatnonzero(own > _NEGLIGIBLE)
        found[row] = own[kept] @ table[kept].astype(np.float64)
    return found
