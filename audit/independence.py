"""Does what one party sees depend on the secret? Two-sample tests on recorded views, with family-wise control.

K pairs of runs are recorded, in each pair one under input A and one under input B, in random order. If the view's law
is the same under both inputs, the two runs of a pair may be swapped without changing the law of all, whatever drifts
from pair to pair. Every comparison's p-value is that of such swaps and holds for any number of pairs (Lehmann and
Romano 2005, section 15.2); two, of masks, need no comparison and are exact by a union bound.

The tests, and what each is applied to:

- structure: which messages come, under which names and how long. Equal in all runs, or in none: p = 1.
- lengths: messages and bytes of every kind, where a protocol's lengths vary by themselves.
- bits: means of single bits of corresponding words, summed over all bits.
- single bit: the same, the largest.
- bytes: the two-sample chi-square of byte values, kind by kind and summed.
- equal words: corresponding words that recur in runs of one input more often than across inputs.
- equal differences: words whose difference between the two runs of a pair recurs in other pairs: a mask used twice.
- equal words in a run: how many words come twice in one run, wherever they stand.
- equal differences in a run: the difference, or exclusive or, of two places of a run that recurs in runs of one input
  more often than across inputs: one mask at two places.
- classifier: regularised least squares on bits, on lengths and on times, which judges the pair that it has not seen.
- timing: quantiles of the messages' arrival times, the largest difference.
- repeated masks: a word of an input share, or its difference or exclusive or with the run before, that comes twice at
  one place. Shares are uniform by definition, so that each such event has probability 2^-64.
- reused masks: input shares again: words that come twice in a run, and differences and exclusive ors of two places
  that recur in another run. As improbable.

Size and power (tests/audit/test_independence.py, 20 pairs). Of 1000 repetitions with uniform views no more are rejected
than a family-wise level of 0.05 allows, in fact far fewer: Holm's adjustment is for any dependence, and eight of the
tests have nothing to count there. At 0.005 and 0.0033, the levels of one of two and of three parties in
`delaudit crypto views`, these are each found in at least 98 of 100: for every test a mistake that no other sees but the
classifier; masks that repeat in every run, serve two runs, serve two places or are too short; a length that depends on
the secret. What shifts bits or times by a few per cent, or shows in few runs and not in the shares, needs more pairs.
Equal words are sought among 16,384 at most, bits among 2,048, in equal parts of input shares and of messages, chosen at
random: of a view of megabytes that is a small part.

A rejection is evidence that the view depends on the secret. That nothing is rejected means that these tests saw
nothing: a view from which everything can be computed, such as that of a dealer who knows the seeds of all masks, looks
just as random (see `audit.dealer`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from audit.multiplicity import holm_adjusted
from audit.swap_statistics import (
    Statistic,
    bit_differences,
    byte_differences,
    differences,
    in_turn,
    largest,
    least_p,
    quadratic,
    recurring,
    recurring_differences,
    recurring_steps,
    repeated_masks,
    repetitions,
    reused_masks,
    swapped,
    told_apart,
    variation,
)
from audit.view_features import ViewFeatures, spread, view_features
from defenses.crypto.engines.recorder import PartyView
from defenses.errors import UserError

LEVEL = 0.01
LEAST_LEVEL = 1e-4  # below, the swaps would take gigabytes
FAMILY = 13  # tests
PAIRS_AT_LEAST = 16  # from there each of the tests alone can reject at a level of 0.001
CAP = 2048  # words compared bit by bit; lengths and byte counts take all
PLACES = 16_384  # words of which equal ones are sought
_ROOM = 10  # how far below the level the smallest adjusted p-value lies
_SURE = 2  # how far at least, so that the luck of the swaps decides nothing


@dataclass(frozen=True)
class FeatureTest:
    """One test of the family.

    Attributes:
        feature: Its name.
        statistic: Larger is more different; its scale is the test's own.
        p_value: Of this test alone.
        adjusted: Holm's, over the family.
    """

    feature: str
    statistic: float
    p_value: float
    adjusted: float


@dataclass(frozen=True)
class Independence:
    """What the tests found of one party's views.

    Attributes:
        rank: Whose views.
        pairs: K.
        level: Probability at most of any rejection where the view does not depend on the input.
        tests: The family, in the order of the module's list.
        parts: Input shares and messages of the first view.
        bytes: Their bytes.
        words: Corresponding words that were compared.
    """

    rank: int
    pairs: int
    level: float
    tests: tuple[FeatureTest, ...]
    parts: int
    bytes: int
    words: int

    @property
    def rejected(self) -> bool:
        """Whether the view was found to depend on the input."""
        return bool(self.leaks)

    @property
    def leaks(self) -> tuple[str, ...]:
        """The features by which it was found, most significant first."""
        found = sorted((one for one in self.tests if one.adjusted <= self.level), key=lambda one: one.adjusted)
        return tuple(one.feature for one in found)

    def rows(self, **labels: str | float | bool | None) -> list[dict[str, str | float | bool | None]]:
        """One flat row for each test, for a run record; `labels` are added to each."""
        shared = {
            "party": self.rank, "pairs": self.pairs, "level": self.level, "view_parts": self.parts,
            "view_bytes": self.bytes, "words_compared": self.words,
        }  # fmt: skip
        return [
            {
                **labels, **shared, "feature": one.feature, "statistic": one.statistic, "p_value": one.p_value,
                "adjusted_p": one.adjusted, "rejected": one.adjusted <= self.level,
            }
            for one in self.tests
        ]  # fmt: skip


def independence(
    first: Sequence[PartyView],
    second: Sequence[PartyView],
    rng: np.random.Generator,
    *,
    level: float = LEVEL,
    swaps: int | None = None,
    cap: int = CAP,
) -> Independence:
    """Test one party's views under two inputs.

    Args:
        first: K views under input A.
        second: K views under input B; the i-th was recorded just before or just after the i-th of `first`, by the
            toss of a coin.
        rng: Draws the swaps, and the words where there are too many.
        level: Family-wise, over the 13 tests.
        swaps: Random swaps for each test; left out, as many as the level asks for (`enough_swaps`).
        cap: Words compared bit by bit at most.

    Raises:
        UserError: views of several parties, or too few pairs or swaps for any leak to be rejected at the level.
    """
    _check(first, second)
    pairs = len(first)
    signs = rng.integers(0, 2, size=(enough_swaps(pairs, level, swaps), pairs)) * 2.0 - 1.0
    found = view_features([*first, *second], rng, PLACES)
    exact = {"repeated masks": repeated_masks(in_turn(found.shares)), "reused masks": reused_masks(found.shares)}
    results = {name: swapped(statistic, signs) for name, statistic in _compared(found, rng, cap).items()} | exact
    adjusted = holm_adjusted({name: p for name, (_, p) in results.items()})
    tests = tuple(FeatureTest(name, value, p, adjusted[name]) for name, (value, p) in results.items())
    view = first[0]
    parts = [*view.inputs, *(message.payload for message in view.messages)]
    return Independence(view.rank, pairs, level, tests, len(parts), sum(map(len, parts)), found.words.shape[1])


def _compared(found: ViewFeatures, rng: np.random.Generator, cap: int) -> dict[str, Statistic]:
    """The tests that are judged by swaps."""
    bits = bit_differences(found.words[:, spread(found.leading, found.words.shape[1], cap, rng)])
    lengths, times = differences(found.lengths), differences(np.log(found.arrivals + 1e-6))
    return {
        "structure": variation(found.structure),
        "lengths": largest(lengths),
        "bits": quadratic(bits),
        "single bit": largest(bits),
        "bytes": quadratic(byte_differences(found.histograms)),
        "equal words": recurring(found.words),
        "equal differences": recurring_differences(found.words),
        "equal words in a run": repetitions(found.words),
        "equal differences in a run": recurring_steps(found.words),
        "classifier": told_apart([bits, lengths, times]),
        "timing": largest(times),
    }


def enough_swaps(pairs: int, level: float, swaps: int | None = None) -> int:
    """How many random swaps the tests need, so that a leak that is certain is rejected.

    Its p-value is about `audit.swap_statistics.least_p`, which Holm multiplies by the size of the family. That must
    stay below half the level; the rest is for the luck of the swaps.

    Args:
        pairs: K.
        level: Family-wise.
        swaps: What is asked for; left out, ten times the fewest with which anything could be rejected.

    Raises:
        UserError: the level is out of range, or nothing could be rejected at it with so few pairs or swaps.
    """
    if not LEAST_LEVEL <= level < 1:
        raise UserError(f"the level of one party's tests must be from {LEAST_LEVEL:g} to below 1, not {level:g}")
    if pairs < PAIRS_AT_LEAST:
        raise UserError(f"pairs must be at least {PAIRS_AT_LEAST}, not {pairs}: record more runs")
    do = math.ceil(_ROOM * FAMILY / level)
    drawn = do if swaps is None else swaps
    if drawn < 1 or _SURE * FAMILY * least_p(pairs, drawn) > level:
        least = 1 + math.ceil(math.log2(_SURE * FAMILY / level / (1 - _SURE / _ROOM)))
        raise UserError(
            f"with {pairs} pairs and {drawn} swaps no test can reject at the level {level:g}: give at least "
            f"{max(least, PAIRS_AT_LEAST)} pairs and {do} swaps"
        )
    return drawn


def paired_views(
    record: Callable[[int], Mapping[int, PartyView]],
    pairs: int,
    rng: np.random.Generator,
    tick: Callable[[], object] = lambda: None,
) -> dict[int, tuple[list[PartyView], list[PartyView]]]:
    """Record K pairs of runs, each pair in random order.

    Args:
        record: Runs once under input 0 (A) or 1 (B), and gives the view of every party that is looked at.
        pairs: K.
        rng: Tosses the coins.
        tick: Called after every run, for a progress bar.

    Returns:
        Rank -> the views under A and those under B, as `independence` takes them.
    """
    found: dict[int, tuple[list[PartyView], list[PartyView]]] = {}
    for _ in range(pairs):
        for side in rng.permutation(2):
            for rank, view in record(int(side)).items():
                found.setdefault(rank, ([], []))[int(side)].append(view)
            tick()
    return found


def _check(first: Sequence[PartyView], second: Sequence[PartyView]) -> None:
    if len(first) != len(second):
        raise UserError(f"independence compares pairs of views, not {len(first)} with {len(second)}: record both sides")
    if len({view.rank for view in (*first, *second)}) > 1:
        raise UserError("independence compares views of one party: give one party's")
