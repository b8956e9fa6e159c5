"""What changed between two runs: silence without a change, planted changes found, and nothing left out."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from audit.cautions import cautions, flat
from audit.config import parse_experiment
from audit.differences import WHOLE, Change, Differences, differences
from audit.document_tests import Sums, paired, two_sample
from audit.matching import match
from audit.multiplicity import FLIPS, sign_flip_p
from audit.provenance import Provenance
from audit.records import Figure, RunRecord, new_record
from audit.side_by_side import PERPLEXITY
from audit.sweeps.run import run_experiment

DOCUMENTS, TOKENS = 32, 63  # 2,016 tokens
DRAWS, SEEDS = 4, 3  # of coins: each token is scored behind so many, and attacked under so many
SCORED = DRAWS * TOKENS
DATA = [{"name": "diaries", "sha256": "ab" * 32}, {"name": "public", "sha256": "cd" * 32}]
OTHER = [{"name": "letters", "sha256": "ef" * 32}, {"name": "public", "sha256": "cd" * 32}]
ORIGIN = Provenance(
    commit="0123abcd" * 5, dirty=False, versions={"numpy": "2.0.0"}, environment={"cpu_count": 2},
    created="2026-01-02T03:04:05+00:00", command="delaudit run",
)  # fmt: skip


class World:
    """Documents with their own difficulty, and tokens with their own chance to be read; runs differ by coins alone.

    Args:
        rng: Draws the documents.
        conditions: Defended conditions.
        loss_noise: Standard deviation of a token's loss over draws of coins, in nats; DEL at n = 4 and mu = 20 has
            about as much on the embedded model and workload.
        document_noise: The same of a whole document's mean loss.
    """

    def __init__(
        self, rng: np.random.Generator, conditions: int, *, loss_noise: float = 0.52, document_noise: float = 0.01
    ) -> None:
        self.clean = rng.normal(3.0, 0.4, DOCUMENTS)
        self.excess = rng.gamma(4.0, 0.2, (conditions, DOCUMENTS))
        self.agrees = rng.beta(6.0, 4.0, (conditions, DOCUMENTS))
        self.read = rng.beta(0.2, 0.8, (conditions, DOCUMENTS, TOKENS))  # most tokens are read always or never
        self.noise = math.sqrt(DRAWS * (TOKENS * loss_noise**2 + (TOKENS * document_noise) ** 2))

    def run(
        self, rng: np.random.Generator, *, data: Sequence[dict[str, Any]] = DATA, loss: float = 0.0, read: float = 0.0
    ) -> RunRecord:
        """A run with fresh coins; of the first condition the loss rises by so many nats, success by such a share."""
        rows: list[dict[str, Any]] = [{"defence": "identity", PERPLEXITY: 1.0, "perplexity": 20.0}]
        documents = [entry(0, PERPLEXITY, SCORED * self.clean, SCORED)]
        for index in range(len(self.excess)):
            lost, risen = (loss, read) if index == 0 else (0.0, 0.0)
            nll = SCORED * (self.clean + self.excess[index] + lost) + rng.normal(0.0, self.noise, DOCUMENTS)
            agreed = rng.binomial(SCORED, self.agrees[index])
            hits = [rng.binomial(SEEDS, q + (1 - q) * risen).sum(axis=1) for q in (self.read[index],) * 2]
            rows.append({
                "defence": "del", "mu": 20.0 * (index + 1), "strongest_attack": "map",
                PERPLEXITY: float(np.exp((nll.sum() / SCORED - self.clean.sum()) / DOCUMENTS)),
                "agreement_top1": agreed.sum() / (SCORED * DOCUMENTS),
                **{name: one.sum() / (SEEDS * TOKENS * DOCUMENTS)
                   for name, one in zip(("asr_strongest", "asr_top1_cosine"), hits, strict=True)},
            })  # fmt: skip
            documents += [
                entry(index + 1, PERPLEXITY, nll, SCORED), entry(index + 1, "agreement_top1", agreed, SCORED),
                entry(index + 1, "asr_strongest", hits[0], SEEDS * TOKENS),
                entry(index + 1, "asr_top1_cosine", hits[1], SEEDS * TOKENS),
            ]  # fmt: skip
        return record(rows, documents, data=data)


def entry(row: int, figure: str, sums: Any, count: float, ids: Any = None) -> dict[str, Any]:
    """One figure's sums by document."""
    return {
        "row": row, "figure": figure, "ids": list(range(len(sums)) if ids is None else ids),
        "sums": [float(one) for one in sums], "counts": [float(count)] * len(sums),
    }  # fmt: skip


