"""What defences by noise and by encryption cost, on one table, beside what each promises and to whom.

They are not rivals on one scale. Noise bounds what anyone can learn of a token from what is sent; encryption hides all
of it from parties who do not collude, and nothing from whoever holds the result. So guarantees are named, never ranked.
"""

from collections.abc import Sequence

from audit.comparison_record import KIND as COMPARISON
from audit.crypto_record import COSTS, DEALER, ENGINES, INVERSION, MEASURED, MODELS, VIEWS
from audit.crypto_record import KIND as ENCRYPTED
from audit.records import RunRecord
from reports.crypto_page import megabytes
from reports.narrative import strongest_attack
from reports.rows import NOT_MEASURED, Row, escape, quantity, rows_of, table

REFERENCE = "vanilla"
BYTES = (
    "Bytes and seconds are of a prompt's token, sent once: the message on the wire where a service was measured, else "
    "the view that was attacked. Seconds are of this run's machine, which stands under Provenance. Of a comparison the "
    "table has its first mode."
)
NOISE = frozenset({"experiment", "quickstart", COMPARISON})
HEADER = [
    "defence", "model", "what is promised", "perplexity over the undefended model's", "what is read of what is seen",
    "bytes a token", "rounds", "seconds a token", "memory",
]  # fmt: skip
NOTE = (
    "**Two kinds of guarantee.** A finite ε bounds how far any one token can be told from another by whoever reads "
    "what is sent, the server included, for ever. Encryption promises no ε: a party that does not collude learns "
    "nothing but lengths, as far as the protocol and its assumptions hold, and the answer is as open to its reader "
    "as it was. Bytes and seconds of noise are of a prompt's token, sent once; those of encryption are of every "
    "generated token. Models differ: compare ratios within a row's own model."
)


def cost_section(records: Sequence[RunRecord]) -> list[str]:
    """The table's lines, with its heading; nothing where no record tells of costs."""
    noisy = [line for record in records if record.kind in NOISE for line in _noise_lines(record)]
    seen = [row for record in records if record.kind == VIEWS for row in rows_of(record)]
    encrypted = [line for record in records if record.kind == ENCRYPTED for line in _encrypted_lines(record, seen)]
    if not noisy and not encrypted:
        return []
    title = "Cost: noise and encryption side by side" if noisy and encrypted else "Cost"
    return [f"## {title}", "", table(HEADER, [*noisy, *encrypted]), NOTE if encrypted else BYTES, ""]


def _noise_lines(record: RunRecord) -> list[list[str]]:
    """A line for each condition; of a comparison, for those of its first mode."""
    rows = rows_of(record)
    modes = [row.values["mode"] for row in rows if row.values.get("mode")]
    kept = [row for row in rows if not modes or row.values.get("mode") == modes[0]]
    model = escape(str(record.config.get("model", NOT_MEASURED)))
    return [
        [_name(row), model, _noise_promise(row), _ratio(row, "perplexity_over_clean"), _read(row), _noise_bytes(row),
         "one request a prompt", _noise_seconds(row), _noise_memory(row)]
        for row in kept if not row.values.get("reason")
    ]  # fmt: skip


def _name(row: Row) -> str:
    contender = row.values.get("contender")
    if contender is None:
        return escape(row.name)
    return f"{escape(str(contender))}, {escape(str(row.values.get('mode')))} {row.text('level')}"


def _noise_promise(row: Row) -> str:
    epsilon = row.number("epsilon_exact_token")
    claim = row.words("claim")
    if epsilon is None:
        return "no differential privacy" if row.is_control or claim.endswith("no mechanism") else claim
    return f"exact ε = {quantity(epsilon)} a token at δ = {row.text('delta')} (claimed: {claim})"


def _ratio(row: Row, key: str) -> str:
    """A ratio of perplexities; the undefended model's own is 1."""
    return "1" if row.defence == "identity" and row.number(key) is None else row.text(key)


def _read(row: Row) -> str:
    return NOT_MEASURED if row.strongest() is None else f"{strongest_attack(row)} of the prompt's tokens"


def _noise_bytes(row: Row) -> str:
    key = "bytes_up_per_token" if row.number("bytes_up_per_token") is not None else "body_bytes_up_per_token"
    return f"{row.text(key)} up"


def _noise_seconds(row: Row) -> str:
    """Client and server, each where it was measured; the client over the wire, else for protecting alone."""
    wire, alone, server = (
        row.number(key) for key in ("client_ms_per_token", "client_s_per_token", "server_s_per_token")
    )
    client = alone if wire is None else wire / 1000
    if client is None and server is None:
        return NOT_MEASURED
    told = [NOT_MEASURED if value is None else quantity(value) for value in (client, server)]
    return f"client {told[0]}, server {told[1]}"


def _noise_memory(row: Row) -> str:
    """What a client keeps to protect its tokens."""
    size = row.number("client_table_bytes")
    return NOT_MEASURED if size is None else f"client's table {size / 1e6:.1f} MB"


def _encrypted_lines(record: RunRecord, seen: Sequence[Row]) -> list[list[str]]:
    """A line for each measured system and engine, at the longest context and in both accountings."""
    rows = rows_of(record)
    costs = [row for row in rows if row.values.get("table") == COSTS and row.values.get("basis") == MEASURED]
    longest = max((row.number("length") or 0 for row in costs), default=0)
    promises = {row.values.get("engine"): row.words("guarantee") for row in rows if row.values.get("table") == ENGINES}
    models = {
        (row.values.get("engine"), row.values.get("system")): row for row in rows if row.values.get("table") == MODELS
    }
    lines = []
    for row in costs:
        if row.number("length") != longest:
            continue
        engine = row.values.get("engine")
        model = models.get((engine, row.values.get("system")))
        name = f"{row.words('title')} on {row.words('engine')}, {row.words('accounting')}, {quantity(longest)} tokens"
        promise = f"no differential privacy; {promises.get(engine, NOT_MEASURED)}"
        lines.append([
            name, _model(model), promise, _encrypted_utility(model),
            _seen([one for one in seen if one.values.get("engine") == engine]),
            f"{megabytes(row)} MB", row.text("rounds"), row.text("seconds"), NOT_MEASURED,
        ])  # fmt: skip
    return lines


def _seen(views: Sequence[Row]) -> str:
    """What the parties of an engine read of their views."""
    parts = [
        f"party {row.text('party')}: {row.text('read', percent=True)} "
        f"({'as dealer of triples' if row.values['table'] == DEALER else 'cosine on its share'})"
        for row in views if row.values.get("table") in {DEALER, INVERSION}
    ]  # fmt: skip
    leaks = any(row.values.get("rejected") for row in views)
    tested = [f"its view {'**depends**' if leaks else 'was not found to depend'} on the prompt"] if views else []
    return "; ".join([*parts, *tested]) or NOT_MEASURED


def _model(model: Row | None) -> str:
    if model is None:
        return NOT_MEASURED
    return f"{model.text('layers')} layers, {model.text('hidden')} wide"


def _encrypted_utility(model: Row | None) -> str:
    """On true text and on its own: what resends embeddings never sees its own errors on true text."""
    if model is None:
        return NOT_MEASURED
    exact = model.values.get("system") == REFERENCE
    true, own = ("1" if exact else model.text(f"{one}perplexity_over_exact") for one in ("", "written_"))
    twin = model.text("twin_agreement", percent=True)
    return f"{true} on true text, {own} of what it writes (next token as its twin's: {twin})"
