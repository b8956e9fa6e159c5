"""What changed between two runs: every figure that both have, tested where sums by document are there to test it.

All tests of one call are one family at one level (Holm 1979). Whatever cannot be tested is told with the reason, so
that nothing is left out in silence. A test covers the choice of documents and the coins. What a run draws once for all,
such as the public text that an attack learns from, is the same for every document: no test over documents covers it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from audit.cautions import cautions, row_cautions, same_documents
from audit.document_tests import RESAMPLES, Sums, Tested, paired, two_sample
from audit.matching import is_claim, match
from audit.multiplicity import FLIPS, holm_adjusted
from audit.records import RunRecord
from audit.side_by_side import PERPLEXITY, RAW, Both, Ends, Side, is_bare
from defenses.randomness import seeded_rng

Kind = Literal["ratio", "difference", "exact", "verdict", "told"]
Direction = Literal["worse", "better", "none"]

LEVEL = 0.05
WHOLE = "the run as a whole"
AGREEMENT = "agreement_top1"
STRONGEST, PAPER, BLIND, SUCCESS = "asr_strongest", "cosine", "prior", "asr_top1_"
LESS_IS_WORSE = frozenset({AGREEMENT})
"""Tested figures that are better the larger they are; of every other one, more is worse."""
ALWAYS_EXACT = frozenset({"epsilon_exact_token", "epsilon_exact_prompt", "epsilon_gdp_token", "epsilon_pure_token"})
AT_BLIND = frozenset({"ceiling_claimed", "ceiling_exact"})
COUNTED = frozenset({"bytes_up_per_token", "bytes_down_per_token", "body_bytes_up_per_token"})
CONTROLS = frozenset({"identity", "projection-only"})
EXACT = ALWAYS_EXACT | AT_BLIND | COUNTED
REFUTED, NOT_TESTED = "REFUTED", "not tested"
SAME = 1e-9  # relative: exact figures that are closer are the same

_MOST_DRAWN = 20_000_000  # flips times documents
_LARGEST_EXPONENT = 700.0
_SIDES = ("the base", "the new run")


@dataclass(frozen=True)
class Change:
    """One figure of one condition in both runs.

    Attributes:
        row: The condition's name.
        figure: The figure's name: its column in the record.
        base: Its value in the base run, a verdict as text; None where it was not measured.
        new: The same in the new run.
        low: Lower end of the 95 % interval of the change; None where there is no test.
        high: Upper end.
        kind: "ratio" (new over base, of perplexities) and "difference" (new less base, of shares) are tested; "exact"
            is free of chance; "verdict" is a claim's; "told" is neither tested nor exact.
        p: P-value of "no difference"; None where there is no test.
        p_holm: The same adjusted for the whole family.
        n: Documents behind the test: pairs, or those of both runs; None without a test.
        method: How it was compared, or why it was not.
        direction: What the change is for the user of the defence; "none" where there is no change, or nobody can say.
        significant: The adjusted p-value is at most the level; or an exact figure changed, or a verdict to or from
            REFUTED.
        change: The estimate that low and high belong to.
        base_ends: Interval of the base's value, where the record has one.
        new_ends: The same of the new one's.
    """

    row: str
    figure: str
    base: float | str | None
    new: float | str | None
    low: float | None
    high: float | None
    kind: Kind
    p: float | None
    p_holm: float | None
    n: int | None
    method: str
    direction: Direction
    significant: bool
    change: float | None = None
    base_ends: Ends | None = None
    new_ends: Ends | None = None


@dataclass(frozen=True)
class Differences:
    """Everything that two runs were compared on.

    Attributes:
        changes: In the order of the base record, figure by figure.
        only_base: Conditions that the new run lacks.
        only_new: Conditions that the base lacks.
        level: Of the family of all tests: the greatest probability that any figure is called changed though none is.
        warnings: What a reader must know before believing any of it.
    """

    changes: tuple[Change, ...]
    only_base: tuple[str, ...]
    only_new: tuple[str, ...]
    level: float
    warnings: tuple[str, ...]

    @property
    def regressions(self) -> tuple[Change, ...]:
        """Significant changes for the worse."""
        return tuple(one for one in self.changes if one.significant and one.direction == "worse")

    @property
    def improvements(self) -> tuple[Change, ...]:
        """Significant changes for the better."""
        return tuple(one for one in self.changes if one.significant and one.direction == "better")

    @property
    def tested(self) -> tuple[Change, ...]:
        """The family."""
        return tuple(one for one in self.changes if one.p is not None)

    @property
    def sentence(self) -> str:
        """The outcome in plain words."""
        worse, better = (
            [one for one in self.tested if one.significant and one.direction == way] for way in ("worse", "better")
        )
        level = f"at a family-wise level of {100 * self.level:g} %"
        count = f"{len(self.tested)} tested figure{'' if len(self.tested) == 1 else 's'}"
        if not self.tested:
            parts = ["No figure could be tested over documents."]
        elif worse or better:
            parts = [f"{len(worse)} of {count} got worse and {len(better)} got better, {level}."]
        else:
            parts = [f"No change was found in {count}, {level}."]
        parts += _counted(self.changes)
        for names, side in ((self.only_base, "base"), (self.only_new, "new")):
            if names:
                parts.append(f"{len(names)} condition{'s are' if len(names) > 1 else ' is'} in the {side} run only.")
        return " ".join(parts)


def differences(
    base: RunRecord,
    new: RunRecord,
    *,
    level: float = LEVEL,
    seed: int = 0,
    flips: int = FLIPS,
    resamples: int = RESAMPLES,
) -> Differences:
    """Compare two runs condition by condition, figure by figure.

    The family, for every condition that `audit.matching.match` finds in both: perplexity over the clean model's,
    agreement with it, the strongest attack's success, and the paper's attack's where it is not the strongest. For the
    undefended model perplexity itself. Not in it: attacks on controls and the blind guess, which say nothing of a
    defence; other attacks, so that the family stays small. They are told.

    Where both records hold the undefended model's own losses of the same documents, these are subtracted first.
    Otherwise the perplexities themselves are compared, and `method` says so.

    Runs measured the same documents where the data set that each names first (the victims' text) has the same name and
    SHA-256: then `paired` compares the documents that both have. Otherwise `two_sample` compares one sample of
    documents with another.

    Exact figures need no test: any relative change above 1e-9 counts. Ceilings are exact only at an equal blind guess,
    bytes only for the same data and seed, and what was solved for a rate of success is not exact. A verdict that
    became REFUTED is a regression, one that ceased to be is an improvement; verdicts have their own level, spent when
    they were found, and are no part of the family.

    Args:
        base: What it is compared with.
        new: What may have changed.
        level: Of the family, in (0, 1).
        seed: Names flips, permutations and resamples.
        flips: Flips or permutations of a test; more where the family needs smaller p-values.
        resamples: Of each interval.

    Raises:
        ValueError: the level is out of range, or there are too few flips or resamples.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be strictly between 0 and 1, not {level}")
    matched = match(base, new)
    sides, same = (Side(base), Side(new)), same_documents(base, new)
    found = [one for pair in matched.pairs for one in _compared(Both(pair, *sides, same=same))]
    family = [one for one in found if isinstance(one, _Pending)]
    flips = max(flips, math.ceil(5 * len(family) / level))
    tests = [one.test(seed, flips, resamples) for one in family]
    adjusted = holm_adjusted({str(place): one.p for place, one in enumerate(tests)})
    judged = (one.done(test, p, level) for one, test, p in zip(family, tests, adjusted.values(), strict=True))
    changes = [next(judged) if isinstance(one, _Pending) else one for one in found]
    notes = [*cautions(base, new), *row_cautions(base, new, matched)]
    if powerless := sum(one.least * len(family) > level for one in tests):
        notes.append(f"{powerless} of {len(family)} tests have so few documents that none is significant by itself")
    return Differences((*changes, *_whole(base, new)), matched.only_base, matched.only_new, level, tuple(notes))


@dataclass(frozen=True, eq=False)
class _Pending:
    """A figure of the family before its test."""

    told: Change
    base: Sums
    new: Sums
    paired: bool
    note: str

    def test(self, seed: int, flips: int, resamples: int) -> Tested:
        """Its test."""
        rng = seeded_rng(seed, "differences", self.told.row, self.told.figure)
        flips = min(flips, max(FLIPS, _MOST_DRAWN // max(len(self.base.ids), len(self.new.ids))))
        if self.paired:
            return paired(self.base, self.new, rng, flips=flips, resamples=resamples)
        first, second = ((one.sums, one.counts) for one in (self.base, self.new))
        return two_sample(first, second, rng, permutations=flips, resamples=resamples)

    def done(self, test: Tested, p_holm: float, level: float) -> Change:
        """The change, judged."""
        change, low, high = test.value, test.interval.low, test.interval.high
        if self.told.kind == "ratio":
            change, low, high = map(_exp, (change, low, high))
        name = "sign-flip test" if self.paired else "studentised permutation test of two samples"
        return replace(
            self.told, low=low, high=high, change=change, p=test.p, p_holm=p_holm, n=test.interval.n,
            method=f"{name}; 95 % interval: {test.interval.method}{self.note}",
            direction=_direction(test.value, self.told.figure), significant=p_holm <= level,
        )  # fmt: skip


def _plain_change(both: Both, figure: str, kind: Kind, method: str) -> Change:
    """A figure in both runs that nobody has judged."""
    values = [side.number(index, figure) for side, index in both.places]
    ends = [side.ends(index, figure) for side, index in both.places]
    return Change(
        both.pair.name, figure, values[0], values[1], None, None, kind, None, None, None, method, "none",
        significant=False, base_ends=ends[0], new_ends=ends[1],
    )  # fmt: skip


def _compared(both: Both) -> Iterator[Change | _Pending]:
    """Every figure of a condition."""
    if all(is_claim(row) for row in both.rows):
        yield _verdict(both)
    for figure in both.figures():
        missing = _missing(both, figure)
        if missing is not None:
            yield _plain_change(both, figure, "told", missing)
        elif figure in EXACT:
            yield _exact(both, figure)
        else:
            reason = _outside(both, figure)
            yield (
                _pending(both, figure)
                if reason is None
                else _plain_change(both, figure, "told", f"{NOT_TESTED}: {reason}")
            )


def _missing(both: Both, figure: str) -> str | None:
    """Why a figure cannot be compared at all; None where both runs have it."""
    lacking = []
    for (side, index), name in zip(both.places, _SIDES, strict=True):
        unmeasured = figure in side.row(index) or side.sums(index, figure) is None
        if side.number(index, figure) is None and unmeasured:
            flag = side.record.nonfinite.get(f"rows[{index}].{figure}")
            lacking.append(f"{'not a number' if flag == 'nan' else 'not measured'} in {name}")
    return f"not compared: {' and '.join(lacking)}" if lacking else None


def _verdict(both: Both) -> Change:
    """A claim's verdict: refuted now, or no longer, or as it was."""
    before, after = (str(row["verdict"]) for row in both.rows)
    refuted = (before == REFUTED, after == REFUTED)
    direction: Direction = "none" if refuted[0] == refuted[1] else "worse" if refuted[1] else "better"
    told = _plain_change(both, "verdict", "verdict", "each verdict at the level that its own run spent on it")
    return replace(told, base=before, new=after, direction=direction, significant=direction != "none")


def _exact(both: Both, figure: str) -> Change:
    """A figure without chance in it, or, where there is some here, the reason."""
    if reason := _chance(both, figure):
        return _plain_change(both, figure, "told", f"{NOT_TESTED}: {reason}")
    told = _plain_change(both, figure, "exact", "exact: any relative change above 1e-9 counts")
    before, after = (side.number(index, figure) or 0.0 for side, index in both.places)
    if before == after or abs(after - before) <= SAME * max(abs(before), abs(after)) < math.inf:
        return told
    direction: Direction = "worse" if after > before else "better"
    change = after - before if math.isfinite(before) and math.isfinite(after) else None
    return replace(told, change=change, direction=direction, significant=True)


def _chance(both: Both, figure: str) -> str | None:
    """What makes an exact column depend on chance in these rows; None where nothing does."""
    if any(row.get("calibrated_with") is not None or str(row.get("mode")).startswith("asr") for row in both.rows):
        return "its parameter was solved for what an attack reads"
    if figure in AT_BLIND:
        first, second = (side.number(index, "kappa") for side, index in both.places)
        if first is None or second is None or not math.isclose(first, second, rel_tol=SAME):
            return "the blind guess that it stands at is not the same"
    if figure in COUNTED and not (both.same and both.base.record.seed == both.new.record.seed):
        return "counted over other text or other coins"
    return None


def _outside(both: Both, figure: str) -> str | None:
    """Why a figure is not in the family; None where it is."""
    row = both.rows[0]
    strongest = {one.get("strongest_attack") for one in both.rows}
    paper, blind = f"{SUCCESS}{PAPER}", f"{SUCCESS}{BLIND}"
    bare = all(map(is_bare, both.rows))
    rules = (
        (is_claim(row), "a claim is judged by its verdict"),
        (figure.startswith("asr_") and row.get("defence") in CONTROLS, "attacks on a control say nothing of a defence"),
        (
            figure in {blind, "asr_prior"} or (figure == STRONGEST and strongest == {BLIND}),
            "the blind guess says nothing of a defence",
        ),
        (figure == paper and strongest == {PAPER}, f"the same as {STRONGEST}"),
        (figure == RAW and not bare, f"{PERPLEXITY} stands for it"),
        (figure in {PERPLEXITY, AGREEMENT} and bare, "the undefended model is compared with itself"),
        (figure.endswith("seconds") or "_s_per_" in figure or "_ms_per_" in figure, "a time"),
    )
    for applies, reason in rules:
        if applies:
            return reason
    if figure in {RAW, PERPLEXITY, AGREEMENT, STRONGEST, paper}:
        return None
    known = all(side.sums(index, figure) is not None for side, index in both.places)
    return "kept out of the family" if known else "no sums by document"


def _pending(both: Both, figure: str) -> Change | _Pending:
    """A figure of the family with its sums; told where these cannot be had."""
    found: list[Sums] = []
    for (side, index), name in zip(both.places, _SIDES, strict=True):
        sums = side.sums(index, figure)
        if not isinstance(sums, Sums):
            return _plain_change(both, figure, "told", f"{NOT_TESTED}: {sums or 'no sums by document'} in {name}")
        found.append(sums)
    note = ""
    if figure == PERPLEXITY:
        over = [side.over_clean(sums) for (side, _), sums in zip(both.places, found, strict=True)]
        less = [one for one in over if one is not None]
        note = "" if len(less) == 2 else "; of the perplexities themselves: the undefended model's are not in both"
        found = less if len(less) == 2 else found
    shared = set(found[0].ids) & set(found[1].ids) if both.same else set()
    common = [name for name in found[0].ids if name in shared]
    on_both = len(common) >= 2
    if on_both:
        left = len(set(found[0].ids) ^ set(found[1].ids))
        note += f"; {left} documents are in one run only" if left else ""
        found = [one.at(common) for one in found]
    elif min(len(one.ids) for one in found) < 2:
        return _plain_change(both, figure, "told", f"{NOT_TESTED}: fewer than two documents")
    told = _plain_change(both, figure, "ratio" if figure in {RAW, PERPLEXITY} else "difference", "")
    values = [
        _value(sums, told.kind) if given is None and figure != PERPLEXITY else given
        for sums, given in zip(found, (told.base, told.new), strict=True)
    ]
    return _Pending(replace(told, base=values[0], new=values[1]), found[0], found[1], on_both, note)


def _value(sums: Sums, kind: Kind) -> float:
    """The figure itself, for a row that lacks it."""
    ratio = float(sums.sums.sum() / sums.counts.sum())
    return _exp(ratio) if kind == "ratio" else ratio


def _whole(base: RunRecord, new: RunRecord) -> Iterator[Change]:
    """Figures of the runs as a whole."""
    sides = [{figure.name: figure for figure in record.figures} for record in (base, new)]
    for name in dict.fromkeys(name for side in sides for name in side):
        pair = [side.get(name) for side in sides]
        values = [None if one is None else one.value for one in pair]
        ends = [None if one is None or one.low is None or one.high is None else (one.low, one.high) for one in pair]
        lacking = [f"not measured in {side}" for side, value in zip(_SIDES, values, strict=True) if value is None]
        method = f"not compared: {' and '.join(lacking)}" if lacking else f"{NOT_TESTED}: no sums by document"
        yield Change(
            WHOLE, name, values[0], values[1], None, None, "told", None, None, None, method, "none",
            significant=False, base_ends=ends[0], new_ends=ends[1],
        )  # fmt: skip


def _counted(changes: Sequence[Change]) -> list[str]:
    """Sentences on what changed beside the family."""
    told = {
        ("exact", "worse"): ("exact figure", "got worse"), ("exact", "better"): ("exact figure", "got better"),
        ("verdict", "worse"): ("claim", "newly refuted"), ("verdict", "better"): ("claim", "no longer refuted"),
    }  # fmt: skip
    found = []
    for (kind, way), (noun, words) in told.items():
        if count := sum(one.significant and (one.kind, one.direction) == (kind, way) for one in changes):
            verb = "" if kind == "exact" else " are" if count > 1 else " is"
            found.append(f"{count} {noun}{'s' if count > 1 else ''}{verb} {words}.")
    return found


def _direction(value: float, figure: str) -> Direction:
    if value == 0:
        return "none"
    return "worse" if (value > 0) != (figure in LESS_IS_WORSE) else "better"


def _exp(value: float) -> float:
    return math.exp(value) if value < _LARGEST_EXPONENT else math.inf