def record(
    rows: Sequence[dict[str, Any]], documents: Sequence[dict[str, Any]] = (), *, kind: str = "experiment", **parts: Any
) -> RunRecord:
    """A record of these rows."""
    given = {"config": {}, "seed": 0, "data": DATA, "provenance": ORIGIN} | parts
    return new_record(kind, rows=rows, documents=documents, **given)


def compared(base: RunRecord, new: RunRecord, **options: Any) -> Differences:
    """The comparison with few draws, so that a test takes seconds."""
    return differences(base, new, **{"flips": 499, "resamples": 100, **options})


def of(found: Differences, figure: str, row: str | None = None) -> Change:
    """The one change of a figure."""
    (one,) = [one for one in found.changes if one.figure == figure and row in (None, one.row)]
    return one


@pytest.mark.parametrize("same", [True, False])
def test_runs_that_differ_in_coins_alone_are_silent(*, same: bool) -> None:
    """If this failed, a rerun would raise an alarm more often than in 5 % of trials (false alarm of this test: 0.1 %).

    Where the documents are the same, their effects are shared and coins differ; else each run has its own documents.
    """
    trials, alarms = 400, 0
    for trial in range(trials):
        rng = np.random.default_rng([7, same, trial])
        world = World(rng, 2)
        other = world if same else World(rng, 2)
        found = compared(world.run(rng), other.run(rng, data=DATA if same else OTHER), seed=trial)
        assert len(found.tested) == 9
        alarms += any(one.significant for one in found.changes)
    assert alarms <= binom.ppf(0.999, trials, 0.05)


def test_a_planted_loss_and_a_planted_leak_are_found() -> None:
    """If this failed, 5 % more perplexity or 25 % read in place of 20 % would go unseen among 17 tests.

    On 2,016 tokens of 32 documents, with fresh coins in the new run. The count is held to what a power of 95 % gives in
    all but 0.1 % of such tests.
    """
    trials, found_all = 100, 0
    for trial in range(trials):
        rng = np.random.default_rng([8, trial])
        world = World(rng, 4)
        found = compared(world.run(rng), world.run(rng, loss=math.log(1.05), read=0.0625), seed=trial)
        assert len(found.tested) == 17
        seen = {(one.row, one.figure) for one in found.regressions}
        found_all += {("del mu=20", PERPLEXITY), ("del mu=20", "asr_strongest")} <= seen
    assert found_all >= binom.ppf(0.001, trials, 0.95)


def test_a_test_on_the_same_documents_is_that_of_their_sums() -> None:
    """If this failed, equal counts would change the sums, or another number of draws would shift them."""
    rng = np.random.default_rng(0)
    ids, first, second = tuple(range(9)), rng.normal(size=9), rng.normal(size=9) + 1
    counts = np.arange(1.0, 10.0)
    found = paired(Sums(ids, first, counts), Sums(ids, second, counts), np.random.default_rng(1), resamples=100)
    assert found.p == sign_flip_p(second - first, np.random.default_rng(2))  # 2^9 signs are all tried
    assert found.value == pytest.approx((second - first).sum() / counts.sum())
    thrice = paired(
        Sums(ids, first, counts), Sums(ids, 3 * second, 3 * counts), np.random.default_rng(1), resamples=100
    )
    assert (thrice.p, thrice.value) == (found.p, pytest.approx(found.value))
    assert thrice.interval.low == pytest.approx(found.interval.low)
    with pytest.raises(ValueError, match="same documents"):
        paired(Sums(ids, first, counts), Sums(ids[::-1], first, counts), rng)


