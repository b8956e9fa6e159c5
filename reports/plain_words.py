"""The paragraph that a manager reads: made from the records by rules, each sentence with the figures behind it."""

from collections.abc import Sequence
from dataclasses import dataclass

from audit.records import RunRecord
from reports.attribute_figures import view_name
from reports.attribute_page import LEVEL
from reports.conditions import Condition, claims_of, conditions_of, views_of
from reports.narrative import MOSTLY_READ, NEAR_BLIND, USABLE, exposure, utility, vacuous
from reports.rows import BLIND, NOT_MEASURED, PAPER, Row, escape, percentage, quantity, reference, rows_of, table

EXTREMES = (
    "Conditions and views that a sentence names are the extremes of all that were run, found on the same figures. "
    "Their intervals are for one condition at a time and make no allowance for that choice; p-values do where they "
    "say so."
)
_FEW = 6  # names that a sentence lists
_HUNDRED = 100


@dataclass(frozen=True)
class Evidence:
    """A figure behind a sentence.

    Attributes:
        figure: Its name in the record.
        value: As the record has it, with its interval.
        of: Whose it is: a condition, a claim, or the whole report.
        basis: How many independent units stand behind it, and the method.
    """

    figure: str
    value: str
    of: str
    basis: str


@dataclass(frozen=True)
class Sentence:
    """A sentence with the figures that it rests on; escaped Markdown."""

    text: str
    evidence: tuple[Evidence, ...]


def plain_words(records: Sequence[RunRecord], openings: Sequence[str] = ()) -> list[str]:
    """The paragraph and the table behind it, as lines of Markdown.

    Args:
        records: Of the report.
        openings: The first paragraph of every run's own part, for runs of kinds that no rule here speaks of.
    """
    found = sentences(records, openings)
    paragraph = " ".join(f"{one.text} ({number})" for number, one in enumerate(found, start=1))
    body = [
        [str(number), escape(one.figure), one.value, one.of, one.basis]
        for number, sentence in enumerate(found, start=1) for one in sentence.evidence
    ]  # fmt: skip
    return [
        "## In plain words", "", paragraph, "",
        "### What each sentence rests on", "", table(["sentence", "figure", "value", "of", "basis"], body),
        EXTREMES, "",
    ]  # fmt: skip


def sentences(records: Sequence[RunRecord], openings: Sequence[str] = ()) -> list[Sentence]:
    """What was tested, the strongest findings, what they mean for a user's prompt, and what was not tested."""
    conditions, claims, views = conditions_of(records), claims_of(records), views_of(records)
    defended = [one for one in conditions if not one.row.is_control]
    found = [
        _tested(records, conditions, claims, views), _refuted(claims), _gap(defended), _prompt(defended),
        _guarantee(defended), _both(records, defended), _people(views),
        *_others(records, openings, {one.run for one in (*conditions, *claims, *views)}),
        _untested(records, defended, claims, views),
    ]  # fmt: skip
    return [one for one in found if one is not None]


def _tested(
    records: Sequence[RunRecord],
    conditions: Sequence[Condition],
    claims: Sequence[Condition],
    views: Sequence[Condition],
) -> Sentence:
    defended = [one for one in conditions if not one.row.is_control]
    models = dict.fromkeys(str(one.config["model"]) for one in records if isinstance(one.config.get("model"), str))
    on = f" on {_listed(list(models))}" if models else ""
    parts: list[str] = []
    evidence: list[Evidence] = []
    if defended:
        names = list(dict.fromkeys(one.row.defence for one in defended))
        parts.append(f"{_count(len(defended), 'condition')} of {_count(len(names), 'defence')} ({_listed(names)})")
        attacked = max(defended, key=lambda one: one.row.number("attack_tokens") or 0)
        evidence.append(Evidence("conditions", str(len(defended)), "the report", "count of conditions"))
        evidence.append(
            Evidence("attack_tokens", attacked.row.text("attack_tokens"), attacked.name, _documents(attacked.row))
        )
    if claims:
        names = list(dict.fromkeys(one.row.defence for one in claims))
        parts.append(f"{_count(len(claims), 'claim')} by audit ({_listed(names)})")
        evidence.append(Evidence("claims", str(len(claims)), "the report", "count of claims"))
    if views:
        tasks = dict.fromkeys(str(one.row.values.get("task")) for one in views)
        parts.append(f"the inference of {_count(len(tasks), 'attribute')} of people")
        evidence.append(Evidence("tasks", str(len(tasks)), "the report", "count of tasks"))
    if not parts:
        kinds = _listed(list(dict.fromkeys(one.kind for one in records)))
        text = f"This report holds {_count(len(records), 'run')} ({kinds}){on}, told in full below."
        return Sentence(text, (Evidence("runs", str(len(records)), "the report", "count of runs"),))
    return Sentence(f"This report tested {_and(parts)}{on}.", tuple(evidence))


