"""Put defences on equal terms: solve each one's privacy parameter for a level of a common measure.

Four measures, the modes: what holds exactly for one token ("exact-epsilon"), what the claim's own number says
("nominal", whatever it means: that is what papers do), what the paper's attack reads ("asr"), and what the strongest
of several attacks reads ("asr-strongest"). The last two are read on one half of the victims' documents; what is
reported comes from the other half.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from audit.bisection import Crossing, bisect, crossing
from audit.calibration import Trials
from audit.config import Condition, Experiment
from audit.guarantees import EXACT_KIND
from defenses.base import Claim, Defense, Unavailable
from defenses.errors import UserError
from defenses.files import write_text
from defenses.privacy.noise import nominal_mu
from defenses.registry import defenses, pick
from defenses.untrusted import MIB, json_value, read_limited

EXACT, NOMINAL, ASR, STRONGEST = "exact-epsilon", "nominal", "asr", "asr-strongest"
MODES = (EXACT, NOMINAL, ASR, STRONGEST)
SHARES = (ASR, STRONGEST)
"""Modes whose levels are shares of tokens."""
HEADLINES = ("epsilon", "mu", "rho", "eta")
"""Which of a claim's numbers is its headline: the first of these that it has."""
PAPER = "cosine"
STEPS = 14  # the last one moves the parameter by less than 0.1 % of the range's logarithm
TOLERANCE = 0.0025  # of a share of tokens: well inside the sampling error of a few thousand of them


@dataclass(frozen=True)
class Contender:
    """A defence that takes part, with everything fixed but its privacy parameter.

    Attributes:
        name: Tells it from the other contenders.
        condition: Its projection, soft prompt and fixed parameters.
        parameter: The privacy parameter's name.
        bounds: Where it is searched.
    """

    name: str
    condition: Condition
    parameter: str
    bounds: tuple[float, float]

    def at(self, value: float) -> Condition:
        """The condition at this value of the privacy parameter."""
        return replace(self.condition, parameters={**self.condition.parameters, self.parameter: value})


@dataclass(frozen=True)
class Term:
    """One contender under one mode at one level.

    Attributes:
        contender: Who.
        mode: One of MODES.
        level: What was asked for.
        value: The privacy parameter found; None where there is none.
        reached: What the mode's measure is there.
        attack: In the modes of success, the attack that read that share.
        reason: Why there is no value.
    """

    contender: Contender
    mode: str
    level: float
    value: float | None = None
    reached: float | None = None
    attack: str | None = None
    reason: str | None = None


def contenders(experiment: Experiment) -> list[Contender]:
    """The contenders that an experiment's grids name.

    Raises:
        UserError: a defence has no privacy parameter, the grid gives it, or two contenders are the same.
    """
    conditions = experiment.conditions()
    labels = [condition.label for condition in conditions]
    found = []
    for condition in conditions:
        plugin = pick(defenses(), condition.defense, "defence")
        parameter = plugin.privacy_parameter
        if parameter is None:
            raise UserError(f"compare: {condition.defense} has no privacy parameter to solve for: take its grid out")
        if parameter in condition.parameters:
            raise UserError(
                f"compare: {parameter} of {condition.defense} is what is solved for: take it out of its grid"
            )
        name = condition.label
        if labels.count(name) > 1:
            name += f", soft prompt {condition.soft_prompt}"
        found.append(Contender(name, condition, parameter, plugin.parameter_range))
    names = [one.name for one in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"compare: the contender {twice} is named twice: take one out")
    return found


def check_levels(mode: str, levels: Sequence[float]) -> None:
    """Refuse levels that a mode cannot have.

    Raises:
        UserError: there is none, one comes twice, or one is out of range.
    """
    if not levels or len(set(levels)) < len(levels):
        raise UserError(f"compare: {mode} needs levels, each once, not {', '.join(map(str, levels)) or 'none'}")
    for level in levels:
        if mode in SHARES and not 0 < level < 1:
            raise UserError(f"compare: {mode} at {level:g}: a share of tokens is strictly between 0 and 1")
        if not (level > 0 and math.isfinite(level)):
            raise UserError(f"compare: {mode} at {level:g}: a level is positive and finite")


def headline(claim: Claim) -> tuple[str, float] | None:
    """A claim's own headline number and its name; None where it claims nothing that is one number.

    Of the exact claim of stochastic quantization it is the nominal mu that its noise has in the paper.
    """
    if claim.kind == "none":
        return None
    if claim.kind == EXACT_KIND and {"trials", "a_over_c"} <= claim.parameters.keys():
        return "mu", nominal_mu(int(claim.parameters["trials"]), claim.parameters["a_over_c"])
    return next(((name, float(claim.parameters[name])) for name in HEADLINES if name in claim.parameters), None)


def exact_epsilon(defense: Defense[Any], delta: float) -> float | None:
    """Epsilon of the two tokens that are easiest to tell apart; None where no guarantee holds for every two."""
    profile = defense.worst_case()
    return None if profile is None else profile.epsilon(delta)


