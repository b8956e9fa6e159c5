"""The table sampler draws exactly the quantizer's law."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from defenses.pipeline.mechanism import Quantizer
from defenses.pipeline.sampler import CELLS, POINT_BITS, TableSampler
from defenses.randomness import seeded_rng, service_rng

FALSE_ALARM = 1e-4
# (n, code, A/c): twenty points; p_hi and p_lo close to 1 and 0, and the null, among them.
POINTS = [
    (n, code, ratio)
    for n in (1, 2, 4, 6, 8)
    for code, ratio in ((-127, 1.02), (127, 1.02), (31, 1.29), (-90, 4.49))
]  # fmt: skip


def drawn_law(sampler: TableSampler, code: int) -> np.ndarray:
    """The law that the table and its inversion draw from, by adding up cells one at a time: shape (u + 1,)."""
    u, row = sampler.quantizer.trials, code % 256
    guide = sampler._guide.reshape(256, CELLS)[row]
    points = sampler._steps.reshape(256, u)[row]
    steps = np.concatenate([[0.0], points.astype(float) * 2.0 ** (12 - POINT_BITS), [float(CELLS)]])
    mark = 255 if sampler.quantizer.n < 8 or code < 0 else 0
    whole = guide != mark
    law = np.bincount(guide[whole], minlength=u + 1).astype(float)
    for cell in np.flatnonzero(~whole):
        law += np.diff(np.clip(steps, cell, cell + 1))
    return law / CELLS


@pytest.mark.parametrize("n", range(1, 9))
@pytest.mark.parametrize("ratio", [1 + 1e-9, 1.01, 1.29, 4.49, 1e5, math.inf])
def test_every_codes_law_is_the_binomial(n: int, ratio: float) -> None:
    """For each of the 255 codes the table's law is within 1e-12 of scipy's binomial in total variation."""
    sampler = TableSampler(Quantizer(n=n, d=1, clip=0.05, a_over_c=ratio))
    u = 2**n - 1
    for code in range(-127, 128):
        expected = stats.binom.pmf(np.arange(u + 1), u, 0.5 * (1 + code / 127 / ratio))
        assert 0.5 * np.abs(drawn_law(sampler, code) - expected).sum() < 1e-12, code


@pytest.mark.parametrize(("n", "code", "ratio"), [(8, 127, 1.01), (8, -3, 1.01), (5, -127, 1.29), (8, 0, math.inf)])
def test_laws_agree_with_rational_arithmetic(n: int, code: int, ratio: float) -> None:
    """Exact fractions, which round nowhere, give the same law."""
    sampler = TableSampler(Quantizer(n=n, d=1, clip=0.05, a_over_c=ratio))
    u = 2**n - 1
    relative = Fraction(0) if math.isinf(ratio) else Fraction(code, 127) / Fraction(ratio)
    p = (1 + relative) / 2
    exact = np.array([float(math.comb(u, k) * p**k * (1 - p) ** (u - k)) for k in range(u + 1)])
    assert 0.5 * np.abs(drawn_law(sampler, code) - exact).sum() < 1e-12


@pytest.mark.parametrize(("n", "code", "ratio"), POINTS)
def test_draws_pass_chi_square(n: int, code: int, ratio: float) -> None:
    """200,000 draws pass a chi-square test against scipy's binomial at twenty points (false alarm 1e-4 each)."""
    sampler = TableSampler(Quantizer(n=n, d=100, clip=0.05, a_over_c=ratio))
    counts = sampler.sample(np.full((2000, 100), code, dtype=np.int8), seeded_rng(21, n, code))
    law = stats.binom.pmf(np.arange(2**n), 2**n - 1, 0.5 * (1 + code / 127 / ratio))
    observed = np.bincount(counts.reshape(-1), minlength=2**n)
    likely = law * counts.size >= 10
    cells = np.append(observed[likely], observed[~likely].sum())
    expected = np.append(law[likely], law[~likely].sum()) * counts.size
    if expected[-1] < 1e-3:  # the pooled rest is too rare to be drawn at all
        assert cells[-1] == 0
        cells, expected = cells[:-1], expected[:-1]
    if cells.size > 1:
        scaled = expected * cells.sum() / expected.sum()
        assert stats.chisquare(cells, scaled).pvalue > FALSE_ALARM


