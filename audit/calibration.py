"""Find the noise at which an attack has a given success: the paper's way of setting a defence's parameter.

Equal success under one attack is not equal privacy, so the exact epsilon and the other attacks' success at the same
noise always come with it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from attacks.base import Attack, attacks
from audit.accounting import AccountReport, account
from audit.measures import Pairs, attack_shares, restored_prefixes
from audit.workbench import Workbench
from defenses.errors import UserError
from defenses.pipeline.defense import Del, DelConfig
from defenses.registry import pick

MU_RANGE = (0.5, 2000.0)
STEPS = 14  # bisection halves log(mu) each time: the last step moves mu by less than 0.1 %


@dataclass(frozen=True)
class Calibration:
    """The result of a calibration.

    Attributes:
        target: The asked top-1 success rate.
        attack: The attack that was calibrated with.
        mu: The nominal mu found.
        measured: Columns of every attack at that mu on other documents and coins, with 95 % intervals over them.
        account: The accounting of one token at that mu.
        tokens: How many held-out tokens `measured` rests on.
        calibration_tokens: How many tokens mu was chosen on.
        trace: (mu, success) of every step, on the calibration tokens.
    """

    target: float
    attack: str
    mu: float
    measured: Mapping[str, float | None]
    account: AccountReport
    tokens: int
    calibration_tokens: int
    trace: tuple[tuple[float, float], ...]

    def to_json_dict(self) -> dict[str, Any]:
        """Everything as strict JSON."""
        return {
            "target_asr": self.target,
            "attack": self.attack,
            "mu": self.mu,
            "attacked_tokens": self.tokens,
            "calibration_tokens": self.calibration_tokens,
            **self.account.to_json_dict(),
            **self.measured,
            "trace": [list(step) for step in self.trace],
        }


def calibrate_asr(
    bench: Workbench,
    *,
    target: float,
    attack: str,
    n: int,
    projection: str,
    others: Sequence[str] = (),
) -> Calibration:
    """Bisect mu until an attack's top-1 success reaches a target (arXiv 2602.11513, evaluation).

    Every second document serves the bisection, under one named stream of coins; the others, under fresh coins, serve
    the figures that are reported. The target is thus met up to sampling error, and the intervals are honest.

    Args:
        bench: Model, prompts and auxiliary text.
        target: Top-1 success, in (0, 1).
        attack: The attack to calibrate with.
        n: Bits per coordinate.
        projection: The projection's name.
        others: More attacks to measure at the mu that is found.

    Raises:
        UserError: the target is not in (0, 1) or cannot be reached within the range of mu.
    """
    if not 0 < target < 1:
        raise UserError(f"--target-asr {target}: a success rate is strictly between 0 and 1")
    for name in (attack, *others):
        pick(attacks(), name, "attack")  # a mistake is found before the model is loaded
    assets = bench.assets(projection)
    d = assets.needed_projection().d
    fitting, held_out = _halves(bench.attacked)
    trace: list[tuple[float, float]] = []

    def success(mu: float) -> float:
        found = float(
            _measure(bench, attack, Del(DelConfig(n=n, mu=mu), assets), fitting, "calibrate")[f"asr_top1_{attack}"]
            or 0.0
        )
        trace.append((mu, found))
        return found

    low, high = (math.log(mu) for mu in MU_RANGE)
    with tqdm(total=STEPS, desc=f"calibrating {attack}", unit="step", leave=False) as bar:
        least, most = success(math.exp(low)), success(math.exp(high))
        if not least < target < most:
            raise UserError(
                f"--target-asr {target}: {attack} succeeds between {least:.3f} at mu = {MU_RANGE[0]:g} and {most:.3f} "
                f"at mu = {MU_RANGE[1]:g} with n = {n} on {projection}; choose a target between them",
            )
        for _ in range(STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if success(math.exp(middle)) < target else (low, middle)
            bar.update()
    mu = math.exp((low + high) / 2)
    measured: dict[str, float | None] = {}
    for name in dict.fromkeys([attack, *others]):
        measured |= _measure(bench, name, Del(DelConfig(n=n, mu=mu), assets), held_out, "measure")
    report = account(n, d, 1, bench.experiment.delta, mu=mu)
    return Calibration(
        target, attack, mu, measured, report, int(held_out.prefix.size), int(fitting.prefix.size), tuple(trace)
    )


def _halves(victims: Pairs) -> tuple[Pairs, Pairs]:
    """Windows of every second document, and of the others.

    Raises:
        UserError: fewer than four documents: each half needs two for an interval.
    """
    documents, place = np.unique(victims.clusters, return_inverse=True)
    if len(documents) < 4:
        raise UserError(f"calibration needs at least 4 documents, there are {len(documents)}: give more text")
    even = place % 2 == 0
    first, second = (
        Pairs(victims.prefix[keep], victims.continuation[keep], victims.clusters[keep]) for keep in (even, ~even)
    )
    return first, second


def _measure(bench: Workbench, attack: str, defense: Del, victims: Pairs, stream: str) -> dict[str, float | None]:
    """One attack's columns against one configured defence, under a named stream of coins."""
    seed = bench.experiment.seed
    view, _ = restored_prefixes(defense, victims.prefix, seed, stream)
    plugin: type[Attack] = pick(attacks(), attack, "attack")
    fitted = plugin(defense).fit([], [bench.auxiliary.windows])
    return attack_shares(fitted, view, victims.prefix, victims.clusters, seed)[0]
