"""What a study of encrypted sampling measured, as rows of a record and as differences with paired intervals.

Sums are kept by document, which is what a bootstrap resamples. A difference resamples both of its sides alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from audit.collapse import CollapseRule
from audit.intervals import Interval, clopper_pearson, cluster_bootstrap, paired_cluster_bootstrap
from audit.records import Figure
from defenses.crypto.sampling_circuit import SamplingCircuit
from defenses.crypto.tsp_generation import Forced
from defenses.errors import UserError
from defenses.pipeline.corpus import Corpus
from defenses.randomness import seeded_rng

Float64 = NDArray[np.float64]
Row = dict[str, Any]

TSP, IDENTITY, RANDOM = "tsp", "identity", "random"
MEASURES = ("cosine_error", "relative_error", "disagreement", "loss", "collapse", "departed")
"""What is compared: lower is better for each. `departed`: share of tokens after the first that is not the clean one."""
SHARES = frozenset({"disagreement", "collapse", "departed"})
"""Those that are shares: where no document shows anything, resampling documents would show no doubt at all."""


@dataclass(frozen=True)
class TspStudy:
    """What is measured.

    Attributes:
        tokens: T, generated for each prompt.
        depths: Iterations of the amplifier, rising.
        draws: More coins at each position of the sampled text, for embedding errors and agreement.
        sign: Iterations of f1.
        sharpen: Iterations of f.
        orders: Of the vocabulary: "identity", "random", "tsp".
        free: Orders that also generate freely.
        window: Tokens of a window of the collapse rule.
        seed: Of coins, the random order and resamples.
        resamples: Of the bootstrap.
    """

    tokens: int = 32
    depths: tuple[int, ...] = (6, 9, 12, 15, 17)
    draws: int = 4
    sign: int = 3
    sharpen: int = 5
    orders: tuple[str, ...] = (IDENTITY, RANDOM, TSP)
    free: tuple[str, ...] = (IDENTITY, TSP)
    window: int = 16
    seed: int = 0
    resamples: int = 2000

    def __post_init__(self) -> None:
        if not self.depths or list(self.depths) != sorted(set(self.depths)) or min(self.depths) < 0:
            raise UserError(f"--depths {self.depths}: name rising numbers of iterations, for example 6,9,12")
        strange = [one for one in (*self.orders, *self.free) if one not in {TSP, IDENTITY, RANDOM}]
        if strange or not {IDENTITY, TSP} <= set(self.orders) or not set(self.free) <= set(self.orders):
            raise UserError("orders are identity, random and tsp; identity and tsp must be among them")
        if self.draws < 0:
            raise UserError(f"--draws {self.draws}: must be 0 or more")
        if not 2 <= self.window <= self.tokens:
            raise UserError(f"--window {self.window}: must be between 2 and the {self.tokens} generated tokens")

    def circuits(self) -> list[SamplingCircuit]:
        """Every circuit, plain before post-processed."""
        return [
            SamplingCircuit(depth, self.sign, self.sharpen, post) for depth in self.depths for post in (False, True)
        ]


@dataclass(frozen=True)
class Sums:
    """One condition's measures: numerators and denominators by document, each (C,)."""

    parts: Mapping[str, tuple[Float64, Float64]]

    def __add__(self, other: "Sums") -> "Sums":
        pairs = {key: (own, other.parts[key]) for key, own in self.parts.items() if key in other.parts}
        return Sums({key: (one[0] + two[0], one[1] + two[1]) for key, (one, two) in pairs.items()})


def _by_document(values: Float64, clusters: NDArray[np.int64]) -> tuple[Float64, Float64]:
    """Sums and counts of (N, ...) by document."""
    _, own = np.unique(clusters, return_inverse=True)
    flat = values.reshape(len(values), -1)
    sums = np.asarray(np.bincount(own, weights=flat.sum(axis=1)), dtype=np.float64)
    return sums, np.bincount(own).astype(np.float64) * flat.shape[1]


def summed(
    found: Forced, free: Mapping[str, Any] | None, text: Mapping[str, Any], rule: CollapseRule,
    clusters: NDArray[np.int64],
) -> Sums:  # fmt: skip
    """One condition's measures by document.

    Args:
        found: On the clean model's text.
        free: Tokens and losses of what was generated freely; None where nothing was.
        text: Tokens of the clean model.
        rule: Of collapse.
        clusters: Each prompt's document, (N,).
    """
    values: dict[str, Float64] = {
        "cosine_error": found.cosine, "relative_error": found.error, "loss": found.loss,
        "disagreement": 1 - found.agrees,
    }  # fmt: skip
    if free is not None:
        values["collapse"] = rule.collapsed(free["tokens"], free["losses"]).astype(np.float64)
        values["departed"] = np.maximum.accumulate(free["tokens"] != text["tokens"], axis=1).astype(np.float64)
    return Sums({key: _by_document(value, clusters) for key, value in values.items()})


def clean_sums(text: Mapping[str, Any], rule: CollapseRule, clusters: NDArray[np.int64]) -> Sums:
    """The clean model's own losses and collapse by document; arguments as for `summed`."""
    collapsed = rule.collapsed(text["tokens"], text["losses"]).astype(np.float64)
    return Sums({"loss": _by_document(text["losses"], clusters), "collapse": _by_document(collapsed, clusters)})


