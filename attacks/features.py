"""What an attribute adversary sees of a prompt: moments of its restored embeddings, and the tokens it expects in it.

The expected token counts are the adaptive part: a posterior over tokens under the mechanism's own law, summed over
the prompt. Everything that is fitted here is fitted on auxiliary prompts alone.
"""

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from attacks.base import Attack, Guess, Knowledge, Target, Tools
from attacks.bayes import likelihoods
from attacks.ngrams import Unigram
from attacks.ranking import ranked
from defenses.base import Defense, Float32, Tokens, Unavailable, View

KEEP = 8  # candidates per position whose posterior is counted
FEATURES = Literal["both", "moments", "counts"]
UNLABELLED = -1  # the class of a prompt that a task says nothing about

_CHUNK = 512  # positions scored against the table at a time
_RANK = 96  # columns that the moments, and the counts, are reduced to for trees and networks
_LEAST = 1e-9  # probability that stands for "never", so that its logarithm is finite


@dataclass(frozen=True, eq=False)
class PromptFeatures:
    """Two blocks of columns for B prompts.

    Attributes:
        moments: Mean and variance over tokens of the restored embeddings, (B, 2b).
        counts: Expected token counts over the support, sparse, (B, S); None where a defence leaves no such thing.
    """

    moments: Float32
    counts: sparse.csr_array | None


class Features:
    """Features of a defence's views, computed once a view however many classifiers read them.

    A token that the adversary's text never held would carry no weight in any classifier trained on that text, so the
    posterior is taken over the text's own tokens only, with their unigram prior.

    Args:
        defense: Whose views.
        text: Token ids of auxiliary-training text, any shapes. Without it every token of the vocabulary counts.
        keep: Candidates per position.

    Attributes:
        support: The tokens that are counted, (S,).
        counted_by: "sent tokens", "likelihood", "nearest latent" or "nothing", known after the first view.
    """

    def __init__(self, defense: Defense[Any], text: Sequence[Tokens] = (), keep: int = KEEP) -> None:
        vocabulary = defense.assets.vocabulary
        held = [np.asarray(tokens, dtype=np.int64).ravel() for tokens in text] or [np.arange(vocabulary)]
        self.defense, self.keep = defense, keep
        self.support: Tokens = np.unique(np.concatenate(held))
        self.counted_by = "nothing"
        self._log_prior = Unigram.of(text, vocabulary).log_probability[self.support]
        self._known: dict[int, tuple[View, PromptFeatures]] = {}

    def of(self, view: View) -> PromptFeatures:
        """The features of one view; the same object for the same view."""
        if id(view) not in self._known:
            self._known[id(view)] = (view, PromptFeatures(moments(self.defense.restore(view)), self._counts(view)))
        return self._known[id(view)][1]

    def stacked(self, views: Sequence[View]) -> PromptFeatures:
        """The prompts of several views under one another."""
        parts = [self.of(view) for view in views]
        counts = [part.counts for part in parts if part.counts is not None]
        whole = sparse.vstack(counts, format="csr") if len(counts) == len(parts) else None
        return PromptFeatures(np.concatenate([part.moments for part in parts]), whole)

    @cached_property
    def _table(self) -> Float32:
        """Latents of the support, (S, m)."""
        return self.defense.latent_table()[self.support]

    def _counts(self, view: View) -> sparse.csr_array | None:
        """Expected counts by the first way that the defence allows, (B, S)."""
        for name, way in (("sent tokens", self._sent), ("likelihood", self._likely), ("nearest latent", self._nearest)):
            try:
                found = [_summed(tokens, shares, len(self.support)) for tokens, shares in way(view)]
            except Unavailable:
                continue
            self.counted_by = name
            return sparse.csr_array(sparse.vstack(found))
        return None

    def _sent(self, view: View) -> Iterator[tuple[Tokens, Float32]]:
        for row in self.defense.sent_tokens(view):
            places = np.minimum(np.searchsorted(self.support, row), len(self.support) - 1)
            yield places[:, None], (self.support[places] == row)[:, None].astype(np.float32)

    def _likely(self, view: View) -> Iterator[tuple[Tokens, Float32]]:
        for logits in likelihoods(self.defense, view):
            joint = logits[:, self.support] + self._log_prior
            places, scores = ranked(joint, self.keep)
            shares = np.exp(scores - scores[:, :1])
            yield places, shares / np.exp(joint - scores[:, :1]).sum(axis=1, keepdims=True)

    def _nearest(self, view: View) -> Iterator[tuple[Tokens, Float32]]:
        latents = self.defense.latents(view)
        if latents.shape[1] != view.shape[1]:
            raise Unavailable(f"{self.defense.name} sends {latents.shape[1]} vectors for {view.shape[1]} tokens")
        places = nearest(latents.reshape(-1, latents.shape[2]), self._table).reshape(view.shape)
        for row in places:
            yield row[:, None], np.ones((len(row), 1), dtype=np.float32)


