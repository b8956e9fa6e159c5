"""One claim judged on one body of evidence: REFUTED, CONSISTENT or INCONCLUSIVE, and VACUOUS beside any of them.

Nothing empirical proves a claim. CONSISTENT says that a stated violation would have been seen, and which.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from audit.accounting import VACUOUS_ABOVE
from audit.bounds import ESTIMATORS, CanaryScores, Estimator, Family, Scores
from audit.bounds.base import Evidence, lower_limit
from audit.guarantees import Guarantee, guarantee_of, licensed
from audit.intervals import clopper_pearson
from audit.witness import Background, Witness, find_witness
from defenses.base import Claim
from defenses.errors import UserError

Float64 = NDArray[np.float64]

_MOST_VIOLATION = 64.0
_POINTS = 24


class Verdict(StrEnum):
    """What the evidence says about a claim; never "private"."""

    REFUTED = "REFUTED"
    CONSISTENT = "CONSISTENT"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True)
class AuditResult:
    """A verdict with everything that it rests on. Field names are those of an audit record's rows.

    Attributes:
        claim: Name of the claim.
        defence: Name of the defence.
        claim_kind: As in Claim.
        claim_text: The claim in one line.
        epsilon_claimed: The claim's epsilon at delta.
        delta: The delta of all epsilons here.
        unit: What one unit of the guarantee covers.
        relation: The neighbouring relation.
        verdict: REFUTED, CONSISTENT or INCONCLUSIVE.
        vacuous: Whether the claim itself allows an adversary near-certainty.
        ceiling: 1 - f(kappa): what it allows an adversary whose blind guess is right with probability kappa.
        p_value: Of the evidence, if the claim held.
        alpha: The level that was spent: refuted means p_value <= alpha.
        confidence: Of epsilon_lower, 1 - alpha.
        epsilon_lower: Lower bound on epsilon at delta, in `family`.
        family: What the bound assumes: "any", or the claim's own family.
        estimator: Its name.
        correction: How thresholds were paid for.
        samples: Draws per side, or canaries.
        detectable_violation: The smallest factor on the claim's parameter that this audit would have refuted with
            probability power_target; infinity where none.
        power_target: See there.
        through: Where the audit looked.
        score: What scored the views.
        seed: Of the audit's draws.
        seconds: How long it took.
        reason: The verdict in plain words.
        points: The measured trade-off with its limits, and the claimed one, for a picture.
        source: The claim's own.
        violation_of: What detectable_violation is a factor of.
        parameters: The defence's.
        epsilon_exact_token: Of one token by the defence's own accountant, at delta; None where it has none.
        epsilon_exact_prompt: The same of a prompt.
        prompt_tokens: Tokens of that prompt.
        prompt_is_exact: Whether its epsilon is exact; else an upper bound.
        witness: Two inputs and an event with its counts; None for canaries, and where nobody said what was sent.
    """

    claim: str
    defence: str
    claim_kind: str
    claim_text: str
    epsilon_claimed: float
    delta: float
    unit: str
    relation: str
    verdict: Verdict
    vacuous: bool
    ceiling: float
    p_value: float
    alpha: float
    confidence: float
    epsilon_lower: float
    family: str
    estimator: str
    correction: str
    samples: int
    detectable_violation: float
    power_target: float
    through: str
    score: str
    seed: int | None
    seconds: float
    reason: str
    points: Mapping[str, list[float]] = field(default_factory=dict)
    source: str = ""
    violation_of: str = ""
    parameters: Mapping[str, float] = field(default_factory=dict)
    epsilon_exact_token: float | None = None
    epsilon_exact_prompt: float | None = None
    prompt_tokens: int | None = None
    prompt_is_exact: bool | None = None
    witness: Witness | None = None

    def __post_init__(self) -> None:
        found: object = self.witness
        if isinstance(found, Mapping):  # as a file of unfinished claims has it
            object.__setattr__(self, "witness", Witness.read(found))


def judge(
    claim: Claim,
    evidence: Evidence,
    *,
    name: str,
    rng: np.random.Generator,
    delta: float = 1e-5,
    level: float = 0.05,
    estimator: str | None = None,
    family: Family | None = None,
    violation: float = 1.1,
    power: float = 0.8,
    kappa: float = 0.05,
    defence: str = "",
    through: str = "mechanism",
    score: str = "",
    seed: int | None = None,
    parameters: Mapping[str, float] | None = None,
    behind: Background | None = None,
) -> AuditResult:
    """Test a claim on evidence that was gathered without choosing anything by it.

    Args:
        claim: What is promised for the two inputs behind the evidence.
        evidence: Scores of two inputs, or of canaries.
        name: How results call the claim.
        rng: Splits, breaks ties, simulates.
        delta: Where epsilons are reported; a claim with a delta of its own keeps it.
        level: Probability of refuting a true claim, at most.
        estimator: By name; by default the one that is right for the claim and the evidence.
        family: A family other than the claim's own for the bound; must be licensed by the claim.
        violation: The factor on the claim's parameter that the audit must be able to see to be conclusive.
        power: With which probability.
        kappa: The blind guess behind VACUOUS.
        defence: For the record.
        through: For the record.
        score: For the record.
        seed: For the record.
        parameters: The defence's, for the record.
        behind: The two inputs behind scores: with them the result has a witness.

    Raises:
        UserError: the claim cannot be tested, the estimator is unknown, or the conversion is not licensed.
        EvidenceError: the evidence is malformed.
    """
    started = time.perf_counter()
    guarantee = guarantee_of(claim, delta)
    licensed(guarantee, family or guarantee.family)
    chosen = _estimator(estimator or guarantee.default_estimator(type(evidence)))
    test_rng, bound_rng, power_rng, witness_rng = rng.spawn(4)
    p_value = chosen.p_value(evidence, guarantee.profile, guarantee.family, test_rng, level)
    bound = chosen.bound(evidence, family or guarantee.family, guarantee.delta, bound_rng, 1 - level)
    refuted = p_value <= level
    detectable = smallest_violation(chosen, evidence, guarantee, rng=power_rng, level=level, power=power)
    verdict = _verdict(refuted=refuted, conclusive=detectable <= violation)
    ceiling = 1 - guarantee.profile.tradeoff(kappa)
    witness = None
    if behind is not None and isinstance(evidence, Scores):
        witness = find_witness(evidence, behind, guarantee.profile, guarantee.family, witness_rng)
    return AuditResult(
        claim=name,
        defence=defence,
        claim_kind=claim.kind,
        claim_text=str(claim),
        epsilon_claimed=guarantee.epsilon,
        delta=guarantee.delta,
        unit=claim.unit,
        relation=claim.relation,
        verdict=verdict,
        vacuous=ceiling > VACUOUS_ABOVE,
        ceiling=ceiling,
        p_value=p_value,
        alpha=level,
        confidence=1 - level,
        epsilon_lower=bound.epsilon,
        family=bound.family,
        estimator=chosen.name,
        correction=bound.correction,
        samples=bound.n,
        detectable_violation=detectable,
        power_target=power,
        through=through,
        score=score,
        seed=seed,
        seconds=time.perf_counter() - started,
        reason=_reason(
            verdict,
            guarantee,
            p_value=p_value,
            level=level,
            detectable=detectable,
            power=power,
            lower=bound.epsilon,
            wanted=violation,
        ),
        points=curve_points(evidence, guarantee, kappa),
        source=claim.source,
        violation_of=guarantee.family.parameter_name,
        parameters=dict(parameters or {}),
        witness=witness,
    )


def _verdict(*, refuted: bool, conclusive: bool) -> Verdict:
    if refuted:
        return Verdict.REFUTED
    return Verdict.CONSISTENT if conclusive else Verdict.INCONCLUSIVE


def _estimator(name: str) -> Estimator:
    if name not in ESTIMATORS:
        raise UserError(f"there is no estimator '{name}'; there are: {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name]


def smallest_violation(
    estimator: Estimator,
    evidence: Evidence,
    guarantee: Guarantee,
    *,
    rng: np.random.Generator,
    level: float,
    power: float,
) -> float:
    """The smallest factor on the claim's parameter that such an audit refutes with probability `power`, about.

    An optimal adversary would need the factor x at which the family's own curve is refuted so often. This audit's
    score may be weaker: it shows the parameter t where the claim has t0. A violation is taken to raise what it shows in
    proportion, so that a factor x t0 / t is needed. The scaling is an assumption, the rest is simulation.
    """
    size = evidence.samples if isinstance(evidence, Scores) else evidence.canaries
    family, claimed = guarantee.family, guarantee.parameter
    if claimed <= 0:
        return math.inf
    middle = estimator.prepare(evidence, family, rng, 0.5)
    shown = lower_limit(lambda value: middle.p_value(family.profile(value)), family.most, 0.5, 0.01)
    if shown <= 0:
        return math.inf
    seed = int(rng.integers(2**63))

    def enough(factor: float) -> bool:
        truth = family.profile(factor * claimed)
        same_coins = np.random.default_rng(seed)
        return estimator.power(truth, guarantee.profile, family, size=size, rng=same_coins, level=level) >= power

    low, high = 1.0, 2.0
    while not enough(high):
        low, high = high, 2 * high
        if high > _MOST_VIOLATION:
            return math.inf
    while high / low > 1.005:
        factor = math.sqrt(low * high)
        low, high = (low, factor) if enough(factor) else (factor, high)
    return high / min(1.0, shown / claimed)


def curve_points(evidence: Evidence, guarantee: Guarantee, kappa: float) -> dict[str, list[float]]:
    """Measured points of the trade-off with exact 95 % limits, each for itself, and the claimed power there."""
    if isinstance(evidence, CanaryScores):
        null, alternative = evidence.scores[~evidence.included], evidence.scores[evidence.included]
    else:
        null, alternative = evidence.null, evidence.alternative
    least = min(0.4, 5 / max(1, len(null)))
    thresholds = np.unique(np.quantile(null, 1 - np.geomspace(least, 1 - least, _POINTS), method="closest_observation"))
    columns: dict[str, list[float]] = {
        key: [] for key in ("fpr", "tpr", "fpr_low", "fpr_high", "tpr_low", "tpr_high", "claimed_power")
    }
    for threshold in thresholds[::-1]:
        rates = [clopper_pearson(int(np.count_nonzero(side >= threshold)), len(side)) for side in (null, alternative)]
        shares = [float(np.mean(side >= threshold)) for side in (null, alternative)]
        for rate, share, interval in zip(("fpr", "tpr"), shares, rates, strict=True):
            columns[rate].append(share)
            columns[f"{rate}_low"].append(interval.low)
            columns[f"{rate}_high"].append(interval.high)
        columns["claimed_power"].append(float(guarantee.profile.powers(np.array([shares[0]]))[0]))
    grid = np.concatenate(([0.0], np.geomspace(1e-6, 0.5, 60), 1 - np.geomspace(0.5, 1e-6, 60)[1:], [1.0]))
    columns["curve_fpr"] = [float(level) for level in grid]
    columns["curve_power"] = [float(power) for power in np.clip(guarantee.profile.powers(grid), 0, 1)]
    columns["kappa"] = [kappa]
    return columns


def _reason(
    verdict: Verdict,
    guarantee: Guarantee,
    *,
    p_value: float,
    level: float,
    detectable: float,
    power: float,
    lower: float,
    wanted: float,
) -> str:
    """The verdict for a person."""
    promised = f"epsilon = {guarantee.epsilon:.4g} at delta = {guarantee.delta:g}"
    if verdict is Verdict.REFUTED:
        return (
            f"the evidence contradicts the claim ({promised}): were it true, evidence this strong would have a "
            f"probability of at most {p_value:.2g}, and {level:.2g} was allowed; epsilon is above {lower:.4g}"
        )
    if verdict is Verdict.CONSISTENT:
        return (
            f"not refuted, which is no proof ({promised}); a violation by a factor of {detectable:.3g} or more would "
            f"have been refuted with a probability of {power:.0%}"
        )
    seen = "no violation" if math.isinf(detectable) else f"only a violation by a factor of {detectable:.4g}"
    return (
        f"not refuted, and too weak to say ({promised}): {seen} would have been refuted with a probability of "
        f"{power:.0%}, and {wanted:g} was asked for; draw more samples or use a stronger score"
    )
