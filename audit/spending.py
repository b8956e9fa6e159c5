"""One level for many claims and many runs: Holm, alpha spending, e-values.

Each method bounds the probability that any true claim of the file is ever called refuted, over all the runs that it
covers, whatever the dependence between claims and whatever the earlier runs have shown.

* single-run: Holm's step-down test over the claims of one run (Holm 1979; weights as in Benjamini and Hochberg 1997).
* alpha-spending: run i has level * 6 / (pi i)^2, Holm inside it; the levels of all runs add up to the whole.
* e-values: each claim keeps a process that is a supermartingale while all runs so far have kept the claim. By Ville's
  inequality it ever reaches 1 / (share * level) with probability at most share * level.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from audit.bounds.base import Scores
from audit.bounds.sequential import EProcess
from defenses.privacy.profile import PrivacyProfile

_LARGEST = 1e300


def run_share(run: int) -> float:
    """6 / (pi run)^2, run = 1, 2, ...: the share of the level that is spent on it; the shares of all runs add up to 1.

    Raises:
        ValueError: run is below 1.
    """
    if run < 1:
        raise ValueError(f"runs are counted from 1, not {run}")
    return 6 / (math.pi * run) ** 2


@dataclass(frozen=True)
class Decision:
    """Holm's word on one claim.

    Attributes:
        refuted: Whether p_value <= alpha, and so for all claims before it in the order.
        alpha: The level that this claim was held against.
    """

    refuted: bool
    alpha: float


def holm(p_values: Mapping[str, float], shares: Mapping[str, float], level: float) -> dict[str, Decision]:
    """Weighted step-down test of several claims at one family-wise level, under any dependence.

    Claims are taken in the order of p / share. Each is held against its share of the level, relative to the shares of
    all claims that are not yet refuted, and the first that passes ends the test.

    Args:
        p_values: Of the claims that were tested.
        shares: Of all claims of the family, tested or not; they add up to 1.
        level: In (0, 1).

    Returns:
        A decision for each claim that was tested.
    """
    left, going, decisions = math.fsum(shares.values()), True, {}
    for name in sorted(p_values, key=lambda name: p_values[name] / shares[name]):
        alpha = level * min(1.0, shares[name] / left)
        going = going and p_values[name] <= alpha
        decisions[name] = Decision(going, alpha)
        left -= shares[name] if going else 0.0
    return decisions


@dataclass(frozen=True)
class Accumulated:
    """The evidence against one claim over several runs: half of the wealth in each of two e-processes.

    The first continues over all runs; it sums up small violations that were there from the beginning. The second is a
    mixture of processes that begin at run 1, 2, ... with weight 6 / (pi i)^2 and multiply one fresh e-value per run: it
    sees a violation that came in late, when the first has learnt from many sound runs to bet nothing. The average of
    e-processes is one.

    Attributes:
        fingerprint: Of the claim and its share of the level; neither may change while evidence adds up.
        process: State of the first, as `EProcess.to_json` writes it; empty before the first run.
        begun: Wealth of those processes of the mixture that have begun.
        runs: Runs that were added.
        log_first: Log of the first process's e-value.
        largest: The largest e-value that any run ended with: Ville's inequality is about ever reaching a threshold.
        detectable: The smallest violation that one run detects, once it has been worked out.
    """

    fingerprint: str
    process: str = ""
    begun: float = 0.0
    runs: int = 0
    log_first: float = 0.0
    largest: float = 1.0
    detectable: float | None = None

    @property
    def e_value(self) -> float:
        """The evidence so far."""
        waiting = 1 - math.fsum(run_share(run) for run in range(1, self.runs + 1))
        return min(_LARGEST, 0.5 * math.exp(min(690.0, self.log_first)) + 0.5 * (self.begun + max(0.0, waiting)))

    def add(self, scores: Scores, profile: PrivacyProfile) -> "Accumulated":
        """The evidence with one more run's fresh draws.

        Raises:
            EvidenceError: there are too few draws.
            UserError: the kept state is damaged.
        """
        first = EProcess.from_json(self.process, profile) if self.process else EProcess(profile)
        first.update(scores)
        fresh = EProcess(profile).update(scores) if self.process else first.e_value
        run = self.runs + 1
        grown = replace(
            self,
            process=first.to_json(),
            begun=min(_LARGEST, (self.begun + run_share(run)) * min(fresh, 1e150)),
            runs=run,
            log_first=math.log(max(first.e_value, 1e-300)),
        )
        return replace(grown, largest=max(self.largest, grown.e_value))
