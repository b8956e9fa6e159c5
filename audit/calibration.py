"""Find the noise at which an attack has a given success: the paper's way of setting a defence's parameter.

Equal success under one attack is not equal privacy. So the noise is found twice, for the attack that was asked for and
for the strongest one, and what every attack reads at both is measured on documents that had no part in it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from audit.accounting import AccountReport, account
from audit.adversaries import Adversary, token_adversaries
from audit.bisection import bisect
from audit.measures import Pairs
from audit.recovery import recover
from audit.workbench import Workbench
from defenses.base import Defense, Unavailable
from defenses.errors import UserError
from defenses.pipeline.defense import Del, DelConfig
from defenses.randomness import seeded_rng

MU_RANGE = (0.5, 2000.0)
STEPS = 14  # bisection halves log(mu) each time: the last step moves mu by less than 0.1 %
STRONGEST, WEAK, BLIND = "strongest", "cosine", "prior"
RIVALS = ("cosine", "latent-ml", "map", "hmm")
"""Who competes to be the strongest: quick enough to be tried at every step."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """The noise that gives one attack its target.

    Attributes:
        calibrated_with: The attack, or "strongest".
        goal: The success that was asked of it.
        above_blind: The target counts from the blind guess, which alone is above it.
        mu: The nominal mu found.
        account: The accounting of one token there.
        strongest: The attack that read most of the calibration tokens there.
        measured: Columns of every attack there, on other documents and coins, with 95 % intervals over them.
        trace: (mu, success) of every step, on the calibration tokens.
    """

    calibrated_with: str
    goal: float
    above_blind: bool
    mu: float
    account: AccountReport
    strongest: str
    measured: Mapping[str, Any]
    trace: tuple[tuple[float, float], ...]

    def row(self) -> Row:
        """The point as a record's row."""
        found = {key: value for key, value in self.measured.items() if key.startswith(("asr_", "posterior_"))}
        for suffix in ("", "_low", "_high"):
            found[f"asr_strongest{suffix}"] = found[f"asr_top1_{self.strongest}{suffix}"]
            found[f"asr_prior{suffix}"] = found[f"asr_top1_{BLIND}{suffix}"]
        return {
            "defence": Del.name,
            "calibrated_with": self.calibrated_with,
            "goal": self.goal,
            "above_blind": self.above_blind,
            "mu": self.mu,
            "n": self.account.n,
            "d": self.account.d,
            "a_over_c": self.account.A_over_c,
            "delta": self.account.delta,
            "epsilon_exact_token": self.account.epsilon_exact,
            "epsilon_gdp_token": self.account.epsilon_gdp,
            "vacuous": self.account.vacuous,
            "vacuous_reason": self.account.vacuous_reason,
            "strongest_attack": self.strongest,
            **found,
        }


@dataclass(frozen=True)
class Calibration:
    """The result of a calibration.

    Attributes:
        target: The asked top-1 success rate.
        attack: The attack that was asked for.
        points: The noise for that attack (or, where the strongest was asked for, for the paper's), and for the
            strongest.
        blind: What a blind guess reads of the calibration tokens.
        tokens: How many held-out tokens the figures rest on, each under `seeds` draws of coins.
        documents: In how many documents.
        calibration_tokens: How many tokens mu was chosen on.
        seeds: See there.
    """

    target: float
    attack: str
    points: tuple[Point, ...]
    blind: float
    tokens: int
    documents: int
    calibration_tokens: int
    seeds: int

    @property
    def chosen(self) -> Point:
        """The point of the attack that was asked for."""
        return next(point for point in self.points if point.calibrated_with == self.attack)

    def rows(self) -> list[Row]:
        """One row a point."""
        shared = {
            "target_asr": self.target, "blind": self.blind, "attack_tokens": self.tokens,
            "attack_documents": self.documents, "attack_seeds": self.seeds,
            "calibration_tokens": self.calibration_tokens,
        }  # fmt: skip
        return [point.row() | shared for point in self.points]

    def to_json_dict(self) -> Row:
        """Everything as strict JSON: the asked point's figures, and all points."""
        asked = self.points.index(self.chosen)
        traces = [{"trace": [list(step) for step in point.trace]} for point in self.points]
        points = [row | trace for row, trace in zip(self.rows(), traces, strict=True)]
        return {"attack": self.attack, **points[asked], **self.chosen.account.to_json_dict(), "points": points}


