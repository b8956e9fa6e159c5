"""DEL as it must not be: each class makes one mistake and still states DEL's own claim and profile."""

import numpy as np

from defenses.base import Assets, Tokens, View
from defenses.pipeline.defense import Del, DelConfig
from defenses.pipeline.mechanism import Counts, Float64, Quantizer
from defenses.pipeline.sampler import TableSampler
from defenses.pipeline.wire import WireMessage


class QuantizedTwin(Del):
    """DEL with `counts_of` in place of its sampler."""

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:
        """One wire message per prompt, as DEL."""
        counts = self.counts_of(tokens, rng)
        bodies = [self.message(row, prompt).to_bytes() for row, prompt in zip(tokens, counts, strict=True)]
        return View(b"".join(bodies), (tokens.shape[0], tokens.shape[1]))

    def message(self, tokens: Tokens, counts: Counts) -> WireMessage:
        """The message of one prompt (T,) with counts (T, d)."""
        return WireMessage(self.config.n, self.quantizer.a_over_c, self.table.projection_id, counts)

    def counts_of(self, tokens: Tokens, rng: np.random.Generator) -> Counts:
        """Counts (B, T, d) of tokens (B, T)."""
        return self.sampler.sample(self.table.rows(tokens), rng)

    def draw(self, probability: Float64, rng: np.random.Generator) -> Counts:
        """Binomial counts of given success probabilities, any shape."""
        return rng.binomial(self.quantizer.trials, probability).astype(np.uint8)


def smaller(quantizer: Quantizer, factor: float) -> Quantizer:
    """The same quantizer with its A scaled."""
    ratio = max(1 + 1e-9, factor * quantizer.a_over_c)
    return Quantizer(n=quantizer.n, d=quantizer.d, clip=quantizer.clip, a_over_c=ratio)


class TooLittleNoise(QuantizedTwin):
    """A is 10 % smaller than claimed."""

    def __init__(self, config: DelConfig, assets: Assets) -> None:
        super().__init__(config, assets)
        self.sampler = TableSampler(smaller(self.quantizer, 0.9))


class ClipsTheEmbedding(QuantizedTwin):
    """The embedding is clipped to [-c, c], its projection is not."""

    def counts_of(self, tokens: Tokens, rng: np.random.Generator) -> Counts:
        """Counts (B, T, d) with the mistake in them."""
        clip = self.projection.clip
        latents = np.clip(self.assets.embedding[tokens], -clip, clip) @ self.projection.encoder.T
        return self.draw(np.clip(0.5 + 0.5 * latents / self.quantizer.amplitude, 0, 1).astype(np.float64), rng)


class SharedCoins(QuantizedTwin):
    """One set of coins for all tokens of a prompt."""

    def counts_of(self, tokens: Tokens, rng: np.random.Generator) -> Counts:
        """Counts (B, T, d) with the mistake in them."""
        probability = self.quantizer.probability(self.table.latents(tokens))
        coins = rng.random((tokens.shape[0], 1, self.quantizer.d, self.quantizer.trials))
        return (coins < probability[..., None]).sum(axis=-1).astype(np.uint8)


class ReseededCoins(QuantizedTwin):
    """Every call starts its generator anew, from the same seed."""

    def counts_of(self, tokens: Tokens, rng: np.random.Generator) -> Counts:
        """Counts (B, T, d) with the mistake in them."""
        return super().counts_of(tokens, np.random.default_rng(20_260_212))


class EightBitProbabilities(QuantizedTwin):
    """Success probabilities are rounded to 8 bits."""

    def counts_of(self, tokens: Tokens, rng: np.random.Generator) -> Counts:
        """Counts (B, T, d) with the mistake in them."""
        probability = self.quantizer.probability(self.table.latents(tokens))
        return self.draw(np.rint(256 * probability) / 256, rng)


class ClearCoordinate(QuantizedTwin):
    """The first coordinate is sent as it is."""

    def counts_of(self, tokens: Tokens, rng: np.random.Generator) -> Counts:
        """Counts (B, T, d) with the mistake in them."""
        counts = super().counts_of(tokens, rng)
        counts[..., 0] = self.quantizer.trials * (self.table.rows(tokens)[..., 0] > 0)
        return counts


class RareTokensInTheOpen(QuantizedTwin):
    """The rarer half of the vocabulary gets half of the noise."""

    def counts_of(self, tokens: Tokens, rng: np.random.Generator) -> Counts:
        """Counts (B, T, d) with the mistake in them."""
        probability = self.quantizer.probability(self.table.latents(tokens))
        rare = tokens >= self.table.vocabulary // 2
        return self.draw(np.clip(np.where(rare[..., None], 2 * probability - 0.5, probability), 0, 1), rng)


class LeaksTheParity(QuantizedTwin):
    """The packing puts the parity of the clear codes into the lowest bit of each token's last count."""

    def counts_of(self, tokens: Tokens, rng: np.random.Generator) -> Counts:
        """Counts (B, T, d) with the mistake in them."""
        counts = super().counts_of(tokens, rng)
        odd = np.bitwise_xor.reduce(self.table.rows(tokens), axis=-1) & 1
        counts[..., -1] = (counts[..., -1] & 0xFE) | odd.astype(np.uint8)
        return counts


class ScaleFromTheData(QuantizedTwin):
    """A follows the largest latent of the prompt itself, and the header says so."""

    def counts_of(self, tokens: Tokens, rng: np.random.Generator) -> Counts:
        """Counts (B, T, d) with the mistake in them."""
        rows = [self._own(prompt) for prompt in tokens]
        latents = [self.table.latents(prompt).astype(np.float64) for prompt in tokens]
        drawn = [0.5 + 0.5 * row / (self.quantizer.a_over_c * own) for row, own in zip(latents, rows, strict=True)]
        return self.draw(np.stack(drawn), rng)

    def message(self, tokens: Tokens, counts: Counts) -> WireMessage:
        """A header that tells the data's own scale."""
        ratio = self.quantizer.a_over_c * (1 + self._own(tokens) / self.quantizer.clip)
        return WireMessage(self.config.n, ratio, self.table.projection_id, counts)

    def _own(self, prompt: Tokens) -> float:
        return float(np.abs(self.table.latents(prompt)).max())


class LengthInTheHeader(QuantizedTwin):
    """Prompts are padded with the last token but two to hide their length, which one more byte then tells."""

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:
        """DEL's bodies, one byte longer."""
        bodies = super().protect(tokens, rng).bodies()
        lengths = np.count_nonzero(tokens != padding_token(self.table.vocabulary), axis=1)
        told = [body + bytes([int(length)]) for body, length in zip(bodies, lengths, strict=True)]
        return View(b"".join(told), (tokens.shape[0], tokens.shape[1]))

    def counts(self, view: View) -> Counts:
        """The counts (B, T, d), without the telling byte."""
        return super().counts(View(b"".join(body[:-1] for body in view.bodies()), view.shape))


def padding_token(vocabulary: int) -> int:
    """The token that pads prompts."""
    return vocabulary - 3
