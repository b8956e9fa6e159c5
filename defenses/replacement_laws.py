"""What mechanisms share that replace every token, each for itself, by one drawn from a public law P(y | x).

The law of one token is a row of weights over its outputs, which most draw by inversion. The log likelihood is the same
law read the other way: one column over all tokens x. Neither ever holds all V x V pairs.

Symbols: V tokens, K outputs of a token, S different sent tokens, x a token of the prompt, y a sent one.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NoReturn, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from defenses.base import NO_CLAIM, Assets, Claim, Float32, LikelihoodUnavailable, Tokens, View
from defenses.errors import UserError
from defenses.likelihood import Distances
from defenses.privacy.exponential import ExponentialMechanismProfile
from defenses.sent_text import SentText

Float64 = NDArray[np.float64]
Law = tuple[int, Tokens, Float64]
"""A token, its K outputs, and their weights in double precision, which need not sum to 1."""

IMPOSSIBLE = np.float32(-1e9)
"""Stands for log 0 in likelihoods: adversaries add and subtract them, and an infinity would become NaN."""

QUIET = 1 << 12
"""Tokens; passes over a vocabulary above it show their progress."""

_CELLS = 1 << 23  # distances at a time: 32 MiB of float32 and a few copies


class HasEpsilon(Protocol):
    """A Config with an epsilon, of which infinity turns the noise off."""

    @property
    def epsilon(self) -> float:
        """Above 0."""
        ...


ConfigT = TypeVar("ConfigT", bound=HasEpsilon)


def check_epsilon(epsilon: float, name: str) -> None:
    """Accepts epsilon > 0, infinity included.

    Raises:
        UserError: it is another number.
    """
    if not epsilon > 0:
        raise UserError(f"{name}: epsilon must be positive, not {epsilon}; no noise is epsilon = inf")


def by_frequency(assets: Assets) -> Tokens:
    """All token ids, the most frequent one first, (V,).

    Without public frequencies the id itself is the rank: byte-pair encodings number their merges from the most
    frequent one on.
    """
    if assets.frequencies is None:
        return np.arange(assets.vocabulary)
    return np.argsort(-assets.frequencies, kind="stable")


class IndependentReplacement(SentText[ConfigT]):
    """Token ids drawn from each token's own public law; epsilon = infinity sends the prompt itself."""

    @property
    def silent(self) -> bool:
        """Whether the noise is off."""
        return bool(np.isinf(self.config.epsilon))

    @abstractmethod
    def drawn(self, tokens: Tokens, rng: np.random.Generator) -> Tokens:
        """A draw for each of tokens (B, T), at least one; asked for only where there is noise."""

    @abstractmethod
    def log_law(self, sent: Tokens) -> Float32:
        """Log P(y | x) of different sent tokens y (S,) for every token x, (S, V); IMPOSSIBLE where P = 0."""

    def replace(self, tokens: Tokens, rng: np.random.Generator) -> Tokens:
        """Replaced token ids of tokens (B, T)."""
        return tokens if self.silent or not tokens.size else self.drawn(tokens, rng)

    def log_likelihood(self, view: View) -> Float32:
        """Log P(sent | token), (B, T, V): the columns of the context-free reverse table.

        Raises:
            LikelihoodUnavailable: there is no noise.
        """
        if self.silent:
            raise LikelihoodUnavailable(f"{self.name} with epsilon = inf sends the prompt itself")
        sent, place = np.unique(self.sent_tokens(view), return_inverse=True)
        return self.log_law(sent)[place.reshape(view.shape)]


class DrawnByInversion(IndependentReplacement[ConfigT]):
    """Mechanisms whose law of one token is a short or long row of weights."""

    @abstractmethod
    def _laws(self, tokens: Tokens) -> Iterator[Law]:
        """The laws of different tokens (U,), in their order; asked for only where there is noise."""

    def drawn(self, tokens: Tokens, rng: np.random.Generator) -> Tokens:
        """By inversion of each token's distribution function, (B, T)."""
        points = rng.random(tokens.size)
        different, starts = np.unique(np.sort(tokens, axis=None), return_index=True)
        places = np.split(np.argsort(tokens, axis=None, kind="stable"), starts[1:])
        sent = np.empty(tokens.size, dtype=np.int64)
        for at, (_, outputs, weights) in zip(places, self._laws(different), strict=True):
            cumulative = np.cumsum(weights)
            drawn = np.searchsorted(cumulative, points[at] * cumulative[-1], side="right")
            sent[at] = outputs[np.minimum(drawn, len(outputs) - 1)]  # a product may round up to the whole sum
        return sent.reshape(tokens.shape)


@dataclass(frozen=True, eq=False)
class Support:
    """The tokens that a law draws from; made once for each table, and compared by identity.

    Attributes:
        ids: Shape (K,).
        distances: To their embeddings.
    """

    ids: Tokens
    distances: Distances


