"""The client's side of HTTP: one connection to one service, its card, its bundle, and one line for every fault.

The service may be anyone: whatever it sends is bounded in size and in time, never decompressed, and never followed
elsewhere.
"""

import ipaddress
import json
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from defenses.errors import UserError
from defenses.models.carriers import cache_dir
from defenses.pipeline.latents import ClientBundle
from defenses.pipeline.protocol import OCTETS, ServiceInfo, TokenStreamReader, one_line

_JSON = "application/json"
_MAX_CARD = 1 << 18
_MAX_TOKENIZER = 1 << 26
_MAX_REFUSAL = 1 << 14


def open_http(
    url: str, token: str, *, timeout: float = 120.0, ca: Path | None = None, plain_http: bool = False
) -> httpx.Client:
    """An HTTP client for one service.

    Args:
        url: The service's address.
        token: The API token; empty for none.
        timeout: The longest silence, in seconds, that it waits through.
        ca: A PEM file with the certificate, or the authority's, to trust instead of the system's.
        plain_http: Whether the token may go over plain HTTP to another machine.

    Raises:
        UserError: where the URL is none, the token is not printable ASCII or would be readable on its way, or the
            certificate file holds none.
    """
    try:
        base = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UserError(f"{url!r} is not a URL ({error}): give one such as http://127.0.0.1:8765") from error
    if base.scheme not in {"http", "https"} or not base.host:
        raise UserError(f"{url!r} is not an HTTP address: give one such as http://127.0.0.1:8765")
    if not (token.isascii() and token.isprintable()):
        raise UserError("the API token has characters that HTTP does not carry: check --token")
    local = is_loopback(base.host)
    if token and base.scheme == "http" and not local and not plain_http:
        raise UserError(
            f"the API token would be readable on its way to {base.host}: use https, or allow it by --plain-http"
        )
    if ca is not None and base.scheme == "http":
        raise UserError(f"--ca {ca}: plain HTTP has no certificates: give an https address")
    headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {token}"} if token else {})
    # A proxy from the environment cannot know this machine's own loopback.
    return httpx.Client(
        base_url=base,
        headers=headers,
        timeout=httpx.Timeout(timeout, connect=min(10.0, timeout)),
        trust_env=not local,
        follow_redirects=False,
        verify=True if ca is None else _trusting(ca),
    )