def studentised(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    """Naive: the difference of two ratios of (C, 2) columns over its linearised standard error."""
    ratios, variance = [], 0.0
    for sums, counts in (first.T, second.T):
        ratio = sums.sum() / counts.sum()
        residuals = sums - ratio * counts
        variance += (residuals**2).sum() / counts.sum() ** 2 * len(sums) / (len(sums) - 1)
        ratios.append(ratio)
    return abs(ratios[1] - ratios[0]) / math.sqrt(variance)


def test_the_permutation_test_agrees_with_every_permutation() -> None:
    """If this failed, the statistic or the count of extremes would be wrong; the oracle tries all 126 splits."""
    rng = np.random.default_rng(3)
    counts = rng.integers(20, 60, 9).astype(float)
    columns = np.stack([counts * rng.normal(1.0, 0.3, 9) + 20 * (np.arange(9) >= 4), counts], axis=1) / counts.mean()
    columns[:4] /= columns[:4, 1].mean()
    columns[4:] /= columns[4:, 1].mean()
    observed = studentised(columns[:4], columns[4:])
    splits = [np.isin(np.arange(9), chosen) for chosen in itertools.combinations(range(9), 4)]
    exact = np.mean([studentised(columns[one], columns[~one]) >= observed * (1 - 1e-9) for one in splits])
    found = two_sample(tuple(columns[:4].T), tuple(columns[4:].T), rng, permutations=FLIPS)
    assert found.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / FLIPS) + 1e-4)
    assert found.least == 1 / len(splits)
    assert found.interval.n == 9
    assert found.value == pytest.approx(np.subtract(*(one[:, 0].sum() / one[:, 1].sum()
                                                      for one in (columns[4:], columns[:4]))))  # fmt: skip


def test_two_samples_without_any_difference_give_one() -> None:
    """If this failed, runs where nothing was read at all would divide nought by nought, or be called different."""
    rng = np.random.default_rng(0)
    counts = np.arange(5.0, 13.0)
    for share in (0.0, 0.3, 1.0):
        assert two_sample((share * counts, counts), (share * counts[:5], counts[:5]), rng, permutations=99).p == 1
    apart = two_sample((0 * counts, counts), (counts, counts), rng, permutations=999)
    assert apart.p < 0.01
    assert (apart.interval.low, apart.interval.high) == (1, 1)


@pytest.mark.parametrize("sums", [([1.0], [1.0]), ([1.0, math.nan], [1.0, 1.0]), ([1.0, 0.0], [1.0, 0.0])])
def test_malformed_samples_are_refused(sums: tuple[list[float], list[float]]) -> None:
    """If this failed, a p-value would be made of nothing."""
    good = ([1.0, 2.0], [3.0, 4.0])
    with pytest.raises(ValueError, match="two documents or more"):
        two_sample(good, sums, np.random.default_rng(0))


def test_rows_are_matched_by_what_was_set() -> None:
    """If this failed, seeds, coins, derived texts or new columns would leave rows without a fellow."""
    rows = [
        {"defence": "identity"}, {"defence": "del", "n": 4, "mu": 20.0, "a_over_c": 4.5, "seed": 0, "coins": "PCG64"},
        {"defence": "del", "n": 4, "mu": 60.0}, {"defence": "laplace", "settings": "on=embedding epsilon=5"},
        {"defence": "gone", "n": 2},
    ]  # fmt: skip
    others = [
        {"defence": "laplace", "settings": "on=embedding epsilon=5", "claim": "5-DP", "prompt_tokens": 24},
        {"defence": "del", "n": 4, "mu": 60.0, "d": 128, "vacuous": True},
        {"defence": "del", "n": 4, "mu": 20.0 * (1 + 1e-12), "a_over_c": 4.5000001, "seed": 1, "coins": "AES"},
        {"defence": "identity", "model": "another"}, {"defence": "laplace", "settings": "epsilon=5"},
    ]  # fmt: skip
    found = match(record(rows), record(others))
    assert [(pair.base, pair.new) for pair in found.pairs] == [(0, 3), (1, 2), (2, 1), (3, 0)]
    assert (found.only_base, found.only_new) == (("gone n=2",), ("laplace epsilon=5",))
    assert found.ignored == ("d", "model")


def test_a_column_that_both_know_tells_rows_apart() -> None:
    """If this failed, a row with a soft prompt would be compared with one without, or two rows would share a name."""
    rows = [{"defence": "del", "mu": 20.0, "prompt_name": name} for name in (None, "first", "second")]
    found = match(record(rows), record(rows[::-1]))
    assert [(pair.base, pair.new) for pair in found.pairs] == [(0, 2), (1, 1), (2, 0)]
    assert len({pair.name for pair in found.pairs}) == 3
    assert "prompt_name=second" in found.pairs[2].name


