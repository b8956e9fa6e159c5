"""Defence by claim: what is promised, what the accountant says of it, what an audit found, and what it is worth."""

from collections.abc import Sequence

from audit.records import RunRecord
from reports.audit_page import at_least, remark_of, verdict_of
from reports.conditions import Condition, audit_of, claims_of, conditions_of
from reports.narrative import vacuous as is_vacuous
from reports.narrative import worth
from reports.rows import NOT_MEASURED, Row, escape, quantity, table

HEADER = ["defence", "claim", "exact ε per token", "exact ε per prompt", "ε is at least", "verdict", "why"]
NOT_AUDITED = "not audited"
NOTE = (
    "*Exact ε* is the mechanism's own worst case by exact accounting, for one token and for a whole prompt whose "
    "tokens all differ. *ε is at least* comes from an audit: a lower bound at the stated confidence. *REFUTED*: the "
    "evidence contradicts the claim. *CONSISTENT*: it does not, and a stated violation would have been seen. "
    "*INCONCLUSIVE*: the audit was too weak to say. *VACUOUS*: the claim, even where it is true, lets an adversary be "
    "nearly certain. **Not refuted is no proof.**"
)


def verdict_section(records: Sequence[RunRecord]) -> list[str]:
    """The section's lines; claims that were audited come first, then what other conditions promise."""
    claims, conditions = claims_of(records), conditions_of(records)
    promised = [one for one in conditions if not one.row.is_control and _promises(one.row)]
    audited: dict[int, list[Condition]] = {}
    for one in promised:
        if (found := audit_of(one, claims)) is not None:
            audited.setdefault(id(found), []).append(one)
    body = [_audited(claim, one) for claim in claims for one in _unlike(audited.get(id(claim), []))]
    body += [_promised(one) for one in promised if audit_of(one, claims) is None]
    silent = [one for one in conditions if not one.row.is_control and not _promises(one.row)]
    lines = ["## Verdicts", ""]
    lines.append(table(HEADER, body) if body else f"No claim was made: what a guarantee is worth was {NOT_MEASURED}.\n")
    if silent:
        names = ", ".join(dict.fromkeys(escape(one.row.defence) for one in silent))
        lines.append(f"Nothing is promised for any two tokens by: {names}.")
    return [*lines, NOTE, ""] if body else [*lines, ""]


def _unlike(found: Sequence[Condition]) -> list[Condition | None]:
    """Conditions behind an audit that differ in what is accounted for; None where there is none."""
    return list({(_epsilon(one.row), _prompt(one.row)): one for one in found}.values()) or [None]


def _promises(row: Row) -> bool:
    return row.number("epsilon_exact_token") is not None or not str(row.values.get("claim")).endswith("no mechanism")


def _audited(claim: Condition, condition: Condition | None) -> list[str]:
    """An audit's line; what it does not know of the exact guarantee comes from the condition with this claim."""
    row = claim.row
    told, whole = (
        row if condition is None or row.number(f"epsilon_exact_{unit}") is not None else condition.row
        for unit in ("token", "prompt")
    )
    vacuous = remark_of(row)
    worthless = row.values.get("vacuous") or (row.values.get("vacuous") is None and is_vacuous(told))
    if worthless and not row.values.get("vacuous"):
        vacuous = worth(told)
    verdict = ", ".join(filter(None, [verdict_of(row), "**VACUOUS**" if worthless else ""]))
    reason = row.values.get("reason")
    why = f"reason {NOT_MEASURED}" if reason is None else escape(str(reason))
    return [
        escape(row.defence), f"{claim.name}: {row.words('claim_text')}", _epsilon(told), _prompt(whole),
        at_least(row), verdict, "; ".join(filter(None, [why, vacuous if worthless else ""])),
    ]  # fmt: skip


def _promised(one: Condition) -> list[str]:
    row = one.row
    judged = worth(row)
    verdict = f"{NOT_AUDITED}, **VACUOUS**" if judged.startswith("VACUOUS") else NOT_AUDITED
    return [
        escape(row.defence), f"{one.name}: {row.words('claim')}", _epsilon(row), _prompt(row),
        NOT_AUDITED, verdict, judged,
    ]  # fmt: skip


def _epsilon(row: Row) -> str:
    value, delta = row.number("epsilon_exact_token"), row.number("delta")
    if value is None:
        distance = row.number("epsilon_per_unit_distance")
        return row.text("epsilon_exact_token") if distance is None else f"{quantity(distance)} per unit of distance"
    return quantity(value) if delta is None else f"{quantity(value)} (δ = {delta:g})"


def _prompt(row: Row) -> str:
    value = row.number("epsilon_exact_prompt")
    if value is None:
        return NOT_MEASURED
    bound = "" if row.values.get("prompt_is_exact") in {True, None} else "at most "
    return f"{bound}{quantity(value)} ({row.text('prompt_tokens')} tokens)"
