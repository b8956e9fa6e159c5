"""`delaudit prompt`: one private prompt to a server, its answer streamed. Neither torch nor an LLM is loaded."""

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit.cli.options import FILE
from defenses.errors import UserError

if TYPE_CHECKING:
    from defenses.pipeline.client import Client, Traffic
    from defenses.pipeline.mechanism import Quantizer
    from defenses.pipeline.protocol import ServiceInfo


@click.command()
@click.argument("text")
@click.option("--server", "url", required=True, help="The server's URL, as `delaudit serve` prints it.")
@click.option(
    "--token", envvar="DELAUDIT_TOKEN", default="", help="API token; else DELAUDIT_TOKEN.", show_default=False
)
@click.option("--n", type=click.IntRange(1, 8), help="Bits per coordinate; else as the server deploys it.")
@click.option("--mu", type=float, help="Nominal mu per token; 0 is the null. Else as the server deploys it.")
@click.option("--a-over-c", type=float, help="A/c instead of --mu; inf is the null.")
@click.option("--epsilon", type=float, help="Exact epsilon per token instead of --mu: the least noise that keeps it.")
@click.option("--delta", type=float, default=1e-5, show_default=True, help="With --epsilon.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--temperature", type=click.FloatRange(0, 10), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), help="The server's sampling seed, not the coins'.")
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), default=120.0, show_default=True, help="Longest silence, s."
)
@click.option(
    "--deadline", type=click.FloatRange(0, min_open=True), default=900.0, show_default=True, help="Whole answer, s."
)
@click.option("--ca", type=FILE, help="Certificate to trust, PEM: a private authority's, or the server's own.")
@click.option("--plain-http", is_flag=True, help="Let the API token go to another machine without TLS.")
@click.option("--bundle", type=click.Path(path_type=Path), help="Client bundle file, instead of the server's own.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object when the answer is complete.")
def prompt(text: str, url: str, token: str, as_json: bool, **options: Any) -> None:
    """Send TEXT (- reads standard input) protected by the stochastic quantizer, and print the answer.

    The text never leaves this machine: what does is n bits per latent coordinate, drawn with fresh coins.
    """
    if text == "-":
        text = _standard_input()
    with _connect(url, token, options) as client:
        answer = client.generate(
            text,
            max_new_tokens=options["max_new_tokens"],
            temperature=options["temperature"],
            seed=options["seed"],
        )
        pieces = []
        for piece in answer:
            pieces.append(piece)
            if not as_json:
                click.echo(_for_terminal(piece) if sys.stdout.isatty() else piece, nl=False)
    chosen = client.quantizer
    if as_json:
        click.echo(json.dumps(_figures("".join(pieces), chosen, answer.traffic)))
    else:
        click.echo()
    if all(options[name] is None for name in ("mu", "a_over_c", "epsilon")):
        noise = f"n = {chosen.n}, A/c = {chosen.a_over_c:.4g}, nominal mu = {chosen.mu:.4g} a token"
        click.echo(f"delaudit: noise chosen by the server: {noise}; --mu or --epsilon sets your own", err=True)


def _connect(url: str, token: str, options: dict[str, Any]) -> "Client":
    """A client with the server's table, and the quantizer that was asked for."""
    from defenses.pipeline.client import Client, choose_quantizer, load_tokenizer
    from defenses.pipeline.connection import check_bundle, fetch_bundle, fetch_info, open_http
    from defenses.pipeline.latents import ClientBundle

    security = {"timeout": options["timeout"], "ca": options["ca"], "plain_http": options["plain_http"]}
    with open_http(url, token, **security) as http:
        info = fetch_info(http)
        quantizer = choose_quantizer(info, n=options["n"], mu=options["mu"], a_over_c=_ratio(info, options))
        if options["bundle"]:
            bundle = check_bundle(ClientBundle.load(options["bundle"]), info)
        else:
            bundle = fetch_bundle(http, info)
    tokenizer, deadline = load_tokenizer(bundle), options["deadline"]
    return Client(bundle.table, tokenizer, quantizer, url, token, deadline=deadline, **security)


def _ratio(info: "ServiceInfo", options: dict[str, Any]) -> float | None:
    """A/c as given, or the smallest that keeps an exact epsilon per token; None leaves it to --mu or the server."""
    if options["epsilon"] is None:
        given: float | None = options["a_over_c"]
        return given
    if options["mu"] is not None or options["a_over_c"] is not None:
        raise UserError("give one of --mu, --a-over-c and --epsilon: each fixes the noise")
    if options["n"] is None:
        raise UserError("--epsilon needs --n: the noise that keeps it depends on the bits per coordinate")
    # The accountant needs scipy; only this option pays for its import.
    from defenses.privacy.binomial import a_over_c_for_epsilon

    try:
        return a_over_c_for_epsilon(options["epsilon"], options["delta"], options["n"], info.d)
    except ValueError as error:
        raise UserError(f"--epsilon {options['epsilon']:g}: {error}") from error


def _figures(text: str, quantizer: "Quantizer", traffic: "Traffic") -> dict[str, Any]:
    """The answer and what it cost; an infinite A/c is null, for JSON has no infinity."""
    return {
        "text": text,
        "tokens_up": traffic.tokens_up,
        "bytes_up": traffic.bytes_up,
        "bytes_up_per_token": traffic.bytes_up_per_token,
        "tokens_down": traffic.tokens_down,
        "bytes_down": traffic.bytes_down,
        "client_encode_ms": 1e3 * traffic.encode_seconds,
        "seconds": traffic.seconds,
        "n": quantizer.n,
        "d": quantizer.d,
        "a_over_c": None if math.isinf(quantizer.a_over_c) else quantizer.a_over_c,
        "mu": quantizer.mu,
        "rng": traffic.rng,
    }


def _for_terminal(piece: str) -> str:
    """Text without the control characters by which a server could take hold of a terminal."""
    return "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in piece)


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8").strip("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 text ({error.reason} at byte {error.start})") from error
