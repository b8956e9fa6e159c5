"""How often the intervals of token recovery hold the truth, in synthetic studies where it is known."""

import math
from typing import Any

import numpy as np
import pytest

from attacks.base import Guess
from audit.recovery import Prompts, difference, recover, share

V = 30


def holds(row: dict[str, Any], name: str, truth: float) -> bool:
    """Whether a figure's interval holds the truth."""
    return bool(row[f"{name}_low"] <= truth <= row[f"{name}_high"])


def synthetic_study(rng: np.random.Generator, resamples: int) -> tuple[Prompts, np.ndarray, np.ndarray]:
    """30 to 60 documents that differ: success is beta(2, 6) in each, of a second attack half the same and half its own.

    Both succeed with probability 1/4 over all documents. Two or three seeds of the mechanism draw hits of 16 tokens.
    """
    documents = int(rng.integers(30, 61))
    clusters = np.repeat(np.arange(documents), rng.integers(1, 4, documents))
    shape = (int(rng.integers(2, 4)), len(clusters))
    rates = rng.beta(2, 6, (2, documents))
    first = rng.binomial(16, rates[0, clusters], shape)
    second = rng.binomial(16, rates.mean(axis=0)[clusters], shape)
    secrets = np.zeros((len(clusters), 16), dtype=np.int64)
    return Prompts(secrets, clusters, seed=int(rng.integers(2**31)), resamples=resamples), first, second


def coverage(studies: int, resamples: int, rng: np.random.Generator) -> tuple[float, float]:
    """How often the intervals of a share and of a paired difference hold the truth."""
    shares = differences = 0
    for _ in range(studies):
        prompts, first, second = synthetic_study(rng, resamples)
        shares += holds(share("x", first, 16, prompts), "x", 0.25)
        differences += holds(difference("x", first, second, 16, prompts), "x", 0.0)
    return shares / studies, differences / studies


def test_intervals_cover_about_as_often_as_they_say() -> None:
    """In 400 synthetic studies the intervals of shares and of paired differences hold the truth about 95 % of times."""
    for covered in coverage(400, 400, np.random.default_rng(15)):
        # A true coverage of 0.93 to 0.97 leaves this range with probability below 1e-4.
        assert 0.93 - 4 * math.sqrt(0.93 * 0.07 / 400) < covered < 0.97 + 4 * math.sqrt(0.97 * 0.03 / 400)


@pytest.mark.slow
def test_intervals_cover_between_93_and_97_percent() -> None:
    """In 5,000 synthetic studies coverage itself is within 93 to 97 %; a true 94 % leaves it with probability 0.002."""
    for covered in coverage(5000, 2000, np.random.default_rng(16)):
        assert 0.93 < covered < 0.97


def null_study(rng: np.random.Generator) -> tuple[Prompts, list[Guess], list[Guess]]:
    """Documents with token frequencies of their own, and an attack that guesses whatever the secret is."""
    clusters = np.repeat(np.arange(30), 2)
    frequencies = rng.dirichlet(np.full(V, 3.0), 30)[clusters]
    secrets = np.stack([rng.choice(V, 16, p=of) for of in frequencies])
    prompts = Prompts(secrets, clusters, seed=int(rng.integers(2**31)), resamples=300)
    shape = (*secrets.shape, 1)
    scores = np.zeros(shape, dtype=np.float32)
    blind = Guess(np.zeros(shape, dtype=np.int64), scores)
    return prompts, [Guess(rng.integers(0, V, shape), scores) for _ in range(2)], [blind] * 2


def test_an_attack_that_sees_nothing_has_no_advantage() -> None:
    """Guesses that are independent of the secret have an advantage whose interval covers 0 in about 95 % of studies."""
    rng, covered, studies = np.random.default_rng(17), 0, 400
    for _ in range(studies):
        prompts, guesses, prior = null_study(rng)
        covered += holds(recover("blind", guesses, prompts, prior), "advantage_blind", 0.0)
    # As above: 0.93 to 0.97 leave this range with probability below 1e-4.
    assert 0.93 - 4 * math.sqrt(0.93 * 0.07 / studies) < covered / studies < 0.97 + 4 * math.sqrt(0.97 * 0.03 / studies)
