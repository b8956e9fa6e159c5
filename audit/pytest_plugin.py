"""pytest plugin: a claim as a test. Nothing but pytest is imported until a test asks for a claim.

    def test_del(delaudit_claim):
        delaudit_claim("DEL, exact, mechanism", file="claims.toml")

    def test_mine(audit_claim):
        audit_claim(MyDefense(MyConfig(), assets), "exact", samples=5_000)

The fixtures share one level (--delaudit-level) over the session: with m uses of them among the collected tests, each is
tested at level / m, so that a session in which all claims are true is red with at most that probability. A test may
test one claim per fixture; parametrise it for more. The error table of a claims file plays no part here.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from audit.claims import ClaimSpec
    from audit.verdict import AuditResult
    from defenses.base import Claim, Defense

    Guarantee = str | Mapping[str, Any] | Claim

FIXTURES = ("delaudit_claim", "audit_claim")
_SHARE = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The session's level, and whether a weak audit fails."""
    group = parser.getgroup("delaudit", "claims of privacy defences")
    group.addoption(
        "--delaudit-level",
        type=float,
        default=0.05,
        help="chance that a session in which all claims are true is red, at most (default: %(default)s)",
    )
    group.addoption("--delaudit-strict", action="store_true", help="fail, not skip, where an audit is inconclusive")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a level that is none."""
    level = config.getoption("delaudit_level")
    if not 0 < level < 1:
        raise pytest.UsageError(f"--delaudit-level must be in (0, 1), not {level}")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Share the level out over all uses of the fixtures."""
    uses = sum(name in getattr(item, "fixturenames", ()) for item in session.items for name in FIXTURES)
    session.config.stash[_SHARE] = session.config.getoption("delaudit_level") / max(1, uses)


@pytest.fixture
def delaudit_claim(request: pytest.FixtureRequest) -> Callable[..., "AuditResult"]:
    """A function (name, file="claims.toml") that tests one claim of a file; the file is relative to pytest's root."""
    once = _Once(request, "delaudit_claim")

    def test(name: str, file: str | Path = "claims.toml") -> "AuditResult":
        def load() -> tuple["ClaimSpec", Any]:
            from audit.claims import load_claims  # noqa: PLC0415 - lazy, so that other sessions do not pay for it
            from audit.targets import build_target  # noqa: PLC0415 - as above

            path = request.config.rootpath / file
            spec = load_claims(path).pick(name)
            return spec, build_target(spec, path.parent)

        return once.run(load)

    return test


@pytest.fixture
def audit_claim(request: pytest.FixtureRequest) -> Callable[..., "AuditResult"]:
    """A function (defense, guarantee, **keys of a claim) that tests a configured defence.

    The guarantee is "claimed", "exact", a table such as {"kind": "mu-GDP", "mu": 1.0}, or a Claim.
    """
    once = _Once(request, "audit_claim")

    def test(defense: "Defense[Any]", guarantee: "Guarantee" = "claimed", **options: Any) -> "AuditResult":
        def load() -> tuple["ClaimSpec", Any]:
            from audit.claims import parse_claims  # noqa: PLC0415 - as above
            from audit.targets import Target, claim_of  # noqa: PLC0415 - as above
            from defenses.base import Claim  # noqa: PLC0415 - as above

            given = isinstance(guarantee, Claim)
            tables = {"name": request.node.name, "defense": defense.name, **options}
            tables["guarantee"] = "claimed" if isinstance(guarantee, Claim) else guarantee
            spec = parse_claims({"claims": [tables]}, source=request.node.nodeid).claims[0]
            claim = guarantee if isinstance(guarantee, Claim) and given else claim_of(defense, spec)
            return spec, Target(defense, claim, spec.pair)

        return once.run(load)

    return test


class _Once:
    """One claim, at this use's share of the session's level."""

    def __init__(self, request: pytest.FixtureRequest, fixture: str) -> None:
        self.request, self.fixture, self.used = request, fixture, False

    def run(self, load: Callable[[], tuple["ClaimSpec", Any]]) -> "AuditResult":
        """Test what `load` gives; fail, skip or return."""
        from audit.check import audit_claim as run_audit  # noqa: PLC0415 - as above
        from defenses.errors import UserError  # noqa: PLC0415 - as above

        if self.used:
            pytest.fail(
                f"{self.fixture} was called twice: its level is for one claim; parametrise the test", pytrace=False
            )
        if self.fixture not in self.request.node.fixturenames:
            pytest.fail(f"ask for {self.fixture} in the test's arguments: levels are shared by them", pytrace=False)
        self.used = True
        wrong = ""
        try:
            result, _, _ = run_audit(*load(), level=self.request.config.stash[_SHARE])
        except UserError as error:
            wrong = str(error)
        if wrong:  # outside the handler, so that the report has no second exception
            pytest.fail(f"the claim cannot be tested: {wrong}", pytrace=False)
        return self._judge(result)

    def _judge(self, result: "AuditResult") -> "AuditResult":
        text = f"{result.verdict} {result.claim}: {result.claim_text}: {result.reason}"
        if result.verdict == "REFUTED":
            pytest.fail(text, pytrace=False)
        if result.verdict == "INCONCLUSIVE":
            if self.request.config.getoption("delaudit_strict"):
                pytest.fail(text, pytrace=False)
            pytest.skip(text)
        return result