def _refuted(claims: Sequence[Condition]) -> Sentence | None:
    """The worst false claim, by how far the bound lies above it; or that none was found."""
    if not claims:
        return None
    wrong = [one for one in claims if one.row.values.get("verdict") == "REFUTED"]
    if not wrong:
        size = Evidence("refuted", "0", "the report", f"of {_count(len(claims), 'claim')}")
        text = "No audited claim was refuted, which is no proof that any of them is true."
        return Sentence(text, (size,))

    def excess(one: Condition) -> float:
        lower, claimed = one.row.number("epsilon_lower"), one.row.number("epsilon_claimed")
        return 0.0 if lower is None or claimed is None else lower / max(claimed, 1e-9)

    worst = max(wrong, key=excess)
    row = worst.row
    more = f", one of {len(wrong)} refuted claims" if len(wrong) > 1 else ""
    unit = "canaries" if row.values.get("through") == "canaries" else "samples a side"
    basis = f"{row.text('samples')} {unit}, {row.words('estimator')}"
    text = f"**The claim {worst.name} of {escape(row.defence)} is false**{more}"
    if excess(worst) > 1:
        confidence = row.number("confidence")
        sure = "" if confidence is None else f" with confidence {percentage(confidence)}"
        text += f": it promises ε = {row.text('epsilon_claimed')}, and ε is at least {row.text('epsilon_lower')}{sure}"
    keys = ["epsilon_claimed", "epsilon_lower", *(["confidence"] if row.number("confidence") else []), "p_value"]
    evidence = [Evidence(key, row.text(key, percent=key == "confidence"), worst.name, basis) for key in keys]
    if more:
        evidence.append(Evidence("refuted", str(len(wrong)), "the report", "count of claims"))
    return Sentence(f"{text}.", tuple(evidence))


def _gap(defended: Sequence[Condition]) -> Sentence | None:
    """Where the strongest attack reads most beyond the paper's own."""
    attacked = [one for one in defended if one.row.strongest() is not None]
    if not attacked:
        return None
    paper = f"asr_top1_{PAPER}"

    def beyond(one: Condition) -> float:
        best, weak = one.row.strongest(), one.row.number(paper)
        return -1.0 if best is None or weak is None else best.rate - weak

    chosen = max(attacked, key=beyond)
    row, best = chosen.row, chosen.row.strongest()
    if best is None:
        return None
    value = row.text(best.column, percent=True)
    how = "the strongest attack" if best.chosen else "the best of several attacks (an uncorrected maximum)"
    evidence = [Evidence(best.column, value, chosen.name, _documents(row))]
    if best.label == BLIND:
        return Sentence(f"Behind {chosen.name} no attack beats a blind guess, which is right for {value} of tokens.",
                        tuple(evidence))  # fmt: skip
    text = f"Behind {chosen.name} {how}, {escape(best.label)}, reads {value} of tokens"
    if beyond(chosen) > 0:
        text += f" where the paper's own, {PAPER}, reads {row.text(paper, percent=True)}"
        evidence.append(Evidence(paper, row.text(paper, percent=True), chosen.name, _documents(row)))
    return Sentence(f"**{text}.**", tuple(evidence))


def _prompt(defended: Sequence[Condition]) -> Sentence | None:
    """What the most and the least readable condition mean for a user's prompt."""
    attacked = [one for one in defended if (best := one.row.strongest()) is not None and best.label != BLIND]
    if not attacked:
        return None
    most, least = (choose(attacked, key=_rate) for choose in (max, min))
    parts, evidence = [], []
    for condition in (most, least) if most is not least else (most,):
        best = condition.row.strongest()
        if best is None:
            continue
        found = condition.row.interval(best.column)
        ends = "" if found is None else f" ({_HUNDRED * found[0]:.0f} to {_HUNDRED * found[1]:.0f})"
        parts.append(f"about {_HUNDRED * best.rate:.0f}{ends} at {condition.name}")
        evidence.append(Evidence(best.column, condition.row.text(best.column, percent=True), condition.name,
                                 _documents(condition.row)))  # fmt: skip
    text = f"Of every {_HUNDRED} tokens of a user's prompt that attack names {' and '.join(parts)}"
    priors = [(value, one) for one in attacked if (value := one.row.number("asr_prior")) is not None]
    if priors:
        rarest, likeliest = (choose(priors, key=lambda pair: pair[0]) for choose in (min, max))
        blind = dict.fromkeys(f"{_HUNDRED * value:.0f}" for value, _ in (rarest, likeliest))
        evidence += [
            Evidence("asr_prior", one.row.text("asr_prior", percent=True), one.name, _documents(one.row))
            for _, one in ((rarest, likeliest) if rarest[1] is not likeliest[1] else (rarest,))
        ]
        text += f"; a guess that sees nothing names {' to '.join(blind)}"
    return Sentence(f"{text}.", tuple(evidence))


