"""The interface of every privacy profile, exact or bounding."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray


class PrivacyProfile(ABC):
    """The trade-off between epsilon and delta of one mechanism under its claim's neighbouring relation.

    Attributes:
        exact: True where delta(epsilon) is the mechanism's own worst case, False where it only bounds it.
    """

    exact: bool = True

    @abstractmethod
    def delta(self, epsilon: float) -> float:
        """The smallest delta such that (epsilon, delta)-DP holds."""

    @abstractmethod
    def epsilon(self, delta: float) -> float:
        """The smallest epsilon >= 0 such that (epsilon, delta)-DP holds; infinity where there is none."""

    @abstractmethod
    def tradeoff(self, alpha: float) -> float:
        """f(alpha): the least type II error of a test of level alpha (Dong, Roth, Su 2022, Definition 2.1)."""

    @abstractmethod
    def compose(self, k: int) -> "PrivacyProfile":
        """The profile of k independent uses, every one of them on differing inputs."""

    def powers(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """1 - f(levels), elementwise: the greatest power of a test at each level in [0, 1], shape of levels.

        Profiles with a closed form override this loop.
        """
        flat = np.array([1.0 - self.tradeoff(float(level)) for level in levels.ravel()], dtype=np.float64)
        return flat.reshape(levels.shape)
