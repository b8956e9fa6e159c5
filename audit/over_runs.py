"""A claim's evidence over several runs: e-values in place of one run's p-value."""

import math
from dataclasses import replace

import numpy as np

from audit.bounds import ESTIMATORS, Estimator, Family, Scores
from audit.bounds.base import Test
from audit.bounds.curves import draw_scores
from audit.claims import ClaimSpec
from audit.guarantees import Guarantee
from audit.probes.base import ProbeResult
from audit.spending import Accumulated
from audit.verdict import AuditResult, Verdict, smallest_violation
from defenses.privacy.profile import PrivacyProfile
from defenses.randomness import seeded_rng

_AUDITS = 40  # simulated, for the power of an e-process
_NONE = 1e9  # a detectable violation of no size, where JSON has no infinity


def accumulate(
    past: Accumulated, result: AuditResult, probe: ProbeResult, guarantee: Guarantee, spec: ClaimSpec
) -> tuple[AuditResult, Accumulated]:
    """The verdict of all runs so far in place of one run's own: refuted where the e-value ever reached 1 / alpha.

    Args:
        past: The evidence of earlier runs.
        result: This run's own verdict, at the claim's share of the level.
        probe: This run's fresh draws.
        guarantee: What they are held against.
        spec: The claim.

    Returns:
        The verdict, and the evidence with this run's.
    """
    grown = past.add(probe.scores, guarantee.profile)
    nightly = OneNight(ESTIMATORS[result.estimator])
    if grown.detectable is None:
        rng = seeded_rng(spec.seed, "claims", spec.name, "power")
        found = smallest_violation(
            nightly, probe.scores, guarantee, rng=rng, level=result.alpha, power=result.power_target
        )
        grown = replace(grown, detectable=min(found, _NONE))
    detectable = math.inf if grown.detectable in {None, _NONE} else float(grown.detectable or _NONE)
    verdict = Verdict.CONSISTENT if detectable <= spec.violation else Verdict.INCONCLUSIVE
    if grown.largest >= 1 / result.alpha:
        verdict = Verdict.REFUTED
    judged = replace(
        result,
        verdict=verdict,
        p_value=min(1.0, 1 / grown.largest),
        estimator=nightly.name,
        correction=nightly.correction,
        detectable_violation=detectable,
        reason=_reason(verdict, grown, result, detectable),
    )
    return judged, grown


def _reason(verdict: Verdict, grown: Accumulated, result: AuditResult, detectable: float) -> str:
    refuted = "the evidence of all runs contradicts the claim"
    opening = refuted if verdict is Verdict.REFUTED else "not refuted, which is no proof"
    violation = "no violation" if math.isinf(detectable) else f"a violation by a factor of {detectable:.3g}"
    runs = f"{grown.runs} run{'s' if grown.runs > 1 else ''}"
    return (
        f"{opening}: after {runs} its e-value is {grown.e_value:.3g} and was at most {grown.largest:.3g}, where "
        f"{1 / result.alpha:.3g} refutes; the first run would have refuted {violation} with a probability of "
        f"{result.power_target:.0%}"
    )


class OneNight(Estimator):
    """The test that one run's e-process amounts to, for its power; p-values are those of a batch estimator.

    Args:
        batch: Says what the scores show.
    """

    name = "e-process"
    source = "Waudby-Smith and Ramdas 2024; Ville 1939"
    correction = "anytime-valid: the level covers every run (Ville); the bound is this run's alone"
    takes = Scores

    def __init__(self, batch: Estimator) -> None:
        self._batch = batch

    def prepare(self, evidence: Scores, family: Family, rng: np.random.Generator, level: float) -> Test:
        """As the batch estimator."""
        return self._batch.prepare(evidence, family, rng, level)

    def power(
        self,
        truth: PrivacyProfile,
        guarantee: PrivacyProfile,
        family: Family,  # noqa: ARG002 - the interface of all estimators
        *,
        size: int,
        rng: np.random.Generator,
        level: float = 0.05,
    ) -> float:
        """The share of simulated first runs whose e-value reaches 1 / level."""
        runs = (Accumulated("").add(draw_scores(truth, size, rng), guarantee) for _ in range(_AUDITS))
        return sum(run.e_value >= 1 / level for run in runs) / _AUDITS
