"""The record of attribute inference: one flat row for each task and view, every figure with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from attacks.features import AttributeAdversary
from audit.attribute_statistics import (
    MEASURES,
    Float64,
    Measured,
    normal_p_value,
    percentile_interval,
    resampled,
)
from audit.attributes import Judged, Settings
from audit.intervals import Interval
from audit.multiplicity import holm_adjusted
from audit.provenance import Provenance
from audit.records import RunRecord, new_record
from defenses.randomness import seeded_rng

KIND = "attributes"
LEVEL = 0.95

Row = dict[str, Any]


def attribute_record(
    judged: Sequence[Judged],
    config: Mapping[str, Any],
    settings: Settings,
    data: Mapping[str, Any],
    provenance: Provenance | None = None,
) -> RunRecord:
    """The record of a run; what the adversary knew stands in its configuration."""
    known = asdict(AttributeAdversary.knowledge) | {"auxiliary_labels": True, "victims_labels": False}
    facts = {**config, "settings": asdict(settings), "knowledge": known}
    rows = attribute_rows(judged, settings)
    return new_record(KIND, config=facts, seed=settings.seed, rows=rows, data=[data], provenance=provenance)


def attribute_rows(judged: Sequence[Judged], settings: Settings) -> list[Row]:
    """A row for each task and view: measures, their differences from the clean view, p-values over the family.

    All views of a task are resampled with the same users, so that differences are paired.
    """
    rows: list[Row] = []
    for task in dict.fromkeys(one.task for one in judged):
        rows += _task_rows([one for one in judged if one.task == task], settings)
    family = {str(index): row["p_value"] for index, row in enumerate(rows) if row["p_value"] is not None}
    for index, p_value in holm_adjusted(family).items():
        rows[int(index)]["p_holm"] = p_value
        rows[int(index)]["family"] = len(family)
    return rows


def _task_rows(judged: Sequence[Judged], settings: Settings) -> list[Row]:
    """The rows of one task."""
    users = len(np.unique(judged[0].predictions.users))
    rng = seeded_rng(settings.seed, "resamples", judged[0].task)
    weights = np.vstack([np.ones((1, users)), resampled(users, rng, settings.resamples)])  # first: as observed
    measured = [_measures(one, weights, rng) for one in judged]
    clean = next((found for one, found in zip(judged, measured, strict=True) if one.kind == "clean"), None)
    rows = []
    for one, found in zip(judged, measured, strict=True):
        row = _facts(one, users, settings)
        for key, values in found.items():
            _put(row, key, values, users)
        if clean is not None and one.kind != "clean":
            _compare(row, found, clean, users, one.predictions.classes)
        rows.append(row | _chance(one, found, rng))
    return rows


def _measures(one: Judged, weights: Float64, rng: np.random.Generator) -> dict[str, Float64]:
    """Every measure of every resample, (1 + resamples,), the repeats averaged inside each.

    A classifier that learnt from permuted labels leans some way by chance, on all victims alike. So the null's
    repeats, each with its own permutation, are resampled too: an interval over victims alone would be too narrow.
    """
    if one.kind != "permuted":
        return Measured(one.predictions).measures(weights)
    shares = one.predictions.probabilities
    singles = [_single(one, index).measures(weights) for index in range(len(shares))]
    drawn = rng.multinomial(len(shares), np.full(len(shares), 1 / len(shares)), size=len(weights)) / len(shares)
    drawn[0] = 1 / len(shares)
    return {key: (drawn * np.stack([each[key] for each in singles], axis=1)).sum(axis=1) for key in MEASURES}


def _single(one: Judged, repeat: int) -> Measured:
    return Measured(replace(one.predictions, probabilities=one.predictions.probabilities[repeat : repeat + 1]))


def _facts(one: Judged, users: int, settings: Settings) -> Row:
    """What was run."""
    seen = one.predictions
    return {
        "task": one.task, "view": one.kind, **one.facts, "classes": seen.classes, "seed": settings.seed,
        "chance": 1 / seen.classes, "victims": users, "prompts": len(seen.labels),
        "repeats": len(seen.probabilities), "classifier": one.chosen, "counted_by": one.counted_by,
        "validation_auc": one.validation_auc, "maximal_posterior": one.posterior,
        "majority_accuracy": float((seen.labels == seen.majority).mean()),
        "level": LEVEL, "resamples": settings.resamples,
    }  # fmt: skip


def _compare(row: Row, found: Mapping[str, Float64], clean: Mapping[str, Float64], users: int, classes: int) -> None:
    """Paired differences from the clean view, and the share of its advantage that is left.

    The advantage is AUC - 1/2, or balanced accuracy - 1/K. Where the clean view's own may be nil (the lower end of
    its interval), a share of it says nothing and is left out.
    """
    for key, chance in (("auc", 0.5), ("balanced_accuracy", 1 / classes)):
        _put(row, f"{key}_lost", clean[key] - found[key], users)
        if _interval(clean[key], users).low > chance:
            with np.errstate(divide="ignore", invalid="ignore"):
                share = (found[key] - chance) / (clean[key] - chance)
            _put(row, f"{key}_retained", np.where(clean[key] > chance, share, np.nan), users)


def _chance(one: Judged, found: Mapping[str, Float64], rng: np.random.Generator) -> Row:
    """The p-value of the macro AUC against 1/2; none for the null, which is a control."""
    if one.kind == "permuted":
        return {"p_value": None, "p_method": "control"}
    measured = Measured(one.predictions)
    if measured.constant:
        return {"p_value": measured.permutation_p_value(rng), "p_method": "labels permuted among victims"}
    auc = found["auc"]
    return {"p_value": normal_p_value(float(auc[0]), 0.5, auc[1:]), "p_method": "Gaussian, spread by bootstrap"}


def _put(row: Row, key: str, values: Float64, users: int) -> None:
    ends = _interval(values, users)
    row |= {key: float(values[0]), f"{key}_low": ends.low, f"{key}_high": ends.high}


def _interval(values: Float64, users: int) -> Interval:
    return percentile_interval(values[1:], users, LEVEL)
