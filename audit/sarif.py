"""A check as SARIF 2.1.0 (OASIS, 2020): a rule and a result for each claim, at its line of the claims file."""

import importlib.metadata
import math
from pathlib import Path
from typing import Any
from urllib.parse import quote

from audit.check import Checked, Outcome
from audit.junit import details
from audit.verdict import AuditResult, Verdict

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_WEAKER = {"error": "warning", "warning": "note", "note": "note"}


def sarif_log(outcome: Outcome, root: Path | None = None) -> dict[str, Any]:
    """The document.

    Args:
        outcome: Of a check.
        root: Addresses are relative to it, where the file lies below; the working folder by default.
    """
    uri = _uri(outcome.path, Path.cwd() if root is None else root)
    driver = {
        "name": "delaudit",
        "version": importlib.metadata.version("delaudit"),
        "rules": [_rule(one) for one in outcome.checked],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "automationDetails": {"id": f"delaudit/check/{uri}/"},
        "invocations": [{"executionSuccessful": all(one.error is None for one in outcome.checked)}],
        "results": [_result(index, one, uri) for index, one in enumerate(outcome.checked)],
        "properties": {"errorControl": outcome.covered, "run": outcome.run},
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(one: Checked) -> dict[str, Any]:
    spec = one.spec
    text = f"{spec.defense} keeps its guarantee ({spec.guarantee.kind}) as seen through {spec.through}."
    return {
        "id": spec.name,
        "shortDescription": {"text": text},
        "defaultConfiguration": {"level": spec.severity},
    }


def _result(index: int, one: Checked, uri: str) -> dict[str, Any]:
    kind, level = _standing(one)
    message = one.error if one.result is None else details(one.result)
    found = {
        "ruleId": one.spec.name,
        "ruleIndex": index,
        "kind": kind,
        "level": level,
        "message": {"text": f"{one.spec.name}: {message}"},
        "locations": [
            {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": one.line}}},
        ],
        "partialFingerprints": {"claim/v1": one.spec.fingerprint},
    }
    return found if one.result is None else {**found, "properties": _properties(one.result)}


def _standing(one: Checked) -> tuple[str, str]:
    """SARIF's kind and level; a level other than "none" goes with the kind "fail" (section 3.27.10)."""
    if one.result is None:
        return "fail", "error"
    if one.result.verdict is Verdict.REFUTED:
        return "fail", one.spec.severity
    if one.result.verdict is Verdict.INCONCLUSIVE:
        return "fail", _WEAKER[one.spec.severity]
    return ("fail", "note") if one.result.vacuous else ("pass", "none")


def _properties(result: AuditResult) -> dict[str, Any]:
    numbers = {
        "verdict": str(result.verdict), "vacuous": result.vacuous, "pValue": result.p_value, "alpha": result.alpha,
        "epsilonLower": result.epsilon_lower, "epsilonClaimed": result.epsilon_claimed, "delta": result.delta,
        "confidence": result.confidence, "detectableViolation": result.detectable_violation, "samples": result.samples,
    }  # fmt: skip
    return {key: value for key, value in numbers.items() if not isinstance(value, float) or math.isfinite(value)}


def _uri(path: Path, root: Path) -> str:
    """Relative where it can be, percent-encoded."""
    full = path.resolve()
    if not full.is_relative_to(root.resolve()):
        return full.as_uri()
    return quote(full.relative_to(root.resolve()).as_posix())
