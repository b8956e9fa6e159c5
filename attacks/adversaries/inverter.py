"""Sentence-level inversion: a decoder that writes a prompt from activations, pooled ones too.

After GEIA (Li, Xu, Song 2023, Findings of ACL: a generative decoder conditioned on the embedding) with the check of
vec2text (Morris, Kuleshov, Shmatikov, Rush 2023, EMNLP): guesses are encoded again by the defence itself, and the one
that comes nearest to the view is kept. Where a defence has a likelihood of each token, the token adversaries are
stronger; this one is for defences that send what depends on the whole prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from attacks.base import Attack, Guess, Knowledge
from attacks.ngrams import Unigram
from attacks.ranking import ranked
from defenses.base import Float32, Tokens, View
from defenses.errors import UserError
from defenses.randomness import seeded_rng

if TYPE_CHECKING:  # torch takes seconds to import, and every command lists the plug-ins
    from torch import Tensor

    from attacks.networks import Text
    from attacks.sentence_decoder import SentenceDecoder

FIRST_TOKENS = 16384  # read to fit the scale of the activations and the first regression
RIDGE = 0.01  # of the mean variance
CLIP = 10.0  # standard deviations: a causal model's first position has coordinates a thousand times as large
GUESS_TOKENS = 512  # written at a time


@dataclass(frozen=True)
class InverterOptions:
    """The budget.

    Attributes:
        steps: Optimiser steps at most; training ends sooner once held-out text no longer gains.
        passes: Times that the public text is read at most.
        width: Of the transformer, at most; twice the activations' width where that is less.
        layers: Its blocks.
        batch_tokens: Tokens in a step.
        vocabulary: The decoder writes so many tokens at most, the most frequent of the public text; a token that the
            public text lacks is never written.
        samples: Prompts written for each view, the first greedily; the one whose encoding is nearest is kept.
        learning_rate: Peak rate of AdamW.
    """

    steps: int = 600
    passes: int = 6
    width: int = 256
    layers: int = 2
    batch_tokens: int = 512
    vocabulary: int = 8192
    samples: int = 1
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        counts = (self.steps, self.passes, self.layers, self.batch_tokens, self.vocabulary, self.samples)
        if min(counts) < 1 or self.width < 32:
            raise UserError("inverter: every count must be at least 1, and width at least 32")
        if not 0 < self.learning_rate < 1:
            raise UserError(f"inverter: the learning rate must be between 0 and 1, not {self.learning_rate}")


class Inverter(Attack):
    """The prompt that a decoder writes from the restored activations; exactly T tokens, as the view's shape tells."""

    name = "inverter"
    knowledge = Knowledge(projection=True, decoder=True, embedding=True, prior_corpus=True)
    Options = InverterOptions
    _decoder: "SentenceDecoder"

    def fit(self, views: Sequence[View], secrets: Sequence[Tokens]) -> Self:  # noqa: ARG002 - it makes its own
        """Train with teacher forcing on public text (B, T), with fresh views of it in every step.

        Raises:
            Unavailable: the text is too short to hold a part out.
        """
        from attacks.networks import Text, minimise, seeded  # noqa: PLC0415 - imports torch

        text, options = Text.split(secrets), self.options
        rng = seeded_rng(self.tools.seed, self.name, self.defense.name)
        with seeded(int(rng.integers(1 << 31))):
            self._start(text, rng)
            held_out = [(self._activations(tokens, rng), tokens) for tokens in text.held_out]
            minimise(
                self._decoder,
                self._loss(text, rng),
                lambda: self._held_out_loss(held_out),
                steps=max(1, min(options.steps, options.passes * text.size // options.batch_tokens)),
                learning_rate=options.learning_rate,
                label=f"{self.name} against {self.defense.name}",
            )
        return self

    def guess(self, view: View) -> Guess:
        """The written tokens first, then each step's other likely ones given what was written before."""
        import torch  # noqa: PLC0415 - slow to import

        activations = self._scaled(self.defense.restore(view))
        rows = max(1, GUESS_TOKENS // view.shape[1])
        candidates, scores = [], []
        with torch.inference_mode():
            for start in range(0, len(activations), rows):
                part = torch.from_numpy(activations[start : start + rows])
                tokens = self._written(part, view.shape[1])
                best, value = self._alternatives(part, tokens)
                candidates.append(best)
                scores.append(value)
        return Guess(np.concatenate(candidates), np.concatenate(scores))

    def _start(self, text: "Text", rng: np.random.Generator) -> None:
        """Fit the scale of the activations and the first linear reading, and set up the decoder."""
        import torch  # noqa: PLC0415 - slow to import

        from attacks.networks import fitting_width  # noqa: PLC0415 - imports torch
        from attacks.sentence_decoder import SentenceDecoder  # noqa: PLC0415 - imports torch

        table = self.defense.assets.embedding
        table = (table - table.mean(0)) / table.std()
        activations, targets = self._first_pairs(text, table, rng)
        low, self._middle, high = np.percentile(activations, [25, 50, 75], axis=0).astype(np.float32)
        self._spread = np.maximum(high - low, 1e-6 * max(float(np.abs(activations).max()), 1e-6)) / 1.35
        x = self._scaled(activations)
        gram = x.T @ x
        reading = np.linalg.solve(gram + RIDGE * np.trace(gram) * np.eye(len(gram)) / len(gram), x.T @ targets)
        names = self._names(text)
        prior = Unigram.of(text.train, len(table)).log_probability[names]
        self._decoder = SentenceDecoder(
            torch.from_numpy(table),
            torch.from_numpy(names),
            torch.from_numpy(prior),
            torch.from_numpy(reading.astype(np.float32)),
            width=fitting_width(self.options.width, x.shape[1]),
            layers=self.options.layers,
        )

    def _first_pairs(self, text: "Text", table: Float32, rng: np.random.Generator) -> tuple[Float32, Float32]:
        """Activations (N, h), and the embedding of each one's token, or the mean of its prompt's, (N, b)."""
        activations, targets = [], []
        for _ in range(max(1, FIRST_TOKENS // self.options.batch_tokens)):
            which, rows = text.draw(rng, self.options.batch_tokens)
            tokens = text.train[which][rows]
            sent = self.defense.restore(self.defense.protect(tokens, rng))
            target = table[tokens] if sent.shape[1] == tokens.shape[1] else table[tokens].mean(1)
            activations.append(sent.reshape(-1, sent.shape[-1]))
            targets.append(target.reshape(-1, table.shape[1]))
        return np.concatenate(activations), np.concatenate(targets)

    def _names(self, text: "Text") -> Tokens:
        """The most frequent tokens of the public text, at most `vocabulary`, by their ids."""
        counts = sum(np.bincount(part.ravel(), minlength=self.defense.assets.vocabulary) for part in text.train)
        order = np.argsort(-np.asarray(counts), kind="stable")[: self.options.vocabulary]
        return np.sort(order[np.asarray(counts)[order] > 0])

    def _scaled(self, activations: Float32) -> Float32:
        """Centred and scaled by quartiles, and clipped."""
        return np.asarray(np.clip((activations - self._middle) / self._spread, -CLIP, CLIP), dtype=np.float32)

    def _activations(self, tokens: Tokens, rng: np.random.Generator) -> Float32:
        """Scaled activations (B, T', h) of a view of our own."""
        return self._scaled(self.defense.restore(self.defense.protect(tokens, rng)))

    def _loss(self, text: "Text", rng: np.random.Generator) -> Callable[[int], "Tensor"]:
        """The teacher-forced cross-entropy of one step."""

        def loss_at(step: int) -> "Tensor":  # noqa: ARG001 - the generator knows where it stands
            which, rows = text.draw(rng, self.options.batch_tokens)
            tokens = text.train[which][rows]
            return self._cross_entropy(self._activations(tokens, rng), tokens)

        return loss_at

    def _cross_entropy(self, activations: Float32, tokens: Tokens) -> "Tensor":
        """The mean over the tokens that can be written."""
        import torch  # noqa: PLC0415 - slow to import

        logits = self._decoder(torch.from_numpy(activations), torch.from_numpy(tokens)).flatten(0, 1)
        names = self._decoder.names.numpy()
        column = np.minimum(np.searchsorted(names, tokens.ravel()), len(names) - 1)
        target = np.where(names[column] == tokens.ravel(), column, -100)
        return torch.nn.functional.cross_entropy(logits, torch.from_numpy(target), ignore_index=-100)

    def _held_out_loss(self, held_out: list[tuple[Float32, Tokens]]) -> float:
        """The same of held-out text."""
        losses, sizes = [], []
        for activations, tokens in held_out:
            rows = max(1, GUESS_TOKENS // tokens.shape[1])
            for start in range(0, len(tokens), rows):
                part = slice(start, start + rows)
                losses.append(float(self._cross_entropy(activations[part], tokens[part])))
                sizes.append(tokens[part].size)
        return float(np.average(losses, weights=sizes))

    def _written(self, activations: "Tensor", length: int) -> Tokens:
        """One prompt a view (B, T): greedy, or the sample whose own encoding is nearest."""
        import torch  # noqa: PLC0415 - slow to import

        coins = torch.Generator().manual_seed(self.tools.seed)
        rng = seeded_rng(self.tools.seed, self.name, "check")
        best = self._decoder.write(activations, length, lambda logits: logits.argmax(-1)).numpy()
        if self.options.samples == 1:
            return best
        least = self._distance(best, activations, rng)
        for _ in range(self.options.samples - 1):
            drawn = self._decoder.write(
                activations, length, lambda logits: logits.softmax(-1).multinomial(1, generator=coins)[:, 0]
            ).numpy()
            distance = self._distance(drawn, activations, rng)
            nearer = distance < least
            best[nearer], least[nearer] = drawn[nearer], distance[nearer]
        return best

    def _distance(self, tokens: Tokens, activations: "Tensor", rng: np.random.Generator) -> Float32:
        """How far the encodings of prompts are from activations, (B,)."""
        gap = self._activations(tokens, rng) - activations.numpy()
        return np.asarray(np.square(gap).sum(axis=(1, 2)), dtype=np.float32)

    def _alternatives(self, activations: "Tensor", tokens: Tokens) -> tuple[Tokens, Float32]:
        """Written tokens first, then the likeliest others of each step: candidates and scores, (B, T, k)."""
        import torch  # noqa: PLC0415 - slow to import

        logits = self._decoder(activations, torch.from_numpy(tokens)).log_softmax(-1).numpy()
        column = np.searchsorted(self._decoder.names.numpy(), tokens)[..., None]
        np.put_along_axis(logits, column, logits.max(axis=-1, keepdims=True) + 1e-3, axis=-1)
        best, scores = ranked(logits, self.tools.keep)
        return self._decoder.names.numpy()[best], scores


ATTACK = Inverter
