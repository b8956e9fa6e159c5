"""Find plug-ins: files dropped into a folder of this project, and entry points of other installed packages."""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import entry_points
from typing import Any

from defenses.errors import UserError


def discover(package: str, attribute: str, group: str) -> dict[str, Any]:
    """Every plug-in by name.

    Args:
        package: The folder of plug-in files as a package, for example "defenses.baselines".
        attribute: What each file ends with, for example "DEFENSE".
        group: The entry point group that third parties use.

    Raises:
        UserError: a plug-in cannot be imported, lacks its attribute, or takes a name that is taken.
    """
    found: dict[str, Any] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(importlib.import_module(package).__path__)):
        _add(found, _load(f"{package}.{module}", attribute), f"{package}.{module}")
    for point in entry_points(group=group):
        module, _, name = point.value.partition(":")
        _add(found, _load(module, name or attribute), point.value)
    return dict(sorted(found.items()))


def defenses() -> dict[str, Any]:
    """Defence classes by name."""
    return discover("defenses.baselines", "DEFENSE", "delaudit.defenses")


def pick(found: dict[str, Any], name: str, kind: str) -> Any:
    """One plug-in by name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in found:
        raise UserError(f"there is no {kind} called {name!r}; installed: {', '.join(found)}")
    return found[name]


def configuration(plugin: Any, parameters: Mapping[str, Any]) -> Any:
    """A defence's Config from plain values, as files and command lines give them.

    Raises:
        UserError: a parameter is unknown, of the wrong type, or out of range.
    """
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - the client on the wire does without it

    known = [field.name for field in fields(plugin.Config)]
    strange = next((name for name in parameters if name not in known), None)
    if strange is not None:
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise UserError(f"defence {plugin.name}: there is no parameter {strange!r}; {has}")
    try:
        return TypeAdapter(plugin.Config).validate_python(dict(parameters))
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if first["loc"]:
            message = f"{first['loc'][0]}: {message}, not {first['input']!r}"
        raise UserError(f"defence {plugin.name}: {message}") from error


def _load(module: str, attribute: str) -> Any:
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"the plug-in {module} is not usable ({error}): it must end with {attribute} = TheClass"
        ) from error


def _add(found: dict[str, Any], plugin: Any, place: str) -> None:
    if found.get(plugin.name, plugin) is not plugin:
        raise UserError(f"two plug-ins are called {plugin.name!r}; rename the one in {place}")
    found[plugin.name] = plugin
