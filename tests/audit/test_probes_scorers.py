"""Every scorer against a naive reading of the same bytes."""

import numpy as np
import pytest
from scipy.stats import binom

from audit.bounds import AnyFamily, BinomialFamily, Scores
from audit.probes import DefenseTarget, Draws, Inputs, corner_assets, repeated_sends, replace_one
from audit.probes.base import Layout
from audit.probes.battery import battery, measure, strongest, swap
from audit.probes.distinguishers import CountRatio, Logistic
from audit.probes.features import cell_bits, equal_cells, equal_requests, feature_matrix, floats, parity, words
from audit.probes.scorers import LikelihoodRatio, structure_scorers
from defenses.base import View
from defenses.baselines.identity import Identity, IdentityConfig
from defenses.pipeline.defense import Del, DelConfig

ONE = Inputs(np.array([[0]]), np.array([[1]]))


def random_draws(count: int = 50, requests: int = 2, width: int = 9, seed: int = 0) -> Draws:
    """Random bytes."""
    bodies = np.random.default_rng(seed).integers(0, 256, (count, requests, width)).astype(np.uint8)
    return Draws(bodies, np.full((count, requests), width), 3)


def bits_of(body: bytes) -> str:
    """Bits as text: the slow reading."""
    return "".join(f"{byte:08b}" for byte in body)


@pytest.mark.parametrize("n", [1, 3, 4])
def test_the_likelihood_ratio_is_that_of_the_binomials(n: int) -> None:
    """Against scipy's binomial mass, coordinate by coordinate, over the tokens that differ alone."""
    defense = Del(DelConfig(n=n, mu=2.0), corner_assets(6))
    inputs = replace_one(np.array([5, 9, 7]), 1, 2, 3)
    inputs = Inputs(
        np.concatenate([inputs.first, inputs.first]), np.concatenate([inputs.second, inputs.second[:, [0, 1, 0]]])
    )
    first, _ = DefenseTarget(defense).sample(inputs, 20, np.random.default_rng(0), "batched")
    scorer = LikelihoodRatio(defense, inputs).fit(first, first)
    assert scorer is not None
    laws = defense.quantizer.probability(defense.table.latents(np.arange(64)))
    naive = []
    for draw in range(20):
        total = 0.0
        for request, position in inputs.cells:
            counts = defense.counts(View(first.body(draw, request), (1, 3)))[0, position]
            for sign, side in ((1, inputs.second), (-1, inputs.first)):
                total += sign * binom.logpmf(counts, 2**n - 1, laws[side[request, position]]).sum()
        naive.append(total)
    np.testing.assert_allclose(scorer.score(first), naive, rtol=1e-9, atol=1e-9)


class Renamed(Del):
    """DEL with a `log_likelihood` of its own, so that the general path is taken."""

    def log_likelihood(self, view: View) -> np.ndarray:
        """DEL's."""
        return super().log_likelihood(view)


def test_the_short_cut_agrees_with_the_whole_likelihood() -> None:
    """Two columns of DEL's law are what `log_likelihood` says of them, to float32."""
    shorter, whole = (kind(DelConfig(n=4, mu=2.0), corner_assets(6)) for kind in (Del, Renamed))
    draws, _ = DefenseTarget(shorter).sample(ONE, 30, np.random.default_rng(0), "batched")
    scores = [LikelihoodRatio(one, ONE).score(draws) for one in (shorter, whole)]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)


def test_a_defence_without_a_likelihood_has_no_such_scorer() -> None:
    """The identity control has none, and bodies of varying length have none either."""
    defense = Identity(IdentityConfig(), corner_assets(4))
    draws, _ = DefenseTarget(defense).sample(ONE, 4, np.random.default_rng(0), "batched")
    assert LikelihoodRatio(defense, ONE).fit(draws, draws) is None
    ragged = Draws.of([[b"a"], [b"bc"]], 1)
    assert LikelihoodRatio(Del(DelConfig(), corner_assets(4)), ONE).fit(ragged, ragged) is None


def test_structure_is_read_as_a_person_would() -> None:
    """Cells, equal bits between tokens, equal bytes between requests and parities, against slow loops over text."""
    draws, layout = random_draws(), Layout(2, 17)
    inputs = Inputs(np.array([[1, 2, 3], [4, 5, 6]]), np.array([[1, 9, 3], [4, 5, 6]]))
    cells, equal = cell_bits(draws, layout), equal_cells(draws, layout, inputs)
    common, odd = equal_requests(draws, inputs), parity(draws)
    assert cells is not None
    assert equal is not None
    assert common is not None
    for s in range(draws.count):
        texts = [bits_of(draws.body(s, m))[16:] for m in range(2)]
        naive = [[text[17 * t : 17 * (t + 1)] for t in range(3)] for text in texts]
        assert ["".join(map(str, row)) for row in cells[s].reshape(6, 17)] == naive[0] + naive[1]
        others = [naive[0][0], naive[0][2], *naive[1]]
        assert equal[s, 0] == max(sum(a == b for a, b in zip(naive[0][1], other, strict=True)) for other in others)
        assert common[s, 0] == sum(a == b for a, b in zip(draws.body(s, 0), draws.body(s, 1), strict=True))
        assert odd[s].tolist() == [bits_of(draws.body(s, m)).count("1") % 2 for m in range(2)]


def test_words_end_where_the_body_ends() -> None:
    """Little-endian words of 4 bytes leave the first byte of nine out, and floats that are none are 0."""
    draws = random_draws(5)
    assert words(draws, 4)[3, 2] == int.from_bytes(draws.body(3, 1)[1:5], "little")
    clear = np.array([[1.5, np.nan, np.inf, -2e20]], dtype="<f4").view(np.uint8).reshape(1, 1, 16)
    assert floats(Draws(clear, np.full((1, 1), 16), 1)).tolist() == [[1.5, 0.0, 0.0, 0.0]]


