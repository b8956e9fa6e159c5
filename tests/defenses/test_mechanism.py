"""The quantizer's law, decoder and likelihood against the formulas of arXiv 2602.11513 and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from defenses.pipeline.mechanism import Quantizer
from defenses.randomness import seeded_rng

FALSE_ALARM = 1e-4
# (n, v/c, A/c): twenty points, both ends of p among them.
POINTS = [(n, v, ratio) for n in (1, 2, 4, 5, 8) for v, ratio in ((-1.0, 1.02), (-0.37, 1.5), (0.0, 4.49), (1.0, 1.02))]


def trial_loop(latents: np.ndarray, quantizer: Quantizer, rng: np.random.Generator) -> np.ndarray:
    """The slow oracle: u Bernoulli trials a coordinate, one after another."""
    probability = (quantizer.amplitude + latents.astype(np.float64)) / (2 * quantizer.amplitude)
    counts = np.zeros(latents.shape, dtype=np.int64)
    for _ in range(2**quantizer.n - 1):
        counts += rng.random(latents.shape) < probability
    return counts


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """The p-value of counts against a law, neighbours pooled until each cell expects 10."""
    observed = np.bincount(counts.reshape(-1), minlength=expected.size)
    total = observed.sum()
    cells: list[list[float]] = [[0.0, 0.0]]
    for seen, probability in zip(observed, expected, strict=True):
        cells[-1][0] += seen
        cells[-1][1] += probability * total
        if cells[-1][1] >= 10:
            cells.append([0.0, 0.0])
    rest = cells.pop()
    cells[-1][0] += rest[0]
    cells[-1][1] += rest[1]
    if len(cells) == 1:
        return 1.0 if cells[0][0] == total else 0.0
    pairs = np.array(cells)
    return float(stats.chisquare(pairs[:, 0], pairs[:, 1] * total / pairs[:, 1].sum()).pvalue)


@pytest.mark.parametrize(("n", "v", "ratio"), POINTS)
def test_reference_sampler_is_binomial(n: int, v: float, ratio: float) -> None:
    """Counts pass a chi-square test against scipy's binomial at twenty points (false alarm 1e-4 each)."""
    quantizer = Quantizer(n=n, d=50, clip=0.05, a_over_c=ratio)
    latents = np.full((2000, 50), np.float32(v) * np.float32(0.05), dtype=np.float32)
    counts = quantizer.sample(latents, seeded_rng(11, "reference", n, str(v)))
    law = stats.binom.pmf(np.arange(2**n), 2**n - 1, 0.5 * (1 + v / ratio))
    assert chi_square(counts, law) > FALSE_ALARM


def test_trial_loop_and_reference_agree() -> None:
    """The slow trial loop and the binomial draw have the same mean and variance within five standard errors."""
    quantizer = Quantizer(n=4, d=20, clip=1.0, a_over_c=1.3)
    latents = np.tile(np.linspace(-1, 1, 20, dtype=np.float32), (4000, 1))
    fast = quantizer.sample(latents, seeded_rng(3, "fast")).astype(float)
    slow = trial_loop(latents, quantizer, seeded_rng(3, "slow")).astype(float)
    spread = np.sqrt((fast.var(0) + slow.var(0)) / 4000) + 1e-12
    assert np.all(np.abs(fast.mean(0) - slow.mean(0)) < 5 * spread)
    assert np.allclose(fast.var(0), slow.var(0), rtol=0.2, atol=0.02)


@pytest.mark.parametrize("n", range(1, 9))
def test_decode_is_unbiased_with_the_stated_variance(n: int) -> None:
    """Over many draws decode has mean v and variance (A^2 - v^2)/u, within five standard errors."""
    quantizer = Quantizer(n=n, d=7, clip=0.05, a_over_c=1.4)
    latents = np.linspace(-0.05, 0.05, 7).astype(np.float32).clip(-quantizer.clip, quantizer.clip)
    draws = 20_000
    decoded = quantizer.decode(quantizer.sample(np.tile(latents, (draws, 1)), seeded_rng(5, n))).astype(float)
    variance = quantizer.variance(latents)
    assert np.all(np.abs(decoded.mean(0) - latents) < 5 * np.sqrt(variance / draws))
    fourth = ((decoded - decoded.mean(0)) ** 4).mean(0)
    error = np.sqrt(np.maximum(fourth - variance**2, 0) / draws)
    assert np.all(np.abs(decoded.var(0) - variance) < 5 * error + 1e-9)


