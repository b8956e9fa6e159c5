"""Token inversion as an experiment: fit attacks, choose the strongest on the adversary's own text, try it on others.

The adversary protects public text of its own with fresh coins and sees which attack reads most of it. That choice is
never made on a victim's tokens, so the success of the chosen attack needs no correction for having been chosen.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from attacks.base import Attack, Guess, Knowledge, Tools
from audit.adversaries import Adversary, told
from audit.guarantees import KINDS, guarantee_of
from audit.recovery import Prompts, compare, recover
from defenses.base import Defense, Tokens, Unavailable
from defenses.errors import UserError
from defenses.randomness import seeded_rng

CALIBRATION_TOKENS = 1024  # of the adversary's own text, on which attacks compete
HELD_BACK = 5  # at most a fifth of that text is kept back for it
REFERENCE, BLIND = "cosine", "prior"
BRIEF = ("asr_top1", "asr_top10", "advantage", "posterior_mean", "posterior_gap")

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Inversion:
    """What attacks read of the same prompts, under each seed of the mechanism.

    Attributes:
        guesses: Label -> one guess for each seed; only of attacks that could run.
        knowledge: Label -> what the attack was given.
        unavailable: Label -> why it could not run.
        calibration: Label -> share of the adversary's own tokens that it read.
        calibration_tokens: How many those were.
        strongest: The attack with one message of each prompt that read most of them; None where none could run.
        body_bytes: Bytes of a view per token.
    """

    guesses: Mapping[str, Sequence[Guess]]
    knowledge: Mapping[str, Knowledge]
    unavailable: Mapping[str, str]
    calibration: Mapping[str, float]
    calibration_tokens: int
    strongest: str | None
    body_bytes: float


@dataclass(frozen=True, eq=False)
class Trial:
    """What one attack read.

    Attributes:
        label: Its name, with the options that it was given.
        guesses: One for each seed; none where it could not run.
        knowledge: What it was given; None where it could not run.
        calibration: Share of the adversary's own tokens that it read.
        unavailable: Why it could not run; None where it could.
    """

    label: str
    guesses: Sequence[Guess]
    knowledge: Knowledge | None = None
    calibration: float = 0.0
    unavailable: str | None = None


def _anew(_: Adversary, make: Callable[[], Trial]) -> Trial:
    return make()


def invert(
    defense: Defense[Any],
    adversaries: Sequence[Adversary],
    auxiliary: Tokens,
    victims: Tokens,
    *,
    seed: int,
    seeds: int = 1,
    tools: Tools | None = None,
    progress: bool = True,
    once: Callable[[Adversary, Callable[[], Trial]], Trial] = _anew,
) -> Inversion:
    """Try attacks on protected prompts.

    Args:
        defense: Configured, with its assets.
        adversaries: Who attacks.
        auxiliary: Windows of public text, (M, L); the last of them are kept back for the choice.
        victims: The prompts, (N, T).
        seed: Names every draw.
        seeds: How often the prompts are protected anew, S >= 1.
        tools: What adversaries bring along.
        progress: Show a bar, where standard error is a terminal.
        once: Given an attack and what tries it, the trial: for callers that keep what was tried before.

    Raises:
        UserError: there is too little public text, or no seed.
    """
    if seeds < 1:
        raise UserError(f"at least one seed of the mechanism is needed, not {seeds}")
    found = _Trials(defense, *hold_back(auxiliary), victims, seed, seeds, tools or Tools(seed=seed))
    with tqdm(total=len(adversaries), unit="attack", disable=None if progress else True, leave=False) as bar:
        for one in adversaries:
            bar.set_postfix_str(one.text)
            found.add(once(one, partial(found.trial, one)))
            bar.update()
    single = {label: rate for label, rate in found.calibration.items() if found.knowledge[label].sends == 1}
    view = defense.protect(victims[:1], seeded_rng(seed, "attack", "bytes"))
    return Inversion(
        guesses=found.guesses,
        knowledge=found.knowledge,
        unavailable=found.unavailable,
        calibration=found.calibration,
        calibration_tokens=int(found.own.size),
        strongest=max(single, key=lambda label: single[label]) if single else None,
        body_bytes=view.bytes_per_token,
    )


def hold_back(auxiliary: Tokens) -> tuple[Tokens, Tokens]:
    """Public windows (M, L) to learn from, and the last ones, on which attacks are compared.

    Raises:
        UserError: fewer than two windows.
    """
    if len(auxiliary) < 2:
        raise UserError("the adversary has too little public text: give more, or shorten the prompts")
    kept = max(1, min(-(-CALIBRATION_TOKENS // auxiliary.shape[1]), len(auxiliary) // HELD_BACK))
    return auxiliary[:-kept], auxiliary[-kept:]


@dataclass
class _Trials:
    """Attacks on one defence, one after another."""

    defense: Defense[Any]
    fitting: Tokens
    own: Tokens
    victims: Tokens
    seed: int
    seeds: int
    tools: Tools
    guesses: dict[str, Sequence[Guess]] = field(default_factory=dict)
    knowledge: dict[str, Knowledge] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    calibration: dict[str, float] = field(default_factory=dict)

    def trial(self, one: Adversary) -> Trial:
        """Fit one attack and try it; where it cannot run, say why."""
        label = one.text
        try:
            attack = one.against(self.defense, self.tools)
            label = attack.label
            attack.fit([], [self.fitting])
            rate = float(next(_guesses(attack, self.own, self.seed, ["calibrate"])).hits(self.own).mean())
            guesses = list(_guesses(attack, self.victims, self.seed, list(range(self.seeds))))
        except Unavailable as reason:
            return Trial(label, (), unavailable=str(reason))
        return Trial(label, guesses, attack.knowledge, rate)

    def add(self, trial: Trial) -> None:
        """Take a trial up."""
        if trial.knowledge is None:
            self.unavailable[trial.label] = trial.unavailable or ""
            return
        self.guesses[trial.label], self.knowledge[trial.label] = trial.guesses, trial.knowledge
        self.calibration[trial.label] = trial.calibration


def _guesses(attack: Attack, tokens: Tokens, seed: int, streams: Sequence[str | int]) -> Iterator[Guess]:
    """One guess for each stream of coins; an attack on several sends gets as many messages of each prompt."""
    sent = np.repeat(tokens, attack.knowledge.sends, axis=0)
    for stream in streams:
        yield attack.guess(attack.defense.protect(sent, seeded_rng(seed, "attack", stream)))


def figures(inversion: Inversion, prompts: Prompts, *, full: bool = False) -> Row:
    """Columns of a row: every attack's success, that of the strongest, and who could not run.

    Args:
        inversion: Of these prompts.
        prompts: Secrets, documents, and what text figures need.
        full: Every figure of `recover`, and paired comparisons with the paper's attack; else the most important ones.
    """
    prior = inversion.guesses.get(BLIND)
    # Text and kinds are costly to score, and a brief row has no column of them.
    told_of = prompts if full else replace(prompts, decode=None, kinds=None)
    found: Row = {"attack_seeds": len(next(iter(inversion.guesses.values()), ()))}
    for label, guesses in inversion.guesses.items():
        columns = recover(label, guesses, told_of, prior)
        found |= columns if full else {key: value for key, value in columns.items() if key.startswith(BRIEF)}
        found[f"knowledge_{label}"] = told(inversion.knowledge[label])
    for label, reason in inversion.unavailable.items():
        found |= {f"asr_top1_{label}": None, f"asr_top10_{label}": None, f"unavailable_{label}": reason}
    if full and REFERENCE in inversion.guesses:
        found |= compare(REFERENCE, inversion.guesses, prompts)
    for suffix in ("", "_low", "_high"):
        if inversion.strongest is not None:
            found[f"asr_strongest{suffix}"] = found[f"asr_top1_{inversion.strongest}{suffix}"]
        if prior is not None:
            found[f"asr_prior{suffix}"] = found[f"asr_top1_{BLIND}{suffix}"]
    if inversion.strongest is not None:
        found |= {
            "strongest_attack": inversion.strongest,
            "strongest_chosen_on": f"{inversion.calibration_tokens} tokens of the adversary's own text",
        }
    return found


def ceilings(defense: Defense[Any], blind: float, delta: float) -> Row:
    """The success 1 - f(kappa) that a claim allows an adversary of one token whose blind guess succeeds this often.

    Reconstruction robustness: Balle, Cherubin and Hayes (2022); Hayes, Mahloujifar and Balle (2023). Context lets an
    adversary do better than a blind guess without seeing a token at all, so this is no ceiling for hmm and lm.

    Args:
        defense: Its claim and its own profile are taken.
        blind: kappa, in [0, 1].
        delta: At which claims are stated.
    """
    found: Row = {"kappa": blind}
    profile = defense.profile()
    if profile is not None and "distance" not in defense.claim.unit:
        found["ceiling_exact"] = 1.0 - profile.tradeoff(blind)
    if defense.claim.kind in KINDS and defense.claim.kind != "metric-DP":
        found["ceiling_claimed"] = 1.0 - guarantee_of(defense.claim, delta).profile.tradeoff(blind)
    return found
