"""Tours through embedding tables: what is a tour, how short it is, and that a kept one belongs to its table."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from defenses.crypto.tour import (
    Tour,
    TourSettings,
    cut,
    find_order,
    load_tour,
    neighbour_distance,
    save_tour,
    solve_pairs,
    tour_of,
    tour_path,
)
from defenses.crypto.tour_search import LocalSearch, greedy_tour, nearest, unit_rows
from defenses.errors import UserError
from defenses.models.llm import DEFAULT_MODEL
from defenses.randomness import seeded_rng


def points(seed: int, count: int, width: int = 4) -> np.ndarray:
    """Random rows."""
    return seeded_rng(seed, "tour").normal(size=(count, width)).astype(np.float32)


def closed_length(unit: np.ndarray, tour: np.ndarray) -> float:
    """Length of a closed tour, edge by edge."""
    return float(sum(1 - unit[a] @ unit[b] for a, b in zip(tour, np.roll(tour, -1), strict=True)))


def shortest(unit: np.ndarray) -> float:
    """The optimum by trying every order."""
    return min(closed_length(unit, np.array([0, *rest])) for rest in itertools.permutations(range(1, len(unit))))


def test_unit_rows_leave_zeros_alone() -> None:
    """A padding token of zeros must not become NaN and poison every distance."""
    unit = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0.0, 0.0]], atol=1e-7)


@pytest.mark.parametrize("size", [30, 700])
def test_neighbours_are_the_nearest(size: int) -> None:
    """Blocked search gives what sorting every distance gives; the larger size takes the grouped selection."""
    unit = unit_rows(points(0, size))
    scores = 1 - unit @ unit.T
    np.fill_diagonal(scores, np.inf)
    expected = np.sort(scores, axis=1)[:, :6]
    found = nearest(unit, 6)
    np.testing.assert_allclose(np.take_along_axis(scores, found.astype(np.int64), axis=1), expected, atol=1e-6)
    assert not (found == np.arange(size)[:, None]).any()


def test_neighbours_of_another_owner_only() -> None:
    """Ends of one fragment are no candidates for one another, or the fragment would close."""
    owners = np.repeat(np.arange(5), 4)
    found = nearest(unit_rows(points(1, 20)), 3, owners)
    assert (owners[found] != owners[:, None]).all()


@pytest.mark.parametrize("seed", range(12))
def test_search_never_lengthens_and_stays_a_permutation(seed: int) -> None:
    """What a move says it gains is what the tour gets shorter by, from greedy and from random starts."""
    rng = seeded_rng(seed, "search")
    unit = unit_rows(points(seed, int(rng.integers(5, 60)), 3))
    neighbours = nearest(unit, min(len(unit) - 1, 8))
    for start in (greedy_tour(unit, neighbours), rng.permutation(len(unit)).astype(np.int32)):
        assert sorted(start.tolist()) == list(range(len(unit)))
        search = LocalSearch(unit, start, neighbours)
        gained = search.run()
        assert sorted(search.tour.tolist()) == list(range(len(unit)))
        assert gained >= 0
        assert closed_length(unit, start) - gained == pytest.approx(closed_length(unit, search.tour), abs=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_search_comes_near_the_optimum_of_eight_points(seed: int) -> None:
    """2-opt with Or-opt on all neighbours is within 5 % of the best of all 5,040 tours; measured worst: optimal."""
    unit = unit_rows(points(seed, 8))
    neighbours = nearest(unit, 7)
    search = LocalSearch(unit, greedy_tour(unit, neighbours), neighbours)
    search.run()
    assert closed_length(unit, search.tour) <= 1.05 * shortest(unit) + 1e-6


def test_search_beats_greedy_and_greedy_beats_chance() -> None:
    """On clustered points, as embeddings are, the order of quality is that of the work spent."""
    rng = seeded_rng(5, "clusters")
    centres = rng.normal(size=(40, 16))
    unit = unit_rows((centres[rng.integers(0, 40, 600)] + 0.4 * rng.normal(size=(600, 16))).astype(np.float32))
    neighbours = nearest(unit, 10)
    greedy = greedy_tour(unit, neighbours)
    search = LocalSearch(unit, greedy, neighbours)
    search.run()
    lengths = [closed_length(unit, one) for one in (search.tour, greedy, np.arange(600))]
    assert lengths[0] < 0.99 * lengths[1] < 0.5 * lengths[2]


def test_a_cut_tour_loses_its_longest_edge() -> None:
    """The open order keeps the circle but for its longest step."""
    unit = unit_rows(points(2, 20))
    closed = seeded_rng(2, "cut").permutation(20).astype(np.int32)
    order = cut(unit, closed)
    edges = [1 - unit[a] @ unit[b] for a, b in zip(closed, np.roll(closed, -1), strict=True)]
    assert 19 * neighbour_distance(unit, order) == pytest.approx(sum(edges) - max(edges), abs=1e-4)
    doubled = np.concatenate([closed, closed]).tolist()
    start = doubled.index(int(order[0]))
    assert doubled[start : start + 20] == order.tolist()


@pytest.mark.parametrize("size", [2, 3, 4, 5, 9])
def test_tiny_tables_have_tours(size: int) -> None:
    """Every size down to two tokens gives a permutation."""
    order = find_order(points(3, size), exhaustive=False)
    assert sorted(order.tolist()) == list(range(size))


def test_bad_tables_and_settings_are_refused() -> None:
    """What cannot be toured is a sentence, not a traceback."""
    with pytest.raises(UserError, match="two tokens or more"):
        find_order(points(0, 1))
    with pytest.raises(UserError, match="at least 1"):
        TourSettings(neighbours=0)
    with pytest.raises(ValueError, match="count must be between"):
        nearest(unit_rows(points(0, 4)), 4)
    with pytest.raises(ValueError, match="segment"):
        LocalSearch(points(0, 5), np.arange(5, dtype=np.int32), np.zeros((5, 1), dtype=np.int32), segment=0)


def test_the_solver_finds_the_optimum_of_eight_points(needs: Callable[..., None]) -> None:
    """The small solver is exact where it can be checked by trying everything."""
    needs("fast_tsp")
    unit = unit_rows(points(7, 8))
    tour = solve_pairs(1 - unit.astype(np.float64) @ unit.T, 1.0)
    assert closed_length(unit, tour) == pytest.approx(shortest(unit), abs=1e-3)


def test_the_solver_is_no_worse_than_the_search(needs: Callable[..., None]) -> None:
    """On 200 tokens the tour of all pairs is at most 1 % longer than that of neighbour lists."""
    needs("fast_tsp")
    table = points(8, 200, 32)
    searched = neighbour_distance(table, find_order(table, exhaustive=False))
    assert neighbour_distance(table, find_order(table, TourSettings(seconds=1.0))) <= 1.01 * searched


def made(table: np.ndarray) -> Tour:
    """A tour with its card."""
    settings = TourSettings(neighbours=4, seconds=0.2)
    order = find_order(table, settings, exhaustive=False)
    card = {"kind": "tour", "embedding": "ab", "tokens": len(table)}
    return Tour(order, card)


def test_a_kept_tour_comes_back_and_belongs_to_its_table(tmp_path: Path) -> None:
    """Another table's tour, a damaged one and none at all are refused with the way to mend it."""
    path = tour_path("model", tmp_path)
    tour = made(points(4, 40))
    save_tour(tour, path)
    back = load_tour(path, "ab")
    np.testing.assert_array_equal(back.order, tour.order)
    assert back.card["kind"] == "tour"
    with pytest.raises(UserError, match=r"belongs to the embedding table ab.*--make-tour"):
        load_tour(path, "cd")
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match=r"does not fit its card|no readable tour"):
        load_tour(path, "ab")
    with pytest.raises(UserError, match="no readable tour"):
        load_tour(tmp_path / "nothing.safetensors", "ab")


