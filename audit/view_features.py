"""Recorded views of one party as arrays: what the independence tests compare.

A part is one input share or one message. Parts of two runs correspond where they have one label: the share's number, or
the message's sender and key. Bytes are compared at corresponding places: 64-bit words of parts that every run has, up
to the shortest run's length. Histograms and lengths take all bytes of all parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.crypto.engines.recorder import PartyView

WORD = 8  # bytes: the width of a ring element, or half of one in the ring of 128 bits
_SHARE = "input share"
_ARRIVALS = 10  # of a run's message times, as many quantiles are compared

Float64 = NDArray[np.float64]
Words = NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class ViewFeatures:
    """R runs, in the order in which they were given.

    Attributes:
        structure: A number for every distinct sequence of labels and lengths, (R,).
        lengths: Parts and bytes of every kind, (R, 2 G).
        histograms: Counts of byte values for every kind, (R, G, 256).
        words: Corresponding words of all parts, at most `cap` of them, (R, M); those of input shares come first.
        leading: How many of `words` are of input shares.
        shares: All words of the input shares, (R, S); S = 0 where runs have shares of several lengths.
        arrivals: Quantiles of the messages' arrival times, in seconds, (R, 10); the last is the whole run's time.
    """

    structure: NDArray[np.int64]
    lengths: Float64
    histograms: Float64
    words: Words
    leading: int
    shares: Words
    arrivals: Float64


def view_features(views: Sequence[PartyView], rng: np.random.Generator, cap: int) -> ViewFeatures:
    """Arrays of R views of one party.

    Args:
        views: One for each run.
        rng: Chooses which words are compared, where there are more than `cap`; see `spread`.
        cap: Words at most.
    """
    runs = [_parts(view) for view in views]
    kinds = sorted({kind for run in runs for _, kind, _ in run})
    words, leading = _common_words(runs, rng, cap)
    return ViewFeatures(
        _structures(runs), np.array([_lengths(run, kinds) for run in runs]),
        np.array([_histograms(run, kinds) for run in runs]), words, leading,
        _share_words(views), np.array([_arrivals(view) for view in views]),
    )  # fmt: skip


def spread(leading: int, total: int, cap: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Which of so many words to compare, in order, without a look at what they are.

    Words of input shares take up to half of the places, or what the others leave: of the megabytes that a party of
    CHEETAH receives they would hardly ever be drawn, and they are where the secret itself is masked.

    Args:
        leading: Words of input shares, which come first.
        total: All words.
        cap: How many at most.
        rng: Draws them.
    """
    if total <= cap:
        return np.arange(total)
    shares = min(leading, max(cap // 2, cap - (total - leading)))
    others = leading + rng.choice(total - leading, cap - shares, replace=False)
    return np.sort(np.concatenate([rng.choice(leading, shares, replace=False), others]))


_Run = list[tuple[str, str, bytes]]  # label, kind and bytes of every part


def _parts(view: PartyView) -> _Run:
    shares = [(f"input {index}", _SHARE, share) for index, share in enumerate(view.inputs)]
    return shares + [(f"{one.sender}:{one.key}", one.kind, one.payload) for one in view.messages]


def _structures(runs: list[_Run]) -> NDArray[np.int64]:
    numbers: dict[tuple[tuple[str, int], ...], int] = {}
    seen = [tuple((label, len(content)) for label, _, content in run) for run in runs]
    return np.array([numbers.setdefault(one, len(numbers)) for one in seen], dtype=np.int64)


def _lengths(run: _Run, kinds: list[str]) -> list[float]:
    sizes = {kind: [len(content) for _, at, content in run if at == kind] for kind in kinds}
    return [float(found) for kind in kinds for found in (len(sizes[kind]), sum(sizes[kind]))]


def _histograms(run: _Run, kinds: list[str]) -> Float64:
    joined = {kind: b"".join(content for _, at, content in run if at == kind) for kind in kinds}
    counts = [np.bincount(np.frombuffer(joined[kind], dtype=np.uint8), minlength=256) for kind in kinds]
    return np.array(counts, dtype=np.float64)


def _common_words(runs: list[_Run], rng: np.random.Generator, cap: int) -> tuple[Words, int]:
    """Corresponding words, and how many of them are of input shares, which stand first in a run."""
    by_label = [{label: content for label, _, content in run} for run in runs]
    common = [(label, kind) for label, kind, _ in runs[0] if all(label in run for run in by_label)]
    sizes = [min(len(run[label]) for run in by_label) // WORD for label, _ in common]
    leading = sum(size for (_, kind), size in zip(common, sizes, strict=True) if kind == _SHARE)
    chosen = spread(leading, sum(sizes), cap, rng)
    found = []
    for run in by_label:
        whole = b"".join(run[label][: WORD * size] for (label, _), size in zip(common, sizes, strict=True))
        found.append(np.frombuffer(whole, dtype="<u8")[chosen])
    return np.array(found, dtype=np.uint64), int(np.count_nonzero(chosen < leading))


def _share_words(views: Sequence[PartyView]) -> Words:
    shares = [b"".join(view.inputs) for view in views]
    if len({len(share) for share in shares}) > 1:
        return np.zeros((len(views), 0), dtype=np.uint64)
    return np.array([np.frombuffer(share[: len(share) // WORD * WORD], dtype="<u8") for share in shares])


def _arrivals(view: PartyView) -> Float64:
    times = [message.seconds for message in view.messages] or [0.0]
    return np.quantile(times, np.linspace(1 / _ARRIVALS, 1, _ARRIVALS))
