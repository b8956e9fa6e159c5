"""A check as JUnit XML: a refuted claim fails, an inconclusive one is skipped, one without a verdict is an error."""

import io
from pathlib import Path

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from audit.check import Checked, Outcome
from audit.verdict import AuditResult, Verdict


def junit_xml(outcome: Outcome) -> bytes:
    """The document, UTF-8."""
    suite = TestSuite(f"delaudit check {outcome.path.name}")
    suite.add_property("error control", outcome.covered)
    suite.add_property("run", str(outcome.run))
    for one in outcome.checked:
        suite.add_testcase(_case(one, outcome.path))
    document = JUnitXml("delaudit")
    document.add_testsuite(suite)
    document.update_statistics()  # type: ignore[no-untyped-call]  # junitparser leaves it unannotated
    buffer = io.BytesIO()
    document.write(buffer, pretty=True)
    return buffer.getvalue()


def _case(one: Checked, path: Path) -> TestCase:
    spec, result = one.spec, one.result
    case = TestCase(spec.name, classname=f"{path.stem}.{spec.defense}", time=0.0 if result is None else result.seconds)
    if result is None:
        case.result = [Error(printable(one.error or "no verdict"), "bad input")]
        return case
    if result.verdict is Verdict.REFUTED:
        case.result = [Failure(printable(result.reason), str(result.verdict))]
    elif result.verdict is Verdict.INCONCLUSIVE:
        case.result = [Skipped(printable(result.reason), str(result.verdict))]
    case.system_out = printable(details(result))
    return case


def details(result: AuditResult) -> str:
    """The figures of a verdict on one line."""
    return (
        f"{result.verdict}{' VACUOUS' if result.vacuous else ''}: {result.claim_text}; {result.reason}; "
        f"epsilon >= {result.epsilon_lower:.4g} ({result.family}) at confidence {result.confidence:.6g}, "
        f"{result.epsilon_claimed:.4g} claimed at delta {result.delta:g}; "
        f"p = {result.p_value:.3g} against {result.alpha:.3g}; "
        f"{result.samples} draws a side through {result.through}, "
        f"{'coins of the client' if result.seed is None else f'seed {result.seed}'}"
    )


def printable(text: str) -> str:
    """The text without characters that XML 1.0 forbids."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