def test_an_order_that_is_no_permutation_is_refused(tmp_path: Path) -> None:
    """A token twice would double its weight and drop another's."""
    path = save_tour(Tour(np.array([0, 1, 1], dtype=np.int32), {"embedding": "ab"}), tmp_path / "tour.safetensors")
    with pytest.raises(UserError, match="no permutation"):
        load_tour(path, "ab")


def test_a_tour_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is loaded; its card compares it with the table's own order and with chance."""
    monkeypatch.setattr("defenses.crypto.tour.SMALL", 8)
    table, path = points(6, 60), tmp_path / "tour.safetensors"
    first = tour_of(table, "ab", path, seeded_rng(0), facts={"command": "delaudit"})
    metrics = first.card["metrics"]
    assert metrics["neighbour_distance"] < metrics["neighbour_distance_identity"]
    assert metrics["neighbour_distance"] < metrics["neighbour_distance_random"]
    stamp = path.stat().st_mtime_ns
    again = tour_of(table, "ab", path, seeded_rng(1))
    np.testing.assert_array_equal(again.order, first.order)
    assert path.stat().st_mtime_ns == stamp


def test_neighbour_lists_give_the_same_tour_again() -> None:
    """An artifact can be made anew from its card."""
    table = points(9, 300, 8)
    np.testing.assert_array_equal(find_order(table, exhaustive=False), find_order(table, exhaustive=False))


def test_the_shipped_tour_is_a_short_one() -> None:
    """The artifact for the default model is a permutation of 49,152 tokens and says how short it is."""
    path = tour_path(DEFAULT_MODEL)
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    tour = load_tour(path, card["embedding"])
    assert len(tour.order) == 49_152
    metrics = card["metrics"]
    assert metrics["neighbour_distance"] < 0.28
    assert metrics["neighbour_distance_identity"] > 0.5


@pytest.mark.slow
def test_the_shipped_card_tells_the_truth() -> None:
    """The neighbour distance on the card is that of the model's own table."""
    from defenses.models.llm import load_llm

    llm = load_llm()
    tour = load_tour(tour_path(DEFAULT_MODEL), llm.fingerprint)
    told = tour.card["metrics"]
    assert neighbour_distance(llm.embedding, tour.order) == pytest.approx(told["neighbour_distance"], abs=1e-4)
    assert neighbour_distance(llm.embedding) == pytest.approx(told["neighbour_distance_identity"], abs=1e-4)