def test_what_was_solved_for_does_not_tell_rows_apart() -> None:
    """If this failed, no row of a comparison or a calibration would ever have a fellow: their mu is a result."""
    for row in (
        {"contender": "del d128", "mode": "asr", "level": 0.1, "parameter": "mu"},
        {"calibrated_with": "strongest", "target_asr": 0.02, "n": 4},
    ):
        base, new = ({"defence": "del", **row, "mu": mu, "parameter_value": mu, "settings": f"mu={mu}",
                      "epsilon_exact_token": 14 * mu} for mu in (20.0, 21.0))  # fmt: skip
        found = compared(record([base]), record([new]))
        assert not found.only_base
        assert of(found, "mu").kind == of(found, "epsilon_exact_token").kind == "told"  # it depends on coins
        assert not found.regressions


def test_rows_that_are_alike_are_paired_in_order() -> None:
    """If this failed, the second of two equal rows would be lost, or both compared with the first."""
    rows = [{"defence": "del", "mu": 20.0}] * 2
    found = match(record(rows), record([*rows, *rows[:1]]))
    assert [(pair.base, pair.new) for pair in found.pairs] == [(0, 0), (1, 1)]
    assert [pair.name for pair in found.pairs] == ["del mu=20", "del mu=20 (row=2)"]
    assert found.only_new == ("del mu=20 (row=3)",)


def test_exact_figures_need_no_test() -> None:
    """If this failed, a larger epsilon would pass, a smaller one would not be told, or rounding would be an alarm."""
    base = {"defence": "del", "epsilon_exact_token": 10.0, "epsilon_gdp_token": 5.0, "epsilon_pure_token": 7.0,
            "epsilon_exact_prompt": math.inf, "bytes_up_per_token": 65.5}  # fmt: skip
    new = base | {"epsilon_exact_token": 10.0001, "epsilon_gdp_token": 5.0 * (1 + 1e-12), "epsilon_pure_token": 6.0,
                  "bytes_up_per_token": 70.0}  # fmt: skip
    found = compared(record([base]), record([new]))
    assert [one.figure for one in found.regressions] == ["epsilon_exact_token", "bytes_up_per_token"]
    assert [one.figure for one in found.improvements] == ["epsilon_pure_token"]
    assert of(found, "epsilon_exact_prompt").base == math.inf
    assert {one.p for one in found.changes} == {None}
    assert "2 exact figures got worse. 1 exact figure got better." in found.sentence
    unbounded = compared(record([base]), record([base | {"epsilon_exact_token": math.inf}]))
    assert [one.figure for one in unbounded.regressions] == ["epsilon_exact_token"]


def test_what_depends_on_chance_is_not_called_exact() -> None:
    """If this failed, two runs of other seeds would differ in ceilings and bytes, which rest on drawn text."""
    base = {"defence": "del", "kappa": 0.06, "ceiling_exact": 0.9, "bytes_up_per_token": 65.5}
    other = base | {"ceiling_exact": 0.95, "bytes_up_per_token": 66.0}
    assert len(compared(record([base]), record([other])).regressions) == 2
    found = compared(record([base]), record([other | {"kappa": 0.07}], seed=1))
    assert not found.regressions
    assert "blind guess" in of(found, "ceiling_exact").method
    assert "coins" in of(found, "bytes_up_per_token").method
    elsewhere = compared(record([base]), record([other], data=OTHER))
    assert [one.figure for one in elsewhere.regressions] == ["ceiling_exact"]


@pytest.mark.parametrize(
    ("before", "after", "direction"),
    [
        ("CONSISTENT", "REFUTED", "worse"), ("INCONCLUSIVE", "REFUTED", "worse"), ("REFUTED", "CONSISTENT", "better"),
        ("REFUTED", "REFUTED", "none"), ("CONSISTENT", "INCONCLUSIVE", "none"),
    ],
)  # fmt: skip
def test_a_verdict_that_became_refuted_is_a_regression(before: str, after: str, direction: str) -> None:
    """If this failed, a claim that fell would pass, or a bound that moved alone would raise an alarm."""
    base, new = ({"claim": "noise", "defence": "laplace", "verdict": verdict, "epsilon_lower": bound}
                 for verdict, bound in ((before, 1.0), (after, 1.5)))  # fmt: skip
    found = compared(record([base], kind="audit"), record([new], kind="audit"))
    told = of(found, "verdict")
    assert (told.base, told.new, told.kind, told.direction) == (before, after, "verdict", direction)
    assert told.significant is (direction != "none")
    bound = of(found, "epsilon_lower")
    assert (bound.base, bound.new, bound.kind, bound.significant) == (1.0, 1.5, "told", False)
    assert len(found.regressions) == (direction == "worse")


