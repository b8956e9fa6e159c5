"""`delaudit sbom`: the bill of materials of this installation."""

from pathlib import Path

import click

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--out", "-o", type=_FILE, default=None, help="Write it here; else it is printed.")
@click.option("--lock", type=_FILE, default=None, help="A lock with hashes, such as requirements/lock.txt.")
def sbom(out: Path | None, lock: Path | None) -> None:
    """List what is installed, with licences and hashes, as CycloneDX 1.6 JSON.

    It names delaudit and every package that it asks for, the models that wheels carry, the trained artifacts and the
    texts. Needs the extra `supply`.
    """
    from audit.sbom import sbom as made
    from defenses.files import write_text

    text, remarks = made(lock)
    if out is None:
        click.echo(text, nl=False)
    else:
        write_text(out, text)
        click.echo(str(out))
    for line in remarks:
        click.echo(f"delaudit: {line}", err=True)
