"""The client's side of HTTP: one connection to one service, its card, its bundle, and one line for every fault."""

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from defenses.errors import UserError
from defenses.models.carriers import cache_dir
from defenses.pipeline.latents import ClientBundle
from defenses.pipeline.protocol import ServiceInfo, TokenStreamReader


def open_http(url: str, token: str, *, timeout: float = 120.0) -> httpx.Client:
    """An HTTP client for one service; `timeout` is the longest silence, in seconds, that it waits through.

    Raises:
        UserError: where the URL is none, or the token is not printable ASCII.
    """
    try:
        base = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UserError(f"{url!r} is not a URL ({error}): give one such as http://127.0.0.1:8765") from error
    if base.scheme not in {"http", "https"} or not base.host:
        raise UserError(f"{url!r} is not an HTTP address: give one such as http://127.0.0.1:8765")
    if not (token.isascii() and token.isprintable()):
        raise UserError("the API token has characters that HTTP does not carry: check --token")
    headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {token}"} if token else {})
    # A proxy from the environment cannot know this machine's own loopback.
    return httpx.Client(
        base_url=base,
        headers=headers,
        timeout=httpx.Timeout(timeout, connect=min(10.0, timeout)),
        trust_env=not _is_loopback(base.host),
    )


def fetch_info(http: httpx.Client) -> ServiceInfo:
    """The service's card.

    Raises:
        UserError: where the service cannot be reached, refuses, or is another kind of service.
    """
    return ServiceInfo.from_json(_get(http, "/v1/info"))


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
    bundle = check_bundle(ClientBundle.from_bytes(_get(http, "/v1/bundle"), origin="the server's bundle"), info)
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


def _get(http: httpx.Client, path: str) -> bytes:
    with one_line_errors(http):
        response = http.get(path)
        check_status(response)
        return response.content


def check_status(response: httpx.Response) -> None:
    """Pass where the response is a success.

    Raises:
        UserError: with the service's refusal in one line.
    """
    if response.is_success:
        return
    if response.status_code == 401:
        raise UserError("the server refused the API token: give it by --token or DELAUDIT_TOKEN")
    response.read()
    try:
        reason = str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        reason = response.reason_phrase or "no reason given"
    raise UserError(f"the server answered {response.status_code}: {reason}")


@contextmanager
def one_line_errors(http: httpx.Client, reader: TokenStreamReader | None = None) -> Iterator[None]:
    """Turn each fault of the connection into one line; `reader` knows how much of an answer had come.

    Raises:
        UserError: where the block raises an httpx error.
    """
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise UserError(f"cannot reach {http.base_url} ({error}): is `delaudit serve` running there?") from error
    except httpx.TimeoutException as error:
        raise UserError(
            f"{http.base_url} was silent for {http.timeout.read:g} s: try again, or a shorter answer"
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        got = f" after {reader.count} tokens of the answer" if reader is not None else ""
        raise UserError(f"lost the connection to {http.base_url}{got}: the answer is incomplete, try again") from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
