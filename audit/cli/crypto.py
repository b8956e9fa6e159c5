"""`delaudit crypto`: encrypted generation on real engines, what it costs, and what its parties see."""

import importlib

import click

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


class _Lazy(click.Group):
    """Knows its commands' names and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Every command's name."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.group(cls=_Lazy)
def crypto() -> None:
    """Run, measure and audit encrypted generation; needs the extra `crypto`."""
