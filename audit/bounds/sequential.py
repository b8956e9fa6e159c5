"""An audit that may be looked at after every draw: an e-process against a claim's curve.

Under the claim every threshold keeps power <= s level + c, for each line that supports the claim's curve: (s, c) =
(e^eps, delta(eps)), mirrored below s = 1. A bettor who stakes a share of the wealth on "a draw of the second input lies
above the threshold" against s times "a draw of the first one does" and c then holds a non-negative supermartingale, as
long as threshold, line and stake are chosen before the draws (Waudby-Smith and Ramdas 2024). Ville's inequality: the
wealth ever reaches 1 / level with probability at most `level`. Several bettors average.
"""

import json
import math
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from audit.bounds.base import EvidenceError, Scores
from audit.bounds.support import support
from defenses.errors import UserError
from defenses.privacy.profile import PrivacyProfile

Float64 = NDArray[np.float64]

_FIRST = 64  # draws that place the thresholds and are not bet on
_LEVELS = np.array([0.003, 0.01, 0.03, 0.1, 0.2, 0.31, 0.42, 0.55, 0.7, 0.85, 0.95])
_STAKES = np.concatenate(([0.0], np.geomspace(0.004, 0.9, 40)))  # shares of the largest stake that cannot go broke
_GROWTH = 0.2  # stakes are chosen anew whenever this share of draws has been added


@dataclass
class EProcess:
    """The wealth of bettors against one claim, over as many updates as one likes.

    Attributes:
        profile: The claim's curve.
        thresholds: One per bettor, shape (J,); empty until the first draws have placed them.
        slopes: s of each bettor's line.
        offsets: c of each bettor's line.
        above: Past draws above each threshold, under the first and the second input, shape (2, J).
        draws: Past draws a side that are counted in `above`.
        log_wealth: Of each bettor, shape (J,); 0 at the start.
    """

    profile: PrivacyProfile
    thresholds: Float64 = field(default_factory=lambda: np.empty(0))
    slopes: Float64 = field(default_factory=lambda: np.empty(0))
    offsets: Float64 = field(default_factory=lambda: np.empty(0))
    above: Float64 = field(default_factory=lambda: np.zeros((2, 0)))
    draws: int = 0
    log_wealth: Float64 = field(default_factory=lambda: np.empty(0))

    @property
    def e_value(self) -> float:
        """Evidence against the claim so far: at least 1 / level with probability at most `level`, ever, if it holds."""
        if not len(self.log_wealth):
            return 1.0
        return float(np.exp(min(700.0, float(np.logaddexp.reduce(self.log_wealth) - math.log(len(self.log_wealth))))))

    def update(self, scores: Scores) -> float:
        """Bet on new draws, in their order; returns the e-value.

        Raises:
            EvidenceError: the first update has too few draws to place thresholds.
        """
        start = 0
        if not len(self.thresholds):
            start = min(_FIRST, scores.samples // 2)
            if start < 8:
                raise EvidenceError(
                    f"{scores.samples} draws a side are too few to start an e-process: give at least 16"
                )
            self._place(scores.part(0, start))
        while start < scores.samples:
            stop = min(scores.samples, start + max(16, round(_GROWTH * self.draws)))
            self._bet(scores.null[start:stop], scores.alternative[start:stop])
            start = stop
        return self.e_value

    def _place(self, first: Scores) -> None:
        """Thresholds at quantiles of the first draws of the first input, and the lines that support the curve there."""
        ordered = np.sort(first.null)
        ranks = np.clip(np.round((1 - _LEVELS) * len(ordered)).astype(int), 0, len(ordered) - 1)
        # Beyond the first draws' own reach the spread of both inputs' draws continues the scale.
        spread = float(np.std(np.concatenate([first.null, first.alternative]))) or 1.0
        reach = np.maximum(0.0, np.log(1 / (_LEVELS * len(ordered)))) * 0.3 * spread
        self.thresholds = ordered[ranks] + reach
        lines = [support(self.profile, float(level)) for level in _LEVELS]
        self.slopes, self.offsets = (np.array(part) for part in zip(*lines, strict=True))
        self.log_wealth = np.zeros(len(_LEVELS))
        self.above = np.stack([_count(side, self.thresholds) for side in (first.null, first.alternative)])
        self.draws = first.samples

    def _bet(self, null: Float64, alternative: Float64) -> None:
        """One block at stakes that its past chose."""
        stakes = self._stakes()
        hits = (alternative[:, None] > self.thresholds).astype(np.float64)
        misses = (null[:, None] > self.thresholds).astype(np.float64)
        gains = hits - self.slopes * misses - self.offsets
        self.log_wealth = self.log_wealth + np.log1p(stakes * gains).sum(axis=0)
        self.above = self.above + np.stack([misses.sum(axis=0), hits.sum(axis=0)])
        self.draws += len(null)

    def _stakes(self) -> Float64:
        """The stake with the largest expected log growth at the past rates, shape (J,) (Kelly 1956).

        The past rates are shrunk by one draw, so that a rate of 0 is never taken for granted.
        """
        false, true = (self.above + 0.5) / (self.draws + 1)
        options = _STAKES[:, None] / (self.slopes + self.offsets)
        growth = np.zeros_like(options)
        for hit, chance_hit in ((1.0, true), (0.0, 1 - true)):
            for miss, chance_miss in ((1.0, false), (0.0, 1 - false)):
                growth += chance_hit * chance_miss * np.log1p(options * (hit - self.slopes * miss - self.offsets))
        best: Float64 = options[growth.argmax(axis=0), np.arange(len(self.slopes))]
        return best

    def to_json(self) -> str:
        """The state, to go on with another day. The profile is not part of it."""
        state: dict[str, Any] = {"draws": self.draws}
        for name in ("thresholds", "slopes", "offsets", "above", "log_wealth"):
            state[name] = getattr(self, name).tolist()
        return json.dumps(state)

    @classmethod
    def from_json(cls, text: str, profile: PrivacyProfile) -> Self:
        """Read a state back, for the same claim.

        Raises:
            UserError: not such a state.
        """
        try:
            state = json.loads(text)
            names = ("thresholds", "slopes", "offsets", "above", "log_wealth")
            parts = {name: np.array(state[name], dtype=np.float64) for name in names}
            process = cls(profile, draws=int(state["draws"]), **parts)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"the state of the e-process cannot be read ({error}): start it anew") from error
        if process.above.shape != (2, len(process.thresholds)):
            raise UserError("the state of the e-process is damaged: start it anew")
        return process


def _count(draws: Float64, thresholds: Float64) -> Float64:
    counts: Float64 = (draws[:, None] > thresholds).sum(axis=0).astype(np.float64)
    return counts