def study_rows(
    sums: Mapping[tuple[str, SamplingCircuit], Sums], clean: Sums, study: TspStudy, prompts: Corpus
) -> list[Row]:
    """A row for the clean model and one for each order and circuit: figures, and differences that are paired.

    Args:
        sums: Of each (order, circuit).
        clean: The clean model's.
        study: What was measured.
        prompts: What was continued.
    """
    shared = {"prompts": len(prompts.windows), "documents": len(np.unique(prompts.clusters)), "tokens": study.tokens}
    rows = [{"defence": "clean model", **shared, **_figures_of(clean, None, study)}]
    for (name, circuit), own in tqdm(sums.items(), desc="intervals", leave=False):
        row = {
            "defence": f"{name}, depth {circuit.amplify}{', post-processed' if circuit.post else ''}", "order": name,
            "amplify": circuit.amplify, "post": circuit.post, "levels": circuit.levels,
            "resolution": circuit.resolution(), **shared, **_figures_of(own, clean, study),
        }  # fmt: skip
        others = {"identity": sums.get((IDENTITY, circuit)) if name != IDENTITY else None,
                  "plain": sums.get((name, replace(circuit, post=False))) if circuit.post else None}  # fmt: skip
        for against, other in others.items():
            if other is not None:
                row |= {f"{key}_minus_{against}{end}": value for key, ends in _differences(own, other, study).items()
                        for end, value in ends.items()}  # fmt: skip
        rows.append(row)
    return rows


def _figures_of(own: Sums, clean: Sums | None, study: TspStudy) -> Row:
    """Each measure with its interval; losses as perplexities, and over the clean model's."""
    row: Row = {}
    for key, (numerators, counts) in own.parts.items():
        value = numerators.sum() / counts.sum()
        ends = _interval(key, numerators, counts, study)
        name, shown = ("perplexity", np.exp) if key == "loss" else (key, float)
        row |= {
            name: float(shown(value)),
            f"{name}_low": float(shown(ends.low)),
            f"{name}_high": float(shown(ends.high)),
        }
    if clean is not None:
        first, second = own.parts["loss"], clean.parts["loss"]
        ends = paired_cluster_bootstrap(
            first, second, _rng(study, "over"), compare="exp_difference", resamples=study.resamples
        )
        value = float(np.exp(first[0].sum() / first[1].sum() - second[0].sum() / second[1].sum()))
        row |= {"perplexity_over_clean": value, "perplexity_over_clean_low": ends.low,
                "perplexity_over_clean_high": ends.high}  # fmt: skip
    return row


def _differences(own: Sums, other: Sums, study: TspStudy) -> dict[str, dict[str, float]]:
    """First minus second of each measure that both have: the value and its paired interval."""
    found = {}
    for key in MEASURES:
        if key in own.parts and key in other.parts:
            first, second = own.parts[key], other.parts[key]
            value = float(first[0].sum() / first[1].sum() - second[0].sum() / second[1].sum())
            ends = _paired_interval(key, first, second, study)
            found[key] = {"": value, "_low": ends.low, "_high": ends.high}
    return found


def _interval(key: str, numerators: Float64, counts: Float64, study: TspStudy) -> Interval:
    """By resampling documents; where all of them gave nothing (or everything), the exact limit for a fresh document."""
    if key in SHARES and numerators.sum() in {0.0, counts.sum()}:
        return clopper_pearson(len(counts) if numerators.any() else 0, len(counts))
    return cluster_bootstrap(numerators, counts, _rng(study, key), resamples=study.resamples)


def _paired_interval(
    key: str, first: tuple[Float64, Float64], second: tuple[Float64, Float64], study: TspStudy
) -> Interval:
    """By resampling documents; where none differs, the exact limit for a fresh document to differ, either way."""
    if key in SHARES and np.array_equal(first[0], second[0]):
        limit = clopper_pearson(0, len(first[0]))
        return replace(limit, low=-limit.high)
    return paired_cluster_bootstrap(first, second, _rng(study, key), resamples=study.resamples)


def study_figures(sums: Mapping[tuple[str, SamplingCircuit], Sums], study: TspStudy) -> list[Figure]:
    """What a tour and what post-processing change, all depths together."""
    comparisons = {
        "tsp minus identity": [(sums[TSP, one], sums[IDENTITY, one]) for one in study.circuits() if not one.post],
        "tsp minus identity, both post-processed":
            [(sums[TSP, one], sums[IDENTITY, one]) for one in study.circuits() if one.post],
        "post-processing minus none, identity": _post_pairs(sums, IDENTITY, study),
        "post-processing minus none, tsp": _post_pairs(sums, TSP, study),
        "tsp with post-processing minus identity without":
            [(sums[TSP, replace(one, post=True)], sums[IDENTITY, one]) for one in study.circuits() if not one.post],
    }  # fmt: skip
    figures = []
    for title, pairs in comparisons.items():
        own, other = _total([one for one, _ in pairs]), _total([two for _, two in pairs])
        clusters = len(next(iter(own.parts.values()))[0])
        for key, ends in _differences(own, other, study).items():
            figures.append(Figure(
                f"{key}: {title}", ends[""], ends["_low"], ends["_high"], 0.95, clusters,
                f"paired cluster bootstrap over documents, {study.resamples} resamples, depths together",
                "nats" if key == "loss" else "",
            ))  # fmt: skip
    return figures


def _post_pairs(
    sums: Mapping[tuple[str, SamplingCircuit], Sums], name: str, study: TspStudy
) -> list[tuple[Sums, Sums]]:
    plain = [one for one in study.circuits() if not one.post]
    return [(sums[name, replace(one, post=True)], sums[name, one]) for one in plain]


def _total(parts: Sequence[Sums]) -> Sums:
    found = parts[0]
    for part in parts[1:]:
        found += part
    return found


def _rng(study: TspStudy, key: str) -> np.random.Generator:
    return seeded_rng(study.seed, "tsp", "resamples", key)
