"""TLS: the right pair of files serves and is trusted, and every wrong one is one line on its side."""

import datetime as dt
import ipaddress
import socket
import ssl
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from defenses.errors import UserError
from defenses.pipeline.client import Client
from defenses.pipeline.connection import fetch_info, is_loopback, open_http
from defenses.pipeline.mechanism import Quantizer
from defenses.pipeline.service_tls import server_context

pytest.importorskip("cryptography", reason="certificates for the tests are made with cryptography")
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Serve = Callable[..., str]


@dataclass(frozen=True)
class Pair:
    """A certificate's file and its key's."""

    certificate: Path
    key: Path


def make_pair(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    days: tuple[int, int] = (-1, 1),
    client: bool = False,
    password: bytes = b"",
) -> Pair:
    """A self-signed certificate for an address, valid between two days counted from today."""
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(days=days[0]))
        .not_valid_after(now + dt.timedelta(days=days[1]))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pair = Pair(folder / "certificate.pem", folder / "key.pem")
    pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    pair.key.write_bytes(pem)
    return pair


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """A certificate for 127.0.0.1 and its key."""
    return make_pair(tmp_path / "good")


def test_a_prompt_goes_over_tls(engine: Any, fakes: ModuleType, serve_engine: Serve, pair: Pair) -> None:
    """A client that trusts the certificate gets its answer through https."""
    url = serve_engine(engine, tls=server_context(pair.certificate, pair.key))
    assert url.startswith("https://")
    table = fakes.random_table()
    quantizer = Quantizer(4, table.d, table.clip, 1.5)
    with Client(table, fakes.byte_tokenizer(), quantizer, url, fakes.API_TOKEN, ca=pair.certificate) as client:
        text = "".join(client.generate("my name is Ada", max_new_tokens=20))
    assert text == fakes.byte_tokenizer().decode(fakes.answer_to(engine.received[0], 20))


def test_the_version_is_1_2_or_later(engine: Any, serve_engine: Serve, pair: Pair) -> None:
    """A peer that can only speak TLS 1.1 is not talked to; 1.2 and 1.3 are."""
    url = serve_engine(engine, tls=server_context(pair.certificate, pair.key))
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    for version, fits in (
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ):
        context = ssl.create_default_context(cafile=pair.certificate)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of asking for a version that is too old
            context.minimum_version = context.maximum_version = version
        with socket.create_connection(address, timeout=30) as plain:
            if fits:
                with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
                    assert secure.version() == {ssl.TLSVersion.TLSv1_2: "TLSv1.2"}.get(version, "TLSv1.3")
            else:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_a_wrong_certificate_is_one_line_for_the_client(
    engine: Any, fakes: ModuleType, serve_engine: Serve, pair: Pair, tmp_path: Path
) -> None:
    """Unknown, made for another name, or plain HTTP on the other side: nothing is sent, and one line says why."""
    other = make_pair(tmp_path / "other", host="192.0.2.1")
    url = serve_engine(engine, tls=server_context(pair.certificate, pair.key))
    elsewhere = serve_engine(engine, tls=server_context(other.certificate, other.key))
    plain = serve_engine(engine).replace("http:", "https:")
    for address, ca, words in (
        (url, None, "not to be trusted"),
        (url, other.certificate, "not to be trusted"),
        (elsewhere, other.certificate, "IP address mismatch"),
        (plain, pair.certificate, "does not speak TLS"),
        (url.replace("https:", "http:"), None, "does not speak http"),
    ):
        with open_http(address, fakes.API_TOKEN, ca=ca) as http, pytest.raises(UserError) as caught:
            fetch_info(http)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_wrong_files_are_one_line_for_the_service(pair: Pair, tmp_path: Path) -> None:
    """Missing, mixed up, expired, not yet valid, for another purpose, locked or no PEM: what, where, how to mend."""
    other = make_pair(tmp_path / "other")
    old = make_pair(tmp_path / "old", days=(-9, -2))
    early = make_pair(tmp_path / "early", days=(2, 9))
    clients = make_pair(tmp_path / "clients", client=True)
    locked = make_pair(tmp_path / "locked", password=b"secret")
    none = tmp_path / "none"
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\x00garbage")
    for certificate, key, words in (
        (none, pair.key, "--tls-cert .*none: No such file"),
        (pair.certificate, none, "--tls-key .*none: No such file"),
        (tmp_path, pair.key, "--tls-cert .*: Is a directory"),
        (pair.certificate, other.key, "is not the key of the certificate"),
        (garbage, pair.key, "are not a PEM certificate and its key"),
        (pair.certificate, garbage, "are not a PEM certificate and its key"),
        (pair.key, pair.certificate, "are not a PEM certificate and its key"),
        (old.certificate, old.key, "has expired"),
        (early.certificate, early.key, "is not valid yet"),
        (clients.certificate, clients.key, "cannot be used"),
        (locked.certificate, locked.key, "protected by a pass phrase"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            server_context(certificate, key)
        assert "\n" not in str(caught.value)


def test_a_wrong_ca_file_is_one_line(tmp_path: Path, pair: Pair) -> None:
    """--ca names a file that is not there, or holds no certificate."""
    for path, words in ((tmp_path / "none", "No such file"), (pair.key, "holds no certificate")):
        with pytest.raises(UserError, match=words):
            open_http("https://127.0.0.1:1", "t", ca=path)
    with pytest.raises(UserError, match="give an https address"):
        open_http("http://127.0.0.1:1", "t", ca=pair.certificate)


def test_a_token_does_not_leave_the_machine_in_the_clear() -> None:
    """Over plain HTTP the token goes to this machine alone, unless that is asked for by name."""
    for local in ("http://localhost:1", "http://127.0.0.9:1", "http://[::1]:1"):
        open_http(local, "t").close()
    for remote in (
        "http://192.0.2.1:1",
        "http://example.org",
        "http://localhost.example.org",
        "http://[2001:db8::1]:1",
    ):
        with pytest.raises(UserError, match="--plain-http"):
            open_http(remote, "t")
        open_http(remote, "").close()
        open_http(remote, "t", plain_http=True).close()
        open_http(remote.replace("http:", "https:"), "t").close()
    assert not is_loopback("0.0.0.0")  # noqa: S104 - the very address that is everybody's