@pytest.mark.parametrize(("n", "ratio"), [(1, 1.02), (4, 1.29), (7, 1.29), (8, 1.02), (8, 4.49)])
def test_each_count_inverts_the_bits_that_it_consumed(n: int, ratio: float) -> None:
    """Read the same bits again, form each point by hand, and scipy's quantile function gives the same counts."""
    quantizer = Quantizer(n=n, d=255, clip=1.0, a_over_c=ratio)
    codes = np.tile(np.arange(-127, 128, dtype=np.int8), (40, 1))
    counts = TableSampler(quantizer).sample(codes, seeded_rng(31, n)).reshape(-1)
    rng = seeded_rng(31, n)
    words = rng.integers(0, 1 << 64, size=-(-codes.size // 4), dtype=np.uint64)
    cells = (words.view(np.uint16)[: codes.size] // 16).astype(float)
    p = 0.5 * (1 + codes.reshape(-1) / 127 / ratio)
    low = np.asarray(stats.binom.ppf(np.nextafter(cells / CELLS, 0.5), 2**n - 1, p))
    decided = low == np.asarray(stats.binom.ppf(np.nextafter((cells + 1) / CELLS, 0.5), 2**n - 1, p))
    assert np.array_equal(counts[decided], low[decided])
    finer = rng.integers(0, 1 << 44, size=np.count_nonzero(~decided), dtype=np.uint64) / 2.0**44
    points = (cells[~decided] + finer) / CELLS
    assert np.array_equal(counts[~decided], stats.binom.ppf(points, 2**n - 1, p[~decided]))
    assert 0 < finer.size < 0.05 * codes.size


def test_mixed_codes_each_follow_their_own_law() -> None:
    """In one call with all 255 codes in a random order, each code's mean is its own within five standard errors."""
    quantizer = Quantizer(n=4, d=255, clip=0.05, a_over_c=1.29)
    codes = seeded_rng(4, "order").permuted(np.tile(np.arange(-127, 128, dtype=np.int8), (1500, 1)), axis=1)
    counts = TableSampler(quantizer).sample(codes, seeded_rng(4, "draws"))
    for code in range(-127, 128):
        drawn = counts[codes == code]
        p = 0.5 * (1 + code / 127 / 1.29)
        assert abs(drawn.mean() - 15 * p) < 5 * math.sqrt(15 * p * (1 - p) / drawn.size), code


def test_neighbouring_coordinates_are_independent() -> None:
    """Pairs of neighbours, within a random word and across its border, pass a test of independence."""
    counts = TableSampler(Quantizer(n=2, d=8, clip=1.0, a_over_c=2.0)).sample(
        np.zeros((40_000, 8), dtype=np.int8), seeded_rng(8)
    )
    for left, right in ((0, 1), (3, 4), (2, 6)):
        table = np.zeros((4, 4))
        np.add.at(table, (counts[:, left], counts[:, right]), 1)
        assert stats.chi2_contingency(table).pvalue > FALSE_ALARM


@pytest.mark.parametrize("n", [1, 3, 8])
def test_inversion_is_a_search_in_the_distribution(n: int) -> None:
    """One search over all rows' steps gives the same counts as counting one row's steps, steps themselves included."""
    sampler = TableSampler(Quantizer(n=n, d=1, clip=1.0, a_over_c=1.2))
    u = 2**n - 1
    for code in (-127, -5, 0, 127):
        steps = sampler._steps.reshape(256, u)[code % 256]
        top = 2**POINT_BITS - 1
        points = np.concatenate([seeded_rng(1).integers(0, top, 50, dtype=np.uint64), steps[steps < top - 1]])
        points = np.append(points, np.array([0, top - 1], dtype=np.uint64))
        rows = np.full(points.size, code % 256, dtype=np.uint8)
        counted = [sum(int(step) <= int(point) for step in steps) for point in points]
        assert sampler._invert(rows, points).tolist() == counted


def test_a_seed_gives_the_same_counts_and_the_service_never_does() -> None:
    """Seeded coins repeat; two requests' service coins do not."""
    sampler = TableSampler(Quantizer(n=4, d=64, clip=1.0, a_over_c=2.0))
    codes = np.zeros((33, 64), dtype=np.int8)
    assert np.array_equal(sampler.sample(codes, seeded_rng(9)), sampler.sample(codes, seeded_rng(9)))
    assert not np.array_equal(sampler.sample(codes, service_rng()), sampler.sample(codes, service_rng()))


def test_chunks_do_not_share_coins() -> None:
    """A prompt longer than one chunk repeats nothing of its first chunk."""
    counts = TableSampler(Quantizer(n=4, d=128, clip=1.0, a_over_c=2.0)).sample(
        np.zeros((1024, 128), dtype=np.int8), seeded_rng(9)
    )
    assert not np.array_equal(counts[:512], counts[512:])


def test_shapes_pass_through() -> None:
    """Empty, odd-sized and non-contiguous codes keep their shape."""
    sampler = TableSampler(Quantizer(n=3, d=5, clip=1.0, a_over_c=2.0))
    assert sampler.sample(np.zeros((0, 5), dtype=np.int8), seeded_rng(0)).shape == (0, 5)
    assert sampler.sample(np.zeros((2, 3, 5), dtype=np.int8), seeded_rng(0)).shape == (2, 3, 5)
    strided = np.zeros((6, 10), dtype=np.int8)[::2, ::2]
    assert sampler.sample(strided, seeded_rng(0)).shape == (3, 5)


def test_codes_outside_the_clip_are_refused() -> None:
    """Code -128 and other types, which could name a latent outside [-c, c], never reach the table."""
    sampler = TableSampler(Quantizer(n=4, d=1, clip=1.0, a_over_c=2.0))
    with pytest.raises(ValueError, match="-128"):
        sampler.sample(np.array([[-128]], dtype=np.int8), seeded_rng(0))
    with pytest.raises(ValueError, match="int8"):
        sampler.sample(np.array([[0]], dtype=np.int16), seeded_rng(0))
