"""Which audit belongs to which condition."""

from typing import Any

import pytest

from audit.records import RunRecord, new_record
from reports.conditions import audit_of, claims_of, conditions_of

CLAIM = "mu-GDP (mu=20) per one token"


def _records(mu: float, **audited: Any) -> list[RunRecord]:
    condition = {"defence": "del", "claim": CLAIM, "n": 4, "mu": mu, "epsilon_exact_token": 274.2}
    audit = {"defence": "del", "claim": "a", "claim_text": CLAIM, "verdict": "REFUTED", "parameter_mu": 20.0, **audited}
    return [
        new_record(kind, config={}, seed=0, rows=[row]) for kind, row in (("comparison", condition), ("check", audit))
    ]


@pytest.mark.parametrize(
    ("mu", "audited", "joined"),
    [
        (20.0, {}, True),
        (20.0 - 1e-6, {}, True),
        (20.1, {}, False),
        (20.0, {"parameter_n": 8}, False),
        (20.0, {"parameter_clip": 3.0}, True),
        (20.0, {"claim_text": "another"}, False),
        (20.0, {"defence": "gaussian"}, False),
    ],
)
def test_an_audit_is_joined_by_its_claim_and_parameters(mu: float, audited: dict[str, Any], *, joined: bool) -> None:
    """If this failed, a verdict would stand beside another setting, or not beside its own that a solver nearly hit."""
    records = _records(mu, **audited)
    (condition,) = conditions_of(records)
    found = audit_of(condition, claims_of(records))
    assert (found is not None) is joined
