"""The guarantee of DP-SGD with Poisson sampling, by three accountants side by side.

One step is a Gaussian mechanism on a batch that each example joins with probability q (Abadi et al. 2016). The claim is
that of dp_accounting's privacy-loss distribution, made pessimistically: an upper bound with connected dots (Doroshenko
et al. 2022). Beside it stand opacus' RDP accountant (Mironov, Talwar, Zhang 2019), an upper bound that is looser, and
opacus' PRV accountant (Gopi, Lee, Wutschitz 2021), which bounds epsilon up to its own stated error.

A loader that shuffles instead of sampling by Poisson does not have this guarantee.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Literal

from scipy.optimize import brentq

from defenses.errors import UserError
from defenses.privacy.pld import ROUNDING, PldProfile

Relation = Literal["add-or-remove-one", "replace-special", "replace-one"]
RELATIONS: tuple[Relation, ...] = ("add-or-remove-one", "replace-special", "replace-one")
"""Neighbouring training sets. Replacing an example by a zero gradient ("special") has the PLD of adding or removing."""

_PRV_EPSILON_ERROR = 0.01
_LEAST_NOISE, _MOST_NOISE = 1e-2, 1e6
_GRID = 1e-4  # of the privacy loss of one step


@dataclass(frozen=True)
class DpSgdGuarantee:
    """What the accountants say of one training run.

    Attributes:
        noise_multiplier: Standard deviation of the noise over the clipping norm.
        sample_rate: q, the probability that an example joins a batch.
        steps: The number of steps.
        delta: The delta of every epsilon below.
        relation: The neighbouring relation.
        epsilon: The claim: that of the pessimistic PLD.
        epsilon_rdp: By opacus' RDP accountant, an upper bound; None for replace-one, which it does not cover.
        epsilon_prv: By opacus' PRV accountant, an upper bound; None where it does not work or does not cover it.
        prv_error: The error in epsilon that the PRV accountant was asked for.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int
    delta: float
    relation: str
    epsilon: float
    epsilon_rdp: float | None
    epsilon_prv: float | None
    prv_error: float = _PRV_EPSILON_ERROR

    def to_json_dict(self) -> dict[str, int | float | str | None]:
        """Every field by name; None in place of an infinity, so that the JSON is strict."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }

    def profile(self) -> PldProfile:
        """The bounding profile behind the claim: delta, epsilon and the trade-off curve of the whole run."""
        return dpsgd_profile(self.noise_multiplier, self.sample_rate, self.steps, relation=_relation(self.relation))


def dpsgd_guarantee(
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    delta: float,
    *,
    relation: Relation = "add-or-remove-one",
) -> DpSgdGuarantee:
    """The guarantee for one training example, with the claim and the two accountants beside it.

    Args:
        noise_multiplier: Above 0.
        sample_rate: In (0, 1].
        steps: At least 1.
        delta: Strictly between 0 and 1.
        relation: One of RELATIONS.

    Raises:
        UserError: if a number is out of range.
    """
    _check(noise_multiplier, sample_rate, steps, delta, relation)
    covered = relation != "replace-one"
    return DpSgdGuarantee(
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        steps=steps,
        delta=delta,
        relation=relation,
        epsilon=dpsgd_profile(noise_multiplier, sample_rate, steps, relation=relation).epsilon(delta),
        epsilon_rdp=_rdp_epsilon(noise_multiplier, sample_rate, steps, delta) if covered else None,
        epsilon_prv=_prv_epsilon(noise_multiplier, sample_rate, steps, delta) if covered else None,
    )


@lru_cache(maxsize=32)
def dpsgd_profile(
    noise_multiplier: float, sample_rate: float, steps: int, *, relation: Relation = "add-or-remove-one"
) -> PldProfile:
    """The bounding profile of `steps` Poisson-sampled Gaussian steps.

    Raises:
        UserError: if a number is out of range.
    """
    from dp_accounting import NeighboringRelation  # noqa: PLC0415 - half a second, only when it is needed
    from dp_accounting.pld import privacy_loss_distribution as library  # noqa: PLC0415 - as above

    _check(noise_multiplier, sample_rate, steps, 0.5, relation)
    step = library.from_gaussian_mechanism(
        noise_multiplier,
        sampling_prob=sample_rate,
        value_discretization_interval=max(_GRID, _GRID / noise_multiplier**2),
        neighboring_relation=NeighboringRelation[relation.upper().replace("-", "_")],
    )
    return PldProfile(step.self_compose(steps) if steps > 1 else step, ROUNDING * steps)


def noise_multiplier_for(
    epsilon: float, delta: float, sample_rate: float, steps: int, *, relation: Relation = "add-or-remove-one"
) -> float:
    """The least noise multiplier, to a relative 1e-4 from above, whose claim is at most (epsilon, delta).

    Raises:
        UserError: if a number is out of range, or no noise multiplier up to 1e6 reaches the target.
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise UserError(f"epsilon {epsilon:g} is no target: give a finite epsilon above 0")
    _check(1.0, sample_rate, steps, delta, relation)

    def surplus(log_noise: float) -> float:
        """Log of the claim's epsilon over the target, capped where it is infinite."""
        claim = dpsgd_profile(math.exp(log_noise), sample_rate, steps, relation=relation).epsilon(delta)
        return math.log(min(max(claim, 1e-12), 1e9) / epsilon)

    low, high = _bracket(surplus, epsilon, delta)
    noise = math.exp(float(brentq(surplus, math.log(low), math.log(high), xtol=3e-5)))
    while surplus(math.log(noise)) > 0:  # the root finder may stop on the wrong side; the claim may not
        noise *= 1 + 3e-5
    return noise