def _rate(one: Condition) -> float:
    best = one.row.strongest()
    return 0.0 if best is None else best.rate


def _guarantee(defended: Sequence[Condition]) -> Sentence | None:
    """How many guarantees are vacuous, and what a whole prompt is promised."""
    judged = [(one, verdict) for one in defended if (verdict := vacuous(one.row)) is not None]
    if not judged:
        return None
    count = sum(verdict for _, verdict in judged)
    known = [(value, one) for one, _ in judged if (value := one.row.number("epsilon_exact_token")) is not None]
    which = "every one" if count == len(judged) else "none" if not count else f"{count}"
    text = f"The exact guarantee is **vacuous** in {which} of {_count(len(judged), 'accounted condition')}"
    text += ": it would let an adversary be nearly certain of a token" if count else ""
    evidence = [Evidence("vacuous", f"{count} of {len(judged)}", "the report", "count of conditions")]
    if known:
        least, most = (choose(known, key=lambda pair: pair[0]) for choose in (min, max))
        text += f"; per token ε runs from {quantity(least[0])} to {quantity(most[0])}"
        evidence += [
            Evidence("epsilon_exact_token", quantity(value), one.name, _delta(one.row))
            for value, one in ((least, most) if least[1] is not most[1] else (least,))
        ]
        prompts = [(value, one) for one, _ in judged if (value := one.row.number("epsilon_exact_prompt")) is not None]
        if prompts:
            whole, one = min(prompts, key=lambda pair: pair[0])
            bound = "" if one.row.values.get("prompt_is_exact") in {True, None} else "at most "
            size, told = f"{one.row.text('prompt_tokens')} tokens", f"{bound}{quantity(whole)}"
            text += f", and the smallest is {told} for a prompt of {size}"
            evidence.append(Evidence("epsilon_exact_prompt", told, one.name, f"{_delta(one.row)}, {size}"))
    return Sentence(f"{text}.", tuple(evidence))


def _both(records: Sequence[RunRecord], defended: Sequence[Condition]) -> Sentence | None:
    """Which conditions are both useful and hard to read."""
    clean = {number: reference(rows_of(record), "identity") for number, record in enumerate(records, start=1)}
    judged = [
        (one, use, read) for one in defended
        if (use := utility(one.row, clean.get(one.run))) != NOT_MEASURED
        and (read := exposure(one.row)) != NOT_MEASURED
    ]  # fmt: skip
    if not judged:
        return None
    useful = [one for one, use, _ in judged if use == "usable"]
    both = [one for one, use, read in judged if use == "usable" and read not in {"mostly read", "partly read"}]
    count = (
        f"{len(both)} of {_count(len(judged), 'condition')}" if both else f"None of {_count(len(judged), 'condition')}"
    )
    text = (
        f"{count} {'is' if len(both) < 2 else 'are'} both useful (perplexity within {USABLE:g} times the undefended) "
        f"and hard to read (the strongest attack within {NEAR_BLIND:g} times a blind guess)"
    )
    if both:
        text += f": {_listed([one.name for one in both], escaped=True)}"
        shown = both[0]
    elif useful:
        shown = min(useful, key=_rate)
        read = "mostly" if _rate(shown) >= MOSTLY_READ else "partly"
        text += f"; the least readable useful one, {shown.name}, is {read} read"
    else:
        shown = min((one for one, _, _ in judged), key=lambda one: _cost(one.row))
        key = _cost_key(shown.row)
        text += f"; the most useful one, {shown.name}, has {shown.row.text(key)} {_COSTS[key]}"
    key = _cost_key(shown.row)
    evidence = [
        Evidence("useful and hard to read", f"{len(both)} of {len(judged)}", "the report", "count of conditions"),
        Evidence(key, shown.row.text(key), shown.name, f"{shown.row.text('documents')} documents"),
    ]
    best = shown.row.strongest()
    if best is not None:
        evidence.append(
            Evidence(best.column, shown.row.text(best.column, percent=True), shown.name, _documents(shown.row))
        )
    return Sentence(f"{text}.", tuple(evidence))


