"""The classifier of every arm: logistic regression on standardised pooled outputs, its penalty chosen on validation."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from defenses.base import Float32
from defenses.denoising.prompt_tuning import pair_features
from defenses.errors import UserError

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_LEAST = 1e-12


@dataclass(frozen=True, eq=False)
class Classifier:
    """A fitted classifier.

    Attributes:
        scaler: Standardises columns as the training examples had them.
        model: Logistic regression.
        classes: K; a class that training lacked has probability 0.
        penalty: The C that validation chose.
        validation_loss: Its cross-entropy there, in nats: the least of several, so it flatters.
    """

    scaler: Any
    model: Any
    classes: int
    penalty: float
    validation_loss: float

    def probabilities(self, columns: Sequence[Float32]) -> Float64:
        """Of examples with one or two pooled outputs (N, h) each: (N, K)."""
        return _spread(self.model, self.scaler.transform(features(columns)), self.classes)


def features(columns: Sequence[Float32]) -> Float32:
    """What the classifier reads: see `pair_features`."""
    return np.asarray(pair_features([torch.from_numpy(column) for column in columns]).numpy(), dtype=np.float32)


def fit_classifier(
    columns: Sequence[Float32], labels: Int64, validation: NDArray[np.bool_], classes: int
) -> Classifier:
    """Fit on the examples outside validation, choose C inside it, then fit on all.

    Args:
        columns: One or two pooled outputs of each training example, (N, h) each.
        labels: Class numbers, (N,).
        validation: Which examples choose, (N,).
        classes: K.

    Raises:
        UserError: the examples outside validation are of one class.
    """
    table, learnt = features(columns), ~validation
    if len(np.unique(labels[learnt])) < 2:
        raise UserError("the training examples are of one class: draw more of them (--train-examples)")
    scaler = StandardScaler().fit(table[learnt])
    losses = [
        _loss(_logistic(scaler.transform(table[learnt]), labels[learnt], c), scaler, table[validation],
              labels[validation], classes)
        for c in GRID
    ]  # fmt: skip
    best = int(np.argmin(losses))
    scaler = StandardScaler().fit(table)
    return Classifier(scaler, _logistic(scaler.transform(table), labels, GRID[best]), classes, GRID[best], losses[best])


def _logistic(table: Float32, labels: Int64, penalty: float) -> LogisticRegression:
    with warnings.catch_warnings():
        # Behind strong noise the weakest penalties separate the classes: the optimum is far, and no better for it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=penalty, max_iter=300).fit(table, labels)


def _loss(model: Any, scaler: Any, table: Float32, labels: Int64, classes: int) -> float:
    every = _spread(model, scaler.transform(table), classes)
    every = np.maximum(every, _LEAST)
    return float(log_loss(labels, every / every.sum(axis=1, keepdims=True), labels=np.arange(classes)))


def _spread(model: Any, table: Float32, classes: int) -> Float64:
    """Probabilities (N, K), 0 for the classes that training lacked."""
    every = np.zeros((len(table), classes))
    every[:, model.classes_] = model.predict_proba(table)
    return every
