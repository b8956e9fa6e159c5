"""Figures of token recovery and their intervals, against slow oracles. Coverage: test_recovery_coverage.py."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from attacks.base import Guess
from audit import measures
from audit.multiplicity import holm_adjusted, sign_flip_p
from audit.recovery import (
    Prompts,
    bag_overlap,
    common_subsequence,
    compare,
    recover,
    rouge_l,
    share,
)
from audit.token_kinds import Kinds
from defenses.randomness import seeded_rng

V = 30
WORDS = np.array([f"w{i}" for i in range(V)])


def decode(tokens: np.ndarray) -> str:
    """Token ids as words."""
    return " ".join(WORDS[tokens])


def victims(rng: np.random.Generator, documents: int = 20, length: int = 12, **settings: Any) -> Prompts:
    """Prompts of documents of one to three, with random tokens."""
    clusters = np.repeat(np.arange(documents) * 7, rng.integers(1, 4, documents))
    return Prompts(rng.integers(0, V, (len(clusters), length)), clusters, **settings)


def reader(rng: np.random.Generator, prompts: Prompts, success: float, k: int = 10) -> Guess:
    """An attack that ranks the secret first with this probability, and anywhere or nowhere otherwise."""
    orders = np.argsort(rng.random((*prompts.secrets.shape, V)), axis=-1)
    placed = np.where(orders == prompts.secrets[..., None], orders[..., :1], orders)
    placed[..., 0] = prompts.secrets
    seen = rng.random(prompts.secrets.shape) < success
    candidates = np.where(seen[..., None], placed, orders)[..., :k]
    return Guess(candidates, np.broadcast_to(-np.arange(k, dtype=np.float32), candidates.shape))


def ends(row: dict[str, Any], name: str) -> tuple[float, float, float]:
    """A figure with its interval."""
    return row[name], row[f"{name}_low"], row[f"{name}_high"]


def median_by_sorting(values: np.ndarray) -> int:
    """The lower median."""
    return int(np.sort(values, axis=None)[(values.size - 1) // 2])


def slow_ranks(guesses: list[Guess], prompts: Prompts) -> np.ndarray:
    """Slow oracle: the place of each secret in each list of candidates, k + 1 where it is not there, (S, N, T)."""
    ranks = np.zeros((len(guesses), *prompts.secrets.shape), dtype=int)
    for place in np.ndindex(*ranks.shape):
        candidates = guesses[place[0]].candidates[place[1:]].tolist()
        secret = int(prompts.secrets[place[1:]])
        ranks[place] = candidates.index(secret) + 1 if secret in candidates else len(candidates) + 1
    return ranks


def slow_bag(guess: list[int], secret: list[int]) -> int:
    """Slow oracle: what is found by crossing out one token of the secret for each guess."""
    left, common = list(secret), 0
    for token in guess:
        if token in left:
            left.remove(token)
            common += 1
    return common


def test_shares_match_a_slow_count() -> None:
    """Success rates, kinds, whole prompts, bags and the median rank are those of loops over every position."""
    rng = np.random.default_rng(1)
    plain = victims(rng, length=3)
    masks = rng.random((3, *plain.secrets.shape)) < 0.4
    prompts = Prompts(plain.secrets, plain.clusters, decode, Kinds(masks[0], masks[1], masks[2]))
    guesses = [reader(rng, prompts, 0.5) for _ in range(3)]
    prior = [reader(rng, prompts, 0.1) for _ in range(3)]
    row = recover("map", guesses, prompts, prior)
    ranks = slow_ranks(guesses, prompts)
    bags = [
        slow_bag(one.tolist(), two.tolist())
        for g in guesses
        for one, two in zip(g.candidates[..., 0], plain.secrets, strict=True)
    ]
    expected = {
        "asr_top1_map": np.mean(ranks == 1),
        "asr_top10_map": np.mean(ranks <= 10),
        "exact_map": np.mean((ranks == 1).all(axis=2)),
        "bag_precision_map": np.mean(bags) / 3,
        "bag_recall_map": np.mean(bags) / 3,
        "rank_median_map": median_by_sorting(ranks),
        "rank_kept_map": 10,
        "advantage_map": np.mean(ranks == 1) - np.mean(slow_ranks(prior, prompts) == 1),
    }
    for kind, mask in zip(("content", "numbers", "names"), masks, strict=True):
        expected[f"asr_{kind}_map"] = np.mean(ranks[:, mask] == 1)
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert row["names_are"] == "capitalised words"


def test_intervals_hold_their_figures() -> None:
    """Every figure of an attack that reads half lies strictly inside its interval."""
    rng = np.random.default_rng(20)
    prompts = victims(rng, length=3, decode=decode)
    row = recover("map", [reader(rng, prompts, 0.5) for _ in range(3)], prompts, [reader(rng, prompts, 0.1)] * 3)
    inside = [name for name in row if f"{name}_low" in row and name != "rank_median_map"]
    assert len(inside) == 8
    for name in inside:
        value, low, high = ends(row, name)
        assert low < value < high, name


def test_one_seed_gives_the_columns_of_a_run() -> None:
    """With a single seed, top-1 and top-10 are to the digit what `measures.share` makes of the same hits."""
    prompts = victims(np.random.default_rng(2), seed=5)
    guess = reader(np.random.default_rng(3), prompts, 0.3)
    row = recover("replay", [guess], prompts)
    for k in (1, 10):
        columns = measures.share(f"asr_top{k}_replay", guess.hits(prompts.secrets, k), prompts.clusters, 5)
        assert {name: row[name] for name in columns} == columns


def test_seeds_of_one_document_are_not_independent_documents() -> None:
    """Three copies of the same guesses give the interval of one: documents are resampled, not seeds."""
    rng = np.random.default_rng(4)
    prompts = victims(rng)
    guess, prior = reader(rng, prompts, 0.4), reader(rng, prompts, 0.1)
    one, three = recover("map", [guess], prompts, [prior]), recover("map", [guess] * 3, prompts, [prior] * 3)
    assert three == pytest.approx(one)


def test_rank_interval_is_that_of_resampled_medians() -> None:
    """Each end of the median's interval is a quantile of medians of documents that a slow loop draws."""
    rng = np.random.default_rng(5)
    documents, length = 15, 8
    secrets, clusters = rng.integers(0, V, (2 * documents, length)), np.repeat(np.arange(documents), 2)
    prompts = Prompts(secrets, clusters, resamples=4000)
    hard = np.repeat(rng.random(documents) < 0.4, 2)
    easy_guess, hard_guess = reader(rng, prompts, 0.75), reader(rng, prompts, 0.0, 10)
    guess = Guess(np.where(hard[:, None, None], hard_guess.candidates, easy_guess.candidates), easy_guess.scores)
    row = recover("map", [guess], prompts)
    ranks = guess.ranks(secrets).reshape(documents, -1)
    drawn = [median_by_sorting(ranks[rng.integers(0, documents, documents)]) for _ in range(4000)]
    value, low, high = row["rank_median_map"], row["rank_median_map_low"], row["rank_median_map_high"]
    assert value == median_by_sorting(ranks)
    # The levels of the expanded percentile interval for 15 documents are about 0.013 and 0.987.
    assert np.quantile(drawn, 0.008) <= low <= np.quantile(drawn, 0.02)
    assert (11 if high is None else high) <= np.quantile(drawn, 0.995)
    assert (11 if high is None else high) >= np.quantile(drawn, 0.975)
    assert low < (high or 11)


