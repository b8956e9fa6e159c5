"""Attribute inference by a network with two hidden layers on the leading axes of moments and expected counts."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from attacks.features import AttributeAdversary, AttributeOptions

_HELD_OUT = 0.15  # of the training prompts, which say when to stop
_EPOCHS = 60


@dataclass(frozen=True)
class MLPOptions(AttributeOptions):
    """As for every attribute adversary, and the network's size.

    Attributes:
        width: Units of each hidden layer.
        decay: L2 penalty on the weights.
    """

    width: int = 64
    decay: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1 or not 0 <= self.decay < float("inf"):
            raise ValueError(f"width must be at least 1 and decay not negative, not {self.width} and {self.decay}")


class AttributeMLP(AttributeAdversary):
    """Two ReLU layers and a softmax, trained by Adam; the epoch is chosen inside the training prompts."""

    name = "attribute-mlp"
    Options: ClassVar[type] = MLPOptions

    def classifier(self, labels: NDArray[np.int64]) -> Any:
        """Stops early where there are prompts enough to hold some of each class out."""
        from sklearn.neural_network import MLPClassifier  # noqa: PLC0415 - listing plug-ins must stay quick

        _, sizes = np.unique(labels, return_counts=True)
        enough = bool(sizes.min() >= 2 and int(_HELD_OUT * len(labels)) >= len(sizes))
        return MLPClassifier(
            (self.options.width, self.options.width), alpha=self.options.decay, early_stopping=enough,
            validation_fraction=_HELD_OUT, n_iter_no_change=8, max_iter=_EPOCHS, random_state=self.tools.seed,
        )  # fmt: skip


ATTACK = AttributeMLP
