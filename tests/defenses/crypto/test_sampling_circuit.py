"""The polynomial sampling circuit: a slow program of the formulae, the limits of great depth, and its edges."""

import math

import numpy as np
import pytest

from defenses.crypto.sampling_circuit import (
    SamplingCircuit,
    differences,
    mixed_embeddings,
    post_processed,
    sampled,
)
from defenses.errors import UserError
from defenses.randomness import seeded_rng


def slow_step(x: float, amplify: int, sign: int, sharpen: int) -> float:
    """H by the paper's formulae, one number at a time."""
    for _ in range(amplify):
        x = (-1359 * x**3 + 2126 * x) / 1024
    for _ in range(sign):
        x = -(x**3) / 2 + 3 * x / 2
    y = (x + 1) / 2
    for _ in range(sharpen):
        y = -2 * y**3 + 3 * y**2
    return y


def slow_weights(p: np.ndarray, r: float, circuit: SamplingCircuit) -> list[float]:
    """I_k token by token."""
    found, before = [], 0.0
    for one in p:
        after = before + float(one)
        counts = (circuit.amplify, circuit.sign, circuit.sharpen)
        weight = (1 - slow_step(before - r, *counts)) * slow_step(after - r, *counts)
        found.append(-2 * weight**3 + 3 * weight**2 if circuit.post else weight)
        before = after
    return found


def distributions(seed: int, rows: int = 6, tokens: int = 50) -> np.ndarray:
    """Skewed distributions with a long tail."""
    return seeded_rng(seed, "p").dirichlet(np.full(tokens, 0.1), size=rows)


@pytest.mark.parametrize("post", [False, True])
@pytest.mark.parametrize("counts", [(17, 3, 5), (5, 2, 0), (0, 0, 0), (3, 0, 4)])
def test_weights_are_the_formulae(counts: tuple[int, int, int], post: bool) -> None:  # noqa: FBT001 - a parameter
    """The vectorised circuit is the slow program, at every depth."""
    circuit = SamplingCircuit(*counts, post=post)
    p = distributions(0)
    r = seeded_rng(0, "r").random(len(p))
    expected = [slow_weights(row, float(coin), circuit) for row, coin in zip(p, r, strict=True)]
    np.testing.assert_allclose(circuit.weights(p, r), expected, atol=1e-9)


def test_a_deep_circuit_samples_exactly_what_the_inverse_samples() -> None:
    """Where no boundary is nearer to r than the circuit resolves, the weights are one-hot at the true token."""
    circuit = SamplingCircuit()
    p = distributions(1, rows=200)
    r = seeded_rng(1, "r").random(200)
    clear = np.abs(differences(p, r)).min(axis=1) > circuit.resolution()
    assert clear.sum() > 180
    weights = circuit.weights(p, r)[clear]
    np.testing.assert_allclose(weights, np.eye(p.shape[1])[sampled(p, r)[clear]], atol=2e-3)


def test_sampling_exactly_has_the_right_law() -> None:
    """Exact sampling draws token k with probability p_k: chi-square, 20,000 draws, false alarms 1 in 10,000."""
    from scipy.stats import chisquare

    p = np.array([0.05, 0.4, 0.0, 0.3, 0.25])
    drawn = sampled(np.tile(p, (20_000, 1)), seeded_rng(3, "law").random(20_000))
    counts = np.bincount(drawn, minlength=5)
    assert counts[2] == 0
    assert chisquare(counts[p > 0], 20_000 * p[p > 0]).pvalue > 1e-4


def test_every_token_can_be_sampled() -> None:
    """Token 0 too: its lower boundary is 0, not the last token's upper one."""
    p = np.full((4, 4), 0.25)
    r = np.array([0.1, 0.4, 0.6, 0.9])
    np.testing.assert_allclose(SamplingCircuit().weights(p, r), np.eye(4), atol=1e-6)