def test_claims_are_matched_by_name_and_parameters() -> None:
    """If this failed, one claim's verdict would be compared with another's."""
    rows = [{"claim": name, "defence": "laplace", "verdict": "CONSISTENT", "parameter_scale": scale}
            for name, scale in (("a", 1.0), ("b", 1.0))]  # fmt: skip
    moved = [rows[1] | {"claim_text": "said otherwise"}, rows[0] | {"parameter_scale": 2.0}]
    found = compared(record(rows, kind="check"), record(moved, kind="check"))
    assert [one.row for one in found.changes if one.kind == "verdict"] == ["b"]
    assert (found.only_base, found.only_new) == (("a",), ("a",))


def test_other_documents_are_two_samples() -> None:
    """If this failed, documents of different texts that share a number would be paired."""
    rng = np.random.default_rng(1)
    world = World(rng, 1)
    base = world.run(rng)
    same, other = compared(base, world.run(rng)), compared(base, world.run(rng, data=OTHER))
    assert all("sign-flip" in one.method and one.n == DOCUMENTS for one in same.tested)
    assert all("two samples" in one.method and one.n == 2 * DOCUMENTS for one in other.tested)
    assert any("two samples" in one and "letters" in one for one in other.warnings)
    nameless = compared(world.run(rng, data=()), world.run(rng, data=()))
    assert all("two samples" in one.method for one in nameless.tested)
    assert any("none named" in one for one in nameless.warnings)
    public = compared(base, world.run(rng, data=[DATA[0], OTHER[0]]))  # the adversary's text is another
    assert all("sign-flip" in one.method for one in public.tested)
    assert any(one.startswith("data:") for one in public.warnings)


def test_losses_are_taken_less_the_clean_models_own() -> None:
    """If this failed, harder documents would look like a costlier defence."""
    rng = np.random.default_rng(2)
    base = World(rng, 1).run(rng)
    harder = World(np.random.default_rng(2), 1)
    harder.clean = harder.clean + 1.0
    found = compared(base, harder.run(rng, data=OTHER))
    assert of(found, PERPLEXITY, "del mu=20").change == pytest.approx(1.0, abs=0.05)
    assert of(found, "perplexity", "identity").change == pytest.approx(math.e)
    alone = [one for one in base.documents if one["row"] == 1]
    bare = record(base.rows, alone)
    told = of(compared(bare, bare), PERPLEXITY, "del mu=20")
    assert "of the perplexities themselves" in told.method
    assert (told.p, told.direction, told.change) == (1.0, "none", 1.0)


def test_only_documents_of_both_runs_are_paired() -> None:
    """If this failed, a document would be compared with another, or those left out would not be told."""
    row = {"defence": "del", "agreement_top1": 0.5}
    base = record([row], [entry(0, "agreement_top1", range(6), 9, ids=["a", "b", "c", "d", "e", "f"])])
    new = record([row], [entry(0, "agreement_top1", [3, 2, 1, 9], 9, ids=["d", "c", "b", "new"])])
    told = of(compared(base, new), "agreement_top1")
    assert (told.n, told.p, told.change) == (3, 1.0, 0.0)
    assert "4 documents are in one run only" in told.method
    strangers = record([row], [entry(0, "agreement_top1", [3, 2], 9, ids=["x", "y"])])
    assert "two samples" in of(compared(base, strangers), "agreement_top1").method