def _bracket(surplus: Callable[[float], float], epsilon: float, delta: float) -> tuple[float, float]:
    """Two noise multipliers, one half of the other, of which only the greater meets the target."""
    noise = 1.0
    while surplus(math.log(noise)) > 0:
        noise *= 2
        if noise > _MOST_NOISE:
            raise UserError(
                f"({epsilon:g}, {delta:g}) is out of reach of any noise up to {_MOST_NOISE:g}: ask for more"
            )
    if noise > 1:
        return 0.5 * noise, noise
    while surplus(math.log(0.5 * noise)) <= 0:
        noise *= 0.5
        if noise < 4 * _LEAST_NOISE:
            raise UserError(f"epsilon {epsilon:g} is met with hardly any noise: ask for a smaller epsilon")
    return 0.5 * noise, noise


def _relation(name: str) -> Relation:
    """The relation of this name."""
    return next(relation for relation in RELATIONS if relation == name)


def _check(noise_multiplier: float, sample_rate: float, steps: int, delta: float, relation: str) -> None:
    """Accepts what DP-SGD has; a UserError names what it has not."""
    if not (math.isfinite(noise_multiplier) and noise_multiplier >= _LEAST_NOISE):
        raise UserError(
            f"noise multiplier {noise_multiplier:g} is out of range: give a finite number of at least {_LEAST_NOISE:g}"
        )
    if not 0 < sample_rate <= 1:
        raise UserError(f"sample rate {sample_rate:g} is out of range: give a number above 0 and at most 1")
    if steps < 1:
        raise UserError(f"steps {steps} is out of range: give at least 1")
    if not 0 < delta < 1:
        raise UserError(f"delta {delta:g} is out of range: give a number strictly between 0 and 1")
    if relation not in RELATIONS:
        raise UserError(f"neighbouring relation {relation!r} is unknown: give one of {', '.join(RELATIONS)}")


def _rdp_epsilon(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """By opacus' RDP accountant, over its default orders."""
    from opacus.accountants import RDPAccountant  # noqa: PLC0415 - imports torch

    accountant = RDPAccountant()
    accountant.history = [(noise_multiplier, sample_rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it suggests other orders where the best one is at an end
        return float(accountant.get_epsilon(delta))


def _prv_epsilon(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float | None:
    """By opacus' PRV accountant; None where its domain or its arithmetic fails."""
    from opacus.accountants import PRVAccountant  # noqa: PLC0415 - imports torch

    accountant = PRVAccountant()
    accountant.history = [(noise_multiplier, sample_rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            epsilon = float(accountant.get_epsilon(delta, eps_error=_PRV_EPSILON_ERROR, delta_error=delta / 1000))
        except (ArithmeticError, ValueError, RuntimeError):
            return None
    return epsilon if math.isfinite(epsilon) and epsilon >= 0 else None
