"""Scores that need no training: the public law of the views, and what is equal, odd or long in them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from audit.bounds.base import EvidenceError
from audit.probes.base import Draws, Float64, Inputs, Ints, Layout, evidence_of
from audit.probes.features import equal_cells, equal_requests, parity
from defenses.base import Defense, LikelihoodUnavailable, Tokens, View
from defenses.pipeline.defense import Del

_CELLS = 1 << 24  # likelihoods at a time: 64 MiB of float32


class Scorer(ABC):
    """Maps each draw to one number; a higher one speaks for one of the inputs, the training draws say for which.

    Attributes:
        name: In results.
        trained: Whether `fit` looks at draws: such a score is held to a higher standard when one is chosen.
    """

    name: str
    trained: bool = False

    @abstractmethod
    def fit(self, first: Draws, second: Draws) -> "Scorer | None":
        """A scorer that is ready, from training draws; None where it does not apply to such draws."""

    @abstractmethod
    def score(self, draws: Draws) -> Float64:
        """One number a draw, shape (S,)."""


class LikelihoodRatio(Scorer):
    """Log P(view | second) - log P(view | first), summed over the tokens that differ.

    The most powerful score where the defence keeps to its public law (Neyman and Pearson 1933), and a good one where
    it nearly does. It uses what every adversary knows: the bytes and the mechanism.

    Args:
        defense: Gives `log_likelihood`.
        inputs: The two inputs.
    """

    name = "likelihood ratio"

    def __init__(self, defense: Defense[Any], inputs: Inputs) -> None:
        self._defense = defense
        self._inputs = inputs

    def fit(self, first: Draws, second: Draws) -> "LikelihoodRatio | None":
        """Ready as it is; None where the defence has no likelihood, or its bodies have no fixed length."""
        lengths = np.concatenate([first.lengths, second.lengths])
        if len(np.unique(lengths)) > 1:
            return None
        try:
            self._defense.log_likelihood(self._view(first.part(0, 1), 0))
        except LikelihoodUnavailable:
            return None
        except Exception:  # noqa: BLE001 - a broken defence's own reader may fail on its own bytes; others then score
            return None
        return self

    def score(self, draws: Draws) -> Float64:
        """Chunked, because a likelihood has V columns."""
        columns = self._defense.quantizer.d if isinstance(self._defense, Del) else self._defense.assets.vocabulary
        step = max(1, _CELLS // (draws.tokens * columns))
        found = np.zeros(draws.count)
        for request in np.unique(self._inputs.cells[:, 0]):
            at = self._inputs.cells[self._inputs.cells[:, 0] == request, 1]
            old, new = (side[request, at] for side in (self._inputs.first, self._inputs.second))
            for start in range(0, draws.count, step):
                view = self._view(draws.part(start, min(draws.count, start + step)), int(request))
                with evidence_of(f"the defence {self._defense.name}", "log_likelihood"):
                    gains = _gains(self._defense, view, at, (old, new))
                found[start : start + step] += gains.sum(axis=1)
        if not np.isfinite(found).all():
            raise EvidenceError(f"the defence {self._defense.name} gives likelihoods that are NaN or infinite")
        return found

    def _view(self, draws: Draws, request: int) -> View:
        length = int(draws.lengths[0, request])
        payload = np.ascontiguousarray(draws.bodies[:, request, :length]).tobytes()
        return View(payload, (draws.count, draws.tokens))


def _gains(defense: Defense[Any], view: View, at: Ints, tokens: tuple[Tokens, Tokens]) -> Float64:
    """Log likelihood of the second token less the first one's at the positions `at`, shape (B, uses)."""
    old, new = tokens
    if not isinstance(defense, Del) or not defense.is_product():
        table = defense.log_likelihood(view)
        return np.asarray(table[:, at, new].astype(np.float64) - table[:, at, old], dtype=np.float64)
    # The same numbers as from `log_likelihood`, without the V - 2 columns that nobody asks for.
    (weight, bias), (weight_old, bias_old) = (
        defense.quantizer.likelihood_terms(defense.table.latents(ids)) for ids in (new, old)
    )
    counts = defense.counts(view)[:, at].astype(np.float64)
    return np.asarray((counts * (weight - weight_old)).sum(axis=-1) + (bias - bias_old), dtype=np.float64)


@dataclass(frozen=True)
class Structure(Scorer):
    """One number that `read` takes from each draw; None from it means that there is no such thing in these draws."""

    name: str
    read: Callable[[Draws], Float64 | None]
    trained: bool = False

    def fit(self, first: Draws, second: Draws) -> "Structure | None":
        """Ready as it is; None where nothing is read, or the same number from every draw."""
        values = [self.read(first), self.read(second)]
        if any(one is None for one in values):
            return None
        return self if len(np.unique(np.concatenate([self.score(first), self.score(second)]))) > 1 else None

    def score(self, draws: Draws) -> Float64:
        """The number itself."""
        value = self.read(draws)
        return np.zeros(draws.count) if value is None else np.asarray(value, dtype=np.float64)


def structure_scorers(inputs: Inputs, layout: Layout | None) -> list[Scorer]:
    """Length of the bodies, bits equal between tokens, bytes equal between requests, parity of all bits."""

    def cells(draws: Draws) -> Float64 | None:
        found = None if layout is None else equal_cells(draws, layout, inputs)
        return None if found is None else found.sum(axis=1)

    def requests(draws: Draws) -> Float64 | None:
        found = equal_requests(draws, inputs)
        return None if found is None else found[:, 0]

    return [
        Structure("body length", lambda draws: draws.lengths.sum(axis=1).astype(np.float64)),
        Structure("bits equal between tokens", cells),
        Structure("bytes equal between requests", requests),
        Structure("parity of the bits", lambda draws: parity(draws).sum(axis=1)),
    ]


def timing_scorer() -> Scorer:
    """Seconds of encoding, for a claim that covers time."""
    return Structure("encoding time", lambda draws: draws.seconds)
