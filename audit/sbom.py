"""A bill of materials in CycloneDX 1.6: an installation's packages, models and data, with licences and hashes.

CycloneDX is ECMA-424; package URLs are ECMA-427. The library comes with the extra `supply`.
"""

import hashlib
import importlib
import os
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from audit.inventory import ROOT, Cargo, Package, cargo, locked, packages, same_release
from defenses.errors import UserError

INSTALL = "python -m pip install -c constraints.txt '.[supply]'"
"""What installs the extra, run in delaudit's own folder."""

Locked = Mapping[str, tuple[str, list[str]]]


def sbom(lock: Path | None = None) -> tuple[str, list[str]]:
    """The bill of this installation.

    With SOURCE_DATE_EPOCH set, the same installation gives the same bytes.

    Args:
        lock: A lock with hashes; each locked release's are added to its package as those of its distribution.

    Returns:
        The JSON text, and one line for each core requirement that is not installed and so not listed.

    Raises:
        UserError: the library is missing, delaudit is not installed, or the lock cannot be read.
    """
    writer = _library("output.json").JsonV1Dot6
    found, missing = packages()
    bom = _bom(found, cargo(), {} if lock is None else locked(lock))
    text: str = writer(bom).output_as_string(indent=2)
    return text + "\n", [f"not installed, so not listed: {one}" for one in missing]


def _library(module: str, package: str = "cyclonedx") -> Any:
    """A module of the extra.

    Raises:
        UserError: it is not installed; the message holds the command that installs it.
    """
    try:
        return importlib.import_module(f"{package}.{module}" if module else package)
    except ImportError as error:
        raise UserError(
            f"delaudit sbom needs cyclonedx-python-lib ({error}): in delaudit's folder, {INSTALL}"
        ) from error


def _bom(found: list[Package], carried: list[Cargo], lock: Locked) -> Any:
    """Put together; the first package is what the bill is about."""
    components = {package.name: _package(package, lock) for package in found}
    models = [_cargo(one) for one in carried]
    root = components[found[0].name]
    bom = _library("model.bom").Bom(components=[*(one for one in components.values() if one is not root), *models])
    bom.metadata.component = root
    bom.metadata.timestamp, reproducible = _timestamp()
    if reproducible:
        names = sorted([f"{one.name}@{one.version}" for one in found] + [f"{one.name}#{one.sha256}" for one in carried])
        bom.serial_number = uuid.UUID(bytes=hashlib.sha256("\n".join(names).encode()).digest()[:16], version=4)
    for package in found:
        others = [components[name] for name in package.needs]
        bom.register_dependency(components[package.name], [*others, *(models if package is found[0] else [])])
    return bom


def _timestamp() -> tuple[datetime, bool]:
    """SOURCE_DATE_EPOCH (reproducible-builds.org) where it is set; else now."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not epoch:
        return datetime.now(UTC).replace(microsecond=0), False
    if not epoch.isdecimal():
        raise UserError(f"SOURCE_DATE_EPOCH={epoch}: write seconds since 1970, or unset it")
    return datetime.fromtimestamp(int(epoch), UTC), True


def _package(package: Package, lock: Locked) -> Any:
    kinds = _library("model.component")
    purl, first = _purl(package.name, package.version), package.name == ROOT
    scope = kinds.ComponentScope.REQUIRED if package.required else kinds.ComponentScope.OPTIONAL
    component = kinds.Component(
        name=package.name,
        version=package.version,
        type=kinds.ComponentType.APPLICATION if first else kinds.ComponentType.LIBRARY,
        bom_ref=str(purl),
        purl=purl,
        scope=None if first else scope,
        licenses=_licences(package.licences),
        hashes=_hashes([package.sha256] if package.sha256 else []),
    )
    if package.name in lock:
        _add_lock(component, package, *lock[package.name])
    return component


def _add_lock(component: Any, package: Package, version: str, digests: list[str]) -> None:
    """A locked release's hashes; where another release is installed than is locked, its version in their place."""
    model = _library("model")
    if not same_release(package.version, version):
        component.properties.add(model.Property(name="delaudit:locked-version", value=version))
        return
    component.external_references.add(
        model.ExternalReference(
            type=model.ExternalReferenceType.DISTRIBUTION,
            url=model.XsUri(str(_purl(package.name, version))),
            comment="the files of this release that a locked install accepts",
            hashes=_hashes(digests),
        )
    )


def _cargo(one: Cargo) -> Any:
    kinds, properties = _library("model.component"), _library("model").Property
    name, _, version = (one.requirement or "").partition("==")
    return kinds.Component(
        name=one.name,
        version=one.version,
        type=kinds.ComponentType.MACHINE_LEARNING_MODEL if one.kind == "model" else kinds.ComponentType.DATA,
        bom_ref=f"{one.kind}:{one.name}",
        purl=_purl(name, version) if name else None,
        description=one.origin,
        licenses=_licences([one.licence]),
        hashes=_hashes([one.sha256]),
        properties=[properties(name=f"delaudit:{key}", value=value) for key, value in one.facts.items()],
    )


def _purl(name: str, version: str) -> Any:
    return _library("", "packageurl").PackageURL("pypi", name=name, version=version)


def _hashes(digests: Iterable[str]) -> list[Any]:
    model = _library("model")
    return [model.HashType(alg=model.HashAlgorithm.SHA_256, content=digest) for digest in digests]


def _licences(stated: Iterable[str]) -> list[Any]:
    """SPDX identifiers and expressions as such, anything else by its name; an expression stands alone."""
    spdx, kinds = _library("spdx"), _library("model.license")
    found = []
    for text in stated:
        identifier = spdx.fixup_id(text)
        if identifier is None and spdx.is_expression(text):
            return [kinds.LicenseExpression(text)]
        found.append(kinds.DisjunctiveLicense(**({"name": text} if identifier is None else {"id": identifier})))
    return found
