"""Short tours through many points on the unit sphere: exact neighbour lists, greedy edges, 2-opt and Or-opt.

Made for a whole vocabulary, where a matrix of distances is out of the question (49,152 tokens: 19 GB of float64).
Bentley, "Fast algorithms for geometric traveling salesman problems", ORSA Journal on Computing 4 (1992): neighbour
lists and don't-look bits; Or, "Traveling salesman-type combinatorial problems" (1976): moves of short segments.

Symbols: V points of b coordinates, K neighbours of each. Distances are cosine distances, 1 - cos; a point of length
zero has distance 1 to every other.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from defenses.base import Float32
from defenses.neighbours import smallest

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Bools = NDArray[np.bool_]

_CELLS = 1 << 24  # cosines at a time: 64 MiB of float32
_DENSE = 1500  # ends of fragments among which every pair is looked at
_LEAST_GAIN = (
    1e-5  # above the rounding of four float32 cosines: it may not look like a gain, or the search would not end
)


def unit_rows(table: Float32) -> Float32:
    """Rows (V, b) scaled to length 1; rows of zeros stay."""
    lengths = np.linalg.norm(table.astype(np.float64), axis=1, keepdims=True)
    return np.ascontiguousarray(table / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)


def nearest(unit: Float32, count: int, owners: Int64 | None = None) -> Int32:
    """The `count` nearest others of every point, nearest first, (V, count).

    Args:
        unit: As `unit_rows` gives them, (V, b).
        count: Between 1 and V - 1.
        owners: Points with the same number, (V,), are no neighbours of one another. None: only of themselves.

    Raises:
        ValueError: count is out of range.
    """
    size = len(unit)
    if not 1 <= count < size:
        raise ValueError(f"count must be between 1 and {size - 1}, not {count}")
    found = np.empty((size, count), dtype=np.int32)
    step = max(1, _CELLS // size)
    with tqdm(total=size, desc="nearest tokens", unit="tokens", leave=False, disable=size < 4096) as bar:
        for start in range(0, size, step):
            block = np.arange(start, min(size, start + step))
            scores = -(unit[block] @ unit.T)
            scores[np.arange(len(block)), block] = np.inf
            if owners is not None:
                scores[owners[block][:, None] == owners[None, :]] = np.inf
            kept = np.sort(smallest(scores, count), axis=1)
            order = np.argsort(np.take_along_axis(scores, kept, axis=1), axis=1, kind="stable")
            found[block] = np.take_along_axis(kept, order, axis=1)
            bar.update(len(block))
    return found


def greedy_tour(unit: Float32, neighbours: Int32) -> Int32:
    """A closed tour of the shortest edges that leave no point with three and close no circle early, (V,).

    Edges come from the neighbour lists first; what they leave are fragments, whose ends are joined in the same way
    among themselves, round after round.
    """
    size = len(unit)
    links = _Fragments(size)
    sources = np.repeat(np.arange(size), neighbours.shape[1])
    links.join(unit, sources, neighbours.astype(np.int64).ravel())
    while (ends := links.ends()).size:
        rows = unit[ends]
        owners = np.array([links.root(int(end)) for end in ends])
        if len(np.unique(owners)) == 1:
            break
        count = len(ends) - 2 if len(ends) <= _DENSE else neighbours.shape[1]
        near = nearest(rows, max(1, min(count, len(ends) - 1)), owners)
        first, second = np.repeat(ends, near.shape[1]), ends[near].ravel()
        links.join(unit, first, second)
    return links.tour()


@dataclass
class _Move:
    """A change of a tour.

    Attributes:
        gain: What it shortens the closed tour by.
        start: Position where the rewritten run begins.
        run: The points that stand there afterwards.
        ends: Points whose edges changed.
    """

    gain: float
    start: int
    run: Int32
    ends: tuple[int, ...]


class LocalSearch:
    """2-opt and Or-opt with neighbour lists and don't-look bits on a closed tour.

    Args:
        unit: Points, (V, b), as `unit_rows` gives them.
        tour: A permutation of V points, (V,); it is copied.
        neighbours: Nearest first, (V, K).
        segment: Longest segment that Or-opt moves, at least 1.
    """

    def __init__(self, unit: Float32, tour: Int32, neighbours: Int32, segment: int = 3) -> None:
        if segment < 1:
            raise ValueError(f"segment must be at least 1, not {segment}")
        self._unit, self._neighbours, self._segment = unit, neighbours, segment
        self.tour = tour.copy()
        self._place = np.empty_like(self.tour)
        self._place[self.tour] = np.arange(len(tour), dtype=self.tour.dtype)
        self._near = np.empty(neighbours.shape, dtype=np.float32)
        for point, row in enumerate(neighbours):
            self._near[point] = 1 - unit[row] @ unit[point]

    def run(self) -> float:
        """Improve until no move from any point gains; what was gained in all."""
        waiting, queued = deque(self.tour.tolist()), np.ones(len(self.tour), dtype=np.bool_)
        gained = 0.0
        if len(waiting) < 5:
            return gained
        with tqdm(desc="2-opt and Or-opt", unit="looks", leave=False, disable=len(waiting) < 4096) as bar:
            while waiting:
                point = waiting.popleft()
                queued[point] = False
                bar.update()
                while (move := self._best(point)) is not None:
                    gained += move.gain
                    self._apply(move)
                    waiting.extend(_fresh(move.ends, queued))
        return gained

    def _at(self, place: int) -> int:
        return int(self.tour[place % len(self.tour)])

    def _best(self, point: int) -> _Move | None:
        """The first kind of move that gains, at its best; None where there is none."""
        for step in (1, -1):
            move = self._two_opt(point, step)
            if move is not None:
                return move
        for step in (1, -1):
            for length in range(1, min(self._segment, len(self.tour) - 4) + 1):
                move = self._or_opt(point, step, length)
                if move is not None:
                    return move
        return None

    def _distance(self, first: int, second: int) -> float:
        return float(1 - self._unit[first] @ self._unit[second])

    def _beside(self, points: Int32, step: int) -> Int32:
        return np.asarray(self.tour[(self._place[points] + step) % len(self.tour)])

    def _pairs(self, first: Int32, second: Int32) -> Float32:
        return np.asarray(1 - np.einsum("kb,kb->k", self._unit[first], self._unit[second]))

    def _two_opt(self, point: int, step: int) -> _Move | None:
        """Replace the edges (a, a+) and (c, c+) by (a, c) and (a+, c+), where + is the neighbour `step` ahead."""
        beyond = self._at(int(self._place[point]) + step)
        old = self._distance(point, beyond)
        near = self._near[point]
        count = int(np.searchsorted(near, old))
        if not count:
            return None
        others = self._neighbours[point, :count]
        after = self._beside(others, step)
        gains = old - near[:count] + self._pairs(others, after) - (1 - self._unit[after] @ self._unit[beyond])
        best = int(np.argmax(gains))
        if gains[best] <= _LEAST_GAIN:
            return None
        other, last = int(others[best]), int(after[best])
        first, final = (beyond, other) if step == 1 else (other, beyond)
        if step == -1:
            first, final = point, last
        start, run = self._reversed(int(self._place[first]), int(self._place[final]))
        return _Move(float(gains[best]), start, run, (point, beyond, other, last))

    def _reversed(self, start: int, end: int) -> tuple[int, Int32]:
        """Reverse the run of places start..end, or the rest of the tour where that is shorter: the same circle."""
        size = len(self.tour)
        length = (end - start) % size + 1
        if 2 * length > size:
            start, length = (end + 1) % size, size - length
        return start, self._run(start, length)[::-1]

    def _run(self, start: int, length: int) -> Int32:
        return np.asarray(self.tour[(start + np.arange(length)) % len(self.tour)])

    def _or_opt(self, point: int, step: int, length: int) -> _Move | None:
        """Move the segment of `length` points from `point` on, in direction `step`, beside a neighbour of `point`."""
        place, size = int(self._place[point]), len(self.tour)
        before, end, beyond = (self._at(place + step * offset) for offset in (-1, length - 1, length))
        removed = self._distance(before, point) + self._distance(end, beyond) - self._distance(before, beyond)
        near = self._near[point]
        count = int(np.searchsorted(near, removed))
        if removed <= _LEAST_GAIN or not count:
            return None
        others = self._neighbours[point, :count]
        outside = (step * (self._place[others] - place)) % size >= length
        found: tuple[float, int, int] | None = None
        for side in (1, -1):
            after = self._beside(others, side)
            free = outside & ((step * (self._place[after] - place)) % size >= length)
            gains = removed - near[:count] + self._pairs(others, after) - (1 - self._unit[after] @ self._unit[end])
            gains = np.where(free, gains, -np.inf)
            best = int(np.argmax(gains))
            if gains[best] > _LEAST_GAIN and (found is None or gains[best] > found[0]):
                found = float(gains[best]), int(others[best]), int(after[best])
        return None if found is None else self._moved(found, (point, end, before, beyond), step, length)

    def _moved(self, found: tuple[float, int, int], ends: tuple[int, int, int, int], step: int, length: int) -> _Move:
        """The run between a segment and the edge that it goes into, with the segment at its other end."""
        gain, other, after = found
        point, end, before, beyond = ends
        size = len(self.tour)
        low = int(self._place[point if step == 1 else end])  # the segment is places low .. low + length - 1
        into = {int(self._place[other]), int(self._place[after])}
        ahead = min((place - low - length) % size for place in into) + 1  # points from the segment to the edge
        behind = size - length - ahead
        segment = self._run(low, length)
        if ahead <= behind:
            start, between = low, self._run((low + length) % size, ahead)
        else:
            start, between = (low - behind) % size, self._run((low - behind) % size, behind)
        # The point of the segment that stands next to the run between must be the one that is joined to its end.
        joint = int(between[-1] if ahead <= behind else between[0])
        inner = point if joint == other else end
        if (int(segment[0]) == inner) != (ahead <= behind):
            segment = segment[::-1]
        run = np.concatenate([between, segment] if ahead <= behind else [segment, between])
        return _Move(gain, start, run, (point, end, before, beyond, other, after))

    def _apply(self, move: _Move) -> None:
        places = (move.start + np.arange(len(move.run))) % len(self.tour)
        self.tour[places] = move.run
        self._place[move.run] = places


class _Fragments:
    """Paths that grow by edges: two links a point, and a forest of which points hang together."""

    def __init__(self, size: int) -> None:
        self._links: list[list[int]] = [[] for _ in range(size)]
        self._parent = list(range(size))

    def root(self, point: int) -> int:
        """The number of the fragment that a point is in."""
        while self._parent[point] != point:
            self._parent[point] = self._parent[self._parent[point]]
            point = self._parent[point]
        return point

    def join(self, unit: Float32, first: Int64, second: Int64) -> None:
        """Take of the edges first[i] - second[i], shortest first, all that keep the fragments paths."""
        low, high = np.minimum(first, second), np.maximum(first, second)
        edges = np.unique(low * len(unit) + high)
        low, high = edges // len(unit), edges % len(unit)
        step = max(1, _CELLS // unit.shape[1])
        lengths = np.concatenate(
            [1 - np.einsum("eb,eb->e", unit[low[i : i + step]], unit[high[i : i + step]])
             for i in range(0, len(low), step)]
        )  # fmt: skip
        for index in np.argsort(lengths, kind="stable"):
            self._link(int(low[index]), int(high[index]))

    def _link(self, first: int, second: int) -> None:
        if len(self._links[first]) == 2 or len(self._links[second]) == 2:
            return
        roots = self.root(first), self.root(second)
        if roots[0] != roots[1]:
            self._parent[roots[0]] = roots[1]
            self._links[first].append(second)
            self._links[second].append(first)

    def ends(self) -> Int64:
        """Points that can still be joined."""
        return np.array([point for point, links in enumerate(self._links) if len(links) < 2], dtype=np.int64)

    def tour(self) -> Int32:
        """The one fragment that is left, from one end to the other."""
        before, here = -1, next(point for point, links in enumerate(self._links) if len(links) < 2)
        found = [here]
        while step := [point for point in self._links[here] if point != before]:
            before, here = here, step[0]
            found.append(here)
        return np.array(found, dtype=np.int32)


def _fresh(points: Iterable[int], queued: Bools) -> Iterator[int]:
    """Points whose don't-look bit was set, which is cleared."""
    for point in points:
        if not queued[point]:
            queued[point] = True
            yield point
