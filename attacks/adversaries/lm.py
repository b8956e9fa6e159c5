"""The language-model adversary: beam search scored by exact likelihood and a causal language model ("lm").

A prompt's posterior is prod_t P(view_t | x_t) P(x_t | x_<t). A causal language model is a far better P(x_t | x_<t)
than counted pairs, as long as the tokens before are right; after wrong ones it misleads, and on its own it falls
below the blind prior at high noise. So each conditional is the mixture

    c_t P_lm(x_t | x_<t) + (1 - c_t) P(x_t | views before t),

where the second part is the prediction of the hidden Markov adversary ("hmm"), which sums over all readings of what
stands before. c_t grows with the adversary's own estimate that the last few tokens before t are right, their mean
largest marginal posterior; how fast it grows is chosen by the probability that a few prompts' views get, without any
labels. With c = 0 the hidden Markov adversary is left. What comes after t enters by its backward messages, which steer
the beam as a look-ahead (as the heuristic of A* search does) and rank each position's candidates.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from attacks.base import Attack, Guess, Knowledge, LanguageModel
from attacks.bayes import adapted
from attacks.lattice import Lattice, choose_trust, messages, predictions, windows
from attacks.ngrams import Bigram, Unigram
from attacks.ranking import ranked
from defenses.base import Float32, Tokens, Unavailable, View
from defenses.errors import UserError

Float64 = NDArray[np.float64]

ROWS = 32  # texts that are extended at a time: their cache takes 100 MB at 64 tokens of a 135M model
SPARE = 4  # extensions that are looked at per place in the beam, so that texts that end alike can be left out
TINY = 1e-300
JUDGES = 8  # prompts that choose how far the model is believed
SCALES = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
POWERS = (0.5, 1.0, 2.0, 4.0)
PENALTY = 2.0  # nats that a belief must gain for its two parameters (Akaike): without evidence nothing is believed


@dataclass(frozen=True)
class LmOptions:
    """What is searched, and how far the language model is believed.

    Attributes:
        top: K, tokens per position that may be read at all.
        traffic: Mend the public text's frequencies by what all prompts of the view show together.
        beam: Texts that are kept per prompt.
        recombine: Texts with the same last tokens, this many, are one: the more probable stays.
        window: Positions whose certainty is averaged; a position outside the text counts as unknown.
    """

    top: int = 192
    traffic: bool = True
    beam: int = 8
    recombine: int = 3
    window: int = 4

    def __post_init__(self) -> None:
        for name in ("top", "beam", "recombine", "window"):
            if getattr(self, name) < 1:
                raise UserError(f"lm: {name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class Belief:
    """The weight of the language model where the tokens around are right with probability m: scale m^power."""

    scale: float
    power: float

    def weight(self, certainty: Float64) -> Float64:
        """c, the same shape as the certainty, in [0, 1)."""
        return np.asarray(self.scale * certainty**self.power)


START = Belief(0.5, 1.0)  # under which the prompts are read that choose the belief
NONE = Belief(0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the views of P prompts say without the language model; logarithms, each up to a constant per position.

    Attributes:
        tokens: Candidates, (P, T, K).
        emission: log P(view at t | candidate), and last of all other tokens on average, (P, T, K + 1).
        filtered: log P(candidate at t | views before t) under the bigram, a proper distribution, (P, T, K + 1).
        future: log P(views after t | candidate at t) under the bigram, (P, T, K).
        certainty: Largest marginal posterior, (P, T).
    """

    tokens: Tokens
    emission: Float64
    filtered: Float64
    future: Float64
    certainty: Float64

    @classmethod
    def of(cls, states: Lattice) -> "Evidence":
        """What one prompt's states say, (T, ...)."""
        predicted, future = predictions(states)[0], messages(states)
        joint = states.emissions * predicted * future
        logs = [np.log(np.maximum(part, TINY)) for part in (states.emissions, predicted, future[:, :-1])]
        return cls(states.tokens, logs[0], logs[1], logs[2], joint[:, :-1].max(axis=1) / joint.sum(axis=1))

    @classmethod
    def stack(cls, parts: Sequence["Evidence"]) -> "Evidence":
        """Several prompts as one."""
        return cls(
            np.stack([part.tokens for part in parts]),
            np.stack([part.emission for part in parts]),
            np.stack([part.filtered for part in parts]),
            np.stack([part.future for part in parts]),
            np.stack([part.certainty for part in parts]),
        )

    def before(self, window: int) -> Float64:
        """Mean certainty of the `window` positions before each, (P, T)."""
        known = np.pad(self.certainty, ((0, 0), (window, 0)))
        return np.asarray(np.lib.stride_tricks.sliding_window_view(known, window, axis=1).mean(axis=-1)[:, :-1])

    def after(self, window: int) -> Float64:
        """Mean certainty of the `window` positions after each, (P, T)."""
        known = np.pad(self.certainty, ((0, 0), (0, window)))
        return np.asarray(np.lib.stride_tricks.sliding_window_view(known, window, axis=1).mean(axis=-1)[:, 1:])


