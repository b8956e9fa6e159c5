"""Figures of a classifier behind a defence: accuracy, AUC and closeness to the clean outputs, with intervals.

The unit is a test example; draws of a mechanism are averaged inside each, and every arm is resampled with the same
examples, so that differences from the clean arm are paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit.attribute_statistics import Measured, Predictions, resampled
from audit.intervals import expanded_percentiles
from defenses.base import Float32
from defenses.randomness import seeded_rng

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Row = dict[str, Any]

LEVEL = 0.95
TOLD = ("accuracy", "auc", "balanced_accuracy")


@dataclass(frozen=True, eq=False)
class Judged:
    """What one arm did on the test examples.

    Attributes:
        probabilities: Of R draws, N examples, K classes, (R, N, K).
        noisy: Squared error a coordinate and cosine of the server's outputs against the clean ones, each (N,), mean
            over draws and columns. None where the classifier reads no output.
        read: The same of what the classifier read, after a denoiser where there is one.
    """

    probabilities: Float64
    noisy: tuple[Float64, Float64] | None = None
    read: tuple[Float64, Float64] | None = None


def closeness(found: Sequence[Sequence[Float32]], clean: Sequence[Float32]) -> tuple[Float64, Float64]:
    """Mean squared error a coordinate, and cosine, of each example, (N,) each.

    Args:
        found: For each draw the outputs by column, (N, h) each.
        clean: The clean outputs by column.
    """
    errors, cosines = [], []
    for columns in found:
        for own, true in zip(columns, clean, strict=True):
            errors.append(np.square(own.astype(np.float64) - true).mean(axis=1))
            norms = np.linalg.norm(own, axis=1) * np.linalg.norm(true, axis=1)
            cosines.append((own.astype(np.float64) * true).sum(axis=1) / np.maximum(norms, 1e-30))
    return np.mean(errors, axis=0), np.mean(cosines, axis=0)


def figures(arm: Judged, clean: Judged, labels: Int64, prior: Float64, *, seed: int, resamples: int) -> Row:
    """Every figure of one arm as three columns, and its paired difference from the clean arm.

    Args:
        arm: What it did.
        clean: What the clean arm did on the same examples.
        labels: True classes, (N,).
        prior: Shares of the classes among the training examples, (K,).
        seed: Names the resamples, which all arms share.
        resamples: Of examples.
    """
    count = len(labels)
    weights = np.vstack([np.ones((1, count)), resampled(count, seeded_rng(seed, "resamples"), resamples)])
    own, reference = (measures(one.probabilities, labels, prior, weights) for one in (arm, clean))
    row: Row = {"examples": count, "draws": len(arm.probabilities), "classes": len(prior), "level": LEVEL,
                "resamples": resamples, "majority_accuracy": float((labels == prior.argmax()).mean())}  # fmt: skip
    for name in TOLD:
        put(row, name, own[name], count)
        put(row, f"{name}_lost", reference[name] - own[name], count)
    total = weights.sum(axis=1)
    for stage, pair in (("noisy", arm.noisy), ("read", arm.read)):
        for name, values in () if pair is None else zip(("mse", "cosine"), pair, strict=True):
            put(row, f"{stage}_{name}", weights @ values / total, count)
    return row


def measures(probabilities: Float64, labels: Int64, prior: Float64, weights: Float64) -> Mapping[str, Float64]:
    """Accuracy, macro one-vs-rest AUC and balanced accuracy of resamples, (S,) each.

    Balanced accuracy is the mean recall of the likeliest class. Of two classes it is what the released code of
    Split-and-Denoise prints as AUC, for it ranks hard decisions.
    """
    found = Measured(Predictions(probabilities, labels, np.arange(len(labels)), prior)).measures(weights)
    right = (probabilities.argmax(axis=-1) == labels).mean(axis=0)
    member = np.eye(len(prior))[labels]
    sizes = weights @ member
    with np.errstate(invalid="ignore"):
        recall = np.where(sizes > 0, (weights @ (right[:, None] * member)) / sizes, np.nan)
    return {"accuracy": found["accuracy"], "auc": found["auc"], "balanced_accuracy": np.nanmean(recall, axis=1)}


def put(row: Row, name: str, values: Float64, count: int) -> None:
    """Three columns of a figure: as observed (the first value), and the interval of its resamples."""
    kept = values[1:][np.isfinite(values[1:])]
    ends = expanded_percentiles(kept, LEVEL, count, "bootstrap over examples")
    row |= {name: float(values[0]), f"{name}_low": ends.low, f"{name}_high": ends.high}
