"""The contracts of a defence: claim, view, public assets, and the protect / restore pair.

Symbols: B prompts, T tokens each, vocabulary V, embedding width b, latent width d, bits per coordinate n.
Everything at these borders is numpy: a client runs without torch, and an attack needs no model.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from defenses.errors import UserError
from defenses.privacy.profile import PrivacyProfile

Float32 = NDArray[np.float32]
Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Claim:
    """What a defence promises, with everything that is needed to test it.

    Attributes:
        kind: The privacy notion, for example "mu-GDP" or "none".
        parameters: The notion's numbers, for example {"mu": 20.0}.
        unit: What one unit of the guarantee covers, for example "one token".
        relation: The neighbouring relation, for example "replace a token by any other".
        source: Paper and theorem, or "exact accounting".
    """

    kind: str
    parameters: Mapping[str, float]
    unit: str
    relation: str
    source: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))

    def __str__(self) -> str:
        numbers = ", ".join(f"{key}={value:g}" for key, value in self.parameters.items())
        return f"{self.kind}{f' ({numbers})' if numbers else ''} per {self.unit}, {self.relation}, {self.source}"


NO_CLAIM = Claim(kind="none", parameters={}, unit="one token", relation="any", source="no mechanism")
"""The claim of a control: it promises nothing."""


@dataclass(frozen=True)
class View:
    """Exactly what crosses the wire for B prompts of T tokens, and nothing else.

    Attributes:
        payload: The B request bodies, one after another, headers included.
        shape: (B, T), which every body's length reveals anyway.
    """

    payload: bytes
    shape: tuple[int, int]

    @property
    def bytes_per_token(self) -> float:
        """Body bytes per token, headers included."""
        return len(self.payload) / max(1, self.shape[0] * self.shape[1])

    def bodies(self) -> list[bytes]:
        """The payload cut into its B equal request bodies."""
        size, rest = divmod(len(self.payload), max(1, self.shape[0]))
        if rest:
            raise ValueError(f"a view of {self.shape[0]} prompts cannot have {len(self.payload)} bytes")
        return [self.payload[i * size : (i + 1) * size] for i in range(self.shape[0])]


@dataclass(frozen=True, eq=False)
class Projection:
    """A linear encoder and decoder between embeddings (b) and latents (d), both without bias.

    Attributes:
        encoder: W_enc, shape (d, b).
        decoder: W_dec, shape (b, d).
        clip: c > 0; every latent coordinate is clipped to [-c, c] after the projection.
        name: How cards and records call it.
        objective: "plain" (trained without noise, as in the paper) or "noise-aware" (ours), or "pca".
    """

    encoder: Float32
    decoder: Float32
    clip: float
    name: str = "unnamed"
    objective: str = "plain"

    def __post_init__(self) -> None:
        d, b = self.encoder.shape
        if self.decoder.shape != (b, d):
            raise ValueError(f"decoder has shape {self.decoder.shape}, the encoder asks for {(b, d)}")
        if not self.clip > 0:
            raise ValueError(f"clip must be positive, not {self.clip}")

    @property
    def d(self) -> int:
        """Latent width."""
        return int(self.encoder.shape[0])

    def latents(self, embedding: Float32) -> Float32:
        """Clipped latents of embeddings: (..., b) -> (..., d), each coordinate in [-c, c]."""
        return np.asarray(np.clip(embedding @ self.encoder.T, -self.clip, self.clip), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Assets:
    """What client, server and adversary all know: the public model's table and the public projection.

    Attributes:
        embedding: E, shape (V, b), float32.
        projection: The trained projection, for the defences that have one.
        model: The LLM's name, for records.
        hidden: Hidden states of the public model: (tokens (B, T), k) -> what block k + 1 reads, (B, T, h), for the
            defences that split after k blocks.
        text: The text of one token id, for the defences whose rules are about words.
        frequencies: Public token frequencies, shape (V,), all above 0, sum 1: counted on public text by whoever makes
            the assets. None where there is no such text.
    """

    embedding: Float32
    projection: Projection | None = None
    model: str = "unnamed"
    hidden: Callable[[Tokens, int], Float32] | None = None
    text: Callable[[int], str] | None = None
    frequencies: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.projection is not None and self.projection.encoder.shape[1] != self.embedding.shape[1]:
            wide, needed = self.projection.encoder.shape[1], self.embedding.shape[1]
            raise UserError(
                f"projection {self.projection.name}: is for embeddings of width {wide}, this model's have {needed}: "
                "train one for this model with `delaudit train projection`"
            )

    def needed_projection(self) -> Projection:
        """The projection, for a defence that cannot do without one.

        Raises:
            UserError: there is none.
        """
        if self.projection is None:
            raise UserError("this defence needs a projection: name one with --projection")
        return self.projection

    @property
    def vocabulary(self) -> int:
        """V, the number of tokens."""
        return int(self.embedding.shape[0])


class Unavailable(Exception):  # noqa: N818 - a capability that is absent, not a fault
    """Something that an attack needs and this defence, or this adversary, does not have; the message says what."""


class LikelihoodUnavailable(Unavailable):
    """The defence has no tractable likelihood; likelihood attacks say so instead of guessing."""


ConfigT = TypeVar("ConfigT")

Writer = Callable[[Sequence[str], int], list[str]]
"""A language model as a function: texts and a number of tokens -> how each text goes on, at most that long."""


class Defense(ABC, Generic[ConfigT]):
    """A defence: tokens (B, T) -> protect -> View -> restore -> embeddings (B, T, b) for the server's LLM.

    A plug-in is one file that ends with DEFENSE = TheClass. `Config` is a frozen dataclass validated in its
    `__post_init__`; its defaults make the plug-in runnable as it is.
    """

    name: ClassVar[str]
    Config: ClassVar[type]
    entry_block: int = 0
    """How many blocks of the LLM the client runs itself: `restore` gives what block entry_block + 1 reads."""
    privacy_parameter: ClassVar[str | None] = None
    """The Config field that sets how much is hidden, the larger the less, as epsilon does; None where none does."""
    parameter_range: ClassVar[tuple[float, float]] = (1e-2, 1e4)
    """Where that parameter is searched, from next to nothing to next to everything read."""
    metric_norm: ClassVar[float] = 2.0
    """Of a guarantee per unit of distance: which norm of differences of `metric_table` rows the distance is."""
    has_local_model: ClassVar[bool] = False
    """Whether the client makes the final answer with a language model of its own, in `finish`."""

    def __init__(self, config: ConfigT, assets: Assets) -> None:
        self.config = config
        self.assets = assets

    @classmethod
    def reads_latents(cls, config: ConfigT) -> bool:
        """Whether a defence, so configured, needs a projection. Here: where its config says on = "latents"."""
        return getattr(config, "on", None) == "latents"

    @property
    @abstractmethod
    def claim(self) -> Claim:
        """What this defence, so configured, promises."""

    @abstractmethod
    def profile(self) -> PrivacyProfile | None:
        """The exact (or bounding) privacy profile of one token; None where nothing is promised."""

    def worst_case(self) -> PrivacyProfile | None:
        """The profile of those two tokens of this vocabulary that are easiest to tell apart.

        It makes defences comparable: here it is `profile()`; a guarantee per unit of distance is taken at the table's
        diameter. None where no finite guarantee holds for every two tokens, whatever else is claimed.
        """
        return self.profile()

    @abstractmethod
    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:
        """What the client sends for tokens (B, T). Only `rng` may add randomness."""

    @abstractmethod
    def restore(self, view: View) -> Float32:
        """The server's input embeddings, shape (B, T, b), from the view alone.

        A defence that sends hidden states gives those, and one vector a prompt, (B, 1, h), where it pools them.
        """

    def deliver(self, tokens: Tokens, rng: np.random.Generator) -> tuple[View, Float32]:
        """The view, and what the LLM reads for it. Here: what `restore` makes of that view.

        They differ where no single party sees all that the LLM computes on, as behind secret sharing.
        """
        view = self.protect(tokens, rng)
        return view, self.restore(view)

    def metric_table(self) -> Float32:
        """One point for every token, (V, m), between which distances are taken. Here: the latent table."""
        return self.latent_table()

    def covered(self) -> Tokens:
        """The token ids between any two of which the claim holds, in increasing order. Here: all."""
        return np.arange(self.assets.vocabulary)

    def finish(self, prompts: Sequence[str], answers: Sequence[str], write: Writer, tokens: int) -> list[str]:  # noqa: ARG002 - for those that have one
        """What the client makes of the server's answers with its own prompts and a local model.

        Args:
            prompts: The private prompts, P texts.
            answers: What the server wrote behind each view.
            write: The local model.
            tokens: How many tokens the final answer may have.

        Returns:
            P texts. Here: the answers as they came.
        """
        return list(answers)

    def latents(self, view: View) -> Float32:
        """The noisy vectors as they were sent, before any decoder: (B, T, m). Here: the restored embeddings."""
        return self.restore(view)

    def latent_table(self) -> Float32:
        """What `latents` would be for every token without noise: (V, m). Here: the embedding table."""
        return self.assets.embedding

    def sent_tokens(self, view: View) -> Tokens:  # noqa: ARG002 - for those that send text
        """The token ids that a text defence sent in place of the prompt's, (B, T).

        Raises:
            Unavailable: where the defence sends no text.
        """
        raise Unavailable(f"{self.name} sends no text")

    def log_likelihood(self, view: View) -> Float32:
        """Compute log P(view at position | token), shape (B, T, V), up to a constant per position.

        Raises:
            LikelihoodUnavailable: where the mechanism has no tractable likelihood.
        """
        factors = self.likelihood_factors(view)
        if factors is None:
            raise LikelihoodUnavailable(f"{self.name} has no tractable likelihood")
        found: Float32 = np.matmul(*factors)
        return found.reshape(*view.shape, -1)

    def likelihood_factors(self, view: View) -> tuple[Float32, Float32] | None:  # noqa: ARG002 - for those that have some
        """What to multiply for the `log_likelihood` of all positions: (B T, D) and (D, V); None where it is no product.

        The second factor depends on the defence alone. Who has the two can look at a product before it leaves the
        cache. A defence that writes its own `log_likelihood` is never asked for them: see `is_product`.

        Raises:
            LikelihoodUnavailable: as `log_likelihood`.
        """
        return None

    @classmethod
    def is_product(cls) -> bool:
        """Whether `log_likelihood` is what `likelihood_factors` says, and nothing that a subclass put in its place."""
        return cls.log_likelihood is Defense.log_likelihood
