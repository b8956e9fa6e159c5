"""Broken twins of DP-Forward and Split-and-Denoise: each is refuted in every seed, and the sound original is not.

Levels as in test_twins: a sound original is refuted with a probability of at most 5 % a seed, of 4 seeds at most 2 (a
false alarm of this test itself: 5e-4).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from audit.bounds import ESTIMATORS, AnyFamily, GdpFamily
from audit.guarantees import guarantee_of
from audit.probes import Inputs, at_distance, collect
from defenses.base import Assets, Defense, Tokens
from defenses.baselines.dp_forward import DpForward, DpForwardConfig
from defenses.baselines.split_and_denoise import SplitAndDenoise, SplitAndDenoiseConfig
from defenses.privacy.epsilon_delta import EpsilonDeltaProfile
from defenses.sent_states import sent

PAIR = np.vstack([np.eye(4)[:1], -np.eye(4)]).astype(np.float32)
PLANE = np.array([[0, 0], [1, 0], [-3, 0], [3, 0]], dtype=np.float32)


class ClipsEveryToken(DpForward):
    """Each token's state is scaled down to C by itself, so that a prompt of T tokens is longer by sqrt(T)."""

    name = "clips-every-token"

    def clipped(self, states: np.ndarray) -> np.ndarray:
        """States (B, T, h), every position's norm at most C."""
        norms = np.linalg.norm(states, axis=-1, keepdims=True)
        return np.asarray(states * np.minimum(1, self.bound(states.shape[1]) / norms), dtype=np.float32)


class NoiseOfOneToken(DpForward):
    """One row of noise serves all positions."""

    name = "noise-of-one-token"

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> Any:
        """The clipped states plus the same draw at every position."""
        states = self.clipped(self.states(tokens))
        row = rng.normal(0, self.sigma(tokens.shape[1]), size=(len(states), 1, states.shape[2]))
        return sent(states + row, tokens)


class HalfTheNoise(SplitAndDenoise):
    """The noise is half as large as claimed; the scaling hides its norm."""

    name = "half-the-noise"

    def noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Half of the noise."""
        return 0.5 * super().noise(shape, rng)


@dataclass(frozen=True)
class Case:
    """One mistake: the broken class (or settings), the sound one, the inputs and the budget a side.

    Attributes:
        twin: The broken defence.
        sound: The original.
        inputs: What is sent.
        samples: Fresh draws a side.
        train: Training draws a side.
    """

    twin: Callable[[Assets], Defense[Any]]
    sound: Callable[[Assets], Defense[Any]]
    inputs: Inputs
    samples: int = 1500
    train: int = 600


def forward(kind: type[DpForward] = DpForward, **keys: Any) -> Callable[[Assets], Defense[Any]]:
    """DP-Forward at 2-GDP, with a bound that the tiny model's prompts exceed."""
    return lambda assets: kind(DpForwardConfig(**{"mu": 2.0, "clip": 0.05, **keys}), assets)


def denoised(kind: type[SplitAndDenoise] = SplitAndDenoise, table: np.ndarray = PLANE, **keys: Any) -> Any:
    """Split-and-Denoise on two coordinates."""
    return lambda _assets: kind(SplitAndDenoiseConfig(**{"eta": 1.0, **keys}), Assets(table))


def opposite(kind: type[DpForward] = DpForward, **keys: Any) -> Callable[[Assets], Defense[Any]]:
    """DP-Forward at 2-GDP on embeddings of which the first two are opposite, and longer than C."""
    config = DpForwardConfig(**{"mu": 2.0, "clip": 1.0, "blocks": 0, **keys})
    return lambda _assets: kind(config, Assets(3 * PAIR))


LONE = Inputs(np.array([[3]]), np.array([[200]]))
FOUR = Inputs(np.zeros((1, 4), int), np.ones((1, 4), int))
TURNED = Inputs(np.array([[0, 1, 0, 1]]), np.array([[1, 0, 1, 0]]))

CASES = {
    "sensitivity of the released code": Case(forward(sensitivity="released"), forward(), LONE, samples=600, train=200),
    "the same on embeddings": Case(forward(sensitivity="released", blocks=0), forward(blocks=0), LONE),
    "the same on prompts of four tokens": Case(opposite(sensitivity="released"), opposite(), FOUR),
    "every token clipped alone": Case(opposite(ClipsEveryToken), opposite(), FOUR),
    "noise of one token for all": Case(opposite(NoiseOfOneToken), opposite(), TURNED),
    "half of the noise": Case(denoised(HalfTheNoise), denoised(), at_distance(PLANE, 0, 1), samples=3000, train=300),
}


def refuted(case: Case, defense: Defense[Any], rng: np.random.Generator) -> bool:
    """Whether the defence's own claim for these inputs is refuted at 5 %."""
    metric = defense.claim.kind == "metric-DP"
    family = AnyFamily(0.0) if metric else GdpFamily()
    result = collect(defense, case.inputs, case.samples, rng, family=family, train=case.train, progress=False)
    if metric:
        estimator, profile = (
            "order-statistic",
            EpsilonDeltaProfile(defense.claim.parameters["epsilon"] * result.distance),
        )
        return ESTIMATORS[estimator].p_value(result.scores, profile, family, rng) <= 0.05
    profile = guarantee_of(defense.claim).profile  # of a whole prompt, however many tokens differ
    return ESTIMATORS["whole-curve"].p_value(result.scores, profile, family, rng) <= 0.05


@pytest.mark.parametrize("name", CASES)
def test_a_twin_is_refuted_in_every_seed(assets: Assets, name: str) -> None:
    """Within its budget the mistake is refuted at 95 % in each of three seeds."""
    case = CASES[name]
    assert [refuted(case, case.twin(assets), np.random.default_rng([seed, 1])) for seed in range(3)] == [True] * 3


@pytest.mark.parametrize("name", CASES)
def test_the_sound_original_is_not(assets: Assets, name: str) -> None:
    """Of four seeds at most two refute the sound original on the same inputs."""
    case = CASES[name]
    assert sum(refuted(case, case.sound(assets), np.random.default_rng([seed, 0])) for seed in range(4)) <= 2
