"""1-Diffractor: the vocabulary as one-dimensional lists, and noise on a token's place in one of them.

Meisenbacher, Chevli, Matthes 2024, "1-Diffractor: Efficient and utility-preserving text obfuscation leveraging
word-level metric differential privacy" (IWSPA). L public lists order the V tokens so that similar ones are near. For
each token one list is drawn; its place i there is moved to j, and the token at j is sent. With r = e^-epsilon,

    geometric: j = i + z clamped to the list, P(z) = (1 - r) / (1 + r) r^|z|;
    tem: P(j | i) proportional to exp(-epsilon min(|i - j|, gamma) / 2), the truncated exponential mechanism of tem.py.

Either is epsilon-metric private in |i - j|. The list is not sent, but the bound holds as if it were: two tokens lose at
most epsilon times the largest of their L list distances. That may be V - 1 at worst (geometric), whatever their
embeddings say, or gamma (tem). A sent token's law is the mixture of L laws, whose delta is at most their mean.

Cost: 2 bytes a token up to 65,536 tokens (4 beyond); O(1) for each token of the prompt. The lists are made once: about
V^2 b multiplications for chains.

The authors' code makes one list for each of several word embeddings; here there is one table, and the lists start from
different tokens, as their `num_lists` option does. A list goes on to the nearest token that it has not had; as in their
library, the 50 nearest are asked, and where the list has had them all it jumps to the first token left. Their library
(dp-diffractor 0.2.1) differs from the paper further: core.py, line 121, sends stop words in clear by default, and words
outside a list too (line 124); line 144 sets the number of far words to 1 where there are none, and line 156 then
searches for one for ever; line 56 gives each worker process a list, but line 90 hands tasks to whichever worker is
free, so that one list may give several candidates; and a fixed seed makes all runs draw the same noise. Each list gives
one candidate and one of them is chosen uniformly, which is the mixture that is drawn here.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, get_args

import numpy as np

from defenses.base import NO_CLAIM, Assets, Claim, Float32, Tokens
from defenses.errors import UserError
from defenses.neighbours import nearest_tokens
from defenses.privacy.exponential import ExponentialMechanismProfile
from defenses.privacy.geometric import GeometricProfile
from defenses.privacy.profile import PrivacyProfile
from defenses.randomness import seeded_rng
from defenses.replacement_laws import IMPOSSIBLE, Float64, IndependentReplacement, check_epsilon

Mechanism = Literal["geometric", "tem"]
Order = Literal["chain", "principal"]

_ASKED = 50  # nearest tokens that a chain looks at, as in the authors' library


@dataclass(frozen=True)
class DiffractorConfig:
    """How much noise, in which lists.

    Attributes:
        epsilon: Per unit of list distance, above 0; infinity sends the prompt itself.
        lists: L, how many public lists there are, at least 1.
        mechanism: "geometric" or "tem".
        gamma: Of "tem", the list distance beyond which all tokens are alike, at least 1.
        order: "chain": from nearest token to nearest token; "principal": by the leading principal directions of the
            table, one a list, in seconds.
        seed: Of the public tokens that chains start from.
    """

    epsilon: float = 1.0
    lists: int = 3
    mechanism: Mechanism = "geometric"
    gamma: int = 5
    order: Order = "chain"
    seed: int = 0

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon, "diffractor")
        for name, value in (("lists", self.lists), ("gamma", self.gamma)):
            if value < 1:
                raise UserError(f"diffractor: {name} must be at least 1, not {value}")
        for name, chosen, kinds in (("mechanism", self.mechanism, Mechanism), ("order", self.order, Order)):
            if chosen not in get_args(kinds):
                raise UserError(f"diffractor: {name} is one of {', '.join(get_args(kinds))}, not {chosen!r}")
        if self.seed < 0:
            raise UserError(f"diffractor: seed must not be negative, not {self.seed}")


@dataclass(frozen=True, eq=False)
class Lists:
    """Public orderings of the vocabulary.

    Attributes:
        tokens: The token at each place, shape (L, V).
        places: The place of each token, shape (L, V).
    """

    tokens: Tokens
    places: Tokens


class Diffractor(IndependentReplacement[DiffractorConfig]):
    """Token ids moved along a list."""

    name = "diffractor"
    Config = DiffractorConfig
    privacy_parameter = "epsilon"
    metric_norm = np.inf

    def __init__(self, config: DiffractorConfig, assets: Assets) -> None:
        super().__init__(config, assets)
        width = assets.embedding.shape[1]
        if config.order == "principal" and config.lists > width:
            raise UserError(f"diffractor: lists = {config.lists}, the table has {width} principal directions")

    @property
    def lists(self) -> Lists:
        """Of this table, made at first use."""
        if self.config.order == "chain":
            return chains(self.assets, self.config.lists, self.config.seed)
        return principal(self.assets, self.config.lists)

    @property
    def claim(self) -> Claim:
        """Epsilon per unit of list distance; none without noise."""
        if self.silent:
            return NO_CLAIM
        return Claim(
            kind="metric-DP",
            parameters={"epsilon": self.config.epsilon},
            unit="unit of list distance",
            relation="any two tokens, at the largest of their distances over the lists",
            source="Meisenbacher et al. 2024",
        )

    def metric_table(self) -> Float32:
        """The places of every token in the lists, (V, L)."""
        return self.lists.places.T.astype(np.float32)

    def list_distance(self, first: int, second: int) -> int:
        """The largest |i - j| of two tokens over the lists: the distance of the claim."""
        places = self.lists.places
        return int(np.abs(places[:, first] - places[:, second]).max())

    def profile(self) -> PrivacyProfile | None:
        """Of two tokens next to each other in every list; None without noise."""
        return None if self.silent else self.profile_at(1)

    def worst_case(self) -> PrivacyProfile | None:
        """Of the two ends of a list; with several lists a bound, as if they were the ends of each."""
        return None if self.silent else self.profile_at(self.assets.vocabulary - 1)

    def profile_at(self, distance: int) -> PrivacyProfile:
        """Of two tokens whose largest list distance this is: exact for one list and "geometric", else a bound.

        Raises:
            ValueError: the distance is negative or epsilon is not finite.
        """
        if self.config.mechanism == "tem":
            return ExponentialMechanismProfile(self.config.epsilon * min(distance, self.config.gamma))
        return GeometricProfile(self.config.epsilon, distance, exact=self.config.lists == 1)

    def drawn(self, tokens: Tokens, rng: np.random.Generator) -> Tokens:
        """A list for each of tokens (B, T), then a place in it."""
        lists = self.lists
        which = rng.integers(self.config.lists, size=tokens.shape)
        places = lists.places[which, tokens]
        moved = self._geometric(places, rng) if self.config.mechanism == "geometric" else self._tem(places, rng)
        return np.asarray(lists.tokens[which, moved], dtype=np.int64)

    def log_law(self, sent: Tokens) -> Float32:
        """Log of the mean over lists of P(j | i), (S, V)."""
        found = np.full((len(sent), self.assets.vocabulary), -np.inf, dtype=np.float32)
        for places in self.lists.places:
            np.logaddexp(found, self._log_moves(places, places[sent][:, None]), out=found)
        found -= np.float32(math.log(self.config.lists))
        return np.maximum(found, IMPOSSIBLE)

    def _geometric(self, places: Tokens, rng: np.random.Generator) -> Tokens:
        """Places (B, T) plus the difference of two geometric variables, clamped to the list."""
        success, last = -math.expm1(-self.config.epsilon), self.assets.vocabulary - 1
        up, down = (rng.geometric(success, size=places.shape) for _ in range(2))
        moved: Tokens = np.clip(places + np.clip(up - down, -last, last), 0, last)
        return moved

    def _tem(self, places: Tokens, rng: np.random.Generator) -> Tokens:
        """Places (B, T) moved down, kept, moved up, or sent far, by inversion of these four in turn."""
        sums, (below, above) = self._sums, self._room(places)
        points = rng.random(places.shape) * self._totals[places]
        far = self.assets.vocabulary - 1 - below - above
        elsewhere = rng.integers(np.maximum(far, 1))
        elsewhere += np.where(elsewhere >= places - below, below + above + 1, 0)
        down = np.minimum(np.searchsorted(sums, points, side="right"), below)
        rest = points - sums[below] - 1
        up = np.minimum(np.searchsorted(sums, np.maximum(rest, 0.0), side="right"), above)
        moved = np.where(rest < sums[above], places + up, np.where(far > 0, elsewhere, places))
        return np.where(points < sums[below], places - down, np.where(rest < 0, places, moved))

    def _log_moves(self, places: Tokens, moved: Tokens) -> Float32:
        """Log P(moved | places) in one list; the two are broadcast."""
        gaps = np.abs(places - moved).astype(np.float32)
        epsilon, last = self.config.epsilon, self.assets.vocabulary - 1
        if self.config.mechanism == "tem":
            gaps = np.minimum(gaps, np.float32(self.config.gamma))
            return np.asarray(-0.5 * epsilon * gaps - np.log(self._totals[places]), dtype=np.float32)
        end = -math.log1p(math.exp(-epsilon))
        inside = end + math.log(-math.expm1(-epsilon))
        at_end = (moved == 0) | (moved == last)
        return np.asarray(np.where(at_end, end, inside) - epsilon * gaps, dtype=np.float32)

    @cached_property
    def _sums(self) -> Float64:
        """Sums of exp(-epsilon k / 2) over k = 1..m, for m from 0 to gamma."""
        steps = np.arange(1, min(self.config.gamma, self.assets.vocabulary - 1) + 1)
        return np.concatenate(([0.0], np.cumsum(np.exp(-0.5 * self.config.epsilon * steps))))

    def _room(self, places: Tokens) -> tuple[Tokens, Tokens]:
        """How many tokens within gamma are below and above each place, shapes of places."""
        most = len(self._sums) - 1
        return np.minimum(places, most), np.minimum(self.assets.vocabulary - 1 - places, most)

    @cached_property
    def _totals(self) -> Float64:
        """The sum of the weights of "tem" at each place, (V,)."""
        below, above = self._room(np.arange(self.assets.vocabulary))
        far = self.assets.vocabulary - 1 - below - above
        return (
            self._sums[below] + 1 + self._sums[above] + far * math.exp(-0.5 * self.config.epsilon * self.config.gamma)
        )


@lru_cache(maxsize=4)
def chains(assets: Assets, count: int, seed: int) -> Lists:
    """Lists that each start at a public random token and go on to the nearest one that they have not had."""
    near = nearest_tokens(assets, min(assets.vocabulary, _ASKED))
    starts = seeded_rng(seed, "diffractor").integers(assets.vocabulary, size=count)
    return _placed(np.stack([_chain(near, int(start)) for start in starts]))


def _chain(near: np.ndarray, start: int) -> Tokens:
    """One ordering of the tokens whose nearest tokens are given, (V, K) -> (V,)."""
    fresh = np.ones(len(near), dtype=bool)
    order = np.empty(len(near), dtype=np.int64)
    current, least = start, 0
    for place in range(len(near)):
        order[place], fresh[current] = current, False
        asked = near[current]
        left = asked[fresh[asked]]
        if len(left):
            current = int(left[0])
            continue
        while least < len(near) and not fresh[least]:
            least += 1
        current = least
    return order


@lru_cache(maxsize=4)
def principal(assets: Assets, count: int) -> Lists:
    """The tokens by their coordinate along each of the leading principal directions of the table."""
    rows = assets.embedding - assets.embedding.mean(axis=0, dtype=np.float64).astype(np.float32)
    _, directions = np.linalg.eigh((rows.T @ rows).astype(np.float64))
    coordinates = rows @ directions[:, ::-1][:, :count].astype(np.float32)
    return _placed(np.argsort(coordinates, axis=0, kind="stable").T)


def _placed(tokens: Tokens) -> Lists:
    """Orderings (L, V) with their inverses."""
    return Lists(tokens, np.argsort(tokens, axis=1))


DEFENSE = Diffractor
