"""Compare defences at equal terms: solve each contender's privacy parameter, measure it, and say who is better.

One row for each contender, mode and level, in the columns of an ordinary experiment. Two contenders are compared
document by document: they answered the same prompts.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from audit.adversaries import token_adversaries
from audit.calibration import Trials, halves
from audit.comparison_record import KIND, NO_PROMPT, UTILITIES, WITHOUT
from audit.config import Experiment
from audit.equal_terms import (
    PAPER,
    SHARES,
    Contender,
    Readings,
    Term,
    check_levels,
    contenders,
    described,
    solve_exact,
    solve_success,
)
from audit.experiment import condition_key, measure
from audit.intervals import paired_cluster_bootstrap
from audit.measured import ByDocument, Measured
from audit.measures import agreement, per_cluster, perplexity, perplexity_ratio, score
from audit.multiplicity import holm_adjusted, sign_flip_p
from audit.records import Figure, RunRecord, new_record
from audit.utility import document_sums
from audit.workbench import Workbench
from defenses.errors import UserError
from defenses.randomness import seeded_rng

BLIND = "prior"

Row = dict[str, Any]
Sums = NDArray[np.float64]


def compare(
    experiment: Experiment, levels: Mapping[str, Sequence[float]], out: Path, *, utility: str = "agreement_top1"
) -> RunRecord:
    """Solve and measure every contender in every mode at every level.

    What is solved or measured is kept in the output folder: a killed run that is started again goes on there.

    Args:
        experiment: Its grids are the contenders, without their privacy parameters. Twice its `attack_tokens` are
            taken: on one half of their documents noise is chosen, on the other everything is measured.
        levels: Mode -> its levels.
        out: Output folder.
        utility: What contenders are ranked by, one of UTILITIES.

    Raises:
        UserError: a contender, a level or a name is wrong, or what is needed cannot be had.
    """
    if utility not in UTILITIES:
        raise UserError(f"--utility {utility}: there is no such figure; choose one of {', '.join(UTILITIES)}")
    for mode, asked in levels.items():
        check_levels(mode, asked)
    named = dict.fromkeys([BLIND, PAPER, *experiment.attacks])
    experiment = replace(experiment, attacks=tuple(named))
    arena = _Arena(experiment, contenders(experiment), out)
    rows: list[Row] = []
    notes: list[Row] = []
    documents: list[Row] = []
    readings: list[Row] = []
    tables: dict[tuple[str, float], dict[str, ByDocument]] = {}
    todo = [(one, mode, level) for one in arena.contenders for mode, asked in levels.items() for level in asked]
    with tqdm(total=len(todo), unit="condition", desc=experiment.name, leave=False) as bar:
        for one, mode, level in todo:
            bar.set_postfix_str(f"{one.name}: {mode} {level:g}")
            row, found = arena.row(arena.solve(one, mode, level))
            if found is not None:
                documents += found.documents(len(rows))
                readings += found.read(len(rows))
                if utility in found.by_document:
                    tables.setdefault((mode, level), {})[one.name] = found.by_document
            rows.append(row)
            bar.update()
    figures, floor = arena.without_prompt()
    for (mode, level), sums in tables.items():
        met = sums | {NO_PROMPT: floor} if utility in floor else sums
        notes += [{"mode": mode, "level": level, **note} for note in differences(met, utility, experiment.seed)]
    return new_record(
        KIND,
        config=asdict(experiment) | {"levels": {mode: list(asked) for mode, asked in levels.items()},
                                     "utility": utility},
        seed=experiment.seed, rows=rows, data=arena.facts, figures=figures, examples=notes,
        documents=documents, readings=readings,
    )  # fmt: skip


class _Arena:
    """Where contenders meet: a workbench whose victims are split into a half to solve on and a half to measure on."""

    def __init__(self, experiment: Experiment, everyone: Sequence[Contender], out: Path) -> None:
        adversaries = token_adversaries(experiment.attacks)
        # An attack on several messages of a prompt is no rival of those on one.
        self._rivals = [one for one in adversaries if getattr(one.options, "sends", 1) == 1]
        twice = replace(experiment.data, attack_tokens=2 * experiment.data.attack_tokens)
        self.contenders, self._out = everyone, out
        self._bench = Workbench(replace(experiment, data=twice))
        for one in everyone:  # a mistake in a parameter is found before the first long computation
            self._bench.defense(one.at(math.sqrt(one.bounds[0] * one.bounds[1])))
        self.facts = [dict(fact) for fact in (*self._bench.corpus.facts, *self._bench.auxiliary.facts)]
        self._fitting, held_out = halves(self._bench.attacked)
        self._measuring = copy(self._bench)  # what is loaded is shared
        self._measuring.attacked = held_out
        self._readings: dict[str, Readings] = {}

    def solve(self, one: Contender, mode: str, level: float) -> Term:
        """The contender's privacy parameter at a level."""
        if mode not in SHARES:
            delta = self._bench.experiment.delta
            return solve_exact(one, lambda value: self._bench.defense(one.at(value)), mode, level, delta)
        if one.name not in self._readings:
            trials = Trials(self._bench, self._rivals, lambda value: self._bench.defense(one.at(value)))
            key = condition_key(self._bench, one.condition, "solved")
            self._readings[one.name] = Readings(trials, self._out / "solved" / f"{key}.json")
        return solve_success(one, self._readings[one.name], mode, level)

    def row(self, term: Term) -> tuple[Row, Measured | None]:
        """The row of a term, and what was measured; only the reason where it was not solved."""
        one, delta = term.contender, self._bench.experiment.delta
        chosen: Row = {"calibration_tokens": int(self._fitting.prefix.size)} if term.mode in SHARES else {}
        if term.value is None:
            fixed = one.condition
            head: Row = {"defence": fixed.defense, "projection": fixed.projection, **fixed.parameters, "delta": delta}
            return {**head, **chosen, **described(term, None, delta)}, None
        condition = one.at(term.value)
        found = measure(self._out, self._measuring, condition)
        terms = described(term, self._bench.defense(condition), delta)
        return {**found.row, **chosen, **terms}, found

    def without_prompt(self) -> tuple[list[Figure], ByDocument]:
        """Utility where the server sees no prompt at all, and its sums by document: the floor of every contender.

        The model reads the continuation alone, behind the token that starts a text. It is told each next token's true
        predecessors, so that its agreement is far from zero.
        """
        bench = self._measuring
        pairs, seed, draws = bench.pairs, bench.experiment.seed, bench.experiment.utility_seeds
        tokenizer = bench.llm.tokenizer
        start = next((one for one in (tokenizer.bos_token_id, tokenizer.eos_token_id) if isinstance(one, int)), 0)
        scores = score(bench.llm, pairs, np.repeat(bench.llm.embedding[None, [start]], pairs.n, axis=0), None)
        found = agreement("agreement_top1", scores, bench.clean, pairs, seed)
        found |= perplexity_ratio("perplexity_over_clean", scores, bench.clean, pairs, seed)
        found |= perplexity("perplexity", scores, pairs, seed)
        documents = len(np.unique(pairs.clusters))
        figures = [
            Figure(f"{name}{WITHOUT}", found[name], found[f"{name}_low"], found[f"{name}_high"], 0.95, documents,
                   "cluster bootstrap over documents")
            for name in ("agreement_top1", "perplexity_over_clean", "perplexity")
        ]  # fmt: skip
        values = {"perplexity_over_clean": scores.nll, "agreement_top1": scores.top1 == bench.clean.top1}
        floor: ByDocument = {}
        for name, value in values.items():
            sums, counts = per_cluster(value.astype(np.float64), pairs.clusters)
            # Counted as often as the contenders' windows, which are protected anew for every draw of coins.
            floor[name] = document_sums(np.unique(pairs.clusters), draws * sums, draws * counts)
        return figures, floor


