"""What client and service say to each other besides the protected prompt: the service's card and the token stream.

docs/wire.md is the specification. No HTTP library is imported here: both sides share this module.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from defenses.errors import UserError
from defenses.pipeline.wire import VERSION

OCTETS = "application/octet-stream"
END_MARK = 0xFFFFFFFF
MAX_TABLE = 1 << 28  # bytes of a latent table that a client takes: a quarter of a gigabyte
_WORD = struct.Struct("<I")


@dataclass(frozen=True)
class Deployment:
    """One setting of the mechanism that a service has a soft prompt for, or at least vouches for.

    Attributes:
        n: Bits per coordinate.
        a_over_c: A/c; infinity for the null.
        mu: The nominal mu per token that A/c stands for.
        prompt: The soft prompt's name; None where there is none.
    """

    n: int
    a_over_c: float
    mu: float
    prompt: str | None = None


@dataclass(frozen=True)
class ServiceInfo:
    """A service's card, GET /v1/info: what a client needs to know before it sends anything.

    Attributes:
        model: The LLM's name.
        projection_id: The latent table that messages must come from.
        d: Coordinates per token.
        clip: c, the bound on a latent coordinate.
        vocabulary: V, the number of tokens.
        deployments: The settings on offer, the service's preferred one first.
        max_tokens: The longest prompt.
        max_body: The longest message in bytes.
        max_new_tokens: The longest answer.
        versions: The wire versions that the service speaks.
    """

    model: str
    projection_id: str
    d: int
    clip: float
    vocabulary: int
    deployments: tuple[Deployment, ...]
    max_tokens: int
    max_body: int
    max_new_tokens: int
    versions: tuple[int, ...] = field(default=(VERSION,))

    def to_json(self) -> dict[str, Any]:
        """The card as JSON values; an infinite A/c is null, for JSON has no infinity."""
        return {
            "model": self.model,
            "versions": list(self.versions),
            "projection_id": self.projection_id,
            "d": self.d,
            "clip": self.clip,
            "vocabulary": self.vocabulary,
            "deployments": [
                {
                    "n": one.n,
                    "a_over_c": None if math.isinf(one.a_over_c) else one.a_over_c,
                    "mu": one.mu,
                    "prompt": one.prompt,
                }
                for one in self.deployments
            ],
            "limits": {
                "max_tokens": self.max_tokens,
                "max_body": self.max_body,
                "max_new_tokens": self.max_new_tokens,
            },
        }

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a card.

        Raises:
            UserError: where the text is not a card, a figure in it is out of its range, or the service speaks no
                version known here.
        """
        try:
            card = json.loads(text)
            versions = tuple(int(version) for version in card["versions"])
            if VERSION not in versions:
                named = ", ".join(str(version) for version in versions[:8])
                raise UserError(f"the server speaks wire versions {named}, this client {VERSION}: update one of them")
            return cls(
                model=str(card["model"]),
                projection_id=_identity(str(card["projection_id"])),
                d=_within(card["d"], (1 << 16) - 1, "d"),
                clip=float(card["clip"]),
                vocabulary=_within(card["vocabulary"], MAX_TABLE // int(card["d"]), "vocabulary"),
                deployments=tuple(_deployment(one) for one in card["deployments"]),
                max_tokens=int(card["limits"]["max_tokens"]),
                max_body=int(card["limits"]["max_body"]),
                max_new_tokens=int(card["limits"]["max_new_tokens"]),
                versions=versions,
            )
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
            reason = one_line(str(error))
            raise UserError(f"the server's /v1/info is not a delaudit card ({reason}): check the URL") from error


def _identity(text: str) -> str:
    """A projection id, which the client also uses as a file's name."""
    if len(text) != 16 or len(bytes.fromhex(text)) != 8:
        raise ValueError(f"projection id {text!r}")
    return text.lower()


def _within(value: Any, most: int, name: str) -> int:
    number = int(value)
    if not 1 <= number <= most:
        raise ValueError(f"{name} is not 1 to {most}")
    return number


def one_line(text: str, most: int = 200) -> str:
    """What a peer wrote, fit for a terminal: one short line of printable characters."""
    cleaned = "".join(character if character.isprintable() else " " for character in text[: 4 * most])
    line = " ".join(cleaned.split())
    return line if len(line) <= most else f"{line[:most]}..."


def _deployment(card: Mapping[str, Any]) -> Deployment:
    ratio = math.inf if card["a_over_c"] is None else float(card["a_over_c"])
    prompt = card.get("prompt")
    return Deployment(int(card["n"]), ratio, float(card["mu"]), None if prompt is None else str(prompt))


def encode_token(token: int) -> bytes:
    """One token id of the answer: four bytes, little-endian."""
    if not 0 <= token < END_MARK:
        raise ValueError(f"a token id is at least 0 and below {END_MARK}, not {token}")
    return _WORD.pack(token)


def encode_end(count: int) -> bytes:
    """The end frame: the mark and the number of tokens before it. Without it an answer is not complete."""
    return _WORD.pack(END_MARK) + _WORD.pack(count)


class TokenStreamReader:
    """Token ids from an answer's bytes, whatever the pieces in which they arrive.

    Args:
        limit: The most tokens that were asked for; None for any number.

    Attributes:
        count: Tokens read so far.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.count = 0
        self._limit = math.inf if limit is None else limit
        self._rest = b""
        self._marked = False
        self._end: int | None = None

    def feed(self, piece: bytes) -> list[int]:
        """The tokens that `piece` completes.

        Raises:
            UserError: where bytes follow the end frame, or more tokens come than were asked for.
        """
        data = self._rest + piece
        whole = len(data) // _WORD.size * _WORD.size
        self._rest = data[whole:]
        tokens: list[int] = []
        for (word,) in _WORD.iter_unpack(data[:whole]):
            if self._end is not None:
                raise UserError("the server's answer goes on after its end frame: it is not to be trusted")
            if self._marked:
                self._end = word
            elif word == END_MARK:
                self._marked = True
            elif self.count == self._limit:
                raise UserError(f"the server sent more than the {self._limit} tokens asked for: do not trust it")
            else:
                tokens.append(word)
                self.count += 1
        return tokens

    def finish(self) -> None:
        """Check that the answer is complete.

        Raises:
            UserError: where the end frame is missing, or does not agree with what came before it.
        """
        if self._end is None or self._rest:
            raise UserError(f"the server's answer broke off after {self.count} tokens: it is incomplete, try again")
        if self._end != self.count:
            raise UserError(f"the server sent {self._end} tokens and {self.count} arrived: try again")
