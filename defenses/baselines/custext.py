"""CusText: every token is replaced by one of a small set of its own; CusText+ sends the most frequent ones in clear.

Chen, Mo, Wang, Chen, Nie, Wang, Cui 2023, "A customized text sanitization mechanism with differential privacy"
(Findings of ACL). A public mapping f gives each token x an output set f(x) of K tokens, and

    P(y | x) proportional to exp(epsilon u(x, y) / 2) for y in f(x), u = -(d(x, y) - least) / (most - least) in [-1, 0],

with d the Euclidean distance of embeddings and its least and most over f(x). The conservative mapping takes the most
frequent token that has no set yet; its K nearest tokens without a set, itself among them, become the set of them all.

What holds: epsilon-DP between tokens of the same set, as an exponential mechanism whose utility moves by at most 1.
Between tokens of different sets nothing holds, since their outputs are disjoint: one sent token names the set. Read as
epsilon-DP of any two tokens, as it is compared with other defences, the claim is false, and an audit refutes it.
The aggressive mapping gives every token its own K nearest, whatever other sets hold: no claim is true of it.

Cost: 2 bytes a token up to 65,536 tokens (4 beyond); K weights for each different token. The mapping is made once.

The authors' code differs from the paper: it counts frequencies on the private training and development text, sends
words without an embedding as they are and numbers as their sum with a random integer below 1000, min-max normalises
inner products in place of distances for embeddings other than GloVe, fills the last sets with tokens that have a set
already, and its aggressive mapping for those embeddings reads a variable that is not set there. With stop words saved,
as in CusText+, it sends those in clear while they stay possible outputs of others; so does `kept` here.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from defenses.base import NO_CLAIM, Assets, Claim, Float32, Tokens
from defenses.errors import UserError
from defenses.likelihood import Distances
from defenses.neighbours import nearest_tokens, smallest
from defenses.privacy.exponential import ExponentialMechanismProfile
from defenses.replacement_laws import (
    IMPOSSIBLE,
    DrawnByInversion,
    Float64,
    Law,
    by_frequency,
    check_epsilon,
    progress,
)

Strategy = Literal["conservative", "aggressive"]

_LEADERS = 64  # tokens whose distances are computed together; those that meanwhile got a set were looked at in vain


@dataclass(frozen=True)
class CusTextConfig:
    """How much noise, within which sets.

    Attributes:
        epsilon: Of two tokens of the same set, above 0; infinity sends the prompt itself.
        outputs: K, the size of an output set, at least 2; the last set may be smaller.
        mapping: "conservative": disjoint sets; "aggressive": every token's own nearest, no claim.
        kept: So many of the most frequent tokens are sent in clear (CusText+).
    """

    epsilon: float = 3.0
    outputs: int = 20
    mapping: Strategy = "conservative"
    kept: int = 0

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon, "custext")
        if self.outputs < 2:
            raise UserError(f"custext: outputs must be at least 2 tokens, not {self.outputs}")
        if self.mapping not in get_args(Strategy):
            raise UserError(f"custext: mapping is one of {', '.join(get_args(Strategy))}, not {self.mapping!r}")
        if self.kept < 0:
            raise UserError(f"custext: kept must not be negative, not {self.kept}")


@dataclass(frozen=True, eq=False)
class Mapping:
    """A public mapping of tokens to output sets.

    Attributes:
        members: f(x), shape (V, K), int64; -1 where the last set is smaller.
        utilities: u(x, y), shape (V, K), in [-1, 0]; -infinity where there is no member.
        sets: The number of f(x), shape (V,); tokens with the same one have the same members in the same order.
    """

    members: Tokens
    utilities: Float64
    sets: Tokens

    @cached_property
    def places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Flat places in `members` by the token there, and where each token's begin, shapes (V K,), (V + 1,)."""
        flat = self.members.ravel()
        order = np.argsort(flat, kind="stable")
        return order, np.searchsorted(flat[order], np.arange(len(self.members) + 1))


