"""The interface of every privacy profile, exact or bounding."""

from abc import ABC, abstractmethod
from typing import Self


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
    def compose(self, k: int) -> Self:
        """The profile of k independent uses, every one of them on differing inputs."""
