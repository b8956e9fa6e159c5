"""Draws to scores: training draws choose inputs, mode, scorer and roles; fresh draws are scored."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from audit.bounds.base import EvidenceError, Scores
from audit.bounds.families import Family
from audit.probes.base import Bar, Draws, Float64, Inputs, Ints, ProbeResult, Target
from audit.probes.battery import Strength, Winner, battery, strongest
from audit.probes.known_text import sent_at
from audit.probes.mechanism import DefenseTarget
from audit.probes.prompts import variants
from audit.probes.scorers import Scorer, Structure
from defenses.base import Defense, Tokens

THROUGH = ("mechanism", "prompt", "vocabulary", "wire")

_TRAIN_LEAST, _TRAIN_MOST, _TRAIN_SHARE, _TRAIN_ARM = 400, 4000, 0.25, 128
_LEAST = 16  # training draws a side, of anything
_BLOCK_BYTES = 1 << 25  # of fresh bodies that are held at once

Pair = tuple[Tokens, Tokens]


@dataclass(frozen=True, eq=False)
class _Arm:
    """One pair of inputs, drawn in one mode, with its training draws."""

    inputs: Inputs
    mode: str
    draws: tuple[Draws, Draws]


@dataclass(frozen=True, eq=False)
class _Source:
    """Where draws come from."""

    target: Target
    rng: np.random.Generator
    bar: Bar

    def pair(self, inputs: Inputs, mode: str, count: int) -> tuple[Draws, Draws]:
        """Draws under both inputs, as many as asked.

        Raises:
            EvidenceError: they are not.
        """
        first, second = self.target.sample(inputs, count, self.rng, mode, self.bar)
        if first.count != count or second.count != count:
            sides = f"{first.count} and {second.count}"
            text = f"{self.target.name} gave {sides} draws where {count} of each were asked: mend the mechanism"
            raise EvidenceError(text)
        return first, second


def collect(
    target: Target | Defense[Any],
    inputs: Inputs | Pair | Sequence[Inputs],
    samples: int,
    rng: np.random.Generator,
    *,
    family: Family,
    train: int | None = None,
    through: str = "mechanism",
    timing: bool = False,
    progress: bool = True,
) -> ProbeResult:
    """Probe a defence with two neighbouring inputs: one score for each of `samples` fresh draws a side.

    A third of the training draws choose among several inputs, a third among variants and modes, and all of those of
    the winner choose the scorer, its sign and which input is the null. None of them is scored in the result.

    Args:
        target: A defence, or any other target. A defence that is audited "through" the wire is given a real client
            and service of its own (`wire.wire_target`).
        inputs: Two prompts (T,) each; or Inputs; or several of them with as many uses, the likeliest first: training
            draws take another where it clearly shows more. "prompt" and "wire" add variants in which shared coins show.
        samples: S, fresh draws per side.
        rng: For the defence's coins (but on the wire, where the client has its own).
        family: Of the claim that is to be tested; it says what a pair of error rates is worth.
        train: Training draws per side, in all; by default a quarter of the samples, from 400 to 4,000, and at least
            128 for each pair of inputs and mode.
        through: One of THROUGH, for the record and for the variants.
        timing: Whether seconds of encoding are a score: for a claim that covers time, on the wire.
        progress: Show a bar, where standard error is a terminal.

    Raises:
        EvidenceError: the mechanism raised, or gave NaN, a wrong type, a wrong shape or unequal counts.
        ValueError: samples or train is too small, `through` is unknown, or the inputs differ in their uses.
    """
    if through not in THROUGH:
        raise ValueError(f"through is one of {', '.join(THROUGH)}, not {through}")
    if samples < 2 or (train is not None and train < _LEAST):
        raise ValueError(f"at least 2 samples and {_LEAST} training draws a side are needed, not {samples} and {train}")
    given = _given(inputs)
    arms = len(given) + len(_around(given[0], through))
    with ExitStack() as stack:
        if isinstance(target, Defense):
            target = stack.enter_context(_wire(target)) if through == "wire" else DefenseTarget(target)
        train = _training_draws(samples, arms * len(target.modes)) if train is None else train
        hidden = None if progress else True  # None: hidden where standard error is no terminal
        bar = stack.enter_context(tqdm(total=2 * (train + samples), unit="draw", disable=hidden, leave=False))
        bar.set_description(f"probing {target.name}")
        if isinstance(target, DefenseTarget):
            target.check(given[0], rng)
        source = _Source(target, rng, bar)
        arm, winner = _Training(source, family, samples, timing).run(given, train, through)
        scores, sent = _fresh(source, arm, winner, samples)
    facts = {"train": train, "inputs_tried": len(given)}
    return replace(_result(scores, arm, winner, through, facts), sent=_roles(sent, winner))


def _roles(sent: tuple[Ints, Ints] | None, winner: Winner) -> tuple[Ints, Ints] | None:
    """Sent tokens in the roles of the scores."""
    return sent if sent is None or not winner.strength.swapped else (sent[1], sent[0])


def _result(
    scores: Scores, arm: _Arm, winner: Winner, through: str, facts: Mapping[str, float | str | bool]
) -> ProbeResult:
    """The scores as the training draws orient them, with what stands behind them."""
    strengths = {f"strength of {name}": value for name, value in winner.table.items()}
    return ProbeResult(
        scores=winner.strength.orient(scores),
        score=winner.scorer.name,
        through=through,
        inputs=str(arm.inputs),
        uses=arm.inputs.uses,
        distance=arm.inputs.distance,
        facts={**facts, "mode": arm.mode, "swapped": winner.strength.swapped, **strengths},
        pair=arm.inputs,
    )


def _wire(defense: Defense[Any]) -> Any:  # a context manager; the wire is heavy and imported only where it is used
    from audit.probes.wire import wire_target  # noqa: PLC0415 - see above

    return wire_target(defense)


def _given(inputs: Inputs | Pair | Sequence[Inputs]) -> list[Inputs]:
    """The inputs that the caller wants to be chosen among.

    Raises:
        ValueError: there is none, or they differ in their uses, so that no one claim is tested.
    """
    if isinstance(inputs, Inputs):
        return [inputs]
    several = [one for one in inputs if isinstance(one, Inputs)]
    if not several:
        first, second = (np.asarray(one, dtype=np.int64) for one in inputs)
        return [Inputs(first, second)]
    if len(several) < len(inputs) or len({one.uses for one in several}) > 1:
        raise ValueError("inputs to choose among must all be Inputs that differ in as many tokens")
    return several


def _training_draws(samples: int, arms: int) -> int:
    """Per side, in all."""
    share = int(np.clip(_TRAIN_SHARE * samples, _TRAIN_LEAST, _TRAIN_MOST))
    return max(share, _TRAIN_ARM * arms)


@dataclass(frozen=True, eq=False)
class _Training:
    """Chooses inputs, mode and scorer.

    In each round the first arm stays unless another shows more at three standard errors than it does at one, so that
    noise among many does not choose. Strengths are per unit of distance.
    """

    source: _Source
    family: Family
    judged: int
    timing: bool
    scorers: dict[Inputs, list[Scorer]] = field(default_factory=dict)

    def run(self, given: Sequence[Inputs], train: int, through: str) -> tuple[_Arm, Winner]:
        """A third of the draws for the given inputs, a third for variants and modes, the rest for what is left.

        Where there is nothing to choose in a round its draws go to the next. The scorer is chosen on all draws of the
        inputs and the mode that are left.
        """
        arm, left = self._among_inputs(given, train)
        arm, left = self._among_modes(arm, left, through)
        arm = _more(arm, self.source.pair(arm.inputs, arm.mode, max(_LEAST, left)))
        return arm, self._winner(arm)

    def _among_inputs(self, given: Sequence[Inputs], train: int) -> tuple[_Arm, int]:
        """The strongest of the given inputs in the plain mode, and the draws that are left."""
        plain = self.source.target.modes[0]
        share = _share(train // 3, len(given)) if len(given) > 1 else _LEAST
        arms = [_Arm(inputs, plain, self.source.pair(inputs, plain, share)) for inputs in given]
        return self._best(arms), train - share * len(given)

    def _among_modes(self, arm: _Arm, left: int, through: str) -> tuple[_Arm, int]:
        """The strongest of these inputs' variants and modes, and the draws that are left."""
        plans = [(inputs, mode) for inputs in _around(arm.inputs, through) for mode in self.source.target.modes]
        if len(plans) == 1:
            return arm, left
        share = _share(left // 2, len(plans))
        arms = [_Arm(inputs, mode, self.source.pair(inputs, mode, share)) for inputs, mode in plans]
        return self._best([_more(arm, arms[0].draws), *arms[1:]]), left - share * len(plans)

    def _best(self, arms: Sequence[_Arm]) -> _Arm:
        if len(arms) == 1:
            return arms[0]
        shown = [self._winner(arm).strength for arm in arms]
        worth = [one.value if place == 0 else one.cautious for place, one in enumerate(shown)]
        return arms[int(np.argmax([one / arm.inputs.distance for one, arm in zip(worth, arms, strict=True)]))]

    def _winner(self, arm: _Arm) -> Winner:
        if arm.inputs not in self.scorers:
            target, rng = self.source.target, self.source.rng
            self.scorers[arm.inputs] = battery(target, arm.inputs, rng, timing=self.timing)
        found = strongest(self.scorers[arm.inputs], *arm.draws, self.family, self.judged)
        return found or Winner(_NOTHING, Strength(0.0, 0.0, swapped=False, flipped=False), {_NOTHING.name: 0.0})


def _share(draws: int, arms: int) -> int:
    """Training draws a side for each of several arms."""
    return max(_LEAST, draws // arms)


def _around(inputs: Inputs, through: str) -> tuple[Inputs, ...]:
    """The inputs themselves, then variants in which coins that are shared between tokens or requests show."""
    return variants(inputs) if through in {"prompt", "wire"} else (inputs,)


def _more(arm: _Arm, draws: tuple[Draws, Draws]) -> _Arm:
    """The arm with further draws."""
    first, second = (Draws.joined(sides) for sides in zip(arm.draws, draws, strict=True))
    return replace(arm, draws=(first, second))


_NOTHING = Structure("none: all views are equal", lambda draws: np.zeros(draws.count))


def _fresh(source: _Source, arm: _Arm, winner: Winner, samples: int) -> tuple[Scores, tuple[Ints, Ints] | None]:
    """Scores of fresh draws and the tokens that were sent, block by block so that bodies need not all be kept."""
    block = max(64, _BLOCK_BYTES // max(1, arm.draws[0].bodies[0].size))
    found: list[list[Float64]] = [[], []]
    sent: list[list[Ints | None]] = [[], []]
    for start in range(0, samples, block):
        pair = source.pair(arm.inputs, arm.mode, min(block, samples - start))
        for side, tokens, draws in zip(found, sent, pair, strict=True):
            side.append(winner.scorer.score(draws))
            tokens.append(sent_at(source.target.defense, draws, arm.inputs))
    null, alternative = (np.concatenate(side) for side in found)
    first, second = (_joined(side) for side in sent)
    return Scores(null, alternative), None if first is None or second is None else (first, second)


def _joined(parts: Sequence[Ints | None]) -> Ints | None:
    """All blocks in one; None where one is not known."""
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None