def test_unresolved_boundaries_weigh_a_quarter_each() -> None:
    """Tokens too unlikely for the circuit at a boundary next to r add up to more than one: the cause of collapse."""
    p = np.concatenate([[0.5], np.full(400, 1e-12), [0.5 - 400e-12]])[None]
    weights = SamplingCircuit().weights(p, np.array([0.5]))
    np.testing.assert_allclose(weights[0, 1:401], 0.25, atol=1e-3)
    assert weights.sum() > 90
    processed = post_processed(weights)
    np.testing.assert_allclose(processed[0, 1:401], 0.15625, atol=1e-3)


def test_coins_at_the_ends() -> None:
    """At 0 and 1 a boundary coincides with r: the outermost token gets a half, no other anything."""
    p = np.full((2, 4), 0.25)
    weights = SamplingCircuit().weights(p, np.array([0.0, 1.0]))
    np.testing.assert_allclose(weights, [[0.5, 0, 0, 0], [0, 0, 0, 0.5]], atol=1e-9)


def test_resolution_is_where_the_step_has_settled() -> None:
    """At the resolution H is within 2^-10 of 1, a little below it is not; another g1 refines it by about 2.08."""
    coarse, fine = SamplingCircuit(amplify=8), SamplingCircuit(amplify=9)
    at = coarse.resolution()
    assert coarse.step(at) >= 1 - 2**-10
    assert coarse.step(0.97 * at) < 1 - 2**-10
    assert coarse.resolution() / fine.resolution() == pytest.approx(2126 / 1024, rel=0.03)
    assert math.isinf(SamplingCircuit(1, 0, 0).resolution())


def test_sharpening_the_step_is_iterating_the_sign() -> None:
    """Iterating f on H is iterating f1 on the sign: depth can be moved from one to the other without any change."""
    gaps = np.linspace(-1, 1, 401)
    np.testing.assert_allclose(SamplingCircuit(6, 3, 5).step(gaps), SamplingCircuit(6, 8, 0).step(gaps), atol=1e-12)


def test_the_step_stays_a_step_on_the_whole_interval() -> None:
    """No cubic leaves [-1, 1], and the step is antisymmetric about a half."""
    gaps = np.linspace(-1, 1, 2001)
    step = SamplingCircuit(amplify=12).step(gaps)
    assert step.min() >= 0
    assert step.max() <= 1
    np.testing.assert_allclose(step + step[::-1], 1, atol=1e-9)


def test_mixing_is_the_sum_over_the_table() -> None:
    """Leaving out negligible weights leaves the sum as it is."""
    rng = seeded_rng(4, "mix")
    weights, table = rng.random((3, 20)), rng.normal(size=(20, 5))
    weights[:, ::3] = 1e-30
    np.testing.assert_allclose(mixed_embeddings(weights, table), weights @ table, atol=1e-12)
    with pytest.raises(ValueError, match="table"):
        mixed_embeddings(weights, table[:-1])


def test_levels_count_every_product() -> None:
    """Two levels a cubic, one for the product of both steps."""
    assert SamplingCircuit().levels == 51
    assert SamplingCircuit(post=True).levels == 53
    assert SamplingCircuit(1, 0, 0).levels == 3


@pytest.mark.parametrize(
    ("p", "r"),
    [
        ([[0.5, 0.6]], [0.5]), ([[1.5, -0.5]], [0.5]), ([[np.nan, 1.0]], [0.5]), ([[1.0]], [1.5]), ([1.0], [0.5]),
        ([[1.0]], [0.5, 0.5]),
    ],
)  # fmt: skip
def test_what_is_no_distribution_is_refused(p: list[list[float]], r: list[float]) -> None:
    """Outside [-1, 1] the cubics diverge, so nothing else may come in."""
    with pytest.raises(ValueError, match=r"probabilities|coins"):
        SamplingCircuit().weights(np.array(p), np.array(r))


def test_negative_depths_are_refused() -> None:
    """An iteration count is a count."""
    with pytest.raises(UserError, match="iterations"):
        SamplingCircuit(amplify=-1)
