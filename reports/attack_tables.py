"""Tables about attacks that several pages share: success by condition, who knew what, who could not run, examples."""

from collections.abc import Mapping, Sequence
from typing import Any

from audit.records import RunRecord
from reports.narrative import choice_note, strongest_attack
from reports.rows import BLIND, NOT_MEASURED, PAPER, Row, escape, percentage, table

COULD_NOT_RUN = "could not run"
_MOST_NAMES = 4  # of conditions, listed in one cell


def attack_labels(rows: Sequence[Row]) -> list[str]:
    """Every attack that ran or could not: the paper's first, those on several messages last, the blind prior left out.

    Only the paper's attack is named where it was not tried, because readers look for it.
    """
    found = dict.fromkeys([PAPER, *(label for row in rows for label in (*row.attacks(), *row.unavailable()))])
    found.pop(BLIND, None)
    return sorted(found, key=lambda label: any(row.several(label) for row in rows))


def success_table(rows: Sequence[Row]) -> str:
    """Top-1 success of every attack by condition, the strongest of one message first."""
    labels = attack_labels(rows)
    body = [
        [
            escape(row.name), strongest_attack(row), row.text("asr_prior", percent=True),
            *(success(row, label) for label in labels),
        ]
        for row in rows
    ]  # fmt: skip
    names = [f"{escape(label)}{', several messages' * any(row.several(label) for row in rows)}" for label in labels]
    return table(["condition", "strongest attack", "blind guess", *names], body)


def success(row: Row, label: str, column: str = "asr_top1") -> str:
    """One attack's success in a cell; an attack that could not run says so."""
    if label in row.unavailable():
        return COULD_NOT_RUN
    return row.text(f"{column}_{label}", percent=True)


def basis(rows: Sequence[Row]) -> str:
    """On what the figures of attacks rest, in one paragraph."""
    found: dict[str, list[str]] = {}
    for row in [row for row in rows if row.attacks()] or rows:
        found.setdefault(_rests_on(row), []).append(row.name)
    sentences = ["Success is the share of tokens that the first guess names."]
    if len(found) == 1:
        sentences.append(f"It rests on {next(iter(found))}.")
    else:
        sentences += [f"For {_names(names)} it rests on {text}." for text, names in found.items()]
    return " ".join(filter(None, [*sentences, choice_note(rows)]))


def _rests_on(row: Row) -> str:
    tokens, documents, seeds = (row.number(f"attack_{key}") for key in ("tokens", "documents", "seeds"))
    text = f"tokens whose number was {NOT_MEASURED}" if tokens is None else f"{tokens:,.0f} tokens"
    if documents is not None:
        text += f" of {documents:,.0f} document{'' if documents == 1 else 's'}"
    if seeds is not None:
        text += f", each under {seeds:,.0f} draw{'' if seeds == 1 else 's'} of the mechanism's coins"
    return text


def knowledge_table(rows: Sequence[Row]) -> str:
    """What each attack was given."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for key, words in row.values.items():
            if key.startswith("knowledge_") and words is not None:
                found.setdefault((key.removeprefix("knowledge_"), str(words)), []).append(row.name)
    if not found:
        return f"What the adversaries knew: {NOT_MEASURED}.\n"
    known = [label for label, _ in found]
    body = [
        [escape(label), escape(words), "wherever it ran" if known.count(label) == 1 else _names(names)]
        for (label, words), names in found.items()
    ]
    return table(["attack", "what it was given besides the view", "conditions"], body)


def unavailable_table(rows: Sequence[Row]) -> str:
    """Attacks that could not run, with the reason; nothing where all could."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for label, reason in row.unavailable().items():
            found.setdefault((label, reason), []).append(row.name)
    body = [
        [escape(label), escape(reason), "all" if len(names) == len(rows) else _names(names)]
        for (label, reason), names in found.items()
    ]
    return table(["attack that could not run", "why", "conditions"], body) if body else ""


def attacks_section(rows: Sequence[Row]) -> list[str]:
    """The attacks of an experiment: success, what it rests on, who could not run."""
    missing = unavailable_table(rows)
    return [success_table(rows), basis(rows), "", *([missing] if missing else [])]


def examples(record: RunRecord) -> str:
    """A few prompts with what attacks recovered, and a few answers."""
    if not record.examples:
        return f"Example prompts: {NOT_MEASURED}."
    attacked = [cells for example in record.examples for cells in _recovered(example)]
    answered = [
        [_cell(example.get(key)) for key in ("condition", "text", "generation", "clean_generation")]
        for example in record.examples
        if example.get("generation") is not None or example.get("clean_generation") is not None
    ]
    parts = [("prompts", ["condition", "prompt", "attack", "what it recovered", "tokens right"], attacked)]
    if answered or record.kind != "attack":
        parts.append(("answers", ["condition", "prompt", "answer", "answer without a defence"], answered))
    return "\n".join(
        table(header, body) if body else f"Example {name}: {NOT_MEASURED}.\n" for name, header, body in parts
    )


def _recovered(example: Mapping[str, Any]) -> list[list[str]]:
    """One line for each attack on an example."""
    recovered, shares = example.get("recovered"), example.get("recovered_share")
    found: Mapping[str, Any] = recovered if isinstance(recovered, Mapping) else {PAPER: recovered}
    lines = []
    for attack, guess in found.items():
        share = shares.get(attack) if isinstance(shares, Mapping) else None
        rate = percentage(share) if isinstance(share, float | int) else NOT_MEASURED
        if guess is not None:
            name, text = _cell(example.get("condition")), _cell(example.get("text"))
            lines.append([name, text, escape(str(attack)), _cell(guess), rate])
    return lines


def _cell(value: object) -> str:
    return NOT_MEASURED if value is None else escape(str(value))


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(escape(name) for name in names[:_MOST_NAMES]) + more