def _trusting(ca: Path) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError as error:
        raise UserError(f"--ca {ca}: holds no certificate in PEM form") from error
    except OSError as error:
        raise UserError(f"--ca {ca}: {error.strerror or error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def fetch_info(http: httpx.Client) -> ServiceInfo:
    """The service's card.

    Raises:
        UserError: where the service cannot be reached, refuses, or is another kind of service.
    """
    return ServiceInfo.from_json(_get(http, "/v1/info", _JSON, _MAX_CARD))


def fetch_bundle(http: httpx.Client, info: ServiceInfo, cache: Path | None = None) -> ClientBundle:
    """The service's client bundle: from the cache, or else from the service and then into the cache.

    Args:
        http: From `open_http`.
        info: The service's card, which names the table.
        cache: The folder to keep bundles in; by default the user's cache folder.

    Raises:
        UserError: where the service sends another table than its card names, or cannot be reached.
    """
    folder = cache_dir() / "bundles" if cache is None else cache
    path = folder / f"{info.projection_id}.safetensors"
    if path.exists():
        with suppress(UserError):  # damaged in the cache: the service has a sound one
            return check_bundle(ClientBundle.load(path), info)
    data = _get(http, "/v1/bundle", OCTETS, info.vocabulary * info.d + _MAX_TOKENIZER)
    bundle = check_bundle(ClientBundle.from_bytes(data, origin="the server's bundle"), info)
    bundle.save(path)
    return bundle


def check_bundle(bundle: ClientBundle, info: ServiceInfo) -> ClientBundle:
    """The bundle, where it is the one that the service's card names.

    Raises:
        UserError: where it is another one.
    """
    table = bundle.table
    if (table.projection_id, table.d, table.clip) != (info.projection_id, info.d, info.clip):
        raise UserError(f"the bundle holds table {table.projection_id}, the server's is {info.projection_id}")
    return bundle


def _get(http: httpx.Client, path: str, kind: str, most: int) -> bytes:
    """One whole answer of at most `most` bytes."""
    data = bytearray()
    with one_line_errors(http), http.stream("GET", path) as response:
        check_response(response, kind)
        for piece in pieces(response):
            data += piece
            if len(data) > most:
                raise UserError(f"the server's {path} is longer than {most} bytes: it is not to be trusted")
    return bytes(data)


def pieces(response: httpx.Response, deadline: float = 900.0) -> Iterator[bytes]:
    """The body's bytes as they came, never decompressed, in the pieces in which they were read.

    Args:
        response: An open response.
        deadline: Seconds that the whole body may take; it ends a peer that is never quite silent.

    Raises:
        UserError: where it takes longer.
    """
    started = time.monotonic()
    for piece in response.iter_raw():
        if time.monotonic() - started > deadline:
            raise UserError(f"the server's answer took longer than {deadline:g} s: try again, or a shorter answer")
        yield piece


def check_response(response: httpx.Response, kind: str) -> None:
    """Pass where the response is a success of the type that was asked for.

    Raises:
        UserError: with the service's refusal in one line, or what is wrong with the response.
    """
    if response.status_code == 401:
        raise UserError("the server refused the API token: give it by --token or DELAUDIT_TOKEN")
    if response.is_redirect:
        raise UserError(
            "the server answers with a redirect, which is not followed with the API token: give its own URL"
        )
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UserError(f"the server's answer is compressed ({one_line(encoding)}), unasked: check the URL")
    if not response.is_success:
        raise UserError(f"the server answered {response.status_code}: {_reason(response)}")
    given = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != kind:
        raise UserError(f"the server's answer is of type {one_line(given) or 'unnamed'}, not {kind}: check the URL")


def _reason(response: httpx.Response) -> str:
    """What a refusal says of itself, and when to come back."""
    body = bytearray()
    for piece in pieces(response):
        body += piece
        if len(body) > _MAX_REFUSAL:
            break
    try:
        reason = one_line(str(json.loads(bytes(body))["error"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        reason = one_line(response.reason_phrase) or "no reason given"
    after = response.headers.get("retry-after", "")
    if after.isdecimal() and len(after) < 6 and "try again in" not in reason:
        return f"{reason} (it asks to wait {after} s)"
    return reason


@contextmanager
def one_line_errors(http: httpx.Client, reader: TokenStreamReader | None = None) -> Iterator[None]:
    """Turn each fault of the connection into one line; `reader` knows how much of an answer had come.

    Raises:
        UserError: where the block raises an httpx error.
    """
    url = http.base_url
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise UserError(_no_connection(url, str(error))) from error
    except httpx.TimeoutException as error:
        raise UserError(f"{url} was silent for {http.timeout.read:g} s: try again, or a shorter answer") from error
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        if reader is None:
            raise UserError(f"{url} hung up, or does not speak {url.scheme}: check the URL, and try again") from error
        got = f" after {reader.count} tokens of the answer"
        raise UserError(f"lost the connection to {url}{got}: the answer is incomplete, try again") from error


def _no_connection(url: httpx.URL, reason: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        why = one_line(reason.partition("verify failed: ")[2].partition(" (_ssl")[0])
        return f"the certificate of {url} is not to be trusted ({why}): give the right --ca, or the name it is made for"
    if "SSL" in reason:
        return f"{url} does not speak TLS as it should ({one_line(reason)}): is it plain http?"
    return f"cannot reach {url} ({reason}): is `delaudit serve` running there?"


def is_loopback(host: str) -> bool:
    """Whether an address, or the name localhost, is this machine's own and nobody else's."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
