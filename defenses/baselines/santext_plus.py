"""SANTEXT+: rare tokens are replaced by rare ones drawn by distance; frequent ones mostly are kept as they are.

Yue, Du, Wang, Li, Sun, Chow 2021, "Differential privacy for text analytics via natural text sanitization" (Findings of
ACL). The sensitive tokens V_s are the share w of the vocabulary that is least frequent. With S(y | x)
proportional to exp(-epsilon d(x, y) / 2) over y in V_s, a sensitive token x is sent as y with probability S(y | x); any
other one is, with probability p, too, and else is kept.

What holds, with e = exp:
- between two sensitive tokens, epsilon-metric privacy (the claim), as in SANTEXT, whose profile this is;
- of what lies in V_s alone, P(y | x) <= e^(epsilon d) / p P(y | x') for any two tokens (epsilon d + log(1/p),
  which the paper calls utility-optimised);
- between any other two tokens nothing below delta = 1 - p: a kept token tells itself, since nothing else sends it. At
  delta = 1 - p any two tokens are (epsilon d + log(1/p), delta)-private.

Cost: 2 bytes a token up to 65,536 tokens (4 beyond); w V distances for each different token of the prompt.

The authors' code differs from the paper: it counts frequencies on the private training and development text, takes one
sensitive word more than the share (`words[-count - 1:]`), has the defaults w = 0.5 and p = 0.2 (the paper: 0.9 and
0.3), and sends a word without an embedding as any word of the vocabulary, uniformly, sensitive or not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from defenses.base import Assets, Float32, Tokens
from defenses.errors import UserError
from defenses.likelihood import Distances
from defenses.privacy.exponential import ExponentialMechanismProfile
from defenses.replacement_laws import IMPOSSIBLE, DistanceLaw, Law, Support, by_frequency, check_epsilon


@dataclass(frozen=True)
class SanTextPlusConfig:
    """How much noise, and for which tokens.

    Attributes:
        epsilon: Per unit of Euclidean distance between embeddings, above 0; infinity sends the prompt itself.
        sensitive: w, the share of the vocabulary that is sensitive, the least frequent tokens, in (0, 1].
        replaced: p, the probability that a token that is not sensitive is replaced, in [0, 1].
    """

    epsilon: float = 10.0
    sensitive: float = 0.9
    replaced: float = 0.3

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon, "santext-plus")
        if not 0 < self.sensitive <= 1:
            raise UserError(f"santext-plus: sensitive must be above 0 and at most 1, not {self.sensitive}")
        if not 0 <= self.replaced <= 1:
            raise UserError(f"santext-plus: replaced must be a probability, from 0 to 1, not {self.replaced}")


class SanTextPlus(DistanceLaw[SanTextPlusConfig]):
    """Sensitive token ids drawn by their distance, and kept ones."""

    name = "santext-plus"
    Config = SanTextPlusConfig
    privacy_parameter = "epsilon"
    source = "Yue et al. 2021"
    relation = "any two sensitive tokens"

    def __init__(self, config: SanTextPlusConfig, assets: Assets) -> None:
        super().__init__(config, assets)
        if round(config.sensitive * assets.vocabulary) < 2:
            raise UserError(f"santext-plus: sensitive = {config.sensitive} leaves fewer than 2 tokens: raise it")

    @property
    def support(self) -> Support:
        """The sensitive tokens."""
        return _sensitive(self.assets, self.config.sensitive)

    def covered(self) -> Tokens:
        """The sensitive tokens."""
        return np.sort(self.support.ids)

    @cached_property
    def is_sensitive(self) -> np.ndarray:
        """Whether each token is, bool (V,)."""
        found = np.zeros(self.assets.vocabulary, dtype=bool)
        found[self.support.ids] = True
        return found

    def worst_case(self) -> ExponentialMechanismProfile | None:
        """None where a token may be kept: at every delta below 1 - p no epsilon holds between it and another.

        Else all tokens are drawn by distance, and it is the profile at the diameter of the table.
        """
        if self.silent or (self.config.replaced < 1 and not self.is_sensitive.all()):
            return None
        return self.profile_at(self.diameter)

    def _laws(self, tokens: Tokens) -> Iterator[Law]:
        """The sensitive tokens' weights, and after them the token itself where it may be kept."""
        for token, outputs, weights in super()._laws(tokens):
            if self.is_sensitive[token]:
                yield token, outputs, weights
            else:
                drawn = self.config.replaced * weights / weights.sum()
                yield token, np.append(outputs, token), np.append(drawn, 1 - self.config.replaced)

    def log_law(self, sent: Tokens) -> Float32:
        """Log S(y | x), by log p less for x that are not sensitive; log(1 - p) for a kept token, (S, V)."""
        found = np.full((len(sent), self.assets.vocabulary), IMPOSSIBLE, dtype=np.float32)
        drawn = self.is_sensitive[sent]
        found[drawn] = super().log_law(sent[drawn])
        found[np.ix_(drawn, ~self.is_sensitive)] += _log(self.config.replaced)
        kept = np.flatnonzero(~drawn)
        found[kept, sent[kept]] = _log(1 - self.config.replaced)
        return np.maximum(found, IMPOSSIBLE)


def _log(probability: float) -> np.float32:
    """Its logarithm, with IMPOSSIBLE for that of 0."""
    return np.float32(np.log(probability)) if probability > 0 else IMPOSSIBLE


@lru_cache(maxsize=2)
def _sensitive(assets: Assets, share: float) -> Support:
    """The least frequent tokens, in the order of their ids."""
    ids = np.sort(by_frequency(assets)[assets.vocabulary - round(share * assets.vocabulary) :])
    return Support(ids, Distances(assets.embedding[ids]))


DEFENSE = SanTextPlus
