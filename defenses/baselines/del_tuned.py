"""DEL with every choice made by exact accounting: the same mechanism and wire, a better use of the same epsilon.

The mechanism is that of Gu, Jin, Ji, Jin, Xu (2026, arXiv 2602.11513): K_j ~ Binomial(2^n - 1, (A + v_j) / (2A)) over
the d latents of a token. What is tuned is what the paper leaves open or fixes by habit:

- A follows from an exact epsilon of a token or of a whole prompt, not from nominal mu-GDP. `delaudit tune` chooses the
  projection (d and its objective) and n on public text.
- The server reads the posterior of the tokens, which its exact likelihood and public frequencies give, in place of the
  trained linear decoder: its mean (the MMSE decoder), or its mode. Post-processing: the guarantee is not touched.
- A prompt's budget may be split unequally over positions, by position alone: each segment, counted from the prompt's
  end, has an amplitude of its own. One token is then as safe as in the most open segment, and a prompt has the exact
  composition of unequal binomial pairs (`prompt_profile`).

Wire: one message of the DEL wire for each segment of a prompt, one after another, in the order of the prompt: n d / 8
bytes a token and 32 a segment. The client computes what DEL's client computes. With one segment the bytes are DEL's
own, and its service takes them. The authors' code has none of this; where it departs from the paper is told with DEL.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from defenses.base import Assets, Claim, Float32, Tokens, View
from defenses.budget import Part, Split, part_ratio, prompt_profile, ratio_for_prompt
from defenses.errors import UserError
from defenses.pipeline.defense import Del, DelConfig, restore_counts
from defenses.pipeline.mechanism import Counts, Quantizer
from defenses.pipeline.sampler import TableSampler
from defenses.pipeline.wire import WireLimits, WireMessage, message_size, parse
from defenses.posterior_decoder import Reading, restore_posterior
from defenses.privacy.unequal import UnequalTrialsProfile

Decoder = Literal["linear", Reading]


@dataclass(frozen=True)
class DelTunedConfig(DelConfig):
    """DEL's noise and bits, a decoder, and a split.

    mu, a_over_c and epsilon are those of one token in the most open segment.

    Attributes:
        prompt_epsilon: Instead of those: exact epsilon, at `delta`, of a whole prompt of `tokens` tokens.
        tokens: With prompt_epsilon: the longest prompt that is protected; a longer one is refused.
        decoder: "posterior-mode", "posterior-mean" or "linear", the trained one.
        split: "uniform", or "recent": more budget for the last tokens of a prompt.
        recent: Tokens of each segment of "recent", the prompt's last ones first; the rest is one segment more.
        weights: Of mu per token, for each segment and the rest, in the same order; only their ratios count.
    """

    prompt_epsilon: float | None = None
    tokens: int | None = None
    decoder: Decoder = "posterior-mode"
    split: Literal["uniform", "recent"] = "uniform"
    recent: tuple[int, ...] = (16,)
    weights: tuple[float, ...] = (1.5, 1.0)

    def __post_init__(self) -> None:
        for name in ("recent", "weights"):  # a TOML file gives lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.prompt_epsilon is not None and (self.mu, self.a_over_c, self.epsilon) != (None, None, None):
            raise UserError("del-tuned: give one of mu, a_over_c, epsilon and prompt_epsilon, not several")
        super().__post_init__()
        if self.prompt_epsilon is not None:
            object.__setattr__(self, "mu", None)  # DEL's default
        if (self.prompt_epsilon is None) != (self.tokens is None) or (self.tokens is not None and self.tokens < 1):
            raise UserError("del-tuned: prompt_epsilon and tokens (at least 1) belong together: give both or neither")
        for name, allowed in (("decoder", _DECODERS), ("split", _SPLITS)):
            if getattr(self, name) not in allowed:
                raise UserError(f"del-tuned: {name} is one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        if self.norm_clamp is not None and self.decoder != "linear":
            raise UserError("del-tuned: norm_clamp belongs to the linear decoder: leave it out, or set decoder")
        self.budget()

    def budget(self) -> Split:
        """The split as segments.

        Raises:
            UserError: they are out of range, or "recent" gives later tokens less than earlier ones.
        """
        if self.split == "uniform":
            return Split()
        if list(self.weights) != sorted(self.weights, reverse=True):
            raise UserError(f"del-tuned: weights must not rise towards the prompt's start, not {list(self.weights)}")
        return Split(self.recent, self.weights)


_DECODERS = ("linear", *get_args(Reading))
_SPLITS = ("uniform", "recent")


class DelTuned(Del):
    """DEL with exact accounting, posterior decoding and a split budget."""

    name = "del-tuned"
    Config = DelTunedConfig
    config: DelTunedConfig

    def __init__(self, config: DelTunedConfig, assets: Assets) -> None:
        super().__init__(_of_one_token(config, assets), assets)
        self.config = config
        self.budget = config.budget()
        self._laws: dict[float, tuple[Quantizer, TableSampler]] = {1.0: (self.quantizer, self.sampler)}
        self._terms: dict[float, Float32] = {}

    @property
    def claim(self) -> Claim:
        """What exact accounting promises for one token in the most open segment."""
        profile = self.profile()
        return Claim(
            kind="stochastic-quantization",
            parameters={"trials": float(profile.trials), "a_over_c": profile.a_over_c},
            unit="one token",
            relation="replace a token by any other",
            source="exact accounting",
        )

    def prompt_profile(self, tokens: int) -> UnequalTrialsProfile:
        """The exact profile of replacing a whole prompt of so many tokens by any other of that length.

        Raises:
            ValueError: tokens is below 1.
        """
        return prompt_profile(self.budget, self.quantizer.a_over_c, self.config.n, self.projection.d, tokens)

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:
        """One wire message per segment of each prompt of tokens (B, T), the segments of a prompt together.

        Raises:
            UserError: the prompts are longer than their budget is for.
        """
        most = self.config.tokens
        if most is not None and tokens.shape[1] > most:
            raise UserError(f"del-tuned: the budget is for {most} tokens, a prompt has {tokens.shape[1]}: raise tokens")
        rows = self.table.rows(tokens)
        sent = [
            self._messages(part, self._law(part.share)[1].sample(rows[:, part.start : part.stop], rng))
            for part in self.budget.parts(tokens.shape[1])
        ]
        return View(b"".join(b"".join(bodies) for bodies in zip(*sent, strict=True)), (len(tokens), tokens.shape[1]))

    def counts(self, view: View) -> Counts:
        """The counts K (B, T, d) that a view's messages carry.

        Raises:
            UserError: a message's noise is not that of its segment.
        """
        parts = self.budget.parts(view.shape[1])
        return np.stack([np.concatenate(list(self._parsed(body, parts))) for body in view.bodies()])

    def restore(self, view: View) -> Float32:
        """x^ of the chosen decoder, shape (B, T, b)."""
        if self.config.decoder != "linear":
            return restore_posterior(self, view, self.config.decoder)
        found = [
            restore_counts(counts, quantizer, self.projection, self.config.norm_clamp)
            for quantizer, _, counts in self._segments(view)
        ]
        return np.concatenate(found, axis=1)

    def latents(self, view: View) -> Float32:
        """The unbiased estimates v^, (B, T, d)."""
        return np.concatenate([quantizer.decode(counts) for quantizer, _, counts in self._segments(view)], axis=1)

    def log_likelihood(self, view: View) -> Float32:
        """Compute log P(K | token), (B, T, V), up to the binomial coefficients: one matmul a segment."""
        found = [
            quantizer.score(counts, self._scoring(part.share, quantizer))
            for quantizer, part, counts in self._segments(view)
        ]
        return found[0] if len(found) == 1 else np.concatenate(found, axis=1)

    def _segments(self, view: View) -> Iterator[tuple[Quantizer, Part, Counts]]:
        """Each segment's quantizer, place and counts (B, tokens, d)."""
        counts = self.counts(view)
        for part in self.budget.parts(view.shape[1]):
            yield self._law(part.share)[0], part, counts[:, part.start : part.stop]

    def _law(self, share: float) -> tuple[Quantizer, TableSampler]:
        """Quantizer and sampler of the positions with this share of the greatest mu."""
        if share not in self._laws:
            ratio = part_ratio(self.quantizer.a_over_c, share, self.config.n, self.projection.d)
            quantizer = replace(self.quantizer, a_over_c=ratio)
            self._laws[share] = quantizer, TableSampler(quantizer)
        return self._laws[share]

    def _scoring(self, share: float, quantizer: Quantizer) -> Float32:
        """Likelihood weights and biases of one segment, (d + 1, V)."""
        if share not in self._terms:
            self._terms[share] = quantizer.scoring_terms(self.latent_table())
        return self._terms[share]

    def _messages(self, part: Part, counts: Counts) -> list[bytes]:
        ratio, name = self._law(part.share)[0].a_over_c, self.table.projection_id
        return [WireMessage(self.config.n, ratio, name, prompt).to_bytes() for prompt in counts]

    def _parsed(self, body: bytes, parts: list[Part]) -> Iterator[Counts]:
        """The counts (tokens, d) of each segment of one prompt's body."""
        place = 0
        for part in parts:
            size = message_size(part.tokens, self.projection.d, self.config.n)
            message = parse(body[place : place + size], WireLimits(part.tokens, size))
            expected = self._law(part.share)[0].a_over_c
            if message.a_over_c != expected:
                raise UserError(f"a segment was sent with A/c = {message.a_over_c:g}, its budget says {expected:g}")
            yield message.counts
            place += size


def _of_one_token(config: DelTunedConfig, assets: Assets) -> DelConfig:
    """The config, with the A/c of the most open segment where a prompt's budget sets it."""
    if config.prompt_epsilon is None or config.tokens is None:
        return config
    d = assets.needed_projection().d
    ratio = ratio_for_prompt(
        config.budget(), config.prompt_epsilon, config.delta, n=config.n, d=d, tokens=config.tokens
    )
    if not ratio < math.inf:
        raise UserError("del-tuned: this prompt_epsilon leaves no information at all: raise it")
    return DelConfig(n=config.n, a_over_c=ratio, norm_clamp=config.norm_clamp)


DEFENSE = DelTuned
