"""Sign-flip p-values and Holm's adjustment, against enumeration, the closed test and simulation."""

import itertools
import math

import numpy as np
import pytest

from audit.multiplicity import holm_adjusted, sign_flip_p
from audit.spending import holm


def all_flips(differences: list[float]) -> float:
    """Slow oracle: the share of all signings whose sum is as far from 0."""
    seen = abs(math.fsum(differences))
    sums = [
        math.fsum(sign * value for sign, value in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(abs(one) >= seen - 1e-12 for one in sums) / len(sums)


def closed_test(p_values: dict[str, float]) -> dict[str, float]:
    """Slow oracle: the largest Bonferroni p-value of all intersections that a hypothesis is part of."""
    names = list(p_values)
    subsets = [some for size in range(1, len(names) + 1) for some in itertools.combinations(names, size)]
    bonferroni = {some: min(1.0, len(some) * min(p_values[name] for name in some)) for some in subsets}
    return {name: max(p for some, p in bonferroni.items() if name in some) for name in names}


def test_few_clusters_are_enumerated() -> None:
    """Up to thirteen clusters give exactly the share of all signings, ties and integers included."""
    rng = np.random.default_rng(1)
    for clusters in range(1, 12):
        for draw in (rng.normal(0.5, 1, clusters), rng.integers(-3, 6, clusters).astype(float)):
            assert sign_flip_p(draw, rng) == pytest.approx(all_flips(draw.tolist()), abs=1e-12)


def test_drawn_flips_agree_with_all_of_them() -> None:
    """With more signings than flips the p-value is the exact one within its own noise, and never 0."""
    rng = np.random.default_rng(2)
    values = rng.normal(0.4, 1, 16)
    exact = all_flips(values.tolist())
    drawn = sign_flip_p(values, rng, flips=9999)
    assert 0.001 < exact < 0.5
    assert drawn == pytest.approx(exact, abs=4.5 * math.sqrt(exact / 9999))  # beyond 4.5 standard errors: below 1e-5
    assert sign_flip_p(np.full(60, 0.3), rng, flips=999) == 1 / 1000


def test_clusters_without_a_difference_say_nothing() -> None:
    """Zeros change no p-value; all zeros give 1; five clusters cannot give less than 2 / 32."""
    rng = np.random.default_rng(3)
    assert sign_flip_p([1.0, 2.0, -0.5, 3.0], rng) == sign_flip_p([1.0, 0.0, 2.0, -0.5, 0.0, 3.0], rng)
    assert sign_flip_p([0.0, 0.0], rng) == 1
    assert sign_flip_p([], rng) == 1
    assert sign_flip_p([9.0, 8.0, 7.0, 9.0, 8.0], rng) == 2 / 32


@pytest.mark.parametrize("clusters", [6, 30])
def test_level_holds_under_the_null(clusters: int) -> None:
    """Equally good attacks on documents that differ a lot are told apart at 0.05 in about 5 % of studies at most."""
    rng, studies = np.random.default_rng(clusters), 1500
    wrong = 0
    for _ in range(studies):
        sizes = rng.integers(20, 200, clusters)
        success = rng.beta(1, 4, clusters)
        gains = rng.binomial(sizes, success) - rng.binomial(sizes, success)
        wrong += sign_flip_p(gains, rng, flips=499) <= 0.05
    # A true rate of 0.05 goes past this with probability below 1e-4.
    assert wrong / studies <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / studies)


def test_holm_is_the_closed_test() -> None:
    """Adjusted p-values are those of the closed Bonferroni test, ties included, in the given order of names."""
    rng = np.random.default_rng(4)
    for size in (1, 2, 5):
        for _ in range(100):
            p_values = dict(zip("abcde", (rng.random(size) ** 3).round(2).tolist(), strict=False))
            found = holm_adjusted(p_values)
            assert found == pytest.approx(closed_test(p_values))
            assert list(found) == list(p_values)
    assert holm_adjusted({}) == {}


def test_adjusted_p_values_decide_as_holm_does() -> None:
    """Held against a level they refute what the step-down test with equal shares refutes."""
    rng = np.random.default_rng(5)
    refuted = 0
    for _ in range(200):
        p_values = dict(zip("abcd", (rng.random(4) ** 3 * 0.2).tolist(), strict=True))
        decided = holm(p_values, dict.fromkeys(p_values, 0.25), 0.05)
        adjusted = holm_adjusted(p_values)
        assert {name: p <= 0.05 for name, p in adjusted.items()} == {name: one.refuted for name, one in decided.items()}
        refuted += sum(one.refuted for one in decided.values())
    assert 0 < refuted < 800


def test_malformed_input_is_refused() -> None:
    """Matrices, infinities, too few flips, and p-values out of range are ValueErrors."""
    rng = np.random.default_rng(6)
    for wrong in ([[1.0, 2.0]], [math.inf, 1.0]):
        with pytest.raises(ValueError, match="finite difference"):
            sign_flip_p(wrong, rng)
    with pytest.raises(ValueError, match="flips"):
        sign_flip_p([1.0], rng, flips=10)
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="p-values"):
            holm_adjusted({"a": 0.5, "b": p})
