"""Distances against loops in double precision, and the law of a radius per coordinate against quadrature and draws."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import gammaln
from scipy.stats import gamma

from defenses.likelihood import CoordinateRadius, Distances, log_marginal

RNG = np.random.default_rng


def draws(law: CoordinateRadius, count: int, seed: int) -> np.ndarray:
    """Z = r u with a radius per coordinate, (count, m), as the docstring defines it."""
    rng = RNG(seed)
    direction = rng.normal(size=(count, law.dimension))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return direction * rng.gamma(law.dimension, 1 / law.eta, size=direction.shape)


def plane_density(z: np.ndarray) -> np.ndarray:
    """Oracle for m = 2, eta = 1: the mean over directions of the two radii's densities, by quadrature, shape (N,)."""
    angle = (np.arange(20_000) + 0.5) / 20_000 * (math.pi / 2)
    cosine, sine = np.cos(angle), np.sin(angle)
    a, b = (np.abs(z[:, i, None]) / side for i, side in ((0, cosine), (1, sine)))
    return (a * np.exp(-a) / cosine * b * np.exp(-b) / sine).mean(axis=1) / 4


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_distances_equal_a_loop_in_double_precision(offset: float) -> None:
    """Every value is within 1e-4 of itself: near neighbours, far ones, and a table far from the origin."""
    rng = RNG(0)
    table = (rng.normal(size=(60, 24)) + offset).astype(np.float32)
    table[1] = table[0] + np.float32(1e-3)
    points = np.concatenate([table[:9], table[3:4] + rng.normal(size=(5, 24)).astype(np.float32)]).astype(np.float32)
    found = Distances(table).squared(points)
    for (i, j), value in np.ndenumerate(found):
        truth = sum((float(a) - float(b)) ** 2 for a, b in zip(points[i], table[j], strict=True))
        assert value == pytest.approx(truth, rel=1e-4, abs=1e-12)
    assert (np.diag(found[:9, :9]) == 0).all()


@pytest.mark.parametrize("m", [2, 3, 8, 64])
def test_one_coordinate_has_the_density_of_its_integral(m: int) -> None:
    """Log h within 1e-4 of scipy's quadrature over the radius; below 40, and at 0."""
    constant = math.exp(gammaln(m / 2) - gammaln((m - 1) / 2)) / math.sqrt(math.pi)

    def given_radius(radius: float, z: float) -> float:
        return float(gamma(m).pdf(radius)) * constant * (1 - (z / radius) ** 2) ** ((m - 3) / 2) / radius

    for z in (0.0, 0.05, 1.0, 4.0, 12.0):
        cuts = [z, max(z, m) + 1.0, max(z, m) + 40 * math.sqrt(m) + 60]
        parts = [quad(given_radius, low, high, args=(z,), limit=400)[0] for low, high in pairwise(cuts)]
        assert log_marginal(np.array([z]), m)[0] == pytest.approx(math.log(sum(parts)), abs=1e-4)


def test_in_one_dimension_the_density_is_exact() -> None:
    """Oracle: Laplace's density, up to a constant."""
    points, table = RNG(1).normal(size=(7, 1)).astype(np.float32), RNG(2).normal(size=(9, 1)).astype(np.float32)
    found = CoordinateRadius(3.0, 1).log_density(points, Distances(table))
    np.testing.assert_allclose(found, math.log(0.5) - 3 * np.abs(points - table.T), atol=1e-3)


def test_in_two_dimensions_the_error_is_small() -> None:
    """Against the exact density: 0.1 nats on average, 0.3 typically; and two tokens are told apart nearly as often."""
    law = CoordinateRadius(1.0, 2)
    z = draws(law, 400, seed=3)
    tokens = np.array([[0, 0], [1.5, 1.5]], dtype=np.float32)
    found = law.log_density(z.astype(np.float32), Distances(tokens))
    exact = np.log(np.stack([plane_density(z - token) for token in tokens], axis=1))
    assert abs((found - exact)[:, 0].mean()) < 0.1
    assert (found - exact)[:, 0].std() < 0.4
    errors = [(scores[:, 1] > scores[:, 0]).mean() for scores in (found, exact)]
    assert errors[0] <= errors[1] + 0.05


@pytest.mark.parametrize("m", [1, 2, 16, 128])
def test_the_norm_has_the_stated_moments(m: int) -> None:
    """Mean and variance of |z|^2 in 100,000 draws are within five standard errors of the formulas."""
    law = CoordinateRadius(2.0, m)
    squares = (draws(law, 100_000, seed=4) ** 2).sum(axis=1)
    mean = m * (m + 1) / 4
    assert squares.mean() == pytest.approx(mean, abs=5 * squares.std() / math.sqrt(len(squares)))
    spread = (squares / mean - 1) ** 2
    assert spread.mean() == pytest.approx(math.expm1(law.spreads[0]), abs=5 * spread.std() / math.sqrt(len(squares)))


@pytest.mark.parametrize("m", [16, 128])
def test_tying_the_coordinates_gains(m: int) -> None:
    """What |u| = 1 adds is worth a positive number of nats on average (at least 0.2), and tells tokens better apart."""
    law = CoordinateRadius(1.0, m)
    z = draws(law, 20_000, seed=5)
    step = RNG(6).normal(size=m)
    step *= 2 * math.sqrt(m) / np.linalg.norm(step)
    tables = np.stack([np.zeros(m), step]).astype(np.float32)
    points = z.astype(np.float32)
    tied, full = law.tie(Distances(tables).squared(points)), law.log_density(points, Distances(tables))
    loose = full - tied
    assert tied[:, 0].mean() > 0.2
    wrong = [np.mean(scores[:, 1] > scores[:, 0]) for scores in (full, loose)]
    assert wrong[0] < wrong[1]


def test_the_table_and_the_normal_law_agree_where_they_meet() -> None:
    """At 64 coordinates the tabulated law orders tokens as the normal one does in 98 % of pairs."""
    law = CoordinateRadius(1.0, 64)
    points = draws(law, 200, seed=7).astype(np.float32)
    table = RNG(8).normal(size=(30, 64)).astype(np.float32) * 2
    exact = law.log_density(points, Distances(table))
    squares = Distances(table).squared(points)
    normal = law.tie(squares) - squares / (2 * 65)
    gaps = [scores[:, :, None] - scores[:, None] for scores in (exact, normal)]
    clear = np.abs(gaps[0]) > 0.5
    assert (np.sign(gaps[0]) == np.sign(gaps[1]))[clear].mean() > 0.98


def test_diameter_is_the_largest_distance() -> None:
    """Against all pairs, with one far outlier, with equal rows, and where pruning cannot help (all on a sphere)."""
    rng = np.random.default_rng(3)
    cloud = rng.normal(size=(300, 5)).astype(np.float32)
    outlier = np.concatenate([cloud, np.full((1, 5), 50, dtype=np.float32)])
    sphere = cloud / np.linalg.norm(cloud, axis=1, keepdims=True)
    for table in (cloud, outlier, sphere, np.ones((4, 5), dtype=np.float32)):
        gaps = np.linalg.norm(table[:, None] - table[None], axis=-1)
        assert Distances(table).diameter == pytest.approx(gaps.max(), rel=1e-5)
