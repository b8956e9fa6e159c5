"""MAUVE against a loop over the definition, its ends, and its interval on texts of known distributions."""

import itertools
import math

import numpy as np
import pytest

from audit.mauve import MIXTURES, SCALE, frontier_area, mauve


def naive_area(p: list[float], q: list[float]) -> float:
    """The area by the definition, one mixture and one bucket at a time."""
    points = [(1.0, 0.0), (0.0, 1.0)]
    for step in range(1, MIXTURES + 1):
        weight = step / (MIXTURES + 1)
        mixed = [weight * a + (1 - weight) * b for a, b in zip(p, q, strict=True)]
        from_q = sum(b * math.log(b / m) for b, m in zip(q, mixed, strict=True) if b)
        from_p = sum(a * math.log(a / m) for a, m in zip(p, mixed, strict=True) if a)
        points.append((math.exp(-SCALE * from_q), math.exp(-SCALE * from_p)))
    points.sort(key=lambda point: (point[0], -point[1]))
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))


def cloud(rng: np.random.Generator, shift: float, n: int = 300) -> np.ndarray:
    """Features of n texts: five factors in 32 dimensions."""
    return (rng.normal(size=(n, 5)) + shift) @ BASIS + 0.1 * rng.normal(size=(n, 32))


BASIS = np.random.default_rng(1).normal(size=(5, 32))
CLUSTERS = np.arange(300) // 3


def test_area_is_the_definition() -> None:
    """The vectorised area equals the loop, for close, far and partly disjoint histograms."""
    for p, q in (
        ([0.5, 0.3, 0.2], [0.4, 0.4, 0.2]),
        ([0.98, 0.01, 0.01], [0.01, 0.01, 0.98]),
        ([1, 0, 0], [0, 0.5, 0.5]),
    ):
        assert frontier_area(np.array(p, dtype=float), np.array(q, dtype=float)) == pytest.approx(naive_area(p, q))


def test_equal_is_one_and_disjoint_is_near_zero() -> None:
    """The two ends of the scale."""
    same = np.full(8, 1 / 8)
    assert frontier_area(same, same) == pytest.approx(1.0)
    assert frontier_area(np.array([1.0, 0.0]), np.array([0.0, 1.0])) < 0.02


def test_score_falls_as_the_distributions_part() -> None:
    """The same law scores near one, within its interval; a shifted one lower; a far one next to nothing."""
    rng = np.random.default_rng(0)
    found = [mauve(cloud(rng, shift), cloud(rng, 0.0), CLUSTERS, 0) for shift in (0.0, 0.4, 3.0)]
    assert found[0].value > 0.9
    assert found[0].value > found[1].value > found[2].value
    assert found[2].value < 0.1
    for one in found:
        assert one.interval is not None
        assert 0 <= one.interval.low <= one.value <= one.interval.high <= 1


def test_interval_covers_the_spread_of_new_samples() -> None:
    """The mean score of new samples of the same laws lies in 95 % intervals; at least 32 of 40 must hold it."""
    rng = np.random.default_rng(5)
    found = [mauve(cloud(rng, 0.4), cloud(rng, 0.0), CLUSTERS, seed) for seed in range(40)]
    mean = np.mean([one.value for one in found])
    held = [one.interval is not None and one.interval.low <= mean <= one.interval.high for one in found]
    assert sum(held) >= 32


def test_one_document_has_no_interval_and_few_texts_no_score() -> None:
    """Nothing is claimed of what cannot be known."""
    rng = np.random.default_rng(2)
    assert mauve(cloud(rng, 0.0), cloud(rng, 0.0), np.zeros(300, dtype=np.int64), 0).interval is None
    with pytest.raises(ValueError, match="at least 20 texts"):
        mauve(cloud(rng, 0.0, 10), cloud(rng, 0.0, 10), CLUSTERS[:10], 0)
