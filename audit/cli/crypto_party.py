"""`delaudit crypto party`, `program` and `run`: a computation on shares, each party in a process of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from audit.cli.options import FILE, FOLDER
from defenses.errors import UserError

PROGRAM = click.option("--program", "program_file", type=FILE, required=True, help="The program file, same for all.")
ALLOW = click.option(
    "--allow", multiple=True, metavar="PACKAGE",
    help="A package whose functions the program may name, besides defenses.crypto; repeatable.",
)  # fmt: skip


@click.command()
@click.option("--rank", type=click.IntRange(min=0), required=True, help="Which party this is, from 0.")
@click.option("--addresses", required=True, help="HOST:PORT of every party, in order of rank, comma-separated.")
@PROGRAM
@click.option("--folder", type=FOLDER, required=True, help="Where this party's shares come from and results go.")
@click.option(
    "--runs", type=click.IntRange(min=0), default=1, show_default=True, help="Runs to serve; 0: until stopped."
)
@click.option("--fresh", is_flag=True, help="Make keys anew for every run.")
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds to wait for others and shares.")
@ALLOW
def party(  # noqa: PLR0917 - click hands options over by name
    rank: int,
    addresses: str,
    program_file: Path,
    folder: Path,
    runs: int,
    fresh: bool,
    timeout: float,
    allow: tuple[str, ...],
) -> int:
    """Serve as one party of a computation on shares.

    Start every party with the same addresses and the same program, then `delaudit crypto run`. Under SEMI2K the party
    of rank 0 can compute every secret: it must be run by whoever owns the inputs. Links between the parties are not
    encrypted: beyond one machine, run them through a tunnel. The folder must be closed to all others (mode 700).
    """
    from defenses.crypto.engines.parties import PartyConfig
    from defenses.crypto.engines.party_worker import LOST, SAID, SERVED, attend_party
    from defenses.crypto.engines.program_file import ALLOWED

    places = tuple(address.strip() for address in addresses.split(","))
    config = PartyConfig(rank, places, program_file, folder, runs, fresh, timeout, (*ALLOWED, *allow))
    code = attend_party(config)
    if code not in {SERVED, SAID}:
        raise UserError(f"party {rank} {LOST}")
    return code


@click.command()
@click.option("--function", required=True, help="PACKAGE.MODULE:NAME of a function that JAX can trace.")
@click.option("--inputs", type=FILE, required=True, help="Numpy archive; only the arrays' names and shapes are used.")
@click.option("--public", type=int, multiple=True, help="Place of an argument that all parties may see, from 0.")
@click.option("--protocol", default="semi2k", show_default=True, help="semi2k, cheetah or aby3.")
@click.option("--ring", type=int, default=64, show_default=True, help="64 or 128 bits.")
@click.option("--fraction-bits", type=int, default=0, show_default=True, help="0 takes the ring's default, 18 or 26.")
@click.option("--out", type=FILE, required=True, help="The program file to be written.")
def program(  # noqa: PLR0917 - as above
    function: str, inputs: Path, public: tuple[int, ...], protocol: Any, ring: int, fraction_bits: int, out: Path
) -> None:
    """Write the program file that every party and the client are given."""
    from defenses.crypto.engines.program_file import ProgramFile, imported
    from defenses.crypto.engines.spu_settings import SpuSettings

    settings = SpuSettings(protocol, ring, fraction_bits)
    made = ProgramFile.of(imported(function), arguments_of(_arrays(inputs)), public, settings)
    made.compile((made.function.partition(":")[0],))
    made.write(out)
    click.echo(f"{out}: {function} for {settings.parties} parties under {settings.name}")
    click.echo(f"guarantee: {settings.guarantee}")


@click.command()
@PROGRAM
@click.option("--inputs", type=FILE, required=True, help="Numpy archive: 0, 1, ...; leaves of trees as 1/kernel.")
@click.option("--folders", required=True, help="Every party's folder, in order of rank, comma-separated.")
@click.option("--run-number", type=click.IntRange(min=0), default=0, show_default=True, help="Counts a session's runs.")
@click.option("--timeout", type=float, default=600.0, show_default=True, help="Seconds to wait for results.")
@ALLOW
@click.option("--out", type=FILE, required=True, help="Numpy archive for the output.")
def run(  # noqa: PLR0917 - as above
    program_file: Path,
    inputs: Path,
    folders: str,
    run_number: int,
    timeout: float,
    allow: tuple[str, ...],
    out: Path,
) -> None:
    """Share inputs among running parties, wait, and put the output together.

    This is the owner of the inputs: each party's folder gets that party's shares and nothing else. The output is
    written for its owner's eyes only (mode 600).
    """
    from defenses.crypto.engines.party_client import PartyClient
    from defenses.crypto.engines.program_file import ALLOWED, ProgramFile

    read = ProgramFile.read(program_file)
    places = tuple(Path(folder.strip()) for folder in folders.split(","))
    client = PartyClient(read, read.compile((*ALLOWED, *allow)), places, timeout)
    given = client.share(arguments_of(_arrays(inputs)), run_number)
    outcome = client.result(run_number, given[0].nonce)
    _write(out, outcome.output)
    click.echo(f"{out}: {outcome.seconds:.3f} s, {outcome.bytes} bytes, {outcome.rounds} rounds")


def arguments_of(arrays: Mapping[str, Any]) -> tuple[Any, ...]:
    """Arguments from named arrays: "0" is the first argument; "1/kernel" a leaf of a dict, "1/blocks/0" of a list.

    Raises:
        UserError: a name is no place in a tree, or places are left out.
    """
    tree: dict[str, Any] = {}
    for name in sorted(arrays):
        *path, last = name.split("/")
        node: Any = tree
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UserError(f"the input {name} stands below an array: name leaves only")
        if isinstance(node.get(last), dict) or not name:
            raise UserError(f"the input {name!r} is an array and a tree at once: name leaves only")
        node[last] = arrays[name]
    whole = _listed(tree)
    if not isinstance(whole, list):
        raise UserError(f"inputs are named 0, 1, ... or 0/name, ..., not {', '.join(sorted(arrays)) or 'at all'}")
    return tuple(whole)


def _listed(node: Any) -> Any:
    """Dicts whose keys are 0, 1, ..., n - 1 as lists."""
    if not isinstance(node, dict):
        return node
    children = {key: _listed(value) for key, value in node.items()}
    if children and set(children) == {str(index) for index in range(len(children))}:
        return [children[str(index)] for index in range(len(children))]
    return children


def _arrays(path: Path) -> dict[str, Any]:
    from defenses.kept import read_arrays

    try:
        return read_arrays(path)
    except ValueError as error:
        raise UserError(f"{path}: is no numpy archive (numpy.savez): {error}") from error


def _write(path: Path, output: Any) -> None:
    import io

    import numpy as np

    from defenses.crypto.extra import needed
    from defenses.files import PRIVATE_FILE, write_whole

    tree = needed("jax").tree_util
    leaves = {f"output{tree.keystr(place)}": leaf for place, leaf in tree.tree_flatten_with_path(output)[0]}
    buffer = io.BytesIO()
    np.savez(buffer, **leaves)
    write_whole(path, buffer.getvalue(), mode=PRIVATE_FILE)
