"""Who is better than whom in a comparison's tables, as far as that can be told, and which orders turn round.

Two contenders of a table are told apart by the paired differences that the record carries: by the sign-flip p-value
over documents after Holm's adjustment for all pairs of the table. Where the record has none, they are told apart only
where their intervals do not overlap, which is conservative.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from audit.comparison_record import NO_PROMPT, UTILITIES
from audit.records import RunRecord
from reports.rows import Row, rows_of

SIGNIFICANT = 0.05
Pair = tuple[str, str]


@dataclass(frozen=True)
class Table:
    """The contenders of one mode at one level.

    Attributes:
        mode: What was made equal.
        level: At which level.
        rows: Contender -> its row, of those that have the figure that ranks; the best value first.
        better: (better, worse) for the pairs that can be told apart.
        paired: Every pair was compared on the same documents.
        above: Those that are known to be better than no prompt at all.
        below: Those that are known to be worse.
        floored: Whether the record compares them with no prompt at all.
    """

    mode: str
    level: float
    rows: Mapping[str, Row]
    better: frozenset[Pair]
    paired: bool
    above: frozenset[str] = frozenset()
    below: frozenset[str] = frozenset()
    floored: bool = False

    def rank(self, name: str) -> int:
        """One more than the number of contenders that are known to be better; ties share a rank."""
        return 1 + sum(worse == name for _, worse in self.better)

    def order(self, first: str, second: str) -> str | None:
        """Which of two is better; None where it cannot be told."""
        if (first, second) in self.better:
            return first
        return second if (second, first) in self.better else None


@dataclass(frozen=True)
class Flip:
    """A pair of contenders whose order is the other way round in another mode.

    Attributes:
        first: The one that is better in some mode.
        second: The other.
        tables: Mode -> the tables in which the two can be told apart, for the modes with one order throughout.
    """

    first: str
    second: str
    tables: Mapping[str, Sequence[Table]]

    def won(self, name: str) -> list[str]:
        """The modes in which a contender of the pair is the better one."""
        return [mode for mode, found in self.tables.items() if found[0].order(self.first, self.second) == name]


def utility_of(record: RunRecord) -> str:
    """The figure that ranks."""
    return str(record.config.get("utility", "agreement_top1"))


def tables(record: RunRecord) -> list[Table]:
    """A comparison's tables, in the order of its modes and levels."""
    utility, rows = utility_of(record), rows_of(record)
    found = []
    for mode, level in dict.fromkeys((str(row.values.get("mode")), row.number("level")) for row in rows):
        if level is None:
            continue
        here = [row for row in rows if row.values.get("mode") == mode and row.number("level") == level]
        shown = {str(row.values.get("contender")): row for row in here if row.number(utility) is not None}
        sign = UTILITIES.get(utility, 1)
        names = sorted(shown, key=lambda name: -sign * (shown[name].number(utility) or 0.0))
        notes = {
            (str(note.get("first")), str(note.get("second"))): note
            for note in record.examples
            if (note.get("mode"), note.get("level"), note.get("utility")) == (mode, level, utility)
        }
        pairs = list(itertools.combinations(names, 2))
        orders = [_better(pair, notes, shown, utility) for pair in pairs]
        paired = all(pair in notes or pair[::-1] in notes for pair in pairs)
        ordered = {name: shown[name] for name in names}
        floor = {name: _better((name, NO_PROMPT), notes, {}, utility) for name in names}
        found.append(
            Table(
                mode, level, ordered, frozenset(pair for pair in orders if pair is not None), paired,
                above=frozenset(name for name, pair in floor.items() if pair == (name, NO_PROMPT)),
                below=frozenset(name for name, pair in floor.items() if pair == (NO_PROMPT, name)),
                floored=any(NO_PROMPT in pair for pair in notes),
            )
        )  # fmt: skip
    modes = list(dict(record.config.get("levels") or {}))
    return sorted(found, key=lambda one: (modes.index(one.mode) if one.mode in modes else len(modes), one.level))


def _better(pair: Pair, notes: Mapping[Pair, Mapping[str, Any]], rows: Mapping[str, Row], utility: str) -> Pair | None:
    """The pair, the better one first; None where it cannot be told."""
    for asked in (pair, pair[::-1]):
        if asked in notes:
            gain, p = notes[asked].get("difference"), notes[asked].get("p_holm")
            if not isinstance(gain, float | int) or not isinstance(p, float | int) or p > SIGNIFICANT or not gain:
                return None
            return asked if gain > 0 else asked[::-1]
    ends = [rows[name].interval(utility) if name in rows else None for name in pair]
    if ends[0] is None or ends[1] is None:
        return None
    upward = UTILITIES.get(utility, 1) > 0
    for place, name in enumerate(pair):
        mine, other = ends[place], ends[1 - place]
        if mine is not None and other is not None and (mine[0] > other[1] if upward else mine[1] < other[0]):
            return name, pair[1 - place]
    return None


def pairs_of(found: Sequence[Table]) -> list[Pair]:
    """Every pair of contenders that meet in some table."""
    names = dict.fromkeys(name for table in found for name in table.rows)
    return list(itertools.combinations(names, 2))


def told_apart(found: Sequence[Table], pair: Pair) -> dict[str, list[Table]]:
    """Mode -> its tables in which a pair can be told apart."""
    known: dict[str, list[Table]] = {}
    for table in found:
        if table.order(*pair) is not None:
            known.setdefault(table.mode, []).append(table)
    return known


def steady(found: Sequence[Table], pair: Pair) -> dict[str, list[Table]]:
    """As `told_apart`, of the modes in which a pair has one order at every level that tells it apart."""
    known = told_apart(found, pair)
    return {mode: some for mode, some in known.items() if len({one.order(*pair) for one in some}) == 1}


def flips(found: Sequence[Table]) -> list[Flip]:
    """Pairs with one order throughout a mode, and the other order throughout another."""
    turned = []
    for pair in pairs_of(found):
        known = steady(found, pair)
        if len({some[0].order(*pair) for some in known.values()}) == 2:
            turned.append(Flip(*pair, known))
    return turned


def crossings(found: Sequence[Table]) -> list[tuple[Pair, str]]:
    """Pairs whose order depends on the level within one mode, with the mode."""
    return [
        (pair, mode)
        for pair in pairs_of(found)
        for mode, some in told_apart(found, pair).items()
        if len({one.order(*pair) for one in some}) == 2
    ]