class CusText(DrawnByInversion[CusTextConfig]):
    """Token ids drawn from each token's output set."""

    name = "custext"
    Config = CusTextConfig
    privacy_parameter = "epsilon"

    def __init__(self, config: CusTextConfig, assets: Assets) -> None:
        super().__init__(config, assets)
        if config.kept > assets.vocabulary:
            raise UserError(f"custext: kept = {config.kept}, the vocabulary has {assets.vocabulary} tokens")

    @property
    def mapping(self) -> Mapping:
        """Of this table, made at first use."""
        size = min(self.config.outputs, self.assets.vocabulary)
        make = disjoint_sets if self.config.mapping == "conservative" else own_sets
        return make(self.assets, size)

    def covered(self) -> Tokens:
        """The tokens of one output set that are not sent in clear: of the first set with two of them, else none."""
        open_tokens = np.flatnonzero(~self.is_kept)
        sets = self.mapping.sets[open_tokens]
        shared = np.flatnonzero(np.bincount(sets) > 1) if len(sets) else np.empty(0, dtype=np.int64)
        return open_tokens[sets == shared[0]] if len(shared) else open_tokens[:0]

    @cached_property
    def is_kept(self) -> np.ndarray:
        """Whether each token is sent in clear, bool (V,)."""
        found = np.zeros(self.assets.vocabulary, dtype=bool)
        found[by_frequency(self.assets)[: self.config.kept]] = True
        return found

    @property
    def claim(self) -> Claim:
        """Epsilon within a set; none without noise or without common sets."""
        if not self._claims:
            return NO_CLAIM
        return Claim(
            kind="epsilon-DP",
            parameters={"epsilon": self.config.epsilon},
            unit="one token",
            relation="replace by a token of the same output set, neither sent in clear",
            source="Chen et al. 2023",
        )

    def profile(self) -> ExponentialMechanismProfile | None:
        """Of two tokens of the same set; None where nothing is claimed."""
        return ExponentialMechanismProfile(self.config.epsilon) if self._claims else None

    def worst_case(self) -> ExponentialMechanismProfile | None:
        """None where there are two sets or kept tokens: the outputs of two tokens may then be disjoint."""
        one_set = self.config.outputs >= self.assets.vocabulary and not self.config.kept
        return self.profile() if one_set else None

    @property
    def _claims(self) -> bool:
        return self.config.mapping == "conservative" and not self.silent

    def _laws(self, tokens: Tokens) -> Iterator[Law]:
        """The weights of tokens (U,) over their sets."""
        mapping = self.mapping
        for token in tokens:
            if self.is_kept[token]:
                yield int(token), np.array([token]), np.ones(1)
            else:
                there = mapping.members[token] >= 0
                weights = np.exp(0.5 * self.config.epsilon * mapping.utilities[token, there])
                yield int(token), mapping.members[token, there], weights

    def log_law(self, sent: Tokens) -> Float32:
        """Log P(y | x) of sent tokens (S,), (S, V); IMPOSSIBLE outside the sets that hold them."""
        mapping = self.mapping
        order, starts = mapping.places
        found = np.full((len(sent), self.assets.vocabulary), IMPOSSIBLE, dtype=np.float32)
        for row, token in zip(found, sent, strict=True):
            places = order[starts[token] : starts[token + 1]]
            row[places // mapping.members.shape[1]] = self._logs.ravel()[places]
            row[self.is_kept] = IMPOSSIBLE
            if self.is_kept[token]:
                row[token] = 0
        return np.maximum(found, IMPOSSIBLE)

    @cached_property
    def _logs(self) -> Float32:
        """Log P(member | x), (V, K)."""
        logs = 0.5 * self.config.epsilon * self.mapping.utilities
        return np.asarray(logs - np.log(np.exp(logs).sum(axis=1, keepdims=True)), dtype=np.float32)


@lru_cache(maxsize=2)
def disjoint_sets(assets: Assets, size: int) -> Mapping:
    """The conservative mapping: greedily, from the most frequent token on, disjoint sets of `size` nearest tokens.

    Distances of many leaders at once are products of matrices over the tokens that have no set yet.
    """
    left = by_frequency(assets)
    members = np.full((assets.vocabulary, size), -1, dtype=np.int64)
    sets = np.empty(assets.vocabulary, dtype=np.int64)
    count = 0
    with progress(assets.vocabulary, "custext: output sets") as bar:
        while len(left):
            rows = assets.embedding[left]
            gaps = Distances(rows).squared(rows[:_LEADERS])
            taken = np.zeros(len(left), dtype=bool)
            for leader, row in enumerate(gaps):
                if taken[leader]:
                    continue
                row[taken], row[leader] = np.inf, -1
                chosen = smallest(row[None], min(size, len(left) - int(taken.sum())))[0]
                tokens = np.sort(left[chosen])
                members[tokens, : len(tokens)], sets[tokens] = tokens, count
                taken[chosen], count = True, count + 1
            left = left[~taken]
            bar.update(int(taken.sum()))
    return Mapping(members, utilities(assets, members), sets)


@lru_cache(maxsize=2)
def own_sets(assets: Assets, size: int) -> Mapping:
    """The aggressive mapping: every token's `size` nearest tokens, itself among them."""
    members = np.sort(nearest_tokens(assets, size), axis=1).astype(np.int64)
    _, sets = np.unique(members, axis=0, return_inverse=True)
    return Mapping(members, utilities(assets, members), sets.ravel())


def utilities(assets: Assets, members: Tokens) -> Float64:
    """Minus the distances from each token to its members (V, K), min-max normalised to [-1, 0], (V, K).

    Where all members are equally far they are all 0; -infinity where there is no member.
    """
    found = np.full(members.shape, -math.inf)
    for token, row in enumerate(members):
        there = row >= 0
        points = assets.embedding[row[there]].astype(np.float64)
        gaps = np.linalg.norm(points - assets.embedding[token], axis=1)
        spread = gaps.max() - gaps.min()
        found[token, there] = -(gaps - gaps.min()) / spread if spread > 0 else 0.0
    return found


DEFENSE = CusText
