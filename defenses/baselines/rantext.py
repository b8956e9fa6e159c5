"""RANTEXT of InferDPT: every token is replaced by one drawn from a private list of random length around it.

Tong et al. 2025, "InferDPT: privacy-preserving inference for black-box large language models" (IEEE TDSC, arXiv
2310.12214). With d the Euclidean distance of public embeddings, for a token x of a list of words:

    D = |z|, z_j from Laplace(Delta_j / g(epsilon)), Delta_j the range of coordinate j over the words;
    the list of x: all words nearer to x than D, x itself included;
    P(y | list) proportional to exp(epsilon / 2 (D - d(x, y)) / D).

g(epsilon) = epsilon below 2 and a fitted curve near 9.3 above, as the authors' code has it.

The claim is epsilon-DP for every token, whatever the other one. It is false wherever D may fall short of the diameter
of the words: a word outside of the list of x' is never sent for it, while x sends it freely, and the step "both lists
are equal" has no ground, since each is drawn around its own token. What does hold is `RanText.profile`. It comes near
epsilon where D exceeds the diameter almost surely (small epsilon, many coordinates), and only there.

Cost: 2 bytes a token (4 above 65,536 tokens); the client computes the distances of its distinct tokens to all words.
Its local model writes the final answer (see local_model.py) and so needs memory and time for a language model.

Differences from the authors' code: it drops tokens outside its 11,000 words, and with them the prompt's length; ours
sends a uniformly drawn word in their place. It replaces a numeral by a random number from 1 to 1000; ours by a numeral
token, uniformly. Both tell the server that a token was a numeral wherever the other words cannot give one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from defenses.adjacency_law import AdjacencyLaw, Radii, log_law, loss_bound, radius_scale
from defenses.base import NO_CLAIM, Assets, Claim, Float32, LikelihoodUnavailable, Tokens, View, Writer
from defenses.errors import UserError
from defenses.likelihood import Distances
from defenses.local_model import extract
from defenses.privacy.epsilon_delta import EpsilonDeltaProfile
from defenses.sent_text import SentText

_CELLS = 1 << 23  # distances at a time: 32 MiB of float32 and a few copies
_WORD, _OUTSIDE, _NUMERAL = range(3)
_FLOOR = math.log(1e-30)  # of a probability that is zero, or too small for the radii behind the law


@dataclass(frozen=True)
class RanTextConfig:
    """How much noise, over which words.

    Attributes:
        epsilon: The nominal one, above 0; infinity sends the prompt itself. The paper goes up to 14; from 2 on the
            radius hardly changes, and with few coordinates most lists hold their own word alone.
        words: How many of the most frequent tokens are the words, at least 2; all V where there are fewer.
        numerals: Whether numerals are replaced by numerals, as published; False treats them as any other token.
    """

    epsilon: float = 1.5
    words: int = 11_000
    numerals: bool = True

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise UserError(f"rantext: epsilon must be positive, not {self.epsilon}; no noise is epsilon = inf")
        if self.words < 2:
            raise UserError(f"rantext: words must be at least 2, not {self.words}")


class LossBound(EpsilonDeltaProfile):
    """A pure epsilon that bounds the mechanism's losses without being its own worst case."""

    exact = False


