"""What DP on the counts does not cover, but a claim may: lengths, headers, their order, repeated bodies, time."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, mannwhitneyu

from audit.probes.base import Inputs
from audit.probes.wire import Request, WireTarget
from defenses.pipeline.defense import Del
from defenses.pipeline.wire import HEADER_SIZE

_LEVEL = 1e-3  # of the two tests below; the other checks are deterministic


@dataclass(frozen=True)
class LeakReport:
    """What differs between the two inputs beside the counts.

    Attributes:
        lengths: Whether the lengths of bodies differ between the inputs.
        target: Whether path or query does.
        headers: Names of headers that are constant under each input and differ between them.
        order: Whether the order of the headers' names does.
        varying: Names of headers that vary within an input: random, or worth a look.
        repeats: Messages whose counts had been sent before, over all requests.
        repeats_p: Probability of so many, or more, under independent coins; at most this.
        timing_auc: P(encoding the second input takes longer), ties shared; 1/2 tells nothing.
        timing_p: Two-sided Mann-Whitney p-value of the times.
        draws: Per input.
    """

    lengths: bool
    target: bool
    headers: tuple[str, ...]
    order: bool
    varying: tuple[str, ...]
    repeats: int
    repeats_p: float
    timing_auc: float
    timing_p: float
    draws: int

    @property
    def leaks(self) -> tuple[str, ...]:
        """Plain sentences, one for each leak; the tests of repeats and time are at 1e-3 each."""
        found = [
            (self.lengths, "the length of the body depends on the input"),
            (self.target, "path or query depends on the input"),
            (bool(self.headers), f"headers depend on the input: {', '.join(self.headers)}"),
            (self.order, "the order of the headers depends on the input"),
            (self.repeats_p <= _LEVEL, f"{self.repeats} messages repeat earlier ones: coins are used again"),
            (self.timing_p <= _LEVEL, f"encoding time tells the inputs apart (AUC {self.timing_auc:.3f})"),
        ]
        return tuple(text for leaked, text in found if leaked)


def check_leaks(target: WireTarget, inputs: Inputs, count: int, rng: np.random.Generator) -> LeakReport:
    """Send both inputs `count` times each, in random order, and compare all but the counts.

    Args:
        target: The client and its record.
        inputs: Two inputs of equally many tokens.
        count: Draws per input, at least 2.
        rng: The order.

    Raises:
        EvidenceError: as for `WireTarget.transcripts`.
        ValueError: count is below 2.
    """
    if count < 2:
        raise ValueError(f"at least 2 draws per input are needed, not {count}")
    first, second = target.transcripts(inputs, count, rng)
    flat = [[request for draw in side for request in draw] for side in (first, second)]
    names = sorted({name for side in flat for request in side for name, _ in request.headers})
    values = {name: [{_value(request, name) for request in side} for side in flat] for name in names}
    fixed = {name: sides for name, sides in values.items() if max(map(len, sides)) == 1}
    repeats, bound = _repeats(flat, inputs, target.defense if isinstance(target.defense, Del) else None)
    times = [[sum(request.seconds for request in draw) for draw in side] for side in (first, second)]
    test = mannwhitneyu(times[1], times[0], alternative="two-sided")
    return LeakReport(
        lengths=_differ(len(request.body) for request in flat[0]) != _differ(len(r.body) for r in flat[1]),
        target=_differ(request.target for request in flat[0]) != _differ(r.target for r in flat[1]),
        headers=tuple(name.decode("latin-1") for name, sides in fixed.items() if sides[0] != sides[1]),
        order=_differ(_order(request) for request in flat[0]) != _differ(_order(r) for r in flat[1]),
        varying=tuple(name.decode("latin-1") for name in names if name not in fixed),
        repeats=repeats,
        repeats_p=bound,
        timing_auc=float(test.statistic) / count**2,
        timing_p=float(test.pvalue),
        draws=count,
    )


def _differ(values: Iterable[object]) -> frozenset[object]:
    """The values that occur."""
    return frozenset(values)


def _order(request: Request) -> tuple[bytes, ...]:
    return tuple(name for name, _ in request.headers)


def _value(request: Request, name: bytes) -> tuple[bytes, ...]:
    return tuple(value for key, value in request.headers if key == name)


def _repeats(sides: list[list[Request]], inputs: Inputs, defense: Del | None) -> tuple[int, float]:
    """Messages whose packed counts were seen before, and Markov's bound on the probability of as many.

    Two messages are equal by chance with probability prod_j sum_k P_j(k) P'_j(k); the expected number of equal pairs
    is its sum, and a message that repeats an earlier one is in at least one pair.
    """
    bodies = [request.body[HEADER_SIZE:] for side in sides for request in side]
    repeats = len(bodies) - len(set(bodies))
    if not repeats or defense is None:
        return repeats, 1.0
    quantizer = defense.quantizer
    prompts = np.unique(np.concatenate([inputs.first, inputs.second]), axis=0)
    laws = []
    for prompt in prompts:
        probability = quantizer.probability(defense.table.latents(prompt)).reshape(-1, 1)
        pmf = binom.pmf(np.arange(quantizer.trials + 1), quantizer.trials, probability)
        laws.append(np.asarray(pmf, dtype=np.float64))
    chances = [float(np.prod((a * b).sum(axis=1))) for a in laws for b in laws]
    pairs = len(bodies) * (len(bodies) - 1) / 2
    return repeats, min(1.0, pairs * max(chances) / repeats)