_COSTS = {"perplexity_over_clean": "times the undefended perplexity", "perplexity": "as its perplexity"}


def _cost_key(row: Row) -> str:
    return "perplexity" if row.number("perplexity_over_clean") is None else "perplexity_over_clean"


def _cost(row: Row) -> float:
    value = row.number(_cost_key(row))
    return float("inf") if value is None else value


def _people(views: Sequence[Condition]) -> Sentence | None:
    """What a defended view gives away about a person."""
    read = [
        one for one in views
        if one.row.values.get("view") == "defended" and None not in (one.row.number("auc"), one.row.number("p_holm"))
    ]  # fmt: skip
    if not read:
        return None
    told = [one for one in read if (p_value := one.row.number("p_holm")) is not None and p_value <= LEVEL]
    chosen = max(told or read, key=lambda one: one.row.number("auc") or 0.0)
    row = chosen.row
    who = f"{row.words('task')} of a person" if told else "no attribute of a person"
    text = f"From a defended view {who} is told from chance"
    if told:
        text += f": AUC {row.text('auc')} for {escape(view_name(row))}, where .5 is guessing"
    text += f"; {len(told)} of {_count(len(read), 'pair')} of attribute and view {'is' if len(told) == 1 else 'are'}"
    basis = f"{row.text('victims')} users, Holm over all rows"
    of = f"{row.words('task')}, {escape(view_name(row))}"
    count = Evidence("told from chance", f"{len(told)} of {len(read)}", "the report", "count of pairs")
    return Sentence(f"{text}.", (*(Evidence(key, row.text(key), of, basis) for key in ("auc", "p_holm")), count))


def _others(records: Sequence[RunRecord], openings: Sequence[str], spoken_of: set[int]) -> list[Sentence]:
    """What runs of other kinds say first of themselves."""
    return [
        Sentence(opening, (Evidence("rows", str(len(record.rows)), f"run {number}", "told in full below"),))
        for number, (record, opening) in enumerate(zip(records, openings, strict=False), start=1)
        if number not in spoken_of and opening
    ]


def _untested(
    records: Sequence[RunRecord], defended: Sequence[Condition], claims: Sequence[Condition], views: Sequence[Condition]
) -> Sentence:
    """What nobody may conclude from this report."""
    missing = []
    if defended and not claims:
        missing.append("no claim was put to an empirical audit")
    if defended and not any(one.row.attacks() for one in defended):
        missing.append("nothing was attacked")
    elif defended and not any(one.row.several(label) for one in defended for label in one.row.attacks()):
        missing.append("no adversary saw several messages of one prompt")
    if not views:
        missing.append("no attribute of a person was inferred")
    out = sorted({label for one in defended for label in one.row.unavailable()})
    if out:
        missing.append(f"{_count(len(out), 'attack')} could not run against some conditions ({_listed(out)})")
    broken = [number for number, record in enumerate(records, start=1) if record.remarks]
    if broken:
        missing.append(f"{_count(len(broken), 'run')} of this report came with a remark that stands under Provenance")
    models = {str(one.config["model"]) for one in records if isinstance(one.config.get("model"), str)}
    if len(models) < 2:
        missing.append("no second model was tried")
    start = f"Not tested: {'; '.join(missing)}. " if missing else ""
    text = f"{start}A stronger attack may exist, and none of these figures proves privacy."
    counts = {"runs": len(records), "attacks that could not run": len(out), "runs with a remark": len(broken)}
    told = [Evidence(key, str(count), "the report", "what the records hold") for key, count in counts.items() if count]
    return Sentence(text, tuple(told))


def _documents(row: Row) -> str:
    tokens, documents = row.number("attack_tokens"), row.number("attack_documents")
    if tokens is None or documents is None:
        return f"n {NOT_MEASURED}"
    return f"{tokens:,.0f} tokens of {documents:,.0f} documents, 95 % interval over documents"


def _delta(row: Row) -> str:
    return f"exact accounting at δ = {row.text('delta')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _listed(names: Sequence[str], *, escaped: bool = False) -> str:
    shown = [name if escaped else escape(name) for name in names[:_FEW]]
    return ", ".join(shown) + (f" and {len(names) - _FEW} more" if len(names) > _FEW else "")


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
