"""The worst pair of real tokens, so that an audit's bound is not for a lucky pair.

Where the law of the views is known (DEL), the pair that is farthest apart is looked for among all V^2 without looking
at all of them: extremes of random projections, then hops to the farthest token. Where a text defence has a likelihood,
candidates are compared by their public law (`known_text`). Where nothing is known, pairs are drawn from frequent and
rare tokens alike, and training draws choose among them (`collect` with several inputs).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit.probes.base import Inputs
from audit.probes.divergence import PairEpsilon, log_affinity, pair_epsilon
from audit.probes.known_text import text_pairs
from defenses.base import Defense
from defenses.pipeline.defense import Del
from defenses.privacy.profile import PrivacyProfile

Float64 = NDArray[np.float64]
Ints = NDArray[np.int64]

_DIRECTIONS = 64
_HOPS = 6
_STRATA = 4


@dataclass(frozen=True)
class TokenPair:
    """Two tokens and what is known about them.

    Attributes:
        first: Token id.
        second: Token id.
        epsilon: Exact, at the search's delta; None where the law is unknown.
        found: Where the pair comes from.
    """

    first: int
    second: int
    epsilon: PairEpsilon | None
    found: str

    def inputs(self) -> Inputs:
        """The pair as prompts of one token."""
        exact = "" if self.epsilon is None else f", exact epsilon {self.epsilon.lower:.4g} at {self.epsilon.delta:g}"
        return Inputs(np.array([[self.first]]), np.array([[self.second]]), f"two tokens, {self.found}{exact}")


@dataclass(frozen=True)
class PairSearch:
    """Candidates for the worst pair, the best first where the law is known.

    Attributes:
        pairs: At least one.
        delta: Where epsilons are stated.
        worst_case: The mechanism's own epsilon over all inputs that it accepts; None where it promises nothing.
        reach: The best pair's distance over an upper bound on any pair's, in the angles of `log_affinity`: 1 says that
            no pair is farther apart. None where the law is unknown.
    """

    pairs: tuple[TokenPair, ...]
    delta: float
    worst_case: float | None
    reach: float | None

    @property
    def best(self) -> TokenPair:
        """The pair of the largest exact epsilon, or the first candidate."""
        return self.pairs[0]

    def inputs(self) -> tuple[Inputs, ...]:
        """All candidates, for `collect` to choose among on training draws."""
        return tuple(pair.inputs() for pair in self.pairs)


def search_pair(
    defense: Defense[Any],
    rng: np.random.Generator,
    *,
    delta: float = 1e-5,
    count: int = 8,
    counts: Ints | None = None,
) -> PairSearch:
    """Candidates for the worst pair of tokens of a defence's vocabulary.

    For DEL the search is by its public law: over all tokens, and within the frequent and the rare half, since a faulty
    defence may treat them differently. For text defences with a likelihood it is by simulation of theirs. Half of
    `count` are stratified pairs, which assume no law.

    Args:
        defense: Whose tokens are searched.
        rng: Projections and stratified pairs.
        delta: Where exact epsilons are stated, in (0, 1).
        count: Candidates, at least 2.
        counts: How often each token occurs in public text, shape (V,); by default a lower id counts as more frequent,
            as in most tokenizers' vocabularies.

    Raises:
        ValueError: count is below 2 or the claim covers fewer than 2 tokens.
    """
    covered = defense.covered()
    if count < 2 or len(covered) < 2:
        raise ValueError(f"at least 2 candidates and 2 tokens are needed, not {count} and {len(covered)}")
    order = covered if counts is None else covered[np.argsort(-np.asarray(counts)[covered], kind="stable")]
    profile: PrivacyProfile | None = defense.profile()
    worst = None if profile is None else profile.epsilon(delta)
    if not isinstance(defense, Del) or not np.isfinite(defense.quantizer.a_over_c):
        best = [
            TokenPair(a, b, None, f"told apart by the public law: {share:.0%} of what the first sends")
            for a, b, share in text_pairs(defense, order, rng, max(1, count - count // 2))
        ]
        return PairSearch((*best, *stratified_pairs(order, count - len(best), rng)), delta, worst, None)
    pairs, reach = _known_law(defense, order, rng, delta, max(1, count - count // 2))
    more = stratified_pairs(order, count - len(pairs), rng) if count > len(pairs) else []
    return PairSearch((*pairs, *more), delta, worst, reach)


def stratified_pairs(order: Ints, count: int, rng: np.random.Generator) -> list[TokenPair]:
    """Pairs of tokens from every combination of frequency strata in turn.

    Args:
        order: Token ids, the most frequent first, shape (V,), V >= 2.
        count: How many.
        rng: Draws within the strata.
    """
    strata = [part for part in np.array_split(order, min(_STRATA, max(1, len(order) // 2))) if len(part) >= 2]
    combinations = [(i, j) for i in range(len(strata)) for j in range(i, len(strata))]
    pairs: list[TokenPair] = []
    for place in range(count):
        i, j = combinations[(place * 7) % len(combinations)]  # 7 is prime to 1, 3, 6 and 10 combinations
        first, second = (
            rng.choice(strata[i], size=2, replace=False) if i == j else (rng.choice(strata[i]), rng.choice(strata[j]))
        )
        pairs.append(
            TokenPair(int(first), int(second), None, f"from frequency strata {i + 1} and {j + 1} of {len(strata)}")
        )
    return pairs


def _known_law(
    defense: Del, order: Ints, rng: np.random.Generator, delta: float, count: int
) -> tuple[list[TokenPair], float]:
    """Pairs by DEL's law, sorted by their exact epsilon, and how near the farthest one is to the bound."""
    latents = defense.table.latents(np.arange(defense.table.vocabulary)).astype(np.float64)
    angles = np.arcsin(np.sqrt(defense.quantizer.probability(latents)))
    half = len(order) // 2
    groups = [("of the whole vocabulary", order)]
    groups += [("of the frequent half", order[:half]), ("of the rare half", order[half:])] if half >= 2 else []
    found: dict[tuple[int, int], str] = {}
    reach = 1.0
    for place, (text, ids) in enumerate(groups):
        wanted = max(1, count // len(groups) + (place < count % len(groups)))
        local = farthest_pairs(angles[ids], rng, wanted)
        if place == 0:
            reach = _reach(angles, *local[0])
        for a, b in local:
            key = (min(int(ids[a]), int(ids[b])), max(int(ids[a]), int(ids[b])))
            found.setdefault(key, f"the farthest {text}")
    pairs = [
        TokenPair(a, b, pair_epsilon(latents[a], latents[b], defense.quantizer, delta), text)
        for (a, b), text in found.items()
    ]
    pairs.sort(key=lambda pair: -pair.epsilon.lower if pair.epsilon else 0.0)
    return pairs, reach


def farthest_pairs(angles: Float64, rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    """Pairs of rows that are far apart, the farthest first, in O(V d) a hop and never O(V^2).

    Args:
        angles: Rows of the variance-stabilised space, shape (V, d), V >= 2.
        rng: Directions of the projections.
        count: At most so many pairs.
    """
    directions = rng.normal(size=(angles.shape[1], _DIRECTIONS))
    projected = (angles - angles.mean(axis=0)) @ directions
    spread = np.linalg.norm(angles - angles.mean(axis=0), axis=1)
    starts = np.unique(
        np.concatenate([projected.argmax(axis=0), projected.argmin(axis=0), np.argsort(-spread)[:_DIRECTIONS]])
    )
    found: dict[tuple[int, int], float] = {}
    here = starts
    for _ in range(_HOPS):
        there, gaps = _farthest(angles, here)
        for a, b, gap in zip(here, there, gaps, strict=True):
            if a != b:
                found[min(int(a), int(b)), max(int(a), int(b))] = float(gap)
        following = np.unique(there)
        if np.array_equal(following, here):
            break
        here = following
    ranked = sorted(found, key=lambda pair: -log_affinity(angles[pair[0]], angles[pair[1]][None], 1)[0])
    return ranked[:count] or [(0, 1)]


def _farthest(angles: Float64, queries: Sequence[int] | Ints) -> tuple[Ints, Float64]:
    """For each query row the row farthest from it, and their squared distance; shapes (Q,)."""
    asked = angles[queries]
    squares = np.square(angles).sum(axis=1)
    gaps = squares[None] - 2 * asked @ angles.T + np.square(asked).sum(axis=1)[:, None]
    far = gaps.argmax(axis=1)
    return far.astype(np.int64), gaps[np.arange(len(far)), far]


def _reach(angles: Float64, first: int, second: int) -> float:
    """The pair's distance over twice the radius of a ball around its middle that holds all rows."""
    middle = 0.5 * (angles[first] + angles[second])
    radius = float(np.linalg.norm(angles - middle, axis=1).max())
    return float(np.linalg.norm(angles[first] - angles[second])) / max(2 * radius, 1e-300)
