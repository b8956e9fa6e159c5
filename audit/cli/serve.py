"""`delaudit serve`: a frozen LLM behind the DEL wire, in one process over HTTP or HTTPS."""

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit.cli.options import FILE
from defenses.errors import UserError

if TYPE_CHECKING:
    import ssl

    from defenses.pipeline.service_auth import Credentials

_SHORTEST_TOKEN = 16  # characters, where others than this machine can guess
_COUNT, _AMOUNT, _SECONDS = click.IntRange(min=1), click.FloatRange(min=0), click.FloatRange(min=0, min_open=True)


@click.command(context_settings={"show_default": True})
@click.option("--model", default="smollm2-135m", help="Default model, folder or hub id.")
@click.option("--projection", default="d128-noise-aware", help="Projection by name or file.")
@click.option("--device", default=None, help="cpu, cuda, cuda:1, or map for all there are.  [default: a GPU, or cpu]")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), help="Number format; else the device's own.")
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, help="0 takes any free one.")
@click.option("--tls-cert", type=FILE, help="Certificate with its chain, PEM: serve https.")
@click.option("--tls-key", type=FILE, help="The certificate's key, PEM, without a pass phrase.")
@click.option("--plain-http", is_flag=True, help="Allow another --host than this machine's own without TLS.")
@click.option("--token", envvar="DELAUDIT_TOKEN", default="", help="API token; else DELAUDIT_TOKEN; else a random one.")
@click.option("--tokens-file", type=FILE, help="API tokens of several clients, NAME:SHA256-of-token a line.")
@click.option("--log", "log_file", type=FILE, help="JSON lines to this file; else to standard error.")
@click.option("--max-tokens", type=_COUNT, default=1024, help="Longest prompt.")
@click.option("--max-body", type=click.IntRange(min=33), default=1 << 20, help="Longest message, B.")
@click.option("--max-new-tokens", type=_COUNT, default=256, help="Longest answer.")
@click.option("--max-queue", type=click.IntRange(min=0), default=128, help="Requests that may wait.")
@click.option("--max-connections", type=_COUNT, default=256, help="Connections that are answered.")
@click.option("--requests-per-minute", type=_AMOUNT, default=600.0, help="For each client; 0 is no limit.")
@click.option(
    "--tokens-per-minute", type=_AMOUNT, default=200_000.0, help="Prompt tokens for each client; 0: no limit."
)
@click.option("--failures-per-minute", type=_AMOUNT, default=20.0, help="Wrong tokens from one address; 0: no limit.")
@click.option("--head-seconds", type=_SECONDS, default=10.0, help="For a request's head.")
@click.option("--body-seconds", type=_SECONDS, default=30.0, help="For a request's body.")
@click.option("--queue-seconds", type=_SECONDS, default=100.0, help="Longest wait in line.")
@click.option("--generate-seconds", type=_SECONDS, default=300.0, help="For one answer, once it is its turn.")
@click.option("--write-seconds", type=_SECONDS, default=30.0, help="For a peer that does not read.")
@click.option("--keep-alive-seconds", type=_SECONDS, default=15.0, help="For an idle connection.")
@click.option(
    "--grace", "grace_seconds", type=_AMOUNT, default=30.0, help="Seconds for answers in progress at the end."
)
def serve(model: str, projection: str, host: str, port: int, token: str, **options: Any) -> None:
    """Serve the LLM until told to stop. Clients send protected prompts: `delaudit prompt TEXT --server URL`.

    On SIGTERM or SIGINT nothing new is taken, answers in progress have the --grace, and the exit code is 0. A second
    signal ends it at once. docs/service.md says how to deploy it.
    """
    files = {name: options.pop(name) for name in ("tls_cert", "tls_key", "tokens_file", "log_file")}
    tls = _tls(files["tls_cert"], files["tls_key"])
    plain_http, place = options.pop("plain_http"), {name: options.pop(name) for name in ("device", "dtype")}
    _check_host(host, token, safe=plain_http or tls is not None)
    chosen = "" if token or files["tokens_file"] else secrets.token_urlsafe(24)
    credentials = _credentials(token or chosen, files["tokens_file"])

    from defenses.pipeline.engine import load_engine
    from defenses.pipeline.service import ServiceLimits, create_app
    from defenses.pipeline.service import serve as serve_until_told
    from defenses.pipeline.service_log import LOGGER, configure_log

    configure_log(files["log_file"])
    engine = load_engine(model=model, projection=projection, **place)
    app = create_app(engine, credentials=credentials, limits=ServiceLimits(**options))

    def ready(url: str) -> None:
        shown = f", API token {chosen}" if chosen else ""
        click.echo(f"serving {engine.model} behind {projection} at {url}{shown}")
        LOGGER.info("started")

    serve_until_told(app, host, port, tls=tls, on_ready=ready)
    LOGGER.info("stopped")
    click.echo("stopped")


def _tls(certificate: Path | None, key: Path | None) -> "ssl.SSLContext | None":
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UserError("TLS needs both files: give --tls-cert and --tls-key")
    from defenses.pipeline.service_tls import server_context

    return server_context(certificate, key)


def _check_host(host: str, token: str, *, safe: bool) -> None:
    """Refuse what would let others than this machine read or guess the API token."""
    from defenses.pipeline.connection import is_loopback

    if is_loopback(host):
        return
    if not safe:
        raise UserError(
            f"--host {host}: API tokens and answers would be readable on their way: give --tls-cert and --tls-key, or "
            "--plain-http where a proxy or a private network protects them"
        )
    if token and len(token) < _SHORTEST_TOKEN:
        raise UserError(f"--token: too easily guessed for --host {host}: give at least {_SHORTEST_TOKEN} characters")


def _credentials(token: str, tokens_file: Path | None) -> "Credentials":
    from defenses.pipeline.service_auth import Credentials

    if tokens_file is not None:
        if token:
            raise UserError("give --token (or DELAUDIT_TOKEN) or --tokens-file, not both")
        return Credentials.from_file(tokens_file)
    try:
        return Credentials.of_token(token)
    except ValueError as error:
        raise UserError(f"--token: {error}") from error