class RanText(SentText[RanTextConfig]):
    """Words drawn from lists that are drawn, too."""

    name = "rantext"
    Config = RanTextConfig
    privacy_parameter = "epsilon"
    has_local_model = True

    @property
    def claim(self) -> Claim:
        """Epsilon-DP, as published and refuted; none without noise."""
        if np.isinf(self.config.epsilon):
            return NO_CLAIM
        return Claim(
            kind="epsilon-DP",
            parameters={"epsilon": self.config.epsilon},
            unit="one token",
            relation="replace a token by any other",
            source="Tong et al. 2025, as published",
        )

    def profile(self) -> LossBound | None:
        """What holds for two tokens neither of which is a numeral; None without noise. It is not the claim.

        With q = P(D > diameter), both lists hold all n words with probability q or more, and then every probability
        lies within e^(epsilon/2) of 1/n on either side. So the ratio of any two is at most

            e^epsilon + n e^(epsilon/2) (1 - q) / q.
        """
        if np.isinf(self.config.epsilon):
            return None
        count = len(self._words)
        return LossBound(loss_bound(self.config.epsilon, count, self._scales, self._distances.diameter))

    def worst_case(self) -> LossBound | None:
        """As `profile`; None where numerals are told apart from words, which no finite epsilon allows."""
        return None if len(self._numerals) else self.profile()

    def replace(self, tokens: Tokens, rng: np.random.Generator) -> Tokens:
        """Replaced token ids of tokens (B, T)."""
        if np.isinf(self.config.epsilon):
            return tokens
        kinds = self._kinds[tokens]
        sent = np.empty_like(tokens)
        radii, points = self._radii(tokens.size, rng).reshape(tokens.shape), rng.random(tokens.shape)
        for kind, listed in ((_OUTSIDE, self._words), (_NUMERAL, self._numerals)):
            at = kinds == kind
            sent[at] = listed[(points[at] * len(listed)).astype(np.int64)]
        found = np.unique(tokens[kinds == _WORD])
        step = max(1, _CELLS // len(self._words))
        for start in range(0, len(found), step):
            part = found[start : start + step]
            for token, row in zip(part, np.sqrt(self._distances.squared(self.assets.embedding[part])), strict=True):
                at = tokens == token
                sent[at] = self._words[self._drawn(row, radii[at], points[at])]
        return sent

    def finish(self, prompts: Sequence[str], answers: Sequence[str], write: Writer, tokens: int) -> list[str]:
        """The extraction step: the local model goes on with the private prompts, the server's answers at hand."""
        return extract(prompts, answers, write, tokens)

    def log_likelihood(self, view: View) -> Float32:
        """Log P(sent | token), (B, T, V), averaged over public draws of D; below 1e-30 it is given as that.

        The first call makes a table of all words by distance. Distances are rounded to a 2047th of the diameter, so
        that a value is good to about epsilon diameter / (8000 D) nats.

        Raises:
            LikelihoodUnavailable: there is no noise.
        """
        epsilon = self.config.epsilon
        if np.isinf(epsilon):
            raise LikelihoodUnavailable(f"{self.name} with epsilon = inf sends the prompt itself")
        law = _law(self.assets, self.config)
        sent, place = np.unique(self.sent_tokens(view), return_inverse=True)
        found = np.full((len(sent), self.assets.vocabulary), _FLOOR, dtype=np.float32)
        listed = self._listed[sent]
        found[np.ix_(listed, np.flatnonzero(self._kinds == _OUTSIDE))] = -math.log(len(self._words))
        numeral = np.isin(sent, self._numerals)
        found[np.ix_(numeral, np.flatnonzero(self._kinds == _NUMERAL))] = -math.log(max(1, len(self._numerals)))
        words = self._kinds[self._words] == _WORD
        rows = law.of(np.sqrt(self._distances.squared(self.assets.embedding[sent[listed]])))
        found[np.ix_(listed, self._words[words])] = np.maximum(rows[:, words], _FLOOR)
        return found[place.reshape(view.shape)]

    def _drawn(self, gaps: Float32, radii: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Places in the words, (K,), of K draws for one token at distances gaps (n,), by inversion of each law."""
        order = np.argsort(gaps, kind="stable")
        ordered = gaps[order].astype(np.float64)
        drawn = np.empty(len(radii), dtype=np.int64)
        for i, (radius, length) in enumerate(zip(radii, np.searchsorted(ordered, radii), strict=True)):
            # The nearest word has weight 1, so that no sum underflows; a product may round up to the whole sum.
            cumulative = np.cumsum(np.exp(-0.5 * self.config.epsilon * ordered[:length] / radius))
            drawn[i] = min(int(np.searchsorted(cumulative, points[i] * cumulative[-1], side="right")), length - 1)
        return order[drawn]

    def _radii(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """D of `count` tokens, (count,)."""
        return Radii(self._scales).draw(count, rng)

    @property
    def _scales(self) -> np.ndarray:
        """Of the Laplace noise, (b,)."""
        return _ranges(self.assets, self.config.words) / radius_scale(self.config.epsilon)

    @property
    def _words(self) -> Tokens:
        """The ids of the words, (n,), the most frequent first."""
        return _words(self.assets, self.config.words)

    @property
    def _distances(self) -> Distances:
        """To the words."""
        return _distances(self.assets, self.config.words)

    @cached_property
    def _numerals(self) -> Tokens:
        """The ids of numerals, rising; none where the config treats them as words, or no text is known."""
        return _numerals(self.assets) if self.config.numerals else np.zeros(0, dtype=np.int64)

    @cached_property
    def _listed(self) -> np.ndarray:
        """Which tokens are words, (V,), numerals among them too."""
        found = np.zeros(self.assets.vocabulary, dtype=np.bool_)
        found[self._words] = True
        return found

    @cached_property
    def _kinds(self) -> np.ndarray:
        """How each token is replaced, (V,)."""
        kinds = np.where(self._listed, _WORD, _OUTSIDE)
        kinds[self._numerals] = _NUMERAL
        return kinds


@lru_cache(maxsize=4)
def _words(assets: Assets, count: int) -> Tokens:
    """The most frequent tokens; the lowest ids where no frequencies are known, as tokenizers rank them."""
    if assets.frequencies is None:
        return np.arange(min(count, assets.vocabulary))
    return np.argsort(-assets.frequencies, kind="stable")[:count].astype(np.int64)


@lru_cache(maxsize=2)
def _distances(assets: Assets, count: int) -> Distances:
    """To the words; a sweep over epsilon prepares them once."""
    return Distances(assets.embedding[_words(assets, count)])


@lru_cache(maxsize=4)
def _ranges(assets: Assets, count: int) -> np.ndarray:
    """Delta, (b,).

    Raises:
        UserError: all words have one embedding, so that there is no noise to draw.
    """
    table = assets.embedding[_words(assets, count)].astype(np.float64)
    ranges = table.max(axis=0) - table.min(axis=0)
    if not ranges.any():
        raise UserError("rantext: all words have the same embedding: use another model")
    return np.asarray(ranges)


@lru_cache(maxsize=2)
def _numerals(assets: Assets) -> Tokens:
    """Ids of tokens that are numerals, without the blanks around them."""
    text = assets.text
    if text is None:
        return np.zeros(0, dtype=np.int64)
    return np.array([i for i in range(assets.vocabulary) if text(i).strip().isnumeric()], dtype=np.int64)


@lru_cache(maxsize=1)
def _law(assets: Assets, config: RanTextConfig) -> AdjacencyLaw:
    """Log P(y | x) of words by their distance."""
    scales = _ranges(assets, config.words) / radius_scale(config.epsilon)
    return log_law(_distances(assets, config.words), Radii(scales), config.epsilon)


DEFENSE = RanText
