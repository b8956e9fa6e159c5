"""`delaudit crypto`: encrypted generation on real engines, what it costs, and what its parties see."""

import click

from audit.cli.lazy import LazyGroup

# Name -> (module, attribute, one line for --help): a command's module is imported when it is called.
COMMANDS = {
    "compare": ("audit.cli.crypto_compare", "compare", "What a generated token costs, system beside system."),
    "train": ("audit.cli.crypto_train", "train", "Train the small language models of the systems."),
    "views": ("audit.cli.crypto_views", "views", "Test whether what a party sees depends on the prompt."),
    "tsp": ("audit.cli.tsp", "tsp", "Token orders for sampling under homomorphic encryption."),
    "party": ("audit.cli.crypto_party", "party", "Be one computing party, over sockets."),
    "program": ("audit.cli.crypto_party", "program", "Write the program file that parties and client are given."),
    "run": ("audit.cli.crypto_party", "run", "Be the owner of the inputs: share, wait, reconstruct."),
}


@click.group(cls=LazyGroup, modules=COMMANDS)
def crypto() -> None:
    """Run, measure and audit encrypted generation; needs the extra `crypto`."""
