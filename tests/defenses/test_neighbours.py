"""Nearest tokens of all tokens against sorting all distances."""

import numpy as np
import pytest

from defenses.base import Assets
from defenses.neighbours import nearest_tokens, smallest


@pytest.mark.parametrize(("vocabulary", "count"), [(30, 1), (30, 30), (900, 5), (2003, 20)])
def test_nearest_tokens_are_those_of_a_full_sort(vocabulary: int, count: int) -> None:
    """The same ids in the same order as from a stable sort of all distances, the token itself first."""
    table = np.random.default_rng(0).normal(2.0, 1.0, size=(vocabulary, 6)).astype(np.float32)
    found = nearest_tokens(Assets(table), count)
    assert found.shape == (vocabulary, count)
    for token in range(0, vocabulary, 17):
        gaps = np.linalg.norm(table.astype(np.float64) - table[token], axis=1)
        np.testing.assert_array_equal(found[token], np.argsort(gaps, kind="stable")[:count])


def test_a_token_comes_first_before_its_equals() -> None:
    """Equal embeddings are at distance 0, too; each token still names itself first."""
    table = np.ones((40, 3), dtype=np.float32)
    found = nearest_tokens(Assets(table), 4)
    np.testing.assert_array_equal(found[:, 0], np.arange(40))


@pytest.mark.parametrize(("columns", "count"), [(10, 3), (500, 3), (1000, 20), (1007, 31)])
def test_smallest_in_groups_is_smallest_of_all(columns: int, count: int) -> None:
    """The same set as from sorting, also where the last columns fill no group."""
    scores = np.random.default_rng(columns).normal(size=(20, columns)).astype(np.float32)
    found = np.sort(smallest(scores, count), axis=1)
    np.testing.assert_array_equal(found, np.sort(np.argsort(scores, axis=1)[:, :count], axis=1))


@pytest.mark.parametrize("count", [0, 11])
def test_an_impossible_count_is_refused(count: int) -> None:
    """A table of ten tokens has one to ten nearest ones."""
    with pytest.raises(ValueError, match="between 1 and 10"):
        nearest_tokens(Assets(np.eye(10, dtype=np.float32)), count)
