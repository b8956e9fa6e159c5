"""TLS of a service: a context from two files, which are tried on each other before anybody connects."""

import ssl
from pathlib import Path

from defenses.errors import UserError

_ROUNDS = 10
_VERIFY_REASONS = {9: "is not valid yet: check the clock", 10: "has expired: renew it"}


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """A server's TLS context, version 1.2 or later, from PEM files: the certificate with its chain, and its key.

    Raises:
        UserError: where a file cannot be read, the two do not belong together, the key wants a pass phrase, or the
            certificate is not valid now.
    """
    for option, path in (("--tls-cert", certificate), ("--tls-key", key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise UserError(f"{option} {path}: {error.strerror or error}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Without a password the library would ask for one on the terminal.
        context.load_cert_chain(certificate, key, password=_no_pass_phrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UserError(f"--tls-key {key}: is not the key of the certificate {certificate}") from error
        raise UserError(f"--tls-cert {certificate}, --tls-key {key}: are not a PEM certificate and its key") from error
    _try_on_itself(context, certificate)
    return context


def _no_pass_phrase() -> str:
    raise UserError("--tls-key: the key is protected by a pass phrase; give one that is not, readable by nobody else")


def _try_on_itself(server_side: ssl.SSLContext, certificate: Path) -> None:
    """Shake hands in memory with a client that trusts just this certificate: that checks its dates and its purpose."""
    client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_side.check_hostname = False
    client_side.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client_side.load_verify_locations(certificate)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(down, up)
    server = server_side.wrap_bio(up, down, server_side=True)
    try:
        for _ in range(_ROUNDS):
            if all([_is_done(client), _is_done(server)]):  # a list: each side has its step in every round
                return
    except ssl.SSLCertVerificationError as error:
        reason = _VERIFY_REASONS.get(error.verify_code, f"cannot be used: {error.verify_message}")
        raise UserError(f"--tls-cert {certificate}: the certificate {reason}") from error
    except ssl.SSLError as error:
        raise UserError(f"--tls-cert {certificate}: no connection can be made with it ({error.reason})") from error
    raise UserError(f"--tls-cert {certificate}: no connection can be made with it (the handshake has no end)")


def _is_done(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
