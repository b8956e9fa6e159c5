"""Whether a generated text has collapsed: it repeats itself without end, or reads worse than any sane text.

Rho, Seo et al., arXiv 2510.12343 call a text corrupted where it repeats a sequence without meaning, or where its words
are so random that it cannot be understood; they asked GPT-4. Here both are numbers, over every window of W tokens:
the share of distinct tokens, and the mean loss under the clean model. A text has collapsed where its worst window
repeats more, or reads worse, than the worst window of every text that the clean model sampled on other prompts. So
the threshold comes from other prompts than the verdict, and a sane text is called collapsed about twice in M + 1
times, M calibration texts: the clean model's own rate stands beside every other.

Symbols: N texts of T tokens.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class CollapseRule:
    """The thresholds.

    Attributes:
        window: W, tokens.
        distinct: Least share of distinct tokens in a window of a sane text.
        loss: Largest mean loss of a window of a sane text, in nats.
        texts: Calibration texts behind both.
    """

    window: int
    distinct: float
    loss: float
    texts: int

    @classmethod
    def calibrated(cls, tokens: Int64, losses: Float64, window: int) -> Self:
        """The rule that every calibration text just passes.

        Args:
            tokens: What the clean model sampled, (M, T).
            losses: Of each token under the clean model, (M, T).
            window: W, between 2 and T.

        Raises:
            ValueError: shapes that do not fit, or a window out of range.
        """
        return cls(
            window,
            float(least_distinct(tokens, window).min()),
            float(largest_loss(losses, window).max()),
            len(tokens),
        )

    def collapsed(self, tokens: Int64, losses: Float64) -> NDArray[np.bool_]:
        """Which texts (N, T) have collapsed, (N,)."""
        repeats = least_distinct(tokens, self.window) < self.distinct
        return np.asarray(repeats | (largest_loss(losses, self.window) > self.loss))


def least_distinct(tokens: Int64, window: int) -> Float64:
    """The least share of distinct tokens in any window of each text (N, T), (N,).

    Raises:
        ValueError: tokens are no (N, T), or the window does not fit.
    """
    rows = np.sort(_windows(tokens, window), axis=-1)
    return np.asarray((1 + (np.diff(rows, axis=-1) != 0).sum(axis=-1)).min(axis=-1) / window)


def largest_loss(losses: Float64, window: int) -> Float64:
    """The largest mean loss of any window of each text (N, T), (N,).

    Raises:
        ValueError: as for `least_distinct`.
    """
    return np.asarray(_windows(losses, window).mean(axis=-1).max(axis=-1))


def _windows(values: NDArray[np.generic], window: int) -> NDArray[np.generic]:
    if values.ndim != 2 or not len(values) or not 2 <= window <= values.shape[1]:
        raise ValueError(f"windows of {window} tokens need texts (N, T) at least as long, not {values.shape}")
    return np.lib.stride_tricks.sliding_window_view(values, window, axis=1)
