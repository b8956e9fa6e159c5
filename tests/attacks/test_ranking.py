"""The best columns and the sums of rows, while they come tile by tile, against a sort and a sum in float64."""

import numpy as np
import pytest

from attacks.kernels import exponential
from attacks.ranking import ranked, ranked_product, scanned, scanned_product

WIDTHS = (1, 7, 50, 257, 513, 4096, 49_152)  # below a group, below a tile, past one, and a vocabulary


def drawn(width: int, spread: float, rows: int = 6) -> np.ndarray:
    """Normal scores, one row of them flat."""
    scores = (spread * np.random.default_rng(0).normal(size=(rows, width))).astype(np.float32)
    scores[1] *= 0.001
    return scores


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("k", [1, 7, 40, 300])
def test_ranked_sorts_the_best(width: int, k: int) -> None:
    """Against a full sort, for any width, and for more columns than there are."""
    scores = drawn(width, 3.0)
    best, values = ranked(scores, k)
    np.testing.assert_array_equal(best, np.argsort(-scores, axis=-1)[:, :k])
    np.testing.assert_array_equal(values, -np.sort(-scores, axis=-1)[:, :k])
    folded, _ = ranked(scores.reshape(6, 1, width), k)
    np.testing.assert_array_equal(folded[:, 0], best)


@pytest.mark.parametrize("order", ["rising", "falling", "late"])
def test_no_order_of_the_columns_hides_the_best(order: str) -> None:
    """Where every column beats all before it, the store runs full again and again."""
    rows = np.sort(drawn(20_000, 50.0), axis=1)
    rows = {"rising": rows, "falling": rows[:, ::-1], "late": np.roll(rows[:, ::-1], 19_000, axis=1)}[order]
    best, values = ranked(rows, 128)
    np.testing.assert_array_equal(values, -np.sort(-rows, axis=1)[:, :128])
    np.testing.assert_array_equal(np.take_along_axis(rows, best, axis=1), values)


def test_ties_and_impossible_columns_leave_k_different_columns() -> None:
    """Equal scores, and minus infinity for all but a few: k columns, each once, and the finite ones first."""
    rows = np.full((3, 3000), -np.inf, dtype=np.float32)
    rows[0] = 1.5
    rows[1, [5, 2999]] = 0.0, 1.0
    rows[2, ::2] = 2.0
    found = scanned(rows, 100)
    best, values = found.best()
    assert [len(set(row)) for row in best.tolist()] == [100, 100, 100]
    np.testing.assert_array_equal(values[0], np.full(100, 1.5, dtype=np.float32))
    assert best[1, :2].tolist() == [2999, 5]
    assert np.isneginf(values[1, 2:]).all()
    assert (best[2] % 2 == 0).all()
    np.testing.assert_allclose(found.total, [3000, 1 + np.exp(-1), 1500], rtol=1e-6)


@pytest.mark.parametrize("spread", [0.01, 3.0, 200.0])
@pytest.mark.parametrize("width", [300, 20_000])
def test_sums_hold_every_column(spread: float, width: int) -> None:
    """Rows where all columns matter and rows where a few do, with a prior; nothing is overwritten."""
    scores = drawn(width, spread)
    prior = np.log(np.random.default_rng(1).dirichlet(np.ones(width))).astype(np.float32)
    joint, before = scores + prior, scores.copy()
    found = scanned(scores, 8, prior)
    best, values = found.best()
    np.testing.assert_array_equal(best, np.argsort(-joint, axis=1)[:, :8])
    np.testing.assert_array_equal(values[:, 0], found.peak)
    exact = np.exp((joint - joint.max(axis=1, keepdims=True)).astype(np.float64)).sum(axis=1)
    np.testing.assert_allclose(found.total, exact, rtol=1e-6)
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("width", [40, 1500])
def test_a_product_is_scanned_as_if_it_were_stored(width: int) -> None:
    """Products of whole numbers are exact, so that tiles and the whole must agree to the last bit."""
    rng = np.random.default_rng(2)
    left, right = (rng.integers(-50, 50, shape).astype(np.float32) for shape in ((2100, 9), (9, width)))
    prior = rng.normal(size=width).astype(np.float32)
    whole, tiles = scanned(left @ right, 12, prior), scanned_product(left, right, 12, prior)
    for one, other in zip(whole.best(), tiles.best(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(whole.total, tiles.total)
    for one, other in zip(whole.best(), ranked_product(left, right, 12, prior), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_exponential_is_right_to_float32() -> None:
    """3e-7 relative down to -87, and next to nothing below."""
    at = np.concatenate([np.linspace(-87, 0, 5001), np.log(2) * (np.arange(-100, 1) / 2)]).astype(np.float32)
    found = np.array([exponential(x) for x in at[at >= -87]])
    np.testing.assert_allclose(found, np.exp(at[at >= -87].astype(np.float64)), rtol=3e-7)
    assert exponential(np.float32(0.0)) == 1.0
    assert 0 <= exponential(np.float32(-np.inf)) < 1e-37