def test_features_of_one_request_need_no_layout() -> None:
    """The matrix has a row a draw and finite numbers, with a layout and without."""
    draws = random_draws(7)
    inputs = Inputs(np.zeros((2, 3)), np.eye(2, 3))
    for layout in (None, Layout(1, 21), Layout(9, 99)):
        matrix = feature_matrix(draws, inputs, layout)
        assert len(matrix) == 7
        assert np.isfinite(matrix).all()


def test_counts_are_smoothed_ratios() -> None:
    """Against a dictionary: log((n_b + 1/2) / (n_a + 1/2)) summed over the places that hold few values."""
    rng = np.random.default_rng(5)
    first, second = (
        rng.choice([3, 5, 9], p=law, size=(400, 1, 2)).astype(np.uint8) for law in ([0.6, 0.3, 0.1], [0.1, 0.3, 0.6])
    )
    sides = [Draws(side, np.full((400, 1), 2), 1) for side in (first, second)]
    scorer = CountRatio(1).fit(*sides)
    assert scorer is not None
    fresh = np.array([[[3, 9]], [[5, 7]]], dtype=np.uint8)
    naive = [0.0, 0.0]
    for s in range(2):
        for place in range(2):
            seen = [int((side[:, 0, place] == fresh[s, 0, place]).sum()) for side in (first, second)]
            naive[s] += np.log((seen[1] + 0.5) / (seen[0] + 0.5)) if fresh[s, 0, place] != 7 else 0.0
    np.testing.assert_allclose(scorer.score(Draws(fresh, np.full((2, 1), 2), 1)), naive)


def test_whole_bodies_are_told_apart() -> None:
    """Whole bodies as words: two that differ in order alone get different scores."""
    sides = [Draws.of([[body]] * 20 + [[b"zz"]] * 5, 1) for body in (b"ab", b"ba")]
    scorer = CountRatio(0).fit(*sides)
    assert scorer is not None
    scores = scorer.score(Draws.of([[b"ab"], [b"zz"], [b"ba"]], 1))
    assert scores[0] < -2
    assert scores[1] == 0
    assert scores[2] > 2


def test_the_regression_finds_one_leaking_bit_among_many() -> None:
    """64 training draws a side: one bit of 72 is the input; fresh draws are told apart by more than 99 % (AUC)."""
    sides = [random_draws(64, 1, 9, seed) for seed in (1, 2)]
    for value, side in enumerate(sides):
        side.bodies[:, 0, 4] = side.bodies[:, 0, 4] & 0xFB | (4 * value)
    fresh = [random_draws(200, 1, 9, seed) for seed in (3, 4)]
    for value, side in enumerate(fresh):
        side.bodies[:, 0, 4] = side.bodies[:, 0, 4] & 0xFB | (4 * value)
    inputs = Inputs(np.array([[0, 0, 0]]), np.array([[0, 0, 1]]))
    for most, least in ((384, 0.9), (1, 0.999)):
        scorer = Logistic(inputs, None, most=most).fit(*sides)
        assert scorer is not None
        low, high = (scorer.score(side) for side in fresh)
        assert np.mean(high[:, None] > low[None]) >= least


def test_a_constant_body_has_no_scorer() -> None:
    """Where all views are equal nothing applies, and the battery says so."""
    target = DefenseTarget(Del(DelConfig(), corner_assets(4)))
    target.defense = None
    same = Draws.of([[b"same"]] * 32, 1)
    assert strongest(battery(target, ONE, np.random.default_rng(0)), same, same, AnyFamily(0.0), 100) is None


def test_strength_needs_more_than_luck() -> None:
    """Equal laws show at most a third of what a clear difference shows, in each of ten seeds; swapping is exact."""
    family = BinomialFamily(240)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        null, same, other = rng.normal(size=200), rng.normal(size=200), rng.normal(2, 1, 200)
        clear, nothing = (measure(Scores(null, one), family, 1000) for one in (other, same))
        assert nothing.cautious <= nothing.value < clear.value / 3 < 1
        turned = measure(Scores(other, null), family, 1000)
        oriented = turned.orient(Scores(other, null))
        assert np.mean(oriented.alternative) > np.mean(oriented.null)
    back = swap(swap(Scores(null, other)))
    np.testing.assert_array_equal(back.null, null)


def test_roles_follow_the_side_on_which_an_output_is_impossible() -> None:
    """An output that only the first input can give is evidence with the second as the null."""
    rng = np.random.default_rng(0)
    first, second = (rng.random(400) < 0.2).astype(float), np.zeros(400)
    shown = measure(Scores(first, second), AnyFamily(0.0), 1000)
    oriented = shown.orient(Scores(first, second))
    assert shown.value > 1.5
    assert oriented.alternative.mean() > oriented.null.mean()


def test_structure_scorers_skip_what_does_not_vary() -> None:
    """One request of one token has neither cells nor requests to compare, and its length does not vary."""
    draws = random_draws(20, 1)
    named = {one.name: one.fit(draws, draws) for one in structure_scorers(ONE, None)}
    assert [name for name, ready in named.items() if ready is not None] == ["parity of the bits"]


def test_repeated_sends_are_compared() -> None:
    """The bytes that a request shares with an earlier one are a score of their own."""
    inputs = repeated_sends(ONE)
    draws = random_draws(20)
    named = {one.name: one.fit(draws, draws) for one in structure_scorers(inputs, None)}
    assert named["bytes equal between requests"] is not None