def test_a_median_beyond_the_candidates_is_no_number() -> None:
    """Where most secrets are not among the k kept the median is None, and k stands beside it."""
    rng = np.random.default_rng(6)
    prompts = victims(rng)
    row = recover("map", [reader(rng, prompts, 0.02, 4)], prompts)
    assert row["rank_median_map"] is None
    assert row["rank_median_map_high"] is None
    assert row["rank_kept_map"] == 4
    sure = recover("map", [reader(rng, prompts, 0.95, 4)], prompts)
    assert ends(sure, "rank_median_map") == (1, 1, 1)


def test_never_and_always_have_honest_intervals() -> None:
    """No success in C documents leaves the exact limit 1 - 0.025^(1/C), not an interval of no width; all likewise."""
    rng = np.random.default_rng(7)
    prompts = victims(rng, documents=20)
    none, every = np.zeros((2, len(prompts.secrets))), np.full((2, len(prompts.secrets)), 12)
    limit = 1 - 0.025 ** (1 / 20)
    assert ends(share("x", none, 12, prompts), "x") == pytest.approx((0, 0, limit))
    assert ends(share("x", every, 12, prompts), "x") == pytest.approx((1, 1 - limit, 1))


def test_what_is_not_there_is_none() -> None:
    """A kind without positions has no figure, one document has no interval, and no column is not a number."""
    rng = np.random.default_rng(8)
    secrets = rng.integers(0, V, (3, 5))
    nowhere, first = np.zeros((3, 5), dtype=np.bool_), np.zeros((3, 5), dtype=np.bool_)
    first[0] = True
    prompts = Prompts(secrets, np.arange(3), kinds=Kinds(first, nowhere, nowhere, "entity spans"))
    row = recover("map", [reader(rng, prompts, 0.5)], prompts)
    assert ends(row, "asr_numbers_map") == (None, None, None)
    assert row["asr_content_map"] is not None
    assert row["asr_content_map_low"] is None
    assert row["names_are"] == "entity spans"
    alone = recover("map", [reader(rng, prompts, 0.5)], Prompts(secrets, np.zeros(3, dtype=np.int64)))
    assert alone["asr_top1_map_low"] is None
    assert not any(isinstance(value, float) and math.isnan(value) for value in [*row.values(), *alone.values()])