def test_the_family_is_small_and_the_rest_is_told() -> None:
    """If this failed, power would go to attacks that nobody judges by, or figures would vanish."""
    figures = [PERPLEXITY, "perplexity", "agreement_top1", "coherence", "asr_strongest", "asr_top1_cosine",
               "asr_top1_map", "asr_top1_prior", "client_s_per_token"]  # fmt: skip
    values = dict.fromkeys(figures, 0.5) | {
        "coherence_low": 0.4,
        "coherence_high": 0.6,
        "windows": 48,
        "gamma": 0.1,
    }
    rows = [
        {"defence": name, "strongest_attack": best, **values}
        for name, best in (("del", "map"), ("laplace", "cosine"), ("words", "prior"), ("projection-only", "map"))
    ]
    by_document = [entry(index, name, np.arange(20.0), 30) for index in range(4)
                   for name in (PERPLEXITY, "agreement_top1", "asr_strongest", *figures[5:8])]  # fmt: skip
    found = compared(one := record(rows, by_document), one)
    family = {
        name: {one.figure for one in found.tested if one.row == name} for name in {one.row for one in found.tested}
    }
    utility = {PERPLEXITY, "agreement_top1"}
    assert family == {
        "del": {*utility, "asr_strongest", "asr_top1_cosine"}, "laplace": {*utility, "asr_strongest"},
        "words": {*utility, "asr_top1_cosine"}, "projection-only": utility,
    }  # fmt: skip
    told = {one.figure: one for one in found.changes if one.row == "del" and one.kind == "told"}
    assert set(told) == {*figures, "gamma"} - family["del"]
    assert all(one.method.startswith("not tested: ") for one in told.values())
    assert told["coherence"].base_ends == (0.4, 0.6)
    assert {one.direction for one in found.changes} == {"none"}


def test_a_figure_that_one_run_lacks_is_told() -> None:
    """If this failed, a crash of an attack, a NaN or a broken sum would pass for "no change"."""
    row = {"defence": "del", "agreement_top1": 0.5, "coherence": 0.4, PERPLEXITY: 2.0, "epsilon_exact_token": 3.0}
    documents = [entry(0, "agreement_top1", range(9), 9), entry(0, PERPLEXITY, range(9), 9)]
    base = record([row], documents, figures=[Figure("clean", 2.0, None, None, None, None, "sum")])
    worse = {"defence": "del", "agreement_top1": math.nan, "coherence": None, PERPLEXITY: 2.0}
    broken = [documents[0], documents[1] | {"sums": [None] * 9}]
    found = compared(base, record([worse], broken))
    assert not found.tested
    methods = {one.figure: one.method for one in found.changes}
    assert methods == {
        "agreement_top1": "not compared: not a number in the new run",
        "coherence": "not compared: not measured in the new run",
        PERPLEXITY: "not tested: sums that are no numbers in the new run",
        "epsilon_exact_token": "not compared: not measured in the new run",
        "clean": "not compared: not measured in the new run",
    }
    assert of(found, "clean").row == WHOLE
    assert "No figure could be tested" in found.sentence


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ids": [0, 0, 2]}, "names of their own"), ({"ids": [[0], 1, 2]}, "names of their own"),
        ({"counts": [0, 9, 9]}, "without counts"), ({"sums": [1, "two", 3]}, "no numbers"),
        ({"sums": [1, 10**400, 3]}, "no numbers"), ({"counts": [-9, 9, 9]}, "without counts"),
        ({"ids": [0], "sums": [1], "counts": [9]}, "fewer than two documents"),
    ],
)  # fmt: skip
def test_malformed_sums_are_told(change: dict[str, Any], words: str) -> None:
    """If this failed, a broken record would crash the comparison, or be tested on nonsense."""
    row, sums = {"defence": "del", "agreement_top1": 0.5}, entry(0, "agreement_top1", [1, 2, 3], 9)
    found = compared(record([row], [sums]), record([row], [sums | change]))
    assert not found.tested
    assert words in of(found, "agreement_top1").method


def test_few_documents_cannot_show_anything_and_that_is_said() -> None:
    """If this failed, silence would be taken for "nothing changed" where nothing could have been seen."""
    row = {"defence": "del", "agreement_top1": 0.5}
    base, new = (record([row], [entry(0, "agreement_top1", [hits] * 4, 9)]) for hits in (9, 0))
    found = compared(base, new)
    assert found.tested[0].p == 0.125
    assert not found.regressions
    assert any("few documents" in one for one in found.warnings)


def test_less_agreement_is_worse_and_less_success_is_better() -> None:
    """If this failed, directions would be upside down."""
    row = {"defence": "del", "agreement_top1": 0.5, "asr_strongest": 0.5, PERPLEXITY: 2.0}
    figures = ("agreement_top1", "asr_strongest", PERPLEXITY)
    low, high = (record([row], [entry(0, name, [hits] * 20, 9) for name in figures]) for hits in (3, 6))
    found = compared(low, high)
    assert {one.figure: one.direction for one in found.tested} == {
        "agreement_top1": "better", "asr_strongest": "worse", PERPLEXITY: "worse",
    }  # fmt: skip
    assert of(found, PERPLEXITY).change == pytest.approx(math.exp(1 / 3))
    assert of(found, "asr_strongest").change == pytest.approx(1 / 3)
    assert found.sentence == "2 of 3 tested figures got worse and 1 got better, at a family-wise level of 5 %."
    assert {one.direction for one in compared(high, low).regressions} == {"worse"}


