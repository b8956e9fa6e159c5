"""Two-server secret sharing of the prompt's embeddings, as one of the two servers sees it.

The client sends one additive share of every embedding coordinate to each of two servers that do not collude, and they
compute the LLM on shares (`defenses.crypto.engines`). The view here is one server's: with truly random masks uniform
words, independent of the prompt, so that nothing about it can be learned from them but its length. Masks here come from
a generator: a seeded PCG64 in experiments, which is no cryptographic one, and AES-128 in counter mode in service, where
secrecy is computational. Both views together are the prompt.

Utility is that of the LLM in the clear on what both servers hold shares of. What an engine loses beside it, in products
and approximations, is measured with the engine and is in no figure of this defence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from defenses.base import Claim, Defense, Float32, LikelihoodUnavailable, Tokens, View
from defenses.crypto.sharing import FRACTION_BITS, Words, decode, encode, join, split
from defenses.errors import UserError


@dataclass(frozen=True)
class SecretSharingConfig:
    """How numbers are shared, and whose view it is.

    Attributes:
        fraction_bits: f of the fixed-point format: what both servers compute on is off by at most 2^-(f + 1).
        server: Whose view `protect` gives: 0, which is sent the masks, or 1, which is sent the masked embeddings.

    Raises:
        UserError: a value is out of range.
    """

    fraction_bits: int = FRACTION_BITS
    server: int = 1

    def __post_init__(self) -> None:
        if type(self.fraction_bits) is not int or not 0 <= self.fraction_bits <= 40:
            raise UserError(
                f"fraction_bits must be a whole number from 0 to 40, not {self.fraction_bits!r}: the ring has 64 bits"
            )
        if type(self.server) is not int or self.server not in {0, 1}:
            raise UserError(f"server must be 0 or 1, not {self.server!r}")


class SecretSharing(Defense[SecretSharingConfig]):
    """Additive shares over the integers modulo 2^64, little-endian, b words a token and server.

    `restore` is what one server can do with its view alone, and so gives noise: what the LLM reads under this defence
    exists at no single place. `reconstruct` gives it, from both servers' views.
    """

    name = "secret-sharing"
    Config = SecretSharingConfig

    @property
    def claim(self) -> Claim:
        """No epsilon: secrecy against either server alone, as good as the masks' generator; nothing against both."""
        return Claim(
            kind="none",
            parameters={},
            unit="one prompt of known length",
            relation="any two prompts of one length",
            source=(
                "no differential privacy claimed: secrecy against one of two servers that do not collude, perfect with "
                "truly random masks, computational with the service's (AES-128 in counter mode); experiments draw them "
                "from a seeded PCG64"
            ),
        )

    def profile(self) -> None:
        """None: a cryptographic guarantee against one server, not a privacy loss that could be compared or spent."""
        return

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:
        """What the configured server is sent for tokens (B, T)."""
        return self.share(tokens, rng)[self.config.server]

    def share(self, tokens: Tokens, rng: np.random.Generator) -> tuple[View, View]:
        """What each server is sent for tokens (B, T): the masks, and the masked embeddings."""
        words = self._words[tokens]
        shape = (tokens.shape[0], tokens.shape[1])
        first, second = (View(part.astype("<u8").tobytes(), shape) for part in split(words, rng))
        return first, second

    def deliver(self, tokens: Tokens, rng: np.random.Generator) -> tuple[View, Float32]:
        """The configured server's view, and the embeddings that both servers hold shares of.

        The LLM reads them in the clear: of an encrypted LLM's own error nothing is in what is measured on them.
        """
        views = self.share(tokens, rng)
        return views[self.config.server], self.reconstruct(views)

    def reconstruct(self, views: Sequence[View]) -> Float32:
        """The LLM's input embeddings, (B, T, b), from both servers' views: exact up to 2^-(f + 1).

        Raises:
            ValueError: there are not two views, or they are not of the same prompts' shape.
        """
        if len(views) != 2:
            raise ValueError(f"the embeddings need both servers' views, not {len(views)}")
        shares = [self._received(view) for view in views]
        return decode(join(shares), self.config.fraction_bits).astype(np.float32)

    def restore(self, view: View) -> Float32:
        """One server's share read as numbers, (B, T, b): uniform noise, as large as the largest coordinate of E."""
        signed = self._received(view).view(np.int64) * 2.0**-63
        return np.asarray(signed * np.abs(self.assets.embedding).max(), dtype=np.float32)

    def log_likelihood(self, view: View) -> Float32:  # noqa: ARG002 - no view has one
        """There is none that ranks.

        Raises:
            LikelihoodUnavailable: always; every token explains one server's view equally well.
        """
        raise LikelihoodUnavailable(f"{self.name}: one server's view is as likely under every token")

    @cached_property
    def _words(self) -> Words:
        """E as words, (V, b)."""
        return encode(self.assets.embedding, self.config.fraction_bits)

    def _received(self, view: View) -> Words:
        return np.frombuffer(view.payload, dtype="<u8").astype(np.uint64).reshape(*view.shape, -1)


DEFENSE = SecretSharing