@pytest.mark.parametrize("n", range(1, 9))
def test_moments_follow_from_the_law_exactly(n: int) -> None:
    """Summed over scipy's binomial law, decode's mean is v and its variance is `variance`, to rounding."""
    quantizer = Quantizer(n=n, d=1, clip=0.05, a_over_c=1.01)
    levels = quantizer.decode(np.arange(2**n, dtype=np.uint8)).astype(float)
    for v in (-quantizer.clip, 0.0, 0.02, quantizer.clip):
        latents = np.array([v])
        law = stats.binom.pmf(np.arange(2**n), 2**n - 1, quantizer.probability(latents)[0])
        mean = float(law @ levels)
        assert mean == pytest.approx(v, abs=1e-8)
        assert float(law @ levels**2) - mean**2 == pytest.approx(quantizer.variance(latents)[0], rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("bad", [1.0001, -1.0001, math.nan, math.inf, -math.inf])
def test_latents_outside_the_clip_never_reach_the_sampler(bad: float) -> None:
    """A latent outside [-c, c], or none at all, is refused and not silently clipped."""
    quantizer = Quantizer(n=4, d=3, clip=0.05, a_over_c=2.0)
    with pytest.raises(ValueError, match="clip before"):
        quantizer.sample(np.array([[0.0, bad * 0.05, 0.0]], dtype=np.float32), seeded_rng(0))


def test_the_clip_itself_is_inside() -> None:
    """A float32 latent of exactly c is accepted, although float32(0.05) is above 0.05."""
    quantizer = Quantizer(n=4, d=1, clip=0.05, a_over_c=2.0)
    edge = np.array([[np.float32(0.05)], [-np.float32(0.05)]], dtype=np.float32)
    assert quantizer.sample(edge, seeded_rng(0)).shape == (2, 1)
    assert quantizer.probability(edge).tolist() == [[0.75], [0.25]]


def test_a_wrong_width_is_refused() -> None:
    """Latents that do not end with d are a programming error."""
    with pytest.raises(ValueError, match="do not end with d"):
        Quantizer(n=4, d=3, clip=1.0, a_over_c=2.0).sample(np.zeros((2, 4), np.float32), seeded_rng(0))


@pytest.mark.parametrize(("n", "d", "mu"), [(1, 18, 1.0), (4, 18, 40.0), (4, 128, 20.0), (8, 128, 20.0)])
def test_mu_gives_the_papers_ratio_and_comes_back(n: int, d: int, mu: float) -> None:
    """A/c = sqrt(1 + 4N/mu^2), and `mu` inverts it."""
    quantizer = Quantizer.from_mu(n=n, d=d, clip=0.05, mu=mu)
    assert quantizer.a_over_c == pytest.approx(math.sqrt(1 + 4 * (2**n - 1) * d / mu**2), rel=1e-14)
    assert quantizer.mu == pytest.approx(mu, rel=1e-12)
    assert quantizer.amplitude == pytest.approx(0.05 * quantizer.a_over_c, rel=1e-6)


def test_the_null_says_nothing() -> None:
    """At A/c = infinity every law is Binomial(u, 1/2), decode is zero, and no latent is likelier than another."""
    null = Quantizer.from_mu(n=4, d=5, clip=0.05, mu=0.0)
    latents = np.linspace(-0.05, 0.05, 10, dtype=np.float32).reshape(2, 5).clip(-null.clip, null.clip)
    assert math.isinf(null.a_over_c)
    assert null.mu == 0
    assert np.all(null.probability(latents) == 0.5)
    counts = null.sample(latents, seeded_rng(1))
    assert not null.decode(counts).any()
    assert np.all(np.isinf(null.variance(latents)))
    scores = null.score(counts, null.scoring_terms(latents))
    assert np.all(scores == scores[:, :1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": 0},
        {"n": 9},
        {"d": 0},
        {"d": 65_536},
        {"clip": 0.0},
        {"clip": math.nan},
        {"clip": math.inf},
        {"a_over_c": 1.0},
        {"a_over_c": math.nan},
        {"a_over_c": 1e7},
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, float]) -> None:
    """Each parameter has its range."""
    with pytest.raises(ValueError, match="must be"):
        Quantizer(**({"n": 4, "d": 8, "clip": 0.05, "a_over_c": 2.0} | wrong))  # type: ignore[arg-type]  # wrong on purpose


def test_decode_refuses_counts_above_u() -> None:
    """A count above 2^n - 1 is no count of this quantizer."""
    with pytest.raises(ValueError, match="above the 3 trials"):
        Quantizer(n=2, d=1, clip=1.0, a_over_c=2.0).decode(np.array([[4]], dtype=np.uint8))


@pytest.mark.parametrize("n", [1, 4, 8])
def test_likelihood_is_scipys_binomial(n: int) -> None:
    """One matmul gives the same log-likelihood as a loop over scipy's log-pmf, coefficients taken off."""
    rng = seeded_rng(2, n)
    quantizer = Quantizer(n=n, d=6, clip=0.05, a_over_c=1.05)
    latents = rng.uniform(-1, 1, (9, 6)).astype(np.float32) * np.float32(quantizer.clip)
    counts = quantizer.sample(latents[:4], rng)
    u = 2**n - 1
    oracle = np.zeros((4, 9))
    for i, j in np.ndindex(4, 9):
        coefficients = [math.log(math.comb(u, int(k))) for k in counts[i]]
        oracle[i, j] = np.sum(stats.binom.logpmf(counts[i], u, quantizer.probability(latents[j]))) - sum(coefficients)
    weight, bias = quantizer.likelihood_terms(latents)
    assert np.allclose(counts @ weight.T + bias, oracle, rtol=1e-10, atol=1e-9)
    assert np.allclose(quantizer.score(counts, quantizer.scoring_terms(latents)), oracle, rtol=1e-5, atol=1e-3)
