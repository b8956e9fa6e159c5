"""`delaudit plugins`: what is installed."""

import json
from collections.abc import Mapping
from typing import Any

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plugins(as_json: bool) -> None:
    """List the defences and attacks that are installed, with their parameters."""
    from dataclasses import fields

    from attacks.base import attacks
    from defenses.registry import defenses

    found = {
        "defences": {
            name: {
                "parameters": {f.name: f.default for f in fields(plugin.Config)},
                "privacy_parameter": plugin.privacy_parameter,
                "about": _first_line(plugin),
            }
            for name, plugin in defenses().items()
        },
        "attacks": {
            name: {
                "target": plugin.target,
                "options": {f.name: f.default for f in fields(plugin.Options)},
                "knowledge": vars(plugin.knowledge),
                "about": _first_line(plugin),
            }
            for name, plugin in attacks().items()
        },
    }
    if as_json:
        click.echo(json.dumps(found, default=str))
        return
    for kind, entries in found.items():
        click.echo(kind)
        width = max(len(name) for name in entries) + 2
        for name, facts in entries.items():
            click.echo(f"  {name:<{width}}{facts['about']}")
            given = facts.get("parameters", facts.get("options"))
            if given:
                click.echo(f"  {'':<{width}}{_parameters(given, facts.get('privacy_parameter'))}")


def _first_line(plugin: type) -> str:
    return (plugin.__doc__ or "").strip().splitlines()[0]


def _parameters(given: Mapping[str, Any], privacy: str | None) -> str:
    """Names and defaults; what has no default stands alone, what `delaudit compare` solves for is marked."""
    return "  ".join(
        f"{name}{'' if default is None else f'={default}'}{' (privacy)' if name == privacy else ''}"
        for name, default in given.items()
    )