def calibrate_asr(
    bench: Workbench,
    *,
    target: float,
    attack: str,
    n: int,
    projection: str,
    rivals: Sequence[str] = RIVALS,
) -> Calibration:
    """Bisect mu until an attack's top-1 success reaches a target (arXiv 2602.11513, evaluation).

    Every second document serves the bisection and the choice of the strongest attack, under one named stream of coins;
    the others, under fresh coins, serve the figures that are reported. The target is thus met up to sampling error,
    and the intervals are honest.

    Args:
        bench: Model, prompts and auxiliary text.
        target: Top-1 success, in (0, 1). Where a blind guess reads more, the strongest attack is held to the blind
            guess plus the target: noise cannot take from an adversary what no view gave it.
        attack: The attack to calibrate with, or "strongest".
        n: Bits per coordinate.
        projection: The projection's name.
        rivals: Who competes to be the strongest.

    Raises:
        UserError: the target is not in (0, 1) or cannot be reached within the range of mu.
    """
    if not 0 < target < 1:
        raise UserError(f"--target-asr {target}: a success rate is strictly between 0 and 1")
    first = WEAK if attack == STRONGEST else attack
    adversaries = token_adversaries([BLIND, first, *rivals])  # a mistake is found before the model is loaded
    if any(one.text == first and getattr(one.options, "sends", 1) > 1 for one in adversaries):
        raise UserError(f"--attack {first}: it needs several messages of a prompt; calibrate with an attack on one")
    assets = bench.assets(projection)
    trials = Trials(bench, adversaries, lambda mu: Del(DelConfig(n=n, mu=mu), assets))
    goals = [(first, target, False)]
    blind = trials.rates(1.0)[BLIND]
    above = target <= blind
    goals.append((STRONGEST, blind + target if above else target, above))
    d = assets.needed_projection().d
    points = tuple(_point(trials, name, goal, above_blind=over, n=n, d=d) for name, goal, over in goals)
    return Calibration(
        target, attack, points, blind, int(trials.held_out.prefix.size), len(np.unique(trials.held_out.clusters)),
        int(trials.fitting.prefix.size), bench.experiment.attack_seeds,
    )  # fmt: skip


class Trials:
    """Attacks on a defence at any noise, and the two halves of the victims' documents.

    Args:
        bench: Model, prompts and auxiliary text.
        adversaries: Who attacks.
        defense: Privacy parameter -> the defence.

    Attributes:
        fitting: The half that the noise is chosen on.
        held_out: The other one.

    Raises:
        UserError: there are fewer than four documents.
    """

    def __init__(
        self, bench: Workbench, adversaries: Sequence[Adversary], defense: Callable[[float], Defense[Any]]
    ) -> None:
        self.bench, self.adversaries, self.defense = bench, adversaries, defense
        self.fitting, self.held_out = halves(bench.attacked)

    def rates(self, value: float, only: str | None = None) -> dict[str, float]:
        """Success of each attack that can run, or of one only, on the calibration tokens.

        Args:
            value: The privacy parameter.
            only: The attack, as its adversary is named.

        Raises:
            Unavailable: `only` cannot run on this defence.
        """
        defense, victims = self.defense(value), self.fitting.prefix
        view = defense.protect(victims, seeded_rng(self.bench.experiment.seed, "calibrate"))
        found = {}
        for one in self.adversaries:
            if only in {None, one.text}:
                try:
                    found[one.text] = float(self._fitted(one, defense).guess(view).hits(victims).mean())
                except Unavailable:
                    if only is not None:
                        raise
        return found

    def measured(self, value: float) -> Row:
        """Every attack's columns on the held-out documents, under fresh coins."""
        experiment, defense, victims = self.bench.experiment, self.defense(value), self.held_out
        streams = [seeded_rng(experiment.seed, "measure", number) for number in range(experiment.attack_seeds)]
        views = [defense.protect(victims.prefix, rng) for rng in streams]
        prompts = self.bench.prompts(victims)
        found: Row = {}
        for one in self.adversaries:
            attack = self._fitted(one, defense)
            found |= recover(one.text, [attack.guess(view) for view in views], prompts)
        return found

    def _fitted(self, one: Adversary, defense: Defense[Any]) -> Any:
        return one.against(defense, self.bench.tools).fit([], [self.bench.auxiliary.windows])


def _point(trials: Trials, attack: str, goal: float, *, above_blind: bool, n: int, d: int) -> Point:
    """The noise at which an attack reaches a goal, and all that is read there.

    Raises:
        UserError: it does not, within the range of mu.
    """
    trace: list[tuple[float, float]] = []
    with tqdm(total=STEPS + 2, desc=f"calibrating {attack}", unit="step", leave=False) as bar:

        def success(mu: float) -> float:
            rates = trials.rates(mu, None if attack == STRONGEST else attack)
            trace.append((mu, max(rates.values())))
            bar.update()
            return trace[-1][1]

        found = bisect(success, goal, MU_RANGE, steps=STEPS, tolerance=0.0)
    if found.place is None:
        raise UserError(
            f"--target-asr: {attack} would have to succeed at {goal:.3f}, and succeeds between {found.least:.3f} at "
            f"mu = {MU_RANGE[0]:g} and {found.most:.3f} at mu = {MU_RANGE[1]:g}; choose a target between them",
        )
    mu = found.place
    rates = trials.rates(mu)
    strongest = max(rates, key=lambda label: rates[label])
    report = account(n, d, 1, trials.bench.experiment.delta, mu=mu)
    return Point(attack, goal, above_blind, mu, report, strongest, trials.measured(mu), tuple(trace))


def halves(victims: Pairs) -> tuple[Pairs, Pairs]:
    """Windows of every second document, and of the others.

    Raises:
        UserError: fewer than four documents: each half needs two for an interval.
    """
    documents, place = np.unique(victims.clusters, return_inverse=True)
    if len(documents) < 4:
        raise UserError(f"calibration needs at least 4 documents, there are {len(documents)}: give more text")
    even = place % 2 == 0
    return victims.part(even), victims.part(~even)
