"""One experiment over time: each claim's bound, attacks' success and utility run by run, and what changed between runs.

Every run is compared with the one before it by `audit.differences`. All comparisons of a history are one family: with P
pairs of runs each pair is tested at the level divided by P (Bonferroni), and within a pair by Holm, so that the
probability that anything is called changed though nothing is stays below the level over the whole history.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from audit.curves import is_number
from audit.differences import LEVEL, Change, Differences, differences
from audit.matching import Matched, is_claim, match
from audit.records import RunRecord
from defenses.errors import UserError

BOUND = "epsilon_lower"
FIGURES = (BOUND, "asr_strongest", "asr_top1_cosine", "perplexity_over_clean", "agreement_top1")
"""What has a series: of a claim the first, of every other condition the others."""

_BY_DOCUMENT = "95 % interval over documents"
_FLAGS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclass(frozen=True)
class Point:
    """A figure in one run.

    Attributes:
        run: Number of the run in the history, from 0.
        value: The figure; not finite where the record says so, None where it was not measured.
        low: Lower end of its interval; None where the record has none.
        high: Upper end.
        n: Documents, tokens or draws behind it; None where the record does not say.
        method: How it was had.
        verdict: Of a claim.
    """

    run: int
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    method: str
    verdict: str | None


@dataclass(frozen=True)
class Series:
    """A figure of a condition over the runs that have the condition.

    Attributes:
        condition: Its name.
        figure: Its column in the records.
        points: In the order of the runs.
    """

    condition: str
    figure: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Mark:
    """A significant change from one run to the next.

    Attributes:
        run: Number of the later run, from 0; the earlier one is the run before it.
        condition: Name of the series; the change itself may call its row otherwise.
        change: What was found.
    """

    run: int
    condition: str
    change: Change


@dataclass(frozen=True)
class History:
    """Runs in order, with everything that is known of them together.

    Attributes:
        runs: In the order of their time.
        series: Of the figures that have one.
        steps: Of each run but the first, the comparison with the run before.
        marks: Significant changes, in order.
        level: Of the whole history.
        unplaced: Runs that do not say when they were made, one line each.
    """

    runs: tuple[RunRecord, ...]
    series: tuple[Series, ...]
    steps: tuple[Differences, ...]
    marks: tuple[Mark, ...]
    level: float
    unplaced: tuple[str, ...]

    @property
    def level_of_a_pair(self) -> float:
        """What each comparison of two runs is tested at."""
        return self.level / max(1, len(self.steps))

    @property
    def regressions(self) -> tuple[Mark, ...]:
        """Changes for the worse."""
        return tuple(one for one in self.marks if one.change.direction == "worse")

    @property
    def improvements(self) -> tuple[Mark, ...]:
        """Changes for the better."""
        return tuple(one for one in self.marks if one.change.direction == "better")


def history(records: Sequence[RunRecord], level: float = LEVEL) -> History:
    """Put runs in order and compare each with the one before.

    Args:
        records: Of one kind, in any order.
        level: Of the whole history, in (0, 1).

    Raises:
        UserError: the level is out of range, there is no run that says when it was made, or there are several kinds.
    """
    if not 0 < level < 1:
        raise UserError(f"--level {level:g}: a level is strictly between 0 and 1, for example 0.05")
    if not records:
        raise UserError("a history needs at least one run with a record")
    if len(kinds := sorted({record.kind for record in records})) > 1:
        raise UserError(f"a history is of one kind of run, and there are {', '.join(kinds)}: choose one with --kind")
    timed = [(time, record) for record in records if (time := _time(record.created)) is not None]
    if not timed:
        raise UserError("a history needs runs that say when they were made")
    runs = [record for _, record in sorted(timed, key=lambda one: one[0])]
    unplaced = [
        f"a run with seed {record.seed} has no place: '{record.created}' is no time"
        for record in records if _time(record.created) is None
    ]  # fmt: skip
    pairs = list(itertools.pairwise(runs))
    names, marks, steps = _Names(runs), [], []
    for place, (base, new) in enumerate(pairs, start=1):
        found = differences(base, new, level=level / len(pairs), seed=0)
        steps.append(found)
        called = names.join(place, match(base, new))
        marks += [
            Mark(place, called.get(one.row, one.row), one)
            for one in found.changes if one.significant and one.direction != "none"
        ]  # fmt: skip
    return History(tuple(runs), tuple(_series(runs, names)), tuple(steps), tuple(marks), level, tuple(unplaced))


def run_name(record: RunRecord) -> str:
    """A run in a few words: "0123abc 2026-01-02", "+changes" where no commit holds its code."""
    commit = "no commit" if record.commit is None else record.commit[:7]
    return f"{commit} {record.created[:10]}{' +changes' if record.dirty else ''}"


class _Names:
    """What the series of each row is called: rows that were matched from run to run have one name."""

    def __init__(self, runs: Sequence[RunRecord]) -> None:
        self._own = [[pair.name for pair in match(run, run).pairs] for run in runs]
        self.called: list[dict[int, str]] = [dict(enumerate(self._own[0]))]

    def join(self, run: int, matched: Matched) -> dict[str, str]:
        """Name the rows of the next run; what its comparison calls a row -> what its series is called."""
        before = self.called[run - 1]
        named = {pair.new: before[pair.base] for pair in matched.pairs}
        for row, name in enumerate(self._own[run]):
            if row not in named:
                named[row] = name if name not in named.values() else f"{name} (row {row + 1})"
        self.called.append(named)
        return {pair.name: before[pair.base] for pair in matched.pairs}


def _series(runs: Sequence[RunRecord], names: _Names) -> Iterator[Series]:
    """Every series that has a point, condition by condition."""
    found: dict[tuple[str, str], list[Point]] = {}
    for place, record in enumerate(runs):
        for row, name in names.called[place].items():
            for figure in FIGURES:
                if (point := _point(place, record, row, figure)) is not None:
                    found.setdefault((name, figure), []).append(point)
    order = {name: place for place, name in enumerate(dict.fromkeys(name for name, _ in found))}
    for (name, figure), points in sorted(found.items(), key=lambda one: (FIGURES.index(one[0][1]), order[one[0][0]])):
        yield Series(name, figure, tuple(points))


def _point(run: int, record: RunRecord, index: int, figure: str) -> Point | None:
    """A row's figure; None where it is none of this row's."""
    row = record.rows[index]
    claim = is_claim(row)
    if figure not in row or claim != (figure == BOUND):
        return None
    value, low, high = (_number(record, index, f"{figure}{end}") for end in ("", "_low", "_high"))
    n, method = _evidence(record, index, figure)
    return Point(run, value, low, high, n, method, str(row["verdict"]) if claim else None)


def _number(record: RunRecord, index: int, column: str) -> float | None:
    value = record.rows[index].get(column)
    if is_number(value):
        return float(value)  # type: ignore[arg-type]  # is_number has looked
    return _FLAGS.get(record.nonfinite.get(f"rows[{index}].{column}", ""))


def _evidence(record: RunRecord, index: int, figure: str) -> tuple[int | None, str]:
    """How many units stand behind a figure, and how it was had, as far as the record says."""
    row = record.rows[index]
    if figure == BOUND:
        confidence = row.get("confidence")
        at = f", confidence {confidence:g}" if is_number(confidence) else ""
        return _count(row.get("samples")), f"lower bound, {row.get('estimator') or 'estimator not named'}{at}"
    tables = (one for one in record.documents if (one["row"], one.get("figure")) == (index, figure))
    table = next(tables, None)
    if table is not None:
        return len(table["ids"]), _BY_DOCUMENT
    if figure.startswith("asr_"):
        return _count(row.get("attack_documents")), _BY_DOCUMENT
    return None, "the record does not say"


def _count(value: Any) -> int | None:
    return value if type(value) is int else None


def _time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
