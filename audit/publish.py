"""What a check leaves behind: the record, its reports, MLflow, and the lines that a person reads."""

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from audit.audit_record import audit_record
from audit.check import Checked, Outcome
from audit.records import RunRecord
from audit.verdict import AuditResult, Verdict
from defenses.errors import UserError


def publish(record: RunRecord, out: Path | None, tracking: str | None, experiment: str) -> dict[str, str]:
    """Write record and reports into a folder, and log to MLflow, where asked for; what was written, by its kind.

    Raises:
        UserError: the folder or the store cannot be written.
    """
    written: dict[str, str] = {}
    reports: list[Path] = []
    if out is not None:
        if out.exists() and not out.is_dir():
            raise UserError(f"--out {out} is a file: name a folder")
        reporters = {point.name: point.load() for point in entry_points(group="delaudit.reporters")}
        out.mkdir(parents=True, exist_ok=True)
        written["record"] = str(record.write(out / "record.json"))
        reports = [write([record], out / "report") for write in reporters.values()]
        written |= {f"report {name}": str(path) for name, path in zip(reporters, reports, strict=True)}
    if tracking is not None:
        from audit.tracking import log_record  # noqa: PLC0415 - MLflow takes seconds

        log_record(record, tracking, experiment, artifacts=reports)
        written["MLflow"] = tracking
    return written


def publish_or_say(
    record: RunRecord, out: Path | None, tracking: str | None, experiment: str
) -> tuple[dict[str, str], str | None]:
    """As `publish`, but a folder or store that fails is a sentence: verdicts that were paid for are not lost to it."""
    try:
        return publish(record, out, tracking, experiment), None
    except (UserError, OSError) as error:
        return {}, " ".join(str(error).split())


def record_of(
    results: Sequence[AuditResult], config: Mapping[str, Any], *, kind: str, data: Sequence[Mapping[str, Any]] = ()
) -> RunRecord:
    """The run record of verdicts; its seed is the first claim's, each row has its own."""
    seed = next((one.seed for one in results if one.seed is not None), 0)
    return audit_record(list(results), config, seed, kind=kind, data=data)


def line(one: Checked) -> str:
    """One claim on one line."""
    if one.result is None:
        return f"ERROR         {one.spec.name}: {one.error}"
    result = one.result
    return f"{result.verdict:<12}  {one.spec.name}: {figures(result)}" + ("; VACUOUS" if result.vacuous else "")


def figures(result: AuditResult) -> str:
    """What was promised, the lower bound, p against the level, the smallest detectable violation."""
    numbers = (
        f"epsilon >= {result.epsilon_lower:.4g} ({result.family}) at confidence {result.confidence:.6g}",
        f"{result.epsilon_claimed:.4g} claimed at delta {result.delta:g}",
        f"p {result.p_value:.2g} against {result.alpha:.2g}",
        f"detects {violation(result)}",
    )
    return f"{result.claim_text}; " + ", ".join(numbers)


def violation(result: AuditResult) -> str:
    """The smallest detectable violation in words."""
    if math.isinf(result.detectable_violation):
        return "no violation"
    return f"a violation of x{result.detectable_violation:.3g} with power {result.power_target:.0%}"


def closing(outcome: Outcome) -> str:
    """The last line: counts, what they mean, and how false alarms are held."""
    verdicts = [result.verdict for result in outcome.results]
    counts = [f"{verdicts.count(verdict)} {verdict.lower()}" for verdict in Verdict]
    errors = len(outcome.checked) - len(verdicts)
    counts += [f"{errors} not tested"] if errors else []
    size = len(outcome.checked)
    told = f"{size} claim{'' if size == 1 else 's'}: {', '.join(counts)}"
    return f"{told}. Not refuted is no proof. {outcome.covered[0].upper()}{outcome.covered[1:]}."


def paragraph(result: AuditResult) -> str:
    """One verdict in plain words."""
    seen = {
        Verdict.REFUTED: "The claim is REFUTED:",
        Verdict.CONSISTENT: "The evidence is CONSISTENT with the claim:",
        Verdict.INCONCLUSIVE: "The audit is INCONCLUSIVE:",
    }[result.verdict]
    vacuous = (
        f" The claim is VACUOUS: even if it holds, it allows an adversary a success of {result.ceiling:.0%} where a "
        "blind guess has 5%."
        if result.vacuous
        else ""
    )
    return (
        f"Claim under test: {result.claim_text}. {seen} {result.reason}.{vacuous} With confidence "
        f"{result.confidence:.4g}, epsilon is at least {result.epsilon_lower:.4g} at delta {result.delta:g} (family: "
        f"{result.family}); that is a lower bound, and a low one is no sign of safety. It rests on {result.samples} "
        f"draws a side through the {result.through}, scored by {result.score}, judged by {result.estimator} "
        f"({result.correction}).{_shown(result)}"
    )


def _shown(result: AuditResult) -> str:
    """The witness of a refutation."""
    if result.verdict is not Verdict.REFUTED or result.witness is None:
        return ""
    return f" The witness: {result.witness.sentence()}."