def differences(found: Mapping[str, ByDocument], utility: str, seed: int) -> list[Row]:
    """Every pair of contenders of one table, compared on the same documents.

    Args:
        found: Contender -> its sums and counts by document.
        utility: Which of them.
        seed: Names the resamples.

    Returns:
        For each pair: who, by how much the first is better (of a perplexity: in nats a token), its 95 % interval over
        documents, the sign-flip p-value of "no difference", and that after Holm's adjustment for all pairs of the
        table.
    """
    sign = UTILITIES[utility]
    columns = {name: np.array([sums[utility]["sums"], sums[utility]["counts"]]) for name, sums in found.items()}
    notes: list[Row] = []
    for first, second in itertools.combinations(columns, 2):
        a, b = columns[first], columns[second]
        rng = seeded_rng(seed, "compare", first, second)
        interval = paired_cluster_bootstrap((sign * a[0], a[1]), (sign * b[0], b[1]), rng)
        notes.append({
            "utility": utility, "first": first, "second": second, "low": interval.low, "high": interval.high,
            "difference": sign * float(a[0].sum() / a[1].sum() - b[0].sum() / b[1].sum()),
            "p": sign_flip_p(sign * (a[0] - b[0]), rng), "documents": interval.n,
        })  # fmt: skip
    adjusted = holm_adjusted({str(number): note["p"] for number, note in enumerate(notes)})
    return [{**note, "p_holm": adjusted[str(number)]} for number, note in enumerate(notes)]
