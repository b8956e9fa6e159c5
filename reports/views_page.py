"""The page of recorded views: does what one computing party sees depend on the prompt, and what can it read?"""

from collections.abc import Sequence

from audit.crypto_record import DEALER, INDEPENDENCE, INVERSION, VIEWS
from audit.records import RunRecord
from reports.rows import NOT_MEASURED, Row, escape, rows_of, table

KINDS = frozenset({VIEWS})
NOTE = (
    "Each test compares views of runs on two prompts of one length; its p-value is that of swapping the two runs of a "
    "pair (of masks that come twice: a union bound), and Holm's adjustment holds the false alarms of one party's "
    "tests. A view is the party's shares of the inputs and every message that it receives, byte for byte, with its "
    "time of arrival. **That nothing is found is no proof**: such tests see a repeated mask, a length or a time that "
    "depends on the prompt; they cannot see that a party knows the seed of every mask, as a dealer of triples does."
)
INVERTED = (
    "*Share*: every place of the party's share of the embeddings is read as numbers and given the token whose "
    "embedding is nearest by cosine, the inversion that the DEL paper calibrates with; where a share has two words "
    "for each number, each and their sum are read, and the best counts, with an interval that holds for all three. "
    "*Dealer*: the masks are computed from the seed that the party was sent, and the same inversion is run on what "
    "they hid. *Random words*: the same inversion on uniform words. Above chance: the two intervals part, which "
    "happens by chance in at most one row of twenty. Intervals are Clopper and Pearson's."
)


def views_section(record: RunRecord) -> list[str]:
    """The page's lines, without provenance.

    Args:
        record: Of kind "crypto-views".
    """
    rows = rows_of(record)
    tests = [row for row in rows if row.values.get("table") == INDEPENDENCE]
    return [
        opening(rows), "",
        "### Does the view depend on the prompt?", "", _verdicts(tests), NOTE, "",
        "### What is read from it?", "", _read(rows), INVERTED, "",
        "### Every test", "", _tests(tests), "",
    ]  # fmt: skip


def opening(rows: Sequence[Row]) -> str:
    """The paragraph that a hurried reader reads: who leaks, and who reads everything without any leak."""
    tests = [row for row in rows if row.values.get("table") == INDEPENDENCE]
    if not tests:
        return "No view was recorded. Nothing follows from it."
    leaks = list(dict.fromkeys(_who(row) for row in tests if row.values.get("rejected")))
    first = tests[0]
    told = [
        f"What each computing party sees was recorded over {first.text('pairs')} pairs of runs on two prompts.",
        f"**The view depends on the prompt** for {', '.join(leaks)}." if leaks else
        "No test found that any party's view depends on the prompt.",
    ]  # fmt: skip
    told += [_beyond(row) for row in rows if row.values.get("table") == DEALER]
    told += [
        f"**The share of {_who(row)} gives {row.text('read', percent=True)} of the tokens away**, where random words "
        f"give {row.text('chance', percent=True)}."
        for row in rows if row.values.get("table") == INVERSION and row.values.get("above_chance")
    ]  # fmt: skip
    return " ".join(told)


def _beyond(row: Row) -> str:
    """What a dealer reads; that nothing is protected from it only where the interval lies above chance."""
    who, read = f"{_who(row)}, which deals the multiplication triples,", row.text("read", percent=True)
    chance = row.text("chance", percent=True)
    if row.values.get("above_chance"):
        return (
            f"**Yet {who} reads {read} of the tokens from its own view**, where random words give {chance}: no "
            "test of independence can see that, and the prompt is not protected from that party."
        )
    if row.number("chance") is None:
        return f"From its own view {who} reads {read} of the tokens; what random words give was not measured."
    return f"From its own view {who} reads {read} of the tokens, not told from the {chance} that random words give."


def _who(row: Row) -> str:
    return f"party {row.text('party')} of {row.words('engine')}"


def _verdicts(tests: Sequence[Row]) -> str:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in tests:
        found.setdefault((str(row.values.get("engine")), row.text("party")), []).append(row)
    body = []
    for (engine, party), rows in found.items():
        leaks = [row.words("feature") for row in rows if row.values.get("rejected")]
        smallest = min(rows, key=lambda row: row.number("adjusted_p") or 0.0)
        body.append([
            escape(engine), party, "**depends**: " + ", ".join(leaks) if leaks else "no dependence found",
            f"{smallest.text('adjusted_p')} ({smallest.words('feature')})", rows[0].text("level"),
            rows[0].text("pairs"), rows[0].text("view_parts"), rows[0].text("view_bytes"), rows[0].words("guarantee"),
        ])  # fmt: skip
    head = ["engine", "party", "verdict", "smallest adjusted p", "level", "pairs", "shares and messages of a view",
            "bytes of a view", "what is promised"]  # fmt: skip
    return table(head, body)


def _read(rows: Sequence[Row]) -> str:
    names = {INVERSION: "share", DEALER: "dealer"}
    body = [
        [row.words("engine"), row.text("party"), names[str(row.values["table"])], row.text("read", percent=True),
         row.text("tokens"), row.text("chance", percent=True), row.text("chance_draws"), _against(row)]
        for row in rows if row.values.get("table") in names
    ]  # fmt: skip
    head = ["engine", "party", "from", "tokens read", "n", "from random words", "n", "above chance"]
    return table(head, body) if body else NOT_MEASURED


def _against(row: Row) -> str:
    found = row.values.get("above_chance")
    return NOT_MEASURED if found is None else "**yes**" if found else "not told"


def _tests(tests: Sequence[Row]) -> str:
    body = [
        [row.words("engine"), row.text("party"), row.words("feature"), row.text("statistic"), row.text("p_value"),
         row.text("adjusted_p")]
        for row in tests
    ]  # fmt: skip
    return table(["engine", "party", "test", "statistic", "p", "adjusted p"], body)
