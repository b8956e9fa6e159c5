"""SANTEXT: every token is replaced by one drawn by its distance in the public table.

Yue, Du, Wang, Li, Sun, Chow 2021, "Differential privacy for text analytics via natural text sanitization" (Findings of
ACL), without its SANTEXT+ list of sensitive words: P(y | x) is proportional to exp(-epsilon d(x, y) / 2), with d the
Euclidean distance of embeddings. It is epsilon-metric private: half of the loss comes from the weights and at most half
from their sum. As an exponential mechanism its losses between tokens at distance D have a range of epsilon D.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from tqdm import tqdm

from defenses.base import NO_CLAIM, Assets, Claim, Float32, LikelihoodUnavailable, Tokens, View
from defenses.errors import UserError
from defenses.likelihood import Distances
from defenses.privacy.exponential import ExponentialMechanismProfile
from defenses.sent_text import SentText

_CELLS = 1 << 23  # distances at a time: 32 MiB of float32 and a few copies
_QUIET = 1 << 12  # tokens; the sums over a vocabulary above it show their progress


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
        if not self.epsilon > 0:
            raise UserError(f"santext: epsilon must be positive, not {self.epsilon}; no noise is epsilon = inf")
        if self.outputs is not None and self.outputs < 2:
            raise UserError(f"santext: outputs must be at least 2 tokens, not {self.outputs}")


class SanText(SentText[SanTextConfig]):
    """Token ids drawn by their distance.

    Distances are good to 1e-5 of themselves, and so is the epsilon that holds between two tokens.
    """

    name = "santext"
    Config = SanTextConfig
    privacy_parameter = "epsilon"

    def __init__(self, config: SanTextConfig, assets: Assets) -> None:
        super().__init__(config, assets)
        if config.outputs is not None and config.outputs > assets.vocabulary:
            raise UserError(f"santext: outputs = {config.outputs}, the vocabulary has {assets.vocabulary} tokens")
        self._count = config.outputs or assets.vocabulary

    @property
    def sendable(self) -> int:
        """The public list is the first so many ids."""
        return self._count

    @property
    def claim(self) -> Claim:
        """Epsilon per unit of distance; none without noise."""
        if np.isinf(self.config.epsilon):
            return NO_CLAIM
        return Claim(
            kind="metric-DP",
            parameters={"epsilon": self.config.epsilon},
            unit="unit of distance",
            relation="any two tokens",
            source="Yue et al. 2021",
        )

    def profile(self) -> ExponentialMechanismProfile | None:
        """Of two tokens at distance 1; None without noise."""
        return None if np.isinf(self.config.epsilon) else self.profile_at(1.0)

    def worst_case(self) -> ExponentialMechanismProfile | None:
        """The profile at the diameter of the table; None without noise."""
        return None if np.isinf(self.config.epsilon) else self.profile_at(_distances(self.assets, None).diameter)

    def profile_at(self, distance: float) -> ExponentialMechanismProfile:
        """The worst case of mechanisms whose losses have a range of epsilon times this distance.

        Raises:
            ValueError: the distance or epsilon is not finite, or the distance is negative.
        """
        return ExponentialMechanismProfile(self.config.epsilon * distance)

    def replace(self, tokens: Tokens, rng: np.random.Generator) -> Tokens:
        """Replaced token ids of tokens (B, T), by inversion of each token's distribution function."""
        sent = tokens
        if np.isfinite(self.config.epsilon):
            points = rng.random(tokens.shape)
            sent = np.empty_like(tokens)
            for token, row in self._laws(np.unique(tokens)):
                cumulative = np.cumsum(row)
                at = tokens == token
                places = np.searchsorted(cumulative, points[at] * cumulative[-1], side="right")
                sent[at] = np.minimum(places, len(row) - 1)  # a product may round up to the whole sum
        return sent

    def log_likelihood(self, view: View) -> Float32:
        """Log P(sent | token) = -epsilon d / 2 - log Z(token), (B, T, V): the context-free reverse table's columns.

        The first call sums over all pairs of tokens.

        Raises:
            LikelihoodUnavailable: there is no noise.
        """
        epsilon = self.config.epsilon
        if np.isinf(epsilon):
            raise LikelihoodUnavailable(f"{self.name} with epsilon = inf sends the prompt itself")
        sent, place = np.unique(self.sent_tokens(view), return_inverse=True)
        found = np.sqrt(_distances(self.assets, None).squared(self.assets.embedding[sent]))
        found *= np.float32(-0.5 * epsilon)
        found -= _log_sums(self.assets, self.config)
        return found[place.reshape(view.shape)]

    def _laws(self, tokens: Tokens) -> Iterator[tuple[int, np.ndarray]]:
        """(token, its weights exp(-epsilon d / 2) over the outputs in double precision), for distinct tokens (U,)."""
        distances = _distances(self.assets, self.config.outputs)
        step = max(1, _CELLS // self._count)
        for start in range(0, len(tokens), step):
            part = tokens[start : start + step]
            gaps = np.sqrt(distances.squared(self.assets.embedding[part]))
            for token, row in zip(part, gaps, strict=True):
                # The nearest output has weight 1, so that no sum underflows.
                yield int(token), np.exp(-0.5 * self.config.epsilon * (row - row.min()).astype(np.float64))


@lru_cache(maxsize=2)
def _distances(assets: Assets, outputs: int | None) -> Distances:
    """To the first `outputs` embeddings; a sweep over epsilon prepares them once."""
    return Distances(assets.embedding[:outputs])


@lru_cache(maxsize=4)
def _log_sums(assets: Assets, config: SanTextConfig) -> Float32:
    """Log Z of every token, (V,), float32; about V^2 b multiplications, once for each table and epsilon."""
    distances = _distances(assets, config.outputs)
    step = max(1, _CELLS // (config.outputs or assets.vocabulary))
    found = np.empty(assets.vocabulary, dtype=np.float32)
    quiet = True if assets.vocabulary <= _QUIET else None  # None: hidden where standard error is no terminal
    with tqdm(
        total=assets.vocabulary, unit="token", desc="santext: sums over pairs", disable=quiet, leave=False
    ) as bar:
        for start in range(0, assets.vocabulary, step):
            rows = assets.embedding[start : start + step]
            logs = np.sqrt(distances.squared(rows))
            logs *= np.float32(-0.5 * config.epsilon)
            most = logs.max(axis=1, keepdims=True)
            logs -= most
            found[start : start + step] = most[:, 0] + np.log(np.exp(logs).sum(axis=1))
            bar.update(len(rows))
    return found


DEFENSE = SanText
