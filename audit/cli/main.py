"""The `delaudit` command. Every error that a person can mend is one line and exit code 2."""

import os
import signal
import sys
from types import FrameType

import click

from audit.cli.lazy import LazyGroup
from defenses.errors import UserError

# Name -> (module, attribute, one line for --help): a command's module is imported when it is called.
COMMANDS = {
    "quickstart": ("audit.cli.run", "quickstart", "The main job on the embedded default: sweep, attack, log, report."),
    "run": ("audit.cli.run", "run", "Run an experiment from a TOML file."),
    "account": ("audit.cli.account", "account", "Print nominal and exact privacy of the stochastic quantizer."),
    "calibrate": ("audit.cli.calibrate", "calibrate", "Find the noise at which an attack has a given success."),
    "compare": ("audit.cli.compare", "compare", "Compare defences at equal terms; or two runs: what changed."),
    "suite": ("audit.cli.suite", "suite", "Run a paper's tables, or any list of studies, beside published figures."),
    "tune": ("audit.cli.tune", "tune", "Choose the best use of an exact epsilon; what each improvement gains."),
    "attack": ("audit.cli.attack", "attack", "Attack a defence: what is read, and by whom."),
    "audit": ("audit.cli.audit", "audit", "Put one claim of a defence to the test."),
    "check": ("audit.cli.check", "check", "Test every claim of a file; exit codes, JUnit and SARIF for a pipeline."),
    "attributes": ("audit.cli.attributes", "attributes", "Infer private attributes from views, user by user."),
    "nlu": ("audit.cli.nlu", "nlu", "Classify text behind a defence: accuracy and AUC, with and without a denoiser."),
    "report": ("audit.cli.report", "report", "One page of several runs; a gallery of reports."),
    "history": ("audit.cli.history", "history", "An experiment's figures over commits, with what got worse."),
    "crypto": ("audit.cli.crypto", "crypto", "Encrypted generation on real engines: costs, views, token orders."),
    "train": ("audit.cli.train", "train", "Train a projection or a soft prompt."),
    "serve": ("audit.cli.serve", "serve", "Serve a frozen LLM behind the DEL wire."),
    "prompt": ("audit.cli.prompt", "prompt", "Send one private prompt to a server."),
    "plugins": ("audit.cli.plugins", "plugins", "List the defences and attacks that are installed."),
    "sbom": ("audit.cli.sbom", "sbom", "A bill of materials: packages, models and data, CycloneDX JSON."),
    "doctor": ("audit.cli.doctor", "doctor", "Say what is missing on this machine, and how to get it."),
}


@click.group(cls=LazyGroup, modules=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="delaudit")
def cli() -> None:
    """Attack and audit privacy defences for LLM split inference.

    Start with `delaudit quickstart`. `delaudit COMMAND --help` explains each command.
    """


def main() -> None:
    """Entry point: run the command; a mendable error is one line on stderr and exit code 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    signal.signal(signal.SIGTERM, _terminated)
    try:
        code = cli.main(standalone_mode=False)
    except UserError as error:
        _fail(str(error))
    except click.ClickException as error:
        _fail(error.format_message())
    except OSError as error:
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}; check the path, its rights and the disk")
    except MemoryError:
        _fail("the memory of this machine is not enough for that: ask for less at once, or use a larger one")
    except RecursionError:
        _fail("something that was read nests too deep to be walked through; no file of ours does")
    except (click.Abort, KeyboardInterrupt):
        click.echo("delaudit: interrupted; a command with a work or output folder resumes when run again", err=True)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _terminated(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - signal's signature
    """Leave by an exception, so that what a command holds (processes, folders with shares) is closed."""
    sys.exit(128 + number)


def _fail(message: str) -> None:
    """Print one line and exit with 2."""
    click.echo("delaudit: " + " ".join(message.split()), err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