@dataclass
class Readings:
    """What each attack reads of the calibration half, at each value of a contender's parameter; kept on disk.

    Attributes:
        trials: The attacks.
        place: The file that keeps what was read, so that a killed search goes on where it was.
        known: Attack -> value -> share of tokens; an attack that cannot run has None.
    """

    trials: Trials
    place: Path
    known: dict[str, dict[float, float | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.place.exists():
            try:
                kept = json_value(read_limited(self.place, MIB, "kept success rates"))
                self.known = {name: {float(at): rate for at, rate in rates.items()} for name, rates in kept.items()}
            except (ValueError, AttributeError, TypeError):
                self.place.unlink()  # half a file of a crash: read again

    def rate(self, attack: str, value: float) -> float | None:
        """One attack's success; None where it cannot run on this defence."""
        if value not in self.known.get(attack, {}):
            try:
                self._keep(value, {attack: self.trials.rates(value, attack)[attack]})
            except Unavailable:
                self._keep(value, {attack: None})
        return self.known[attack][value]

    def best(self, value: float) -> tuple[str, float]:
        """The attack that reads most, and its success."""
        names = [one.text for one in self.trials.adversaries]
        if any(value not in self.known.get(name, {}) for name in names):
            rates = self.trials.rates(value)
            self._keep(value, {name: rates.get(name) for name in names})
        found = [(name, rate) for name in names if (rate := self.known[name][value]) is not None]
        return max(found, key=lambda pair: pair[1])

    def _keep(self, value: float, rates: Mapping[str, float | None]) -> None:
        for name, rate in rates.items():
            self.known.setdefault(name, {})[value] = rate
        kept = {name: {repr(at): one for at, one in known.items()} for name, known in self.known.items()}
        write_text(self.place, json.dumps(kept))


Family = Callable[[float], Defense[Any]]


def solve_exact(contender: Contender, defense: Family, mode: str, level: float, delta: float) -> Term:
    """Solve the mode "exact-epsilon" or "nominal".

    Args:
        contender: Whose parameter.
        defense: Value of the parameter -> the defence.
        mode: Which.
        level: The epsilon, or the claim's number.
        delta: At which epsilon is stated.
    """
    term = Term(contender, mode, level)
    middle = defense(math.sqrt(contender.bounds[0] * contender.bounds[1]))
    if mode == EXACT and middle.worst_case() is None:
        return replace(term, reason="no guarantee holds for every two tokens")
    if mode == NOMINAL and headline(middle.claim) is None:
        return replace(term, reason="it claims nothing that is one number")
    measure = partial(_exact if mode == EXACT else _nominal, defense=defense, delta=delta)
    return _term(term, crossing(measure, level, contender.bounds), "epsilon" if mode == EXACT else "the claim")


def solve_success(contender: Contender, readings: Readings, mode: str, level: float) -> Term:
    """Solve the mode "asr" or "asr-strongest" on the calibration half."""
    term = Term(contender, mode, level)
    if mode == STRONGEST:
        found = bisect(lambda value: readings.best(value)[1], level, contender.bounds, steps=STEPS, tolerance=TOLERANCE)
        name = "the strongest attack"
        attack = None if found.place is None else readings.best(found.place)[0]
    else:
        if readings.rate(PAPER, contender.bounds[0]) is None:
            return replace(term, reason=f"the attack {PAPER} cannot run on it")
        found = bisect(
            lambda value: readings.rate(PAPER, value) or 0.0, level, contender.bounds, steps=STEPS, tolerance=TOLERANCE
        )
        name, attack = f"the attack {PAPER}", PAPER
    return replace(_term(term, found, name), attack=attack)


def _exact(value: float, *, defense: Family, delta: float) -> float:
    epsilon = exact_epsilon(defense(value), delta)
    return math.inf if epsilon is None else epsilon  # at the very end of a range the noise may be off


def _nominal(value: float, *, defense: Family, delta: float) -> float:  # noqa: ARG001 - as the exact one
    found = headline(defense(value).claim)
    return math.inf if found is None else found[1]


def _term(term: Term, found: Crossing, name: str) -> Term:
    """The solved term; or why it could not be."""
    if found.place is not None:
        return replace(term, value=found.place, reached=found.value)
    (low, high), parameter = term.contender.bounds, term.contender.parameter
    show = "{:.1%}" if term.mode in SHARES else "{:.4g}"
    ends = f"{show} at {parameter} = {low:g} and {show} at {high:g}".format(found.least, found.most)
    return replace(term, reason=f"out of reach: {name} gives {ends}")


def described(term: Term, defense: Defense[Any] | None, delta: float) -> Mapping[str, Any]:
    """The columns that say on which terms a row stands.

    Args:
        term: Solved or not.
        defense: As solved; None where it was not.
        delta: At which epsilon is stated.
    """
    row: dict[str, Any] = {
        "mode": term.mode, "level": term.level, "contender": term.contender.name,
        "parameter": term.contender.parameter, "parameter_value": term.value, "reached": term.reached,
        "calibrated_attack": term.attack, "reason": term.reason,
    }  # fmt: skip
    if defense is None:
        return row
    claim, profile = defense.claim, defense.worst_case()
    if (number := headline(claim)) is not None:
        row |= {"nominal_name": number[0], "nominal": number[1], "nominal_unit": claim.unit}
    if profile is None:
        return row | {"epsilon_exact_token": None, "epsilon_note": "none: no guarantee holds for every two tokens"}
    notes = ["bound" if not profile.exact else "", f"of {claim.unit}" if "prompt" in claim.unit else ""]
    notes.append("of the two tokens furthest apart" if "distance" in claim.unit else "")
    return row | {
        "epsilon_exact_token": profile.epsilon(delta), "epsilon_note": ", ".join(filter(None, notes)) or None,
    }  # fmt: skip
