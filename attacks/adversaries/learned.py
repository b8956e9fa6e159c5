"""A transformer that reads tokens out of noisy latents, trained on views that the adversary makes of public text.

It needs no likelihood, only the defence's own `protect`, so it attacks what the exact adversaries cannot: noise of no
known density, or latents that depend on the whole prompt. Every training step draws fresh coins.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Self

import numpy as np

from attacks.base import Attack, Guess, Knowledge
from attacks.bayes import posterior
from attacks.ngrams import Bigram
from defenses.base import Float32, Tokens, Unavailable, View
from defenses.errors import UserError
from defenses.randomness import seeded_rng

if TYPE_CHECKING:  # torch takes seconds to import, and every command lists the plug-ins
    from torch import Tensor

    from attacks.networks import Text
    from attacks.token_reader import Chain, TokenReader

CHUNK = 256  # positions scored at a time: 50 MB of scores at V = 49,152
FIRST_TOKENS = 16384  # read to fit the Gaussian rule: a slope of 128 x 128 is then known to about 1 %
FREQUENT = 4096  # tokens that the denoised input is a mean of: nine tenths of running text
RIVALS = 8  # likeliest wrong tokens of a frequent token, always among the candidates of its training steps
SAMPLED = 2048  # expected number of further candidates
WHOLE = 4096  # a vocabulary up to this size is scored whole in training
FLOOR = 0.02  # least noise, relative to the latents: a defence without any still has finite scores
TEMPERATURES = (0.8, 1.0, 1.15, 1.3, 1.5)  # that held-out text chooses from: an HMM's messages are too sure
TOLERANCE = 0.03  # on mean maximal posterior less success: the scores are then called posteriors


@dataclass(frozen=True)
class LearnedOptions:
    """The budget. The default takes two to three CPU-minutes at V = 49,152 and d = 128.

    Attributes:
        steps: Optimiser steps at most; training ends sooner once held-out text no longer gains.
        passes: Times that the public text is read at most.
        width: Of the transformer, at most; twice the latents' width where that is less.
        layers: Its blocks.
        batch_tokens: Tokens in a step.
        learning_rate: Peak rate of AdamW.
    """

    steps: int = 400
    passes: int = 12
    width: int = 256
    layers: int = 2
    batch_tokens: int = 1024
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if min(self.steps, self.passes, self.layers, self.batch_tokens) < 1 or self.width < 32:
            raise UserError("learned: steps, passes, layers and batch_tokens must be at least 1, and width at least 32")
        if not 0 < self.learning_rate < 1:
            raise UserError(f"learned: the learning rate must be between 0 and 1, not {self.learning_rate}")


@dataclass(frozen=True, eq=False)
class Emission:
    """A linear-Gaussian law of latents given a token's clean latent v: x ~ N(mean_x + (v - mean_v) slope, noise).

    Attributes:
        mean_x: (m,).
        mean_v: (m,).
        slope: (m, m).
        whitener: The noise's covariance is the inverse of whitener whitener^T, (m, m).
    """

    mean_x: Float32
    mean_v: Float32
    slope: Float32
    whitener: Float32

    @classmethod
    def fit(cls, x: Float32, v: Float32, *, full: bool) -> Self:
        """Least squares on pairs (N, m); slope and noise are diagonal unless `full`."""
        mean_x, mean_v = x.mean(0), v.mean(0)
        dx, dv = x - mean_x, v - mean_v
        floor = np.maximum(FLOOR * np.maximum(dx.std(0), dv.std(0)), 1e-12)
        if not full:
            slope = np.diag((dx * dv).sum(0) / np.maximum((dv * dv).sum(0), 1e-12))
            return cls(mean_x, mean_v, slope, np.diag(1 / np.maximum((dx - dv @ slope).std(0), floor)))
        gram = dv.T @ dv
        ridge = 1e-3 * np.trace(gram) / len(gram) + 1e-12
        slope = np.linalg.solve(gram + ridge * np.eye(len(gram)), dv.T @ dx).astype(np.float32)
        residual = dx - dv @ slope
        scale = np.maximum(residual.std(0), floor)
        return cls(mean_x, mean_v, slope, _inverse_root(residual / scale) / scale[:, None])

    def whitened(self, latents: Float32) -> Float32:
        """Latents (..., m) with noise of unit covariance."""
        return np.asarray((latents - self.mean_x) @ self.whitener, dtype=np.float32)

    def means(self, table: Float32) -> Float32:
        """What `whitened` gives on average for tokens of clean latents (V, m)."""
        return np.asarray((table - self.mean_v) @ self.slope @ self.whitener, dtype=np.float32)


class Learned(Attack):
    """log P(token | all latents of the prompt), by a transformer over a Gaussian rule."""

    name = "learned"
    knowledge = Knowledge(projection=True, embedding=True, prior_corpus=True)
    Options = LearnedOptions
    _emission: Emission
    _reader: "TokenReader"

    def fit(self, views: Sequence[View], secrets: Sequence[Tokens]) -> Self:
        """Train on public text (B, T); views of it, one per array, are used beside those made here.

        Raises:
            Unavailable: the defence sends no vector per token, or the text is too short to hold a part out.
            ValueError: there are views, but not one per array.
        """
        from attacks.networks import Text, minimise, seeded  # noqa: PLC0415 - imports torch

        if views and len(views) != len(secrets):
            raise ValueError(f"{len(views)} views for {len(secrets)} arrays of tokens")
        text, judged_on = Text.split(secrets).judged_apart()
        text, options = text.halved(), self.options
        rng = seeded_rng(self.tools.seed, self.name, self.defense.name)
        held_out = [(self._latents(tokens, rng), tokens) for tokens in text.held_out]
        self._bigram = Bigram.of(text.train, self.defense.assets.vocabulary)
        self._log_prior = np.log(self._bigram.unigram).astype(np.float32)
        self._frequent = np.argsort(-self._log_prior, kind="stable")[:FREQUENT]
        with seeded(int(rng.integers(1 << 31))):
            self._start(text, held_out, rng)
            minimise(
                self._reader,
                self._loss(text, views, rng),
                lambda: self._held_out_loss(held_out),
                steps=max(1, min(options.steps, options.passes * text.size // options.batch_tokens)),
                learning_rate=options.learning_rate,
                label=f"{self.name} against {self.defense.name}",
            )
        losses = [self._held_out_loss(held_out, temperature) for temperature in TEMPERATURES]
        self._temperature = TEMPERATURES[int(np.argmin(losses))]
        self._calibrated = self._is_calibrated([(self._latents(tokens, rng), tokens) for tokens in judged_on])
        return self

    def guess(self, view: View) -> Guess:
        """Top candidates per position; scores are log probabilities, called posteriors where held-out text agrees."""
        candidates, scores = self._ranked(self.defense.latents(view))
        return Guess(candidates, scores, is_posterior=self._calibrated)

    def _latents(self, tokens: Tokens, rng: np.random.Generator) -> Float32:
        """Latents (B, T, m) of a view of our own."""
        latents = self.defense.latents(self.defense.protect(tokens, rng))
        if latents.shape[1] != tokens.shape[1]:
            raise Unavailable(f"{self.defense.name} sends no vector per token here: use the attack 'inverter'")
        return latents

    def _start(self, text: "Text", held_out: list[tuple[Float32, Tokens]], rng: np.random.Generator) -> None:
        """Fit the Gaussian rule with diagonal and with full matrices, and keep what held-out text prefers."""
        table = self.defense.latent_table()
        pairs = list(self._first_pairs(text, rng))
        x = np.concatenate([latents.reshape(-1, table.shape[1]) for latents, _ in pairs])
        v = table[np.concatenate([tokens.ravel() for _, tokens in pairs])]
        rules = []
        for full, neighbours in product((False, True), (0.0, 1.0)):
            self._emission = Emission.fit(x, v, full=full)
            self._reader = self._new_reader(self._emission.means(table), neighbours)
            rules.append((self._held_out_loss(held_out), self._emission, self._reader))
        _, self._emission, self._reader = min(rules, key=lambda rule: rule[0])

    def _first_pairs(self, text: "Text", rng: np.random.Generator) -> Iterator[tuple[Float32, Tokens]]:
        """Some 16,000 tokens' worth of views and their tokens."""
        for _ in range(max(1, FIRST_TOKENS // self.options.batch_tokens)):
            which, rows = text.draw(rng, self.options.batch_tokens)
            tokens = text.train[which][rows]
            yield self._latents(tokens, rng), tokens

    def _new_reader(self, means: Float32, neighbours: float) -> "TokenReader":
        import torch  # noqa: PLC0415 - slow to import

        from attacks.networks import fitting_width  # noqa: PLC0415 - imports torch
        from attacks.token_reader import TokenReader  # noqa: PLC0415 - imports torch

        return TokenReader(
            torch.from_numpy(means),
            torch.from_numpy(self._log_prior),
            torch.from_numpy(self._frequent),
            self._chain(self._bigram),
            neighbours=neighbours,
            width=fitting_width(self.options.width, means.shape[1]),
            layers=self.options.layers,
        )

    def _chain(self, bigram: Bigram) -> "Chain":
        """A bigram among the frequent tokens, relative to the unigram."""
        import torch  # noqa: PLC0415 - slow to import

        from attacks.token_reader import Chain  # noqa: PLC0415 - imports torch

        lift = bigram.seen[self._frequent][:, self._frequent] / bigram.unigram[self._frequent]
        spare = bigram.spare[self._frequent].astype(np.float32)
        return Chain(lift.astype(np.float32).tocsr(), torch.from_numpy(spare))

    def _queries(self, latents: Float32, chain: "Chain | None" = None) -> "Tensor":
        """What the reader asks its tables for, (B T, m + K + 1)."""
        import torch  # noqa: PLC0415 - slow to import

        queries: Tensor = self._reader(torch.from_numpy(self._emission.whitened(latents)), chain)
        return queries.flatten(0, 1)

    def _loss(self, text: "Text", views: Sequence[View], rng: np.random.Generator) -> Callable[[int], "Tensor"]:
        """The cross-entropy of a step: of fresh views, or of given ones half of the time where there are any.

        The bigram of a step is counted on the half of the text that the step does not read.
        """
        contest, vocabulary = self._contest(rng), self.defense.assets.vocabulary
        chains = [self._chain(Bigram.of(text.train[1 - half :: 2] or text.train, vocabulary)) for half in (0, 1)]
        cuts = [np.cumsum([len(text.train[2 * i]), len(text.train[2 * i + 1])]) for i in range(len(views))]
        halves = [np.split(self.defense.latents(view), cut)[:2] for view, cut in zip(views, cuts, strict=True)]
        given = [half for pair in halves for half in pair]

        def loss_at(step: int) -> "Tensor":  # noqa: ARG001 - the generator knows where it stands
            which, rows = text.draw(rng, self.options.batch_tokens)
            tokens = text.train[which][rows]
            fresh = not given or rng.random() < 0.5
            latents = self._latents(tokens, rng) if fresh else given[which][rows]
            return contest(self._queries(latents, chains[which % 2]), tokens.ravel())

        return loss_at

    def _contest(self, rng: np.random.Generator) -> Callable[["Tensor", Tokens], "Tensor"]:
        """Cross-entropy over the vocabulary, or over candidates that estimate its partition function without bias.

        Candidates are the true tokens and their likeliest rivals, each once, and others drawn independently with
        probability pi; these count 1 / pi times (Horvitz and Thompson 1952).
        """
        import torch  # noqa: PLC0415 - slow to import

        if len(self._log_prior) <= WHOLE:
            return lambda queries, truth: torch.nn.functional.cross_entropy(
                self._reader.logits(queries), torch.from_numpy(truth)
            )
        rivals = self._rivals()
        chance = np.minimum(1.0, SAMPLED * 0.5 * (np.exp(self._log_prior) + 1 / len(self._log_prior)))

        def sampled(queries: "Tensor", truth: Tokens) -> "Tensor":
            hard = np.unique(rivals[truth])
            drawn = rng.random(len(chance)) < chance
            drawn[hard] = False
            others = np.flatnonzero(drawn)
            logits = self._reader.logits(queries, torch.from_numpy(np.concatenate([hard, others])))
            weights = np.concatenate([np.zeros(len(hard)), -np.log(chance[others])]).astype(np.float32)
            target = torch.from_numpy(np.searchsorted(hard, truth))
            return torch.nn.functional.cross_entropy(logits + torch.from_numpy(weights), target)

        return sampled

    def _rivals(self) -> Tokens:
        """For each token itself and, where it is frequent, those that its noiseless latent scores highest."""
        import torch  # noqa: PLC0415 - slow to import

        from attacks.networks import chunks  # noqa: PLC0415 - imports torch

        reader = self._reader
        rivals = np.repeat(np.arange(len(self._log_prior))[:, None], RIVALS + 1, axis=1)
        with torch.inference_mode():
            for chunk in chunks(reader.frequent, CHUNK):
                own = reader.table[chunk]
                scores = reader.norm**2 * own @ reader.table.T - reader.halves + reader.log_prior
                rivals[chunk.numpy(), 1:] = scores.topk(RIVALS).indices.numpy()
        return rivals

    def _held_out_loss(self, held_out: list[tuple[Float32, Tokens]], temperature: float = 1.0) -> float:
        """Mean cross-entropy over the whole vocabulary."""
        import torch  # noqa: PLC0415 - slow to import

        from attacks.networks import chunks  # noqa: PLC0415 - imports torch

        total = 0.0
        with torch.inference_mode():
            for latents, tokens in held_out:
                rows = max(1, self.options.batch_tokens // tokens.shape[1])
                for start in range(0, len(tokens), rows):
                    truth = torch.from_numpy(tokens[start : start + rows].ravel())
                    queries = self._queries(latents[start : start + rows])
                    for asked, part in zip(chunks(queries, CHUNK), chunks(truth, CHUNK), strict=True):
                        logits = self._reader.logits(asked) / temperature
                        total += float(torch.nn.functional.cross_entropy(logits, part, reduction="sum"))
        return total / sum(tokens.size for _, tokens in held_out)

    def _ranked(self, latents: Float32) -> tuple[Tokens, Float32]:
        """The best candidates and their log probabilities, (B, T, k)."""
        import torch  # noqa: PLC0415 - slow to import

        from attacks.networks import chunks  # noqa: PLC0415 - imports torch

        rows = max(1, self.options.batch_tokens // latents.shape[1])
        parts = []
        with torch.inference_mode():
            for start in range(0, len(latents), rows):
                queries = chunks(self._queries(latents[start : start + rows]), CHUNK)
                parts += [
                    posterior((self._reader.logits(part) / self._temperature).numpy(), self.tools.keep)
                    for part in queries
                ]
        candidates, scores = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        return candidates.reshape(*latents.shape[:2], -1), scores.reshape(*latents.shape[:2], -1)

    def _is_calibrated(self, held_out: list[tuple[Float32, Tokens]]) -> bool:
        """Whether the mean maximal posterior is within .03 of the success on held-out text."""
        ranked = [self._ranked(latents) for latents, _ in held_out]
        hits = np.concatenate([(r[0][..., 0] == t).ravel() for r, (_, t) in zip(ranked, held_out, strict=True)])
        sure = np.concatenate([np.exp(r[1][..., 0]).ravel() for r in ranked])
        return bool(abs(sure.mean() - hits.mean()) <= TOLERANCE)


def _inverse_root(residual: Float32) -> Float32:
    """A matrix W with W W^T the inverse of the residual's covariance, shrunk as Ledoit and Wolf (2004) do."""
    from sklearn.covariance import ledoit_wolf  # noqa: PLC0415 - slow to import

    covariance, _ = ledoit_wolf(residual)
    covariance += FLOOR**2 * np.eye(len(covariance))
    return np.linalg.inv(np.linalg.cholesky(covariance)).T.astype(np.float32)


ATTACK = Learned
