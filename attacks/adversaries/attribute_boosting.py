"""Attribute inference by gradient-boosted trees on the leading axes of moments and expected counts."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from attacks.features import AttributeAdversary, AttributeOptions


@dataclass(frozen=True)
class BoostingOptions(AttributeOptions):
    """As for every attribute adversary, and the size of the ensemble.

    Attributes:
        rounds: Trees a class.
        leaves: Leaves a tree.
    """

    rounds: int = 60
    leaves: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1 or self.leaves < 2:
            raise ValueError(f"rounds must be at least 1 and leaves at least 2, not {self.rounds} and {self.leaves}")


class AttributeBoosting(AttributeAdversary):
    """Histogram gradient boosting with the logistic loss (Ke et al. 2017, as scikit-learn implements it)."""

    name = "attribute-boosting"
    Options: ClassVar[type] = BoostingOptions

    def classifier(self, labels: NDArray[np.int64]) -> Any:
        """A fixed number of trees: nothing is held out, so nothing is chosen on the way."""
        from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415 - listing plug-ins must stay quick

        return HistGradientBoostingClassifier(
            max_iter=self.options.rounds, max_leaf_nodes=self.options.leaves, max_features=0.3,
            min_samples_leaf=max(2, min(20, len(labels) // 20)), l2_regularization=1.0, early_stopping=False,
            random_state=self.tools.seed,
        )  # fmt: skip


ATTACK = AttributeBoosting
