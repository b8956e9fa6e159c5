"""Who may use a service: API tokens, kept as hashes and compared in constant time, and how often one may guess."""

import hashlib
import hmac
import ipaddress
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from defenses.errors import UserError
from defenses.pipeline.service_limits import RateLimiter

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_SCHEME = b"bearer "
_MOST_KNOWN = 4096


class Credentials:
    """The API tokens of a service, as SHA-256 digests; no token is kept.

    A fast hash is enough for tokens that nobody can guess; `delaudit serve` makes such ones. It would not be for
    passwords.
    """

    def __init__(self, digests: Mapping[str, bytes], *, named: bool) -> None:
        self._digests = dict(digests)
        self.named = named

    @classmethod
    def of_token(cls, token: str) -> "Credentials":
        """One token that all clients share; they are told apart by their addresses.

        Raises:
            ValueError: where the token is empty or not printable ASCII: HTTP would not carry it.
        """
        if not (token and token.isascii() and token.isprintable()) or token != token.strip():
            raise ValueError("the API token must be printable ASCII and not empty")
        return cls({"shared": hashlib.sha256(token.encode()).digest()}, named=False)

    @classmethod
    def from_file(cls, path: Path) -> "Credentials":
        """Tokens of several clients, a line NAME:SHA256 each, in hexadecimal; empty lines and # are passed over.

        Raises:
            UserError: where the file cannot be read, has no token, or a line is none; the line's text is not shown.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UserError(f"--tokens-file {path}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"--tokens-file {path}: is not UTF-8 text; write NAME:SHA256 a line") from error
        digests: dict[str, bytes] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            name, _, digest = (part.strip() for part in line.partition(":"))
            if not _NAME.fullmatch(name) or not _DIGEST.fullmatch(digest):
                form = "NAME:SHA256 with 64 hexadecimal digits, never the token itself"
                raise UserError(f"--tokens-file {path}, line {number}: write {form}")
            if name in digests or bytes.fromhex(digest) in digests.values():
                raise UserError(f"--tokens-file {path}, line {number}: the name or the token is there twice")
            digests[name] = bytes.fromhex(digest)
        if not digests:
            raise UserError(f"--tokens-file {path}: has no token; write one NAME:SHA256 a line")
        return cls(digests, named=True)

    def identify(self, authorization: bytes) -> str | None:
        """The client whose token an Authorization header carries, or None.

        Every digest is compared, each in constant time, so that neither a token's bytes nor its place in the list
        shows in the time that this takes.
        """
        scheme, given = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :].strip(b" ")
        digest = hashlib.sha256(given).digest()
        found = None
        for name, expected in self._digests.items():
            if hmac.compare_digest(digest, expected):
                found = name
        return found if scheme.lower() == _SCHEME else None


class Doorkeeper:
    """Names a request's client and bounds how often an address may guess.

    An address that has guessed too often is refused whatever it sends, so that its next guess tells it nothing. Only a
    client that this address has already had is still let in: a neighbour behind the same proxy cannot lock it out.
    """

    def __init__(self, credentials: Credentials, failures: RateLimiter) -> None:
        self._credentials = credentials
        self._failures = failures
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    def admit(self, authorization: bytes, host: str) -> tuple[str | None, float]:
        """The client's name, or None and the seconds to wait before the next try; 0 seconds is a wrong token."""
        place = network_of(host)
        name = self._credentials.identify(authorization)
        if name is not None and (name, place) in self._known:
            self._known.move_to_end((name, place))
            return name, 0.0
        wait = self._failures.wait_for(place)
        if wait:
            return None, wait
        if name is None:
            self._failures.spend(place)
            return None, 0.0
        self._known[name, place] = None
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        return name, 0.0

    def account(self, name: str, host: str) -> str:
        """What a client's rates are counted under: its name, or its address where all clients share one token."""
        return name if self._credentials.named else f"{name}@{network_of(host)}"


def network_of(host: str) -> str:
    """What one party has for certain: an IPv4 address, or the /64 network of an IPv6 address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    return host
