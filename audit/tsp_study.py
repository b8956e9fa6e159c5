"""Does an order of the vocabulary by a tour steady encrypted sampling? Rows of a record, with paired intervals.

Every condition, an order, a polynomial depth, with or without post-processing, meets the same distributions and coins
(`defenses.crypto.tsp_generation`). Two measurements: mixed embeddings put into text that the clean model sampled,
which gives embedding errors, agreement and perplexity; and free generation on mixed embeddings, which gives collapse.
Intervals resample documents; a difference resamples both of its sides alike.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from audit.collapse import CollapseRule
from audit.records import Figure
from audit.tsp_rows import IDENTITY, RANDOM, TSP, Row, Sums, TspStudy, clean_sums, study_figures, study_rows, summed
from defenses.crypto.sampling_circuit import SamplingCircuit
from defenses.crypto.tour import neighbour_distance
from defenses.crypto.tour_search import Int32
from defenses.crypto.tsp_generation import Forced, Mixer, Sampled, forced, generate, losses
from defenses.errors import UserError
from defenses.kept import keep_arrays, kept_arrays
from defenses.models.llm import LLM
from defenses.pipeline.corpus import Corpus
from defenses.randomness import seeded_rng

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class TspFound:
    """What a study found.

    Attributes:
        rows: One for each order and circuit, and one for the clean model.
        figures: Differences with all depths taken together.
        facts: The collapse rule and the orders' neighbour distances.
    """

    rows: list[Row]
    figures: list[Figure]
    facts: dict[str, Any]


def run_study(
    llm: LLM, tour: Int32, texts: tuple[Corpus, Corpus], study: TspStudy, work: Path | None = None
) -> TspFound:
    """Measure every condition.

    Args:
        llm: The model.
        tour: Its vocabulary in the order of a tour, (V,).
        texts: Prompts that are continued, and prompts of other documents for the collapse rule.
        study: What is measured.
        work: Folder where finished conditions are kept, so that a run that was broken off goes on; None keeps none.

    Raises:
        UserError: the tour is of another vocabulary.
    """
    prompts, calibration = texts
    bench = _Bench(llm, prompts, study, _Kept(work))
    orders = _orders(llm, tour, study)
    rule = bench.rule(calibration)
    text = bench.clean()
    sums: dict[tuple[str, SamplingCircuit], Sums] = {}
    for name in tqdm(study.orders, desc="orders", leave=False):
        for circuit, found in bench.forced(name, orders[name], text).items():
            free = bench.free(name, orders[name], circuit) if name in study.free else None
            sums[name, circuit] = summed(found, free, text, rule, prompts.clusters)
    clean = clean_sums(text, rule, prompts.clusters)
    facts = {
        "collapse_rule": asdict(rule),
        "neighbour_distance": {name: neighbour_distance(llm.embedding, order) for name, order in orders.items()},
    }
    return TspFound(study_rows(sums, clean, study, prompts), study_figures(sums, study), facts)


class _Kept:
    """Arrays of finished parts in a folder."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A part's arrays, made where they are not there."""
        if self._folder is None:
            return make()
        path = self._folder / f"{name}.npz"
        stored = kept_arrays(path)
        if stored is None:
            stored = {key: np.asarray(value) for key, value in make().items()}
            keep_arrays(path, stored)
        return stored


@dataclass(frozen=True)
class _Bench:
    """What every condition meets: the model, the prompts and the coins."""

    llm: LLM
    prompts: Corpus
    study: TspStudy
    kept: _Kept

    def _coins(self, stream: str, *shape: int) -> Float64:
        return seeded_rng(self.study.seed, "tsp", stream).random(shape)

    def rule(self, calibration: Corpus) -> CollapseRule:
        """The collapse rule, from texts that the clean model samples on other documents."""
        coins = self._coins("calibration", len(calibration.windows), self.study.tokens)
        text = self.kept.get("calibration", partial(_generated, self.llm, calibration.windows, coins, None))
        return CollapseRule.calibrated(text["tokens"], text["losses"], self.study.window)

    def clean(self) -> dict[str, Any]:
        """What the clean model samples."""
        return self._generated("clean", None)

    def free(self, name: str, order: Int32, circuit: SamplingCircuit) -> dict[str, Any]:
        """What the model generates on its own mixed embeddings."""
        return self._generated(
            f"free-{name}-{circuit.amplify}-{circuit.post}", Mixer(self.llm.embedding, order, circuit)
        )

    def _generated(self, key: str, mixer: Mixer | None) -> dict[str, Any]:
        coins = self._coins("coins", len(self.prompts.windows), self.study.tokens)
        return self.kept.get(key, partial(_generated, self.llm, self.prompts.windows, coins, mixer))

    def forced(self, name: str, order: Int32, text: Mapping[str, Any]) -> dict[SamplingCircuit, Forced]:
        """Every circuit in one order, on the clean model's text."""
        names, circuits = [one.name for one in fields(Forced)], self.study.circuits()

        def make() -> dict[str, Any]:
            sampled = Sampled(self.prompts.windows, text["tokens"], text["places"])
            extra = self._coins("extra", *text["tokens"].shape, self.study.draws)
            found = forced(self.llm, sampled, {name: order}, circuits, extra)
            return {f"{key}-{circuit.amplify}-{circuit.post}": getattr(one, key)
                    for (_, circuit), one in found.items() for key in names}  # fmt: skip

        stored = self.kept.get(f"forced-{name}", make)
        return {one: Forced(*(stored[f"{key}-{one.amplify}-{one.post}"] for key in names)) for one in circuits}


def _generated(llm: LLM, prompts: NDArray[np.int64], coins: Float64, mixer: Mixer | None) -> dict[str, Any]:
    tokens, places = generate(llm, prompts, coins, mixer)
    return {"tokens": tokens, "places": places, "losses": losses(llm, prompts, tokens)}


def _orders(llm: LLM, tour: Int32, study: TspStudy) -> dict[str, Int32]:
    size = len(tour)
    if size != len(llm.embedding):
        raise UserError(f"the tour has {size} tokens, the model {len(llm.embedding)}: make one for this model")
    known = {
        IDENTITY: np.arange(size, dtype=np.int32),
        RANDOM: seeded_rng(study.seed, "tsp", "order").permutation(size).astype(np.int32),
        TSP: tour,
    }
    return {name: known[name] for name in study.orders}
