"""`delaudit serve`: a frozen LLM behind the DEL wire, in one process over HTTP."""

import secrets
from contextlib import suppress

import click

from defenses.errors import UserError


@click.command()
@click.option("--model", default="smollm2-135m", show_default=True, help="Default model, folder or hub id.")
@click.option("--projection", default="d128-noise-aware", show_default=True, help="Projection by name or file.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0 takes any free one.")
@click.option("--token", envvar="DELAUDIT_TOKEN", default="", help="API token; else DELAUDIT_TOKEN; else a random one.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=1024, show_default=True, help="Longest prompt.")
@click.option("--max-body", type=click.IntRange(min=33), default=1 << 20, show_default=True, help="Longest message, B.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Longest answer.")
@click.option("--max-queue", type=click.IntRange(min=0), default=64, show_default=True, help="Requests that may wait.")
def serve(model: str, projection: str, token: str, host: str, port: int, **limits: int) -> None:
    """Serve the LLM until interrupted. Clients send protected prompts: `delaudit prompt TEXT --server URL`.

    The connection itself is plain HTTP: put a TLS proxy in front where it leaves this machine.
    """
    from defenses.pipeline.engine import load_engine
    from defenses.pipeline.service import create_app
    from defenses.pipeline.service import serve as serve_until_interrupted

    chosen = token or secrets.token_urlsafe(24)
    engine = load_engine(model=model, projection=projection)
    try:
        app = create_app(engine, api_token=chosen, **limits)
    except ValueError as error:
        raise UserError(f"--token: {error}") from error

    def ready(url: str) -> None:
        shown = "" if token else f", API token {chosen}"
        click.echo(f"serving {engine.model} behind {projection} at {url}{shown}")

    with suppress(KeyboardInterrupt):  # whether it gets here depends on where in the event loop the signal falls
        serve_until_interrupted(app, host, port, on_ready=ready)
    click.echo("stopped", err=True)