@dataclass(frozen=True, eq=False)
class Step:
    """One step of the beam, for P prompts: which texts went on, and with which token.

    Attributes:
        parent: Text before this step, (P, beam).
        choice: Candidate that it was extended with, (P, beam).
        told: log P_lm of every candidate after each text before this step, (P, beam before, K).
    """

    parent: NDArray[np.int64]
    choice: NDArray[np.int64]
    told: Float64


@dataclass(frozen=True, eq=False)
class Found:
    """What the beam found in P prompts.

    Attributes:
        path: The best text, as places among the candidates, (P, T).
        told: log P_lm(candidate | the best text before), (P, T, K).
        foretold: log of P_lm(candidate | text before), mean over the beam's texts by what they score before, (P, T, K).
    """

    path: NDArray[np.int64]
    told: Float64
    foretold: Float64


class LanguageModelBeam(Attack):
    """At each position the candidates given the best text before, mixed with the best text's own token.

    That token has heard the language model on what comes after, which the bigram's message from after has not; it
    weighs as much as the tokens on both sides of it are certain. Scores are logarithms of the mixture. They are no
    posterior: they take the text before as certain, and so promise more than they keep.
    """

    name = "lm"
    knowledge = Knowledge(projection=True, embedding=True, prior_corpus=True, language_model=True)
    Options = LmOptions

    def fit(self, views: Sequence[View], secrets: Sequence[Tokens]) -> Self:  # noqa: ARG002 - the law is known
        """Count the pairs of the auxiliary text.

        Raises:
            Unavailable: the adversary has no language model.
        """
        if self.tools.language_model is None:
            raise Unavailable("lm needs a language model, and this adversary has none")
        self._bigram = Bigram.of(secrets, self.defense.assets.vocabulary)
        return self

    def guess(self, view: View) -> Guess:
        """Top candidates per position.

        Raises:
            Unavailable: the language model has too few tokens, or does not predict from left to right.
            LikelihoodUnavailable: the defence has no tractable likelihood.
        """
        prompts = self._prompts(view)
        belief = self._belief(prompts, view.shape[0])
        found = [self._read(one, belief) for one in self._batches(prompts, range(view.shape[0]))]
        return Guess(np.concatenate([one[0] for one in found]), np.concatenate([one[1] for one in found]))

    @cached_property
    def _model(self) -> LanguageModel:
        """The language model, loaded once."""
        if self.tools.language_model is None:
            raise Unavailable("lm needs a language model, and this adversary has none")
        return self.tools.language_model()

    def _prompts(self, view: View) -> Callable[[int], Evidence]:
        """What makes the evidence of one prompt, (T, ...), by its number."""
        prior, length = Unigram(self._bigram.unigram), view.shape[1]
        size = min(max(self.options.top, self.tools.keep), self.defense.assets.vocabulary)
        found, fitted = adapted(self.defense, view, prior, size=size, traffic=self.options.traffic)
        trust, parts = choose_trust(found, fitted, self._bigram, length), windows(found.positions, length)
        return lambda i: Evidence.of(Lattice.of(found, fitted, self._bigram, parts[i]).believed(trust))

    def _batches(self, prompts: Callable[[int], Evidence], numbers: Sequence[int]) -> Iterator[Evidence]:
        """The evidence of these prompts, as many at a time as the beam has room for."""
        step = max(1, ROWS // self.options.beam)
        for i in range(0, len(numbers), step):
            yield Evidence.stack([prompts(number) for number in numbers[i : i + step]])

    def _belief(self, prompts: Callable[[int], Evidence], size: int) -> Belief:
        """How far the model is believed, judged by a few of `size` prompts."""
        judges = sorted({round(place) for place in np.linspace(0, size - 1, min(JUDGES, size))})
        gains: dict[Belief, float] = {NONE: PENALTY}
        for known in self._batches(prompts, judges):
            context = known.before(self.options.window)
            # Texts that were chosen with a look-ahead would fit the next view whatever the model.
            blind = replace(known, future=np.zeros_like(known.future))
            foretold = beam_search(self._model, blind, START.weight(context), self.options).foretold
            for belief, gain in evidence_gains(known, foretold, context).items():
                gains[belief] = gains.get(belief, 0.0) + gain
        return max(gains, key=lambda belief: gains[belief])

    def _read(self, known: Evidence, belief: Belief) -> tuple[Tokens, Float32]:
        """Candidates and scores of P prompts, (P, T, keep)."""
        alone = known.emission[..., :-1] + known.future
        if belief == NONE:
            shares = normalised(alone + known.filtered[..., :-1])
        else:
            c = belief.weight(known.before(self.options.window))
            best = beam_search(self._model, known, c, self.options)
            shares = normalised(alone + mixture(best.told, known.filtered[..., :-1], c[..., None]))
            heard = (c * belief.weight(known.after(self.options.window)))[..., None]
            shares *= 1.0 - heard
            own = np.take_along_axis(shares, best.path[..., None], axis=-1) + heard
            np.put_along_axis(shares, best.path[..., None], own, axis=-1)
        logs = np.log(np.maximum(shares, TINY)).astype(np.float32)
        places, values = ranked(logs, self.tools.keep)
        return np.take_along_axis(known.tokens, places, axis=-1), values


def evidence_gains(known: Evidence, foretold: Float64, context: Float64) -> dict[Belief, float]:
    """How much more probable each belief makes the views than the bigram alone does, in nats.

    Args:
        known: Of P prompts.
        foretold: As in `Found.foretold`.
        context: Mean certainty of what stands before, (P, T).
    """
    others = np.log(np.maximum(1.0 - np.exp(foretold).sum(axis=-1, keepdims=True), TINY))
    by_model = np.logaddexp.reduce(known.emission + np.concatenate([foretold, others], axis=-1), axis=-1)
    alone = np.logaddexp.reduce(known.emission + known.filtered, axis=-1)
    beliefs = [Belief(scale, power) for scale in SCALES for power in POWERS]
    return {one: float((mixture(by_model, alone, one.weight(context)) - alone).sum()) for one in beliefs}


def normalised(logs: Float64) -> Float64:
    """Probabilities along the last axis, of their logarithms up to a constant."""
    return np.asarray(np.exp(logs - np.logaddexp.reduce(logs, axis=-1, keepdims=True)))


def mixture(told: Float64, filtered: Float64, c: Float64) -> Float64:
    """log(c exp(told) + (1 - c) exp(filtered))."""
    with np.errstate(divide="ignore"):  # a weight of 0 leaves the other part
        return np.asarray(np.logaddexp(np.log(c) + told, np.log1p(-c) + filtered))


def beam_search(model: LanguageModel, known: Evidence, weights: Float64, options: LmOptions) -> Found:
    """The best text of each prompt and, at each of its positions, what the model says of every candidate.

    Args:
        model: A causal language model.
        known: Of P prompts.
        weights: c, the model's weight, (P, T).
        options: The size of the beam.
    """
    size, length, _ = known.tokens.shape
    logits, state = model.start(size)
    scores, steps, foretold = np.zeros((size, 1)), [], []
    texts = np.zeros((size, 1, 0), dtype=np.int64)  # the last tokens of each, as places among the candidates
    for t in range(length):
        told = _told(logits, known.tokens[:, t])
        shares = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        foretold.append(np.logaddexp.reduce(told + shares[..., None], axis=1))
        mixed = mixture(told, known.filtered[:, t, None, :-1], weights[:, t, None, None])
        totals = scores[..., None] + known.emission[:, t, None, :-1] + mixed
        step = _best(totals + known.future[:, t, None], texts, told, options)
        scores = totals[np.arange(size)[:, None], step.parent, step.choice]
        texts = np.take_along_axis(texts, step.parent[..., None], axis=1)
        texts = np.concatenate([texts, step.choice[..., None]], axis=-1)
        texts = texts[..., max(0, texts.shape[-1] + 1 - options.recombine) :]
        steps.append(step)
        if t + 1 < length:
            rows = np.arange(size)[:, None] * told.shape[1] + step.parent
            chosen = np.take_along_axis(known.tokens[:, t], step.choice, axis=1)
            state = model.reorder(state, rows.ravel())  # first, so that the old cache is freed
            logits, state = model.extend(chosen.ravel(), state)
    path, heard = _traced(steps, scores.argmax(axis=1))
    return Found(path, heard, np.stack(foretold, axis=1))


def _told(logits: Float32, tokens: Tokens) -> Float64:
    """Log P_lm of each candidate (P, K) after each text, (P, beam, K), from log P_lm (P * beam, V)."""
    if logits.shape[1] <= int(tokens.max()):
        raise Unavailable(f"the language model has only {logits.shape[1]} tokens: another vocabulary")
    logits = logits.reshape(len(tokens), -1, logits.shape[1])
    spread = np.broadcast_to(tokens[:, None], (*logits.shape[:2], tokens.shape[-1]))
    return np.take_along_axis(logits, spread, axis=-1).astype(np.float64)


def _best(hopeful: Float64, texts: NDArray[np.int64], told: Float64, options: LmOptions) -> Step:
    """The texts to go on with, out of every text before with every candidate, (P, beam before, K).

    Args:
        hopeful: Their scores with the message from after.
        texts: The last tokens of each text before, (P, beam before, at most recombine - 1).
        told: As in `Step.told`.
        options: The size of the beam.
    """
    size, _, width = hopeful.shape
    flat = hopeful.reshape(size, -1)
    kept = min(options.beam, flat.shape[1])
    tried = min(SPARE * kept, flat.shape[1])
    top = np.argpartition(-flat, tried - 1, axis=1)[:, :tried]
    top = np.take_along_axis(top, np.argsort(-np.take_along_axis(flat, top, axis=1), axis=1), axis=1)
    chosen = np.stack([_distinct(row, texts[p], width, kept) for p, row in enumerate(top)])
    return Step(chosen // width, chosen % width, told)


def _distinct(top: NDArray[np.int64], texts: NDArray[np.int64], width: int, kept: int) -> NDArray[np.int64]:
    """The first `kept` of a prompt's extensions, best first, that end differently; then the others, best first."""
    ends = np.column_stack([texts[top // width], top % width])
    first = np.sort(np.unique(ends, axis=0, return_index=True)[1])
    others = np.setdiff1d(np.arange(len(top)), first)
    return np.asarray(top[np.concatenate([first, others])[:kept]])


def _traced(steps: Sequence[Step], last: NDArray[np.int64]) -> tuple[NDArray[np.int64], Float64]:
    """Follow each prompt's best text back from its place in the last beam, (P,)."""
    prompts, place = np.arange(len(last)), last
    path, told = [], []
    for step in reversed(steps):
        path.append(step.choice[prompts, place])
        place = step.parent[prompts, place]
        told.append(step.told[prompts, place])
    return np.stack(path[::-1], axis=1), np.stack(told[::-1], axis=1)


ATTACK = LanguageModelBeam
