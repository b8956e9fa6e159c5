"""SANTEXT: every token is replaced by one drawn by its distance in the public table.

Yue, Du, Wang, Li, Sun, Chow 2021, "Differential privacy for text analytics via natural text sanitization" (Findings of
ACL), without its SANTEXT+ list of sensitive words: P(y | x) is proportional to exp(-epsilon d(x, y) / 2), with d the
Euclidean distance of embeddings. It is epsilon-metric private: half of the loss comes from the weights and at most half
from their sum. As an exponential mechanism its losses between tokens at distance D have a range of epsilon D.

Cost: 2 bytes a token up to 65,536 tokens (4 beyond); V distances for each different token of the prompt.

The authors' code has the paper's law, with two additions: a word without an embedding is replaced by any word of the
vocabulary, uniformly, and the vocabulary is that of the texts that are to be protected.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from defenses.base import Assets
from defenses.errors import UserError
from defenses.likelihood import Distances
from defenses.replacement_laws import DistanceLaw, Support, check_epsilon, whole_vocabulary


@dataclass(frozen=True)
class SanTextConfig:
    """How much noise.

    Attributes:
        epsilon: Per unit of Euclidean distance between embeddings, above 0; infinity sends the prompt itself.
        outputs: Only the first so many token ids are sent, a public list; None for all V.
    """

    epsilon: float = 10.0
    outputs: int | None = None

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon, "santext")
        if self.outputs is not None and self.outputs < 2:
            raise UserError(f"santext: outputs must be at least 2 tokens, not {self.outputs}")


class SanText(DistanceLaw[SanTextConfig]):
    """Token ids drawn by their distance."""

    name = "santext"
    Config = SanTextConfig
    privacy_parameter = "epsilon"
    source = "Yue et al. 2021"

    def __init__(self, config: SanTextConfig, assets: Assets) -> None:
        super().__init__(config, assets)
        if config.outputs is not None and config.outputs > assets.vocabulary:
            raise UserError(f"santext: outputs = {config.outputs}, the vocabulary has {assets.vocabulary} tokens")

    @property
    def sendable(self) -> int:
        """The public list is the first so many ids."""
        return self.assets.vocabulary if self.silent else len(self.support.ids)

    @property
    def support(self) -> Support:
        """The public list."""
        if self.config.outputs is None:
            return whole_vocabulary(self.assets)
        return _first(self.assets, self.config.outputs)


@lru_cache(maxsize=2)
def _first(assets: Assets, outputs: int) -> Support:
    """The first so many token ids."""
    return Support(np.arange(outputs), Distances(assets.embedding[:outputs]))


DEFENSE = SanText