def test_a_text_that_ends_early_is_judged_by_what_it_says() -> None:
    """Positions without a guess count against recall and not against precision, and are left out of the text."""
    rng = np.random.default_rng(9)
    prompts = victims(rng, decode=decode)
    guess = reader(rng, prompts, 1.0)
    guess.candidates[:, 6:] = -1
    row = recover("map", [guess], prompts)
    assert ends(row, "bag_precision_map")[0] == 1
    assert ends(row, "bag_recall_map")[0] == 0.5
    assert row["rouge_l_map"] == pytest.approx(2 * 6 / (6 + 12))
    assert row["exact_map"] == 0


def test_bags_match_a_slow_search() -> None:
    """The overlap is what crossing out finds, for texts of any two lengths."""
    rng = np.random.default_rng(10)
    for _ in range(200):
        guess, secret = (rng.integers(0, 6, rng.integers(0, 9)).tolist() for _ in range(2))
        assert bag_overlap(guess, secret) == slow_bag(guess, secret)


def longest_by_table(first: list[str], second: list[str]) -> int:
    """Slow oracle: the table of Wagner and Fischer."""
    table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1, j + 1] = table[i, j] + 1 if one == other else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


def test_common_subsequences_match_the_table() -> None:
    """The bit-parallel length equals dynamic programming, for texts of up to 90 words and for empty ones."""
    rng = np.random.default_rng(11)
    for longest in (0, 1, 5, 90):
        for _ in range(40):
            first, second = (WORDS[rng.integers(0, 7, rng.integers(0, longest + 1))].tolist() for _ in range(2))
            assert common_subsequence(first, second) == longest_by_table(first, second)


def test_rouge_of_known_texts() -> None:
    """Lin's example sentences, case and punctuation, and texts without words."""
    reference = "police killed the gunman"
    assert rouge_l("Police kill the gunman!", reference) == pytest.approx(0.75)
    assert rouge_l("the gunman kill police", reference) == pytest.approx(0.5)
    assert rouge_l("POLICE, killed: the (gunman)", reference) == 1
    assert rouge_l("", reference) == rouge_l("...", "...") == 0


def bleu_by_hand(guess: list[str], secret: list[str]) -> float:
    """Slow oracle: the geometric mean of clipped n-gram precisions, n = 1 to 4, for texts of one length."""
    logs = 0.0
    for n in range(1, 5):
        mine, theirs = ([tuple(text[i : i + n]) for i in range(len(text) - n + 1)] for text in (guess, secret))
        logs += math.log(sum(min(mine.count(gram), theirs.count(gram)) for gram in set(mine)) / len(mine))
    return math.exp(logs / 4)


def test_text_figures_are_means_over_prompts() -> None:
    """BLEU is the mean of sentence BLEU from 0 to 1 and ROUGE-L the mean F-measure; perfect texts have 1."""
    rng = np.random.default_rng(12)
    prompts = victims(rng, documents=12, length=20, decode=decode)
    guess = reader(rng, prompts, 1.0)
    guess.candidates[:, 5, 0] = (guess.candidates[:, 5, 0] + 1) % V
    row = recover("map", [guess], prompts)
    pairs = [
        (decode(one).split(), decode(two).split())
        for one, two in zip(guess.candidates[..., 0], prompts.secrets, strict=True)
    ]
    assert row["bleu_map"] == pytest.approx(np.mean([bleu_by_hand(*pair) for pair in pairs]))
    assert row["rouge_l_map"] == pytest.approx(np.mean([longest_by_table(*pair) / 20 for pair in pairs]))
    perfect = recover("map", [reader(rng, prompts, 1.0)], prompts)
    assert perfect["bleu_map"] == perfect["rouge_l_map"] == 1
    assert perfect["bleu_map_low"] < 1