def moments(restored: Float32) -> Float32:
    """Mean and variance over tokens: (B, T, b) -> (B, 2b)."""
    return np.concatenate([restored.mean(axis=1), restored.var(axis=1)], axis=1).astype(np.float32)


def nearest(latents: Float32, table: Float32) -> Tokens:
    """Row of the table (S, m) nearest to each latent (N, m) in Euclidean distance, (N,).

    Equal latents are looked up once: a view without noise holds few different ones.
    """
    different, places = np.unique(np.ascontiguousarray(latents), axis=0, return_inverse=True)
    half = 0.5 * np.einsum("sm,sm->s", table, table)
    starts = range(0, len(different), _CHUNK)
    best = np.concatenate([(different[i : i + _CHUNK] @ table.T - half).argmax(axis=1) for i in starts])
    return np.asarray(best[places.ravel()], dtype=np.int64)


def _summed(places: Tokens, shares: Float32, columns: int) -> sparse.csr_array:
    """Shares (T, k) at columns `places` (T, k) of one prompt, summed over its positions: (1, S)."""
    row = np.zeros(places.size, dtype=np.int64)
    return sparse.coo_array((shares.ravel(), (row, places.ravel())), shape=(1, columns)).tocsr()


class Columns:
    """Features as one matrix for a classifier; scales, weights and axes come from the training prompts.

    Counts become square roots times inverse document frequency, rows of unit length. For linear models they stay
    sparse; for others both blocks are reduced to their leading principal axes.

    Args:
        features: Which blocks.
        reduced: Dense and low-dimensional.
        seed: Of the randomised decomposition.
    """

    def __init__(self, features: FEATURES, *, reduced: bool, seed: int) -> None:
        self.features, self.reduced, self.seed = features, reduced, seed

    def fit(self, given: PromptFeatures) -> Self:
        """Learn from the training prompts' features.

        Raises:
            Unavailable: counts were asked for, and there are none.
        """
        from sklearn.decomposition import PCA, TruncatedSVD  # noqa: PLC0415 - a second, which listing must not cost
        from sklearn.preprocessing import StandardScaler  # noqa: PLC0415 - as above

        if self.features == "counts" and given.counts is None:
            raise Unavailable("this defence leaves no token counts to learn from")
        self._scale = StandardScaler().fit(given.moments)
        present = 0.0 if given.counts is None else given.counts.minimum(1.0).sum(axis=0)
        self._weights = (np.log((1 + len(given.moments)) / (1 + np.asarray(present))) + 1).astype(np.float32)
        self._axes: list[Any] = []
        if self.reduced:
            for block in self._blocks(given):
                kind = TruncatedSVD if sparse.issparse(block) else PCA
                rank = min(_RANK, *(size - 1 for size in block.shape))
                with np.errstate(all="ignore"):  # shares of a variance of 0, where views have no spread: unused
                    self._axes.append(kind(rank, random_state=self.seed).fit(block))
            self._final = StandardScaler().fit(self._projected(given))
        return self

    def transform(self, given: PromptFeatures) -> Any:
        """The matrix (B, columns), dense or sparse."""
        if self.reduced:
            return self._final.transform(self._projected(given))
        blocks = self._blocks(given)
        return blocks[0] if len(blocks) == 1 else sparse.hstack([sparse.csr_array(blocks[0]), blocks[1]], format="csr")

    def _projected(self, given: PromptFeatures) -> Float32:
        return np.hstack([axes.transform(block) for axes, block in zip(self._axes, self._blocks(given), strict=True)])

    def _blocks(self, given: PromptFeatures) -> list[Any]:
        """Scaled moments, then weighted counts: each where it is asked for and there."""
        blocks: list[Any] = []
        if self.features != "counts":
            # Rows of length about 1, as the counts' are: one regularisation then suits both blocks.
            blocks.append(self._scale.transform(given.moments) / np.float32(np.sqrt(given.moments.shape[1])))
        if self.features != "moments" and given.counts is not None:
            rooted = given.counts.sqrt().multiply(self._weights[None, :]).tocsr()
            length = np.sqrt(np.asarray(rooted.multiply(rooted).sum(axis=1)).ravel())
            blocks.append(sparse.diags_array(1 / np.maximum(length, 1e-12)) @ rooted)
        return blocks


