"""Find the noise at which an attack has a given success: the paper's way of setting a defence's parameter.

Equal success under one attack is not equal privacy, so the exact epsilon and the other attacks' success at the same
noise always come with it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from attacks.base import Attack, attacks
from audit.accounting import AccountReport, account
from audit.measures import attack_shares, restored_prefixes
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
        measured: Columns of every attack at that mu, with 95 % intervals over documents.
        account: The accounting of one token at that mu.
        tokens: How many tokens were attacked.
        trace: (mu, success) of every step.
    """

    target: float
    attack: str
    mu: float
    measured: Mapping[str, float | None]
    account: AccountReport
    tokens: int
    trace: tuple[tuple[float, float], ...]

    def to_json_dict(self) -> dict[str, Any]:
        """Everything as strict JSON."""
        return {
            "target_asr": self.target,
            "attack": self.attack,
            "mu": self.mu,
            "attacked_tokens": self.tokens,
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

    The same prompts and the same named stream of coins serve every step.

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
    d = bench.assets(projection).needed_projection().d
    trace: list[tuple[float, float]] = []

    def success(mu: float) -> float:
        found = float(_measure(bench, attack, n, projection, mu)[f"asr_top1_{attack}"] or 0.0)
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
        measured |= _measure(bench, name, n, projection, mu)
    report = account(n, d, 1, bench.experiment.delta, mu=mu)
    return Calibration(target, attack, mu, measured, report, int(bench.attacked.prefix.size), tuple(trace))


def _measure(bench: Workbench, attack: str, n: int, projection: str, mu: float) -> dict[str, float | None]:
    """One attack's columns at one mu."""
    defense = Del(DelConfig(n=n, mu=mu), bench.assets(projection))
    seed, victims = bench.experiment.seed, bench.attacked
    view, _ = restored_prefixes(defense, victims.prefix, seed, "attack")
    plugin: type[Attack] = pick(attacks(), attack, "attack")
    fitted = plugin(defense).fit([], [bench.auxiliary.windows])
    return attack_shares(fitted, view, victims.prefix, victims.clusters, seed)[0]
