"""Priors over text: proper probabilities, and no token ruled out."""

import numpy as np

from attacks.ngrams import DISCOUNT, DOUBT, Bigram, Unigram, backoff

WINDOWS = np.minimum(np.random.default_rng(0).geometric(0.1, (30, 12)), 39)
V = 40


def bigram_row(bigram: Bigram, before: int) -> np.ndarray:
    """P(. | before) over the whole vocabulary, (V,)."""
    return bigram.seen[[before]].toarray()[0] + bigram.spare[before] * bigram.unigram


def test_a_unigram_is_a_law_that_rules_nothing_out() -> None:
    """It sums to one, every token has a share, and it is absolute discounting with back-off by a loop."""
    law = Unigram.of([WINDOWS[:10], WINDOWS[10:]], V).probability
    assert abs(law.sum() - 1) < 1e-12
    assert law.min() > 0
    counts = np.bincount(WINDOWS.ravel(), minlength=V)
    base = backoff(V)
    kept = [max(count - DISCOUNT, 0) / WINDOWS.size for count in counts]
    for token in range(V):
        own = kept[token] + (1 - sum(kept)) * base[token]
        assert abs(law[token] - ((1 - DOUBT) * own + DOUBT * base[token])) < 1e-12


def test_without_text_early_merges_are_likelier() -> None:
    """The back-off law falls with the token's number and sums to one."""
    law = Unigram.of([], V).probability
    np.testing.assert_allclose(law, backoff(V))
    assert (np.diff(law) < 0).all()


def test_every_row_of_a_bigram_is_a_law() -> None:
    """P(. | v) sums to one for tokens that were seen and for those that were not, and follows the counts."""
    bigram = Bigram.of([WINDOWS], V)
    for token in range(V):
        row = bigram_row(bigram, token)
        assert abs(row.sum() - 1) < 1e-9
        assert row.min() > 0
    pairs = list(zip(WINDOWS[:, :-1].ravel(), WINDOWS[:, 1:].ravel(), strict=True))
    first, second = pairs[0]
    count, total = pairs.count((first, second)), sum(1 for pair in pairs if pair[0] == first)
    seen = (1 - DOUBT) * (count - DISCOUNT) / total
    assert abs(bigram_row(bigram, int(first))[second] - seen - bigram.spare[first] * bigram.unigram[second]) < 1e-12


def test_a_block_is_cut_from_the_rows() -> None:
    """Candidates before and after, in their own order."""
    bigram = Bigram.of([WINDOWS], V)
    before, after = np.array([3, 1, 7]), np.array([2, 9])
    expected = [[bigram_row(bigram, v)[w] - bigram.spare[v] * bigram.unigram[w] for w in after] for v in before]
    np.testing.assert_allclose(bigram.block(before, after), expected, atol=1e-12)
