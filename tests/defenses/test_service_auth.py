"""API tokens: who is let in, what is compared, and what a guesser learns."""

import hashlib
import hmac
from pathlib import Path
from typing import Any

import pytest

from defenses.errors import UserError
from defenses.pipeline.service_auth import Credentials, Doorkeeper, network_of
from defenses.pipeline.service_limits import RateLimiter

TOKENS = {"ada": "a-token-of-ada-0123456789", "bob": "a-token-of-bob-0123456789", "eve": "a-token-of-eve-0123456789"}


def digest_of(token: str) -> str:
    """What stands in a tokens file."""
    return hashlib.sha256(token.encode()).hexdigest()


def header(token: str) -> bytes:
    """An Authorization header."""
    return f"Bearer {token}".encode()


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    """Three clients' tokens from a file."""
    path = tmp_path / "tokens"
    lines = [f"{name}:{digest_of(token)}" for name, token in TOKENS.items()]
    path.write_text("# clients\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return Credentials.from_file(path)


def test_each_token_names_its_client(credentials: Credentials) -> None:
    """A right token is its client's; a wrong one, a prefix, another scheme or nothing is nobody's."""
    assert [credentials.identify(header(token)) for token in TOKENS.values()] == list(TOKENS)
    good = TOKENS["ada"]
    for wrong in (
        b"",
        b"Bearer",
        b"Bearer ",
        header(good[:-1]),
        header(good + "x"),
        good.encode(),
        b"Basic " + good.encode(),
    ):
        assert credentials.identify(wrong) is None
    assert credentials.identify(b"bearer " + good.encode()) == "ada", "a scheme has no case (RFC 9110)"


def test_every_digest_is_compared_in_constant_time(credentials: Credentials, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first token's owner, the last one's and a stranger cost the same comparisons, of digests of one length."""
    compared: list[tuple[int, int]] = []
    honest = hmac.compare_digest

    def watched(left: Any, right: Any) -> bool:
        compared.append((len(left), len(right)))
        return honest(left, right)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    for token in (*TOKENS.values(), "wrong", ""):
        compared.clear()
        credentials.identify(header(token))
        assert compared == [(32, 32)] * 3


def test_no_token_is_kept(credentials: Credentials) -> None:
    """What a memory dump or a debugger shows of the credentials is digests alone."""
    for shown in (repr(vars(credentials)), repr(vars(Credentials.of_token(TOKENS["ada"])))):
        assert not any(token in shown for token in TOKENS.values())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no token"),
        ("# nobody\n", "has no token"),
        ("ada:my-secret-token\n", "line 1"),
        (f"ada:{digest_of('x')}\nada:{digest_of('y')}\n", "line 2: the name or the token is there twice"),
        (f"ada:{digest_of('x')}\nbob:{digest_of('x')}\n", "line 2"),
        (f"a b:{digest_of('x')}\n", "line 1"),
        (f"{digest_of('x')}\n", "line 1"),
        (f"{'a' * 65}:{digest_of('x')}\n", "line 1"),
        ("\xff", "UTF-8"),
    ],
)
def test_a_bad_tokens_file_is_one_line_without_its_text(text: str, words: str, tmp_path: Path) -> None:
    """What and where, but never what stands there: it may be a token that somebody wrote in the clear."""
    path = tmp_path / "tokens"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="--tokens-file") as caught:
        Credentials.from_file(path)
    assert words in str(caught.value)
    assert "my-secret-token" not in str(caught.value)
    with pytest.raises(UserError, match="No such file"):
        Credentials.from_file(tmp_path / "none")


def test_a_guesser_learns_nothing_once_it_is_limited(credentials: Credentials) -> None:
    """After its burst an address is refused whatever it sends, the right token of another client included."""
    door = Doorkeeper(credentials, RateLimiter(3, clock=lambda: 0.0))
    assert [door.admit(header("guess"), "192.0.2.1") for _ in range(3)] == [(None, 0.0)] * 3
    name, wait = door.admit(header("guess"), "192.0.2.1")
    assert (name, wait) == (None, pytest.approx(20))
    assert door.admit(header(TOKENS["bob"]), "192.0.2.1") == (None, pytest.approx(20))
    assert door.admit(header(TOKENS["bob"]), "192.0.2.2") == ("bob", 0.0)


def test_a_neighbour_cannot_lock_a_client_out(credentials: Credentials) -> None:
    """Who was let in from an address before stays let in there, while somebody else behind it guesses."""
    door = Doorkeeper(credentials, RateLimiter(3, clock=lambda: 0.0))
    assert door.admit(header(TOKENS["ada"]), "192.0.2.1") == ("ada", 0.0)
    for _ in range(10):
        door.admit(header("guess"), "192.0.2.1")
    assert door.admit(header(TOKENS["ada"]), "192.0.2.1") == ("ada", 0.0)
    assert door.admit(header(TOKENS["eve"]), "192.0.2.1")[0] is None


def test_rates_are_a_clients_or_an_addresss(credentials: Credentials) -> None:
    """Named clients are counted wherever they are; those that share one token by where they are."""
    limiter = RateLimiter(0)
    named = Doorkeeper(credentials, limiter)
    assert named.account("ada", "192.0.2.1") == named.account("ada", "192.0.2.2")
    shared = Doorkeeper(Credentials.of_token("x"), limiter)
    assert shared.account("shared", "192.0.2.1") != shared.account("shared", "192.0.2.2")
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1")
    assert network_of("not an address") == "not an address"
