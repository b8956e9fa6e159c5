"""Which rows of two records are the same condition, and what each is called.

A row is told by what was set, never by what was measured or solved for. A column that only one of the records knows
(another version wrote it) takes no part, or a new column would leave no row with a fellow.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from audit.curves import PARAMETER_PREFIX, condition, is_number
from audit.records import RunRecord

Row = Mapping[str, Any]
Key = tuple[tuple[str, str], ...]

WHERE_KNOWN = (
    "projection", "d", "clip", "model", "soft_prompt", "prompt_name", "task", "view", "arm", "calibrated_with",
    "target_asr", "goal", "above_blind", "epsilon_target", "table", "system", "engine", "operator", "length",
    "accounting", "basis", "party", "order", "amplify", "post", "study", "setting",
)  # fmt: skip
"""Columns that tell rows apart where both records have them in some row."""
TERMS = ("contender", "mode", "level", "parameter")
"""What tells rows of a comparison apart: the value of the contender's parameter is solved for, and is a result."""
SOLVED = ("parameter_value", "reached", "mu", "a_over_c")
"""Columns that hold a result in rows of a comparison or of a calibration."""
_DIGITS = 9  # significant ones: derived numbers may differ in the last places from machine to machine


@dataclass(frozen=True)
class Pair:
    """A condition that is in both records.

    Attributes:
        name: What to call it; no two pairs share a name.
        base: Its row in the base record.
        new: Its row in the new one.
    """

    name: str
    base: int
    new: int


@dataclass(frozen=True)
class Matched:
    """The rows of two records side by side.

    Attributes:
        pairs: In the order of the base record.
        only_base: Names of the conditions that the new record lacks.
        only_new: Names of those that the base lacks.
        ignored: Columns that could tell rows apart, and that only one of the records knows.
    """

    pairs: tuple[Pair, ...]
    only_base: tuple[str, ...]
    only_new: tuple[str, ...]
    ignored: tuple[str, ...]


def is_solved(row: Row) -> bool:
    """True where the row's privacy parameter was solved for: in a comparison or a calibration."""
    return row.get("contender") is not None or row.get("calibrated_with") is not None


def is_claim(row: Row) -> bool:
    """True for a claim's row in the record of an audit or a check."""
    return row.get("verdict") is not None and row.get("claim") is not None


def match(base: RunRecord, new: RunRecord) -> Matched:
    """Pair the rows of two records.

    A claim's row is told by the claim's name, the defence and the defence's parameters; a row of a comparison by
    contender, mode, level and the name of the parameter; every other row by defence, n, mu (A/c where there is no mu;
    neither where it was solved for), its other settings, and the columns of `WHERE_KNOWN`. Seeds, coins, texts that
    say the parameters again, and figures tell no rows apart. Rows that are alike in all of this are paired in order.
    """
    columns = [{key for row in record.rows for key in row} for record in (base, new)]
    known = columns[0] & columns[1]
    keys = [_keys(record.rows, known) for record in (base, new)]
    names = [_names(record.rows, own) for record, own in zip((base, new), keys, strict=True)]
    place = {key: index for index, key in enumerate(keys[1])}
    pairs = [Pair(names[0][i], i, place[key]) for i, key in enumerate(keys[0]) if key in place]
    met = {(pair.base, pair.new) for pair in pairs}
    lone = [set(range(len(own))) - {two[side] for two in met} for side, own in enumerate(keys)]
    telling = {*WHERE_KNOWN, *(key for both in columns for key in both if key.startswith(PARAMETER_PREFIX))}
    telling.discard("parameter_value")
    only = [tuple(names[side][index] for index in sorted(lone[side])) for side in (0, 1)]
    return Matched(tuple(pairs), only[0], only[1], tuple(sorted(telling & (columns[0] ^ columns[1]))))


def _keys(rows: Sequence[Row], known: set[str]) -> list[Key]:
    """What tells each row; rows that are alike get an ordinal, from the second on."""
    seen: Counter[Key] = Counter()
    found = []
    for row in rows:
        key = tuple((name, _text(row.get(name))) for name in _telling(row, known))
        seen[key] += 1
        found.append(key if seen[key] == 1 else (*key, ("row", str(seen[key]))))
    return found


def _telling(row: Row, known: set[str]) -> list[str]:
    """The columns that tell a row."""
    if is_claim(row):
        return ["claim", "defence", *sorted(key for key in known if key.startswith(PARAMETER_PREFIX))]
    if row.get("contender") is not None:
        return list(TERMS)
    noise = [] if is_solved(row) else ["mu" if row.get("mu") is not None else "a_over_c"]
    settings = [] if is_solved(row) else ["settings"]
    return ["defence", "n", *settings, *noise, *(key for key in WHERE_KNOWN if key in known)]


def _names(rows: Sequence[Row], keys: Sequence[Key]) -> list[str]:
    """A name for each row; where two would share one, what tells them apart is added."""
    names = [condition(row) for row in rows]
    for name in [name for name, count in Counter(names).items() if count > 1]:
        alike = [index for index, one in enumerate(names) if one == name]
        shared = set.intersection(*(set(keys[index]) for index in alike))
        for index in alike:
            told = ", ".join(f"{key}={value or 'none'}" for key, value in keys[index] if (key, value) not in shared)
            names[index] = f"{name} ({told})" if told else name
    return names


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.{_DIGITS}g}" if is_number(value) else str(value)
