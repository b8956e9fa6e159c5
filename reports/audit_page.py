"""The page of an audit: which claims are refuted, by what evidence, and how much the others have been tested.

Written for a reader who doubts it. Everything comes from the record; what it lacks is shown as not measured.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from audit.audit_record import VERDICTS, witnesses
from audit.curves import PARAMETER_PREFIX
from audit.records import RunRecord
from audit.witness import Witness, named
from reports.audit_figures import draw_overview
from reports.figures import Drawn
from reports.rows import NOT_MEASURED, Row, escape, percentage, quantity, rows_of, table

FAMILIES = {
    "any": "none: the bound holds for any mechanism",
    "gdp": "Gaussian: the figures test a claim of Gaussian DP and are no ε of another mechanism",
    "binomial-exact": "the claim's own binomial curve, exact",
}
NOT_REFUTED = (
    "**Not refuted is no proof.** An audit can show that a claim is false, never that it is true: another input, a "
    "better distinguisher or more samples may still break it."
)
HOW_TO_READ = (
    "*At least* is a lower bound on ε at the stated confidence: the mechanism leaks no less than that, and it may leak "
    "more. A low bound is no sign of safety. *REFUTED*: the p-value is at or below the level spent on the claim. "
    "*CONSISTENT*: not refuted, though the audit would have found the stated violation with the stated power. "
    "*INCONCLUSIVE*: not refuted, and the audit was too weak to say more. *VACUOUS*: even where the claim is true, it "
    "lets an adversary be nearly certain."
)
OVERVIEW_NOTE = (
    "Each bound holds at its own confidence, while a verdict is given at the level spent on its claim and may rest on "
    "the whole trade-off curve: a refuted claim's mark may stand left of its bar."
)
ALONE = "this one event contradicts the claim: its least probability is more than is allowed"
NOT_ALONE = "this one event does not contradict the claim at its interval; the p-value rests on more"


def audit_section(record: RunRecord, folder: Path, prefix: str) -> list[str]:
    """The page's lines, without provenance; its pictures are drawn into `folder`, their names start with `prefix`.

    Args:
        record: Of kind "audit" or "check".
        folder: The report's folder of figures, which must exist.
        prefix: Tells the pictures of several records apart.
    """
    rows = rows_of(record)
    overview = draw_overview(record, folder, prefix)
    return [
        audit_opening(record, rows), "",
        "### Verdicts", "", _verdicts(rows), HOW_TO_READ, "",
        *([] if overview is None else [f"**{overview.title}**", "", _image(overview), "", OVERVIEW_NOTE, ""]),
        "### Claim by claim", "",
        *(
            line
            for number, (row, witness) in enumerate(zip(rows, witnesses(record), strict=True), 1)
            for line in _claim(number, row, witness)
        ),
    ]  # fmt: skip


def audit_opening(record: RunRecord, rows: Sequence[Row]) -> str:
    """The paragraph that a hurried reader reads."""
    count = len(rows)
    if not count:
        return f"This {escape(record.kind)} tested no claim. Nothing follows from it."
    sentences = [
        f"This {escape(record.kind)} tested {count} claim{'' if count == 1 else 's'}.",
        _refuted(rows), _consistent(rows), _weak(rows), NOT_REFUTED, _vacuous(rows), _spent(rows),
    ]  # fmt: skip
    return " ".join(sentence for sentence in sentences if sentence)


def _with(rows: Sequence[Row], verdict: str) -> list[Row]:
    return [row for row in rows if row.values.get("verdict") == verdict]


def _names(rows: Sequence[Row], most: int = 5) -> str:
    names = [f"*{escape(row.name)}*" for row in rows[:most]]
    return ", ".join(names) + (f" and {len(rows) - most} more" if len(rows) > most else "")


def _refuted(rows: Sequence[Row]) -> str:
    found = _with(rows, "REFUTED")
    if not found:
        return "**None is refuted.**"
    return f"**{len(found)} {'is' if len(found) == 1 else 'are'} refuted**: {_names(found)}."


def _consistent(rows: Sequence[Row]) -> str:
    found = _with(rows, "CONSISTENT")
    if not found:
        return ""
    text = f"{len(found)} {'is' if len(found) == 1 else 'are'} consistent with the evidence"
    sizes = [size for row in found if (size := row.number("detectable_violation")) is not None]
    if not sizes:
        return f"{text}; the smallest detectable violation was {NOT_MEASURED}."
    reach = quantity(min(sizes)) if min(sizes) == max(sizes) else f"{quantity(min(sizes))} to {quantity(max(sizes))}"
    powers = [power for row in found if (power := row.number("power_target")) is not None]
    chance = f" with a probability of {percentage(min(powers))} or more" if powers else ""
    which = "that audit" if len(found) == 1 else "those audits"
    return f"{text}: the smallest violation that {which} could have detected{chance} is a factor of {reach}."


def _weak(rows: Sequence[Row]) -> str:
    found = [row for row in rows if row.values.get("verdict") not in {"REFUTED", "CONSISTENT"}]
    if not found:
        return ""
    return (
        f"{len(found)} {'audit was' if len(found) == 1 else 'audits were'} too weak to say anything: {_names(found)}."
    )


def _vacuous(rows: Sequence[Row]) -> str:
    found = [row for row in rows if row.values.get("vacuous") is True]
    if not found:
        return ""
    subject = f"{len(found)} of the claims {'is' if len(found) == 1 else 'are'} **vacuous**"
    return f"{subject}: even where true, the promise allows near-certainty ({_names(found)})."


def _spent(rows: Sequence[Row]) -> str:
    levels = [row.number("alpha") for row in rows]
    known = [level for level in levels if level is not None]
    if len(known) < len(levels):
        return f"The level spent on some claims was {NOT_MEASURED}, so the risk of a false alarm over all is unknown."
    total = quantity(min(1.0, math.fsum(known)))
    return f"The levels spent add up to {total}: the risk that any true claim is refuted here is no greater."


def _verdicts(rows: Sequence[Row]) -> str:
    body = [
        [
            str(number), escape(row.name), row.words("claim_text"), verdict_of(row), remark_of(row), at_least(row),
            _claimed(row), _small(row, "p_value"), _small(row, "alpha"), _detectable(row), _evidence(row),
        ]
        for number, row in enumerate(rows, start=1)
    ]  # fmt: skip
    header = [
        "no.", "claim", "what was promised", "verdict", "remark", "ε is at least", "ε claimed", "p-value",
        "level spent", "smallest detectable violation", "evidence, n",
    ]  # fmt: skip
    return table(header, body)


def verdict_of(row: Row) -> str:
    """A verdict in a cell."""
    verdict = row.values.get("verdict")
    return f"**{verdict}**" if verdict in VERDICTS else row.words("verdict")


def remark_of(row: Row) -> str:
    """Whether a claim is vacuous, and what it allows."""
    if row.values.get("vacuous") is None:
        return NOT_MEASURED
    if not row.values["vacuous"]:
        return ""
    ceiling = row.number("ceiling")
    allowed = (
        "near-certainty" if ceiling is None else f"an adversary to be right up to {percentage(ceiling)} of the time"
    )
    return f"**VACUOUS**: the claim allows {allowed}"


def at_least(row: Row) -> str:
    """The lower bound with its confidence and what it assumes."""
    lower, confidence = row.number("epsilon_lower"), row.number("confidence")
    if lower is None:
        return NOT_MEASURED
    text = f"{quantity(lower)} ({f'confidence {NOT_MEASURED}' if confidence is None else percentage(confidence)})"
    family = row.values.get("family")
    return text if family in {None, "any"} else f"{text}, if {escape(str(family))}"


def _claimed(row: Row) -> str:
    claimed, delta = row.number("epsilon_claimed"), row.number("delta")
    if claimed is None:
        return NOT_MEASURED
    return quantity(claimed) if delta is None else f"{quantity(claimed)} (δ = {delta:g})"


def _small(row: Row, key: str) -> str:
    """A probability with two digits; one that underflowed is not called zero."""
    value = row.number(key)
    if value is None:
        return row.text(key)
    return "below 1e-300" if value < 1e-300 else f"{value:.2g}"


def _detectable(row: Row) -> str:
    size, power = row.number("detectable_violation"), row.number("power_target")
    if size is None:
        return NOT_MEASURED
    what = "" if row.values.get("violation_of") is None else f" of {row.words('violation_of')}"
    return f"factor {quantity(size)}{what}" + ("" if power is None else f" (power {percentage(power)})")


def _evidence(row: Row) -> str:
    samples = row.number("samples")
    if samples is None:
        return NOT_MEASURED
    unit = "canaries" if row.values.get("through") == "canaries" else "samples a side"
    return f"{samples:,.0f} {unit}"


def _claim(number: int, row: Row, witness: Witness | None) -> list[str]:
    reason = row.values.get("reason")
    return [
        f"#### {number}. {escape(row.name)}", "",
        f"{verdict_of(row)}: {f'reason {NOT_MEASURED}' if reason is None else escape(str(reason))}", "",
        *(_witness(witness) if row.values.get("verdict") == "REFUTED" else []),
        _assumptions(row),
    ]  # fmt: skip


def _witness(witness: Witness | None) -> list[str]:
    """How one would see a refutation: both inputs, the event, its rates, and what the claim allows."""
    if witness is None:
        return [f"Witness: {NOT_MEASURED}, the record has no event with its counts.", ""]
    body = [
        ["the inputs", _place(witness)],
        ["the event", escape(f"{witness.event[:1].upper()}{witness.event[1:]}.")],
        ["under " + escape(named(witness.null, witness.null_text)),
         _rate(witness.null_count, witness, witness.null_low, witness.null_high)],
        ["under " + escape(named(witness.alternative, witness.alternative_text)),
         _rate(witness.alternative_count, witness, witness.alternative_low, witness.alternative_high)],
        ["the claim allows the latter", f"at most {_share(witness.allowed)}, the former at its interval's end"],
        ["by itself", ALONE if witness.conclusive else NOT_ALONE],
    ]  # fmt: skip
    return ["**The witness**", "", table(["witness", "value"], body), *_sent(witness)]


def _place(witness: Witness) -> str:
    size = f"prompts of {witness.tokens} token{'' if witness.tokens == 1 else 's'}"
    requests, positions = (sorted(set(places)) for places in (witness.requests, witness.positions))
    many = f"request {_ranks(requests)}, " if max(requests, default=1) > 1 else ""
    return f"{size}, which differ at {many}position {_ranks(positions)}"


def _ranks(places: Sequence[int], most: int = 8) -> str:
    return ", ".join(map(str, places[:most])) + (f" and {len(places) - most} more" if len(places) > most else "")


def _rate(count: int, witness: Witness, low: float, high: float) -> str:
    return f"{count:,} of {witness.draws:,} draws: {_share(count / witness.draws)} [{_share(low)}, {_share(high)}]"


def _share(value: float) -> str:
    """A probability as a percentage; one near 0 or 1 keeps the digits that tell it from them."""
    return f"{100 * value:.3f} %" if 0 < value < 0.01 or 0.99 < value < 1 else percentage(value)


def _sent(witness: Witness) -> list[str]:
    """The sent tokens of the event, the commonest first."""
    if not witness.sent:
        return []
    body = [
        [escape(named((token,), witness.sent_text[i : i + 1])), f"{first:,}", f"{second:,}"]
        for i, (token, first, second) in enumerate(
            zip(witness.sent, witness.sent_null, witness.sent_alternative, strict=True)
        )
    ]
    rest = witness.kinds - len(body)
    if rest > 0:
        null = witness.null_count - sum(witness.sent_null)
        alternative = witness.alternative_count - sum(witness.sent_alternative)
        body.append([f"{rest:,} more", f"{null:,}", f"{alternative:,}"])
    pairs = ((witness.null, witness.null_text), (witness.alternative, witness.alternative_text))
    sides = [escape(named(*side, most=1)) for side in pairs]
    return [table(["sent token of the event", *(f"draws under {side}" for side in sides)], body)]


def _image(picture: Drawn) -> str:
    return f"![{escape(picture.alt)}](figures/{picture.file})"


def _assumptions(row: Row) -> str:
    family = row.values.get("family")
    meaning = FAMILIES.get(str(family))
    assumed = row.words("family") if meaning is None else f"{escape(str(family))} ({meaning})"
    seconds = row.number("seconds")
    body = [
        ["defence", row.words("defence")],
        ["its parameters", _parameters(row)],
        ["kind of claim", row.words("claim_kind")],
        ["unit", row.words("unit")],
        ["neighbours", row.words("relation")],
        ["source of the claim", row.words("source")],
        ["assumed of the mechanism", assumed],
        ["estimator", row.words("estimator")],
        ["correction for many looks", row.words("correction")],
        ["audited through", row.words("through")],
        ["distinguisher", row.words("score")],
        ["evidence", _evidence(row)],
        ["seed", row.words("seed")],
        ["time", NOT_MEASURED if seconds is None else f"{quantity(seconds)} s"],
    ]
    return table(["assumption", "value"], body)


def _parameters(row: Row) -> str:
    found = {key.removeprefix(PARAMETER_PREFIX): value for key, value in row.values.items()
             if key.startswith(PARAMETER_PREFIX)}  # fmt: skip
    return escape(", ".join(f"{key} = {value}" for key, value in found.items())) if found else "none recorded"