def test_the_same_seed_gives_the_same_answer() -> None:
    """If this failed, a comparison could not be repeated."""
    rng = np.random.default_rng(5)
    base, new = World(rng, 1).run(rng), World(rng, 1).run(rng, data=OTHER)
    assert compared(base, new, seed=3) == compared(base, new, seed=3)


def test_what_else_differs_is_said() -> None:
    """If this failed, a change of model, data, seed or package would be taken for the code's."""
    base = record(
        [], config={"model": "small", "data": {"windows": 48}, "grids": [{"defense": "del"}], "attacks": ["map"]}
    )
    origin = replace(ORIGIN, commit=None, dirty=True, versions={"numpy": "2.1.0", "scipy": "1.13"})
    config = {
        "model": "large",
        "data": {"windows": 96},
        "grids": [{"defense": "laplace"}],
        "attacks": ["map"],
        "x": None,
    }
    new = replace(
        record([], config=config, seed=1, provenance=origin, kind="attack"), remarks=["the run was broken off"]
    )
    told = cautions(base, new)
    for words in (
        "the new run: the run was broken off", "kind: experiment", 'model: "small" in the base run, "large" in the new',
        "configuration data.windows: 48", 'configuration grids.0.defense: "del"', "configuration x: not set",
        "seed: 0", "commit: 0123abcd", "the new run was made with changes", "package numpy: 2.0.0",
        "package scipy: not installed",
    ):  # fmt: skip
        assert sum(one.startswith(words) for one in told) == 1, words
    assert len(told) == 11
    assert cautions(base, base) == []
    assert flat({"a": {"b": [1, 2], "c": {}}, "d": [{"e": 1}]}) == {"a.b": "[1, 2]", "a.c": "{}", "d.0.e": "1"}


def test_texts_of_rows_that_differ_are_said() -> None:
    """If this failed, another strongest attack, or one that could not run, would go unnoticed."""
    base = {"defence": "del", "strongest_attack": "map", "vacuous": False}
    new = {"defence": "del", "strongest_attack": "hmm", "vacuous": True, "unavailable_lm": "no model"}
    told = compared(record([base]), record([new])).warnings
    assert "del: strongest attack: map in the base run, hmm in the new run" in told
    assert "del: vacuous: no in the base run, yes in the new run" in told
    assert "del: unavailable lm: none in the base run, no model in the new run" in told


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, math.nan])
def test_a_level_is_a_probability(level: float) -> None:
    """If this failed, everything or nothing would be significant."""
    with pytest.raises(ValueError, match="level"):
        differences(record([]), record([]), level=level)


def test_real_records_are_compared(tiny_experiment: dict[str, Any], tmp_path: Path) -> None:
    """If this failed, what an experiment writes would not be what is compared: no row, no sums, or the wrong ones."""
    small = {**tiny_experiment, "wire_prompts": 0, "attack_seeds": 1, "attacks": ["prior", "cosine", "map"]}
    base, other = (
        run_experiment(parse_experiment({**small, "seed": seed}), tmp_path / str(seed)) for seed in (0, 1)
    )  # fmt: skip
    same = compared(base, base)
    assert not same.only_base
    assert {one.p for one in same.tested} == {1.0}
    assert {one.figure for one in same.tested if one.row.startswith("del")} >= {
        PERPLEXITY, "agreement_top1", "asr_strongest",
    }  # fmt: skip
    assert not any("no sums by document" in one.method for one in same.changes if one.figure == PERPLEXITY)
    assert not any(one.significant for one in same.changes)
    found = compared(base, other)
    rows = [{one.row for one in some.tested if one.figure == PERPLEXITY} for some in (same, found)]
    assert len(rows[0]) == 3  # no figure of the undefended model over itself
    assert rows[0] == rows[1]
    assert all("two samples" in one.method for one in found.tested)
    assert not [one for one in found.regressions if one.kind == "exact"]
