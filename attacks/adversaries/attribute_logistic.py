"""Attribute inference by logistic regression with a ridge penalty, on moments and sparse expected counts."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from attacks.features import AttributeAdversary, AttributeOptions


@dataclass(frozen=True)
class LogisticOptions(AttributeOptions):
    """As for every attribute adversary, and the penalty.

    Attributes:
        C: Inverse strength of the penalty, as scikit-learn counts it.
    """

    C: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.C < float("inf"):
            raise ValueError(f"C must be positive and finite, not {self.C}")


class AttributeLogistic(AttributeAdversary):
    """P(class | features) = softmax(W features + bias)."""

    name = "attribute-logistic"
    Options: ClassVar[type] = LogisticOptions
    reduced = False

    def classifier(self, labels: NDArray[np.int64]) -> Any:  # noqa: ARG002 - suits any number of prompts
        """Fitted by L-BFGS."""
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - listing plug-ins must stay quick

        return LogisticRegression(C=self.options.C, max_iter=300)


ATTACK = AttributeLogistic