def test_posteriors_are_held_against_what_happened() -> None:
    """A calibrated attack's gap covers 0, a boastful one's is what it boasts too much; scores alone give no column."""
    rng = np.random.default_rng(13)
    prompts = victims(rng, documents=40)
    chance = rng.beta(2, 2, prompts.secrets.shape).astype(np.float32)
    seen = rng.random(chance.shape) < chance
    candidates = np.stack([np.where(seen, prompts.secrets, V), np.full(seen.shape, V + 1)], axis=-1)
    honest = Guess(candidates, np.log(np.stack([chance, 1 - chance], axis=-1)), is_posterior=True)
    row = recover("map", [honest], prompts)
    assert row["posterior_mean_map"] == pytest.approx(chance.mean(), abs=1e-6)
    value, low, high = ends(row, "posterior_gap_map")
    assert value == pytest.approx(chance.mean() - seen.mean(), abs=1e-6)
    assert low < 0 < high
    boast = Guess(candidates, np.log(np.full((*seen.shape, 2), 0.9, dtype=np.float32)), is_posterior=True)
    assert ends(recover("map", [boast], prompts), "posterior_gap_map")[1] > 0.2
    assert "posterior_mean_map" not in recover("map", [Guess(candidates, honest.scores)], prompts)


def test_attacks_are_compared_as_a_family() -> None:
    """Every attack but the reference has a paired difference, its sign-flip p-value, and Holm's of the family."""
    rng = np.random.default_rng(14)
    prompts = victims(rng, documents=25, seed=3)
    made = {name: [reader(rng, prompts, p) for _ in range(2)] for name, p in (("cosine", 0.3), ("map", 0.6))}
    made["same"] = made["cosine"]
    made["near"] = [reader(rng, prompts, 0.32) for _ in range(2)]
    row = compare("cosine", made, prompts)
    assert len(row) == 3 * 5
    name = "gain_map_over_cosine"
    rates = {label: np.mean([guess.hits(prompts.secrets) for guess in of]) for label, of in made.items()}
    value, low, high = ends(row, name)
    assert value == pytest.approx(rates["map"] - rates["cosine"])
    assert 0 < low < value < high
    sums = np.zeros(25)
    for guess, reference in zip(made["map"], made["cosine"], strict=True):
        gain = guess.hits(prompts.secrets).sum(axis=1) - reference.hits(prompts.secrets).sum(axis=1)
        np.add.at(sums, prompts.clusters // 7, gain)
    assert row[f"{name}_p"] == sign_flip_p(sums, seeded_rng(3, "sign-flip", name)) == 1e-4
    assert ends(row, "gain_same_over_cosine") == (0, 0, 0)
    assert row["gain_same_over_cosine_p"] == 1
    p_values = {key.removesuffix("_p"): p for key, p in row.items() if key.endswith("_p")}
    assert {key.removesuffix("_p_holm"): p for key, p in row.items() if key.endswith("_holm")} == pytest.approx(
        holm_adjusted(p_values)
    )


def test_a_small_true_advantage_is_seen() -> None:
    """An attack that reads 10 % of the tokens has an advantage interval above 0."""
    rng = np.random.default_rng(18)
    prompts = victims(rng, documents=30, length=16)
    guess, blind = reader(rng, prompts, 0.1), reader(rng, prompts, 0.0)
    assert ends(recover("map", [guess] * 2, prompts, [blind] * 2), "advantage_map")[1] > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda p, g: Prompts(p.secrets, p.clusters[:-1]), "clusters"),
        (lambda p, g: Prompts(p.secrets[0], p.clusters), "clusters"),
        (lambda p, g: Prompts(p.secrets, p.clusters, kinds=Kinds(*[np.zeros((2, 2), dtype=np.bool_)] * 3)), "kinds"),
        (lambda p, g: recover("map", [], p), "do not fit"),
        (lambda p, g: recover("map", [Guess(g.candidates[1:], g.scores[1:])], p), "do not fit"),
        (lambda p, g: recover("map", [g, Guess(g.candidates[..., :3], g.scores[..., :3])], p), "do not fit"),
        (lambda p, g: recover("map", [g, g], p, [g]), "same prompts and seeds"),
        (lambda p, g: compare("cosine", {"map": [g]}, p), "reference"),
        (lambda p, g: compare("cosine", {"map": [g], "cosine": [g, g]}, p), "same prompts and seeds"),
    ],
)
def test_what_does_not_fit_is_refused(wrong: Callable[[Prompts, Guess], object], message: str) -> None:
    """Shapes, seeds and labels that do not fit together are ValueErrors."""
    rng = np.random.default_rng(19)
    prompts = victims(rng)
    with pytest.raises(ValueError, match=message):
        wrong(prompts, reader(rng, prompts, 0.5))