@lru_cache(maxsize=2)
def whole_vocabulary(assets: Assets) -> Support:
    """All V tokens; a sweep over epsilon prepares them once."""
    return Support(np.arange(assets.vocabulary), Distances(assets.embedding))


class DistanceLaw(DrawnByInversion[ConfigT]):
    """P(y | x) proportional to exp(-epsilon min(d(x, y), reach) / 2) over a support, d Euclidean between embeddings.

    It is the exponential mechanism with the score -min(d, reach). Between tokens at distance D all scores move by at
    most min(D, reach), so that the losses have a range of at most epsilon min(D, reach), and lie within plus or minus
    that: half of it comes from the weights and at most half from their sum. Distances are good to 1e-5 of themselves,
    and so is the epsilon that holds.
    """

    reach: float = np.inf
    """Beyond it, distance makes no difference."""
    source: ClassVar[str]
    """Of the claim."""
    relation: ClassVar[str] = "any two tokens"
    """Between which it holds."""

    @property
    @abstractmethod
    def support(self) -> Support:
        """What is drawn from; the same object for the same table."""

    @property
    def claim(self) -> Claim:
        """Epsilon per unit of distance; none without noise."""
        if self.silent:
            return NO_CLAIM
        return Claim("metric-DP", {"epsilon": self.config.epsilon}, "unit of distance", self.relation, self.source)

    def profile(self) -> ExponentialMechanismProfile | None:
        """Of two tokens at distance 1 (or the reach, where that is less); None without noise."""
        return None if self.silent else self.profile_at(1.0)

    def worst_case(self) -> ExponentialMechanismProfile | None:
        """Of a range of epsilon times the table's diameter or the reach, whichever is less; None without noise."""
        return None if self.silent else self.profile_at(self.diameter)

    def profile_at(self, distance: float) -> ExponentialMechanismProfile:
        """The worst case of mechanisms whose losses have this range: tokens at this distance that draw by distance.

        Raises:
            ValueError: the distance or epsilon is not finite, or the distance is negative.
        """
        return ExponentialMechanismProfile(self.config.epsilon * min(distance, self.reach))

    @property
    def diameter(self) -> float:
        """The largest distance between two tokens."""
        return whole_vocabulary(self.assets).distances.diameter

    def _laws(self, tokens: Tokens) -> Iterator[Law]:
        """The weights of tokens (U,) over the support."""
        support = self.support
        step = max(1, _CELLS // len(support.ids))
        for start in range(0, len(tokens), step):
            part = tokens[start : start + step]
            gaps = self._gaps(support, part)
            for token, row in zip(part, gaps, strict=True):
                # The nearest output has weight 1, so that no sum underflows.
                weights = np.exp(-0.5 * self.config.epsilon * (row - row.min()).astype(np.float64))
                yield int(token), support.ids, weights

    def log_law(self, sent: Tokens) -> Float32:
        """-epsilon min(d, reach) / 2 - log Z(x), (S, V), of sent tokens of the support.

        The first call sums over all pairs of tokens.
        """
        found = self._gaps(whole_vocabulary(self.assets), sent)
        found *= np.float32(-0.5 * self.config.epsilon)
        found -= _log_sums(self.assets, self.support, self.config.epsilon, self.reach, self.name)
        return found

    def _gaps(self, support: Support, tokens: Tokens) -> Float32:
        """min(d, reach) of tokens (U,) to a support, (U, K)."""
        return capped(support.distances, self.assets.embedding[tokens], self.reach)


def capped(distances: Distances, points: Float32, reach: float) -> Float32:
    """Min(distance, reach) from points (N, b) to the table's rows, (N, K)."""
    gaps = np.sqrt(distances.squared(points))
    return np.minimum(gaps, np.float32(reach), out=gaps)


@lru_cache(maxsize=4)
def _log_sums(assets: Assets, support: Support, epsilon: float, reach: float, name: str) -> Float32:
    """Log Z of every token, (V,), float32; about V K b multiplications, once for each support and epsilon."""
    step = max(1, _CELLS // len(support.ids))
    found = np.empty(assets.vocabulary, dtype=np.float32)
    with progress(assets.vocabulary, f"{name}: sums over pairs") as bar:
        for start in range(0, assets.vocabulary, step):
            rows = assets.embedding[start : start + step]
            logs = capped(support.distances, rows, reach)
            logs *= np.float32(-0.5 * epsilon)
            most = logs.max(axis=1, keepdims=True)
            logs -= most
            found[start : start + step] = most[:, 0] + np.log(np.exp(logs).sum(axis=1))
            bar.update(len(rows))
    return found


def progress(vocabulary: int, what: str) -> "tqdm[NoReturn]":
    """A bar over the tokens of a large vocabulary, hidden where standard error is no terminal."""
    quiet = True if vocabulary <= QUIET else None
    return tqdm(total=vocabulary, unit="token", desc=what, disable=quiet, leave=False)