@dataclass(frozen=True)
class AttributeOptions:
    """What a classifier reads.

    Attributes:
        features: "moments", "counts", or both.
    """

    features: FEATURES = "both"

    def __post_init__(self) -> None:
        if self.features not in get_args(FEATURES):
            raise ValueError(f"features must be one of {', '.join(get_args(FEATURES))}, not {self.features!r}")


class AttributeAdversary(Attack):
    """Guesses the class of each prompt; a subclass says by which classifier.

    Args:
        defense: Whose views.
        options: The classifier's parameters.
        tools: Seed of the training.
        features: Shared by several adversaries, so that views are read once; made here where none are given.
    """

    target: ClassVar[Target] = "attribute"
    knowledge = Knowledge(projection=True, decoder=True, embedding=True, prior_corpus=True)
    Options: ClassVar[type] = AttributeOptions
    reduced: ClassVar[bool] = True

    def __init__(
        self,
        defense: Defense[Any],
        options: Any = None,
        tools: Tools | None = None,
        *,
        features: Features | None = None,
    ) -> None:
        super().__init__(defense, options, tools)
        self.features = features or Features(defense)

    @abstractmethod
    def classifier(self, labels: NDArray[np.int64]) -> Any:
        """An unfitted scikit-learn classifier for training prompts of these classes, (N,)."""

    def fit(self, views: Sequence[View], secrets: Sequence[Tokens]) -> Self:
        """Learn from auxiliary views and the classes (B,) of their prompts; those of class -1 are left out.

        Raises:
            Unavailable: no labelled views, or fewer than two classes.
        """
        if not views:
            raise Unavailable(f"{self.name} learns from labelled views, and none were given")
        labels = np.concatenate(list(secrets))
        known = labels != UNLABELLED
        if len(np.unique(labels[known])) < 2:
            raise Unavailable(f"{self.name} needs training prompts of at least two classes")
        train = _rows(self.features.stacked(views), known)
        self._columns = Columns(self.options.features, reduced=self.reduced, seed=self.tools.seed).fit(train)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a classifier that has not converged is judged by its success
            self._model = self.classifier(labels[known]).fit(self._columns.transform(train), labels[known])
        return self

    def guess(self, view: View) -> Guess:
        """All classes of the training prompts, best first, with the logarithms of their probabilities, (B, K).

        They are not called posteriors: measured on the embedded tasks, the mean of the largest misses the success
        rate by up to 0.2 either way, because few prompts train many weights (docs/attributes.md).
        """
        shares = self._model.predict_proba(self._columns.transform(self.features.of(view)))
        places, scores = ranked(np.log(np.maximum(shares, _LEAST)).astype(np.float32), shares.shape[1])
        return Guess(np.asarray(self._model.classes_, dtype=np.int64)[places], scores)


def _rows(given: PromptFeatures, kept: NDArray[np.bool_]) -> PromptFeatures:
    return PromptFeatures(given.moments[kept], None if given.counts is None else given.counts[kept])
