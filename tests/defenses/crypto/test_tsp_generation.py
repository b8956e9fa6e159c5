"""Mixed embeddings in a model: coupled coins, the fast mixer against the whole circuit, and the noise-off identity."""

import numpy as np
import pytest
import torch

from defenses.crypto.sampling_circuit import SamplingCircuit, differences, mixed_embeddings
from defenses.crypto.tsp_generation import Mixer, Sampled, draw, forced, generate, losses
from defenses.models.llm import LLM
from defenses.randomness import seeded_rng

DEEP = SamplingCircuit(amplify=40)


def distribution(seed: int, tokens: int = 300) -> np.ndarray:
    """One skewed distribution."""
    return seeded_rng(seed, "p").dirichlet(np.full(tokens, 0.05))


def orders(size: int) -> dict[str, np.ndarray]:
    """The own order and another."""
    other = seeded_rng(0, "order").permutation(size).astype(np.int32)
    return {"identity": np.arange(size, dtype=np.int32), "other": other}


def test_a_coin_picks_the_same_token_in_every_order() -> None:
    """The place within the token's interval carries over, so both coins are uniform and exact sampling agrees."""
    p, table = distribution(0), np.eye(300)
    for r in seeded_rng(1, "r").random(50):
        token, within = draw(p, float(r))
        cumulative = np.cumsum(p)
        assert cumulative[token] - p[token] <= r + 1e-12
        assert r <= cumulative[token] + 1e-12
        assert 0 <= within < 1
        for order in orders(300).values():
            mixer = Mixer(table, order, DEEP)
            assert mixer.sample(mixer.cumulative(p), token, max(0.05, min(within, 0.95))).token == token


@pytest.mark.parametrize("circuit", [SamplingCircuit(6), SamplingCircuit(12, post=True), SamplingCircuit(4, 1, 1)])
def test_the_mixer_is_the_whole_circuit(circuit: SamplingCircuit) -> None:
    """Looking only at boundaries near r changes an embedding by less than 1e-9, whatever the depth."""
    p, table = distribution(2), seeded_rng(2, "table").normal(size=(300, 6))
    for order in orders(300).values():
        mixer = Mixer(table, order, circuit)
        cumulative = mixer.cumulative(p)
        for r in seeded_rng(3, "r").random(40):
            token, within = draw(p, float(r))
            place = int(np.flatnonzero(order == token)[0])
            coin = np.array([cumulative[place] + within * p[token]])
            weights = circuit.weights(p[order][None], coin)
            found = mixer.sample(cumulative, token, within)
            np.testing.assert_allclose(found.embedding, mixed_embeddings(weights, table[order])[0], atol=1e-9)
            assert differences(p[order][None], coin).shape == (1, 301)


def text(llm: LLM, prompts: int = 5, tokens: int = 7) -> tuple[np.ndarray, np.ndarray, Sampled]:
    """Prompts, coins, and what the clean model samples."""
    rng = seeded_rng(4, "text")
    starts, coins = rng.integers(0, 256, (prompts, 6)), rng.random((prompts, tokens))
    return starts, coins, Sampled(starts, *generate(llm, starts, coins))


def test_clean_generation_is_sampling_step_by_step(any_llm: LLM) -> None:
    """The cached loop samples what a forward pass over the whole text gives at every step."""
    starts, coins, sampled = text(any_llm)
    for step in range(coins.shape[1]):
        whole = torch.as_tensor(np.concatenate([starts, sampled.tokens[:, :step]], axis=1))
        with torch.inference_mode():
            p = torch.softmax(any_llm.model(whole).logits[:, -1].double(), dim=-1).numpy()
        for row in range(len(starts)):
            token, within = draw(p[row], float(coins[row, step]))
            assert token == sampled.tokens[row, step]
            assert within == pytest.approx(sampled.places[row, step], abs=1e-2)


def test_a_deep_circuit_changes_nothing(llm: LLM) -> None:
    """Noise off: with every boundary resolved, generation, losses and embeddings are the clean model's."""
    starts, coins, sampled = text(llm)
    for order in orders(256).values():
        tokens, _ = generate(llm, starts, coins, Mixer(llm.embedding, order, DEEP))
        np.testing.assert_array_equal(tokens, sampled.tokens)
    clean = losses(llm, starts, sampled.tokens)
    for found in forced(llm, sampled, orders(256), [DEEP], np.full((5, 7, 2), 0.321)).values():
        assert found.agrees.min() == 1
        assert found.cosine.max() < 1e-5
        assert found.error.max() < 1e-4
        np.testing.assert_allclose(found.loss, clean, atol=1e-4)


def test_losses_are_those_of_the_model(llm: LLM) -> None:
    """Log-probabilities of each token after all before it, by an ordinary forward pass over ids."""
    starts, _, sampled = text(llm)
    whole = torch.as_tensor(np.concatenate([starts, sampled.tokens], axis=1))
    with torch.inference_mode():
        logs = torch.log_softmax(llm.model(whole).logits.double(), dim=-1)
    expected = -logs[:, 5:-1].gather(-1, whole[:, 6:, None])[..., 0].numpy()
    np.testing.assert_allclose(losses(llm, starts, sampled.tokens), expected, atol=1e-4)


def test_errors_fall_with_depth_and_with_post_processing(llm: LLM) -> None:
    """On the same coins a deeper circuit errs less, and post-processing errs less than none."""
    _, _, sampled = text(llm, prompts=24)
    circuits = [SamplingCircuit(depth, post=post) for depth in (4, 9) for post in (False, True)]
    extra = seeded_rng(5, "extra").random((24, 7, 6))
    found = forced(llm, sampled, {"identity": orders(256)["identity"]}, circuits, extra)
    errors = [found["identity", circuit].error.mean() for circuit in circuits]
    assert errors[1] < errors[0]
    assert errors[3] < errors[2]
    assert errors[2] < 0.5 * errors[0]


def test_extra_coins_are_averaged_with_the_text_s_own(llm: LLM) -> None:
    """With no extra coin the error is that of the text's token; the loss never depends on them."""
    _, _, sampled = text(llm)
    circuit, order = SamplingCircuit(5), {"identity": orders(256)["identity"]}
    alone = forced(llm, sampled, order, [circuit], np.empty((5, 7, 0)))["identity", circuit]
    more = forced(llm, sampled, order, [circuit], np.full((5, 7, 1), 0.5))["identity", circuit]
    np.testing.assert_allclose(alone.loss, more.loss)
    assert not np.allclose(alone.error, more.error)
    table = llm.embedding.astype(np.float64)
    mixer = Mixer(table, order["identity"], circuit)
    with torch.inference_mode():
        p = torch.softmax(llm.model(torch.as_tensor(sampled.prompts)).logits[:, -1].double(), dim=-1).numpy()
    first = mixer.sample(mixer.cumulative(p[0]), int(sampled.tokens[0, 0]), float(sampled.places[0, 0]))
    true = table[sampled.tokens[0, 0]]
    expected = np.linalg.norm(first.embedding - true) / np.linalg.norm(true)
    assert alone.error[0, 0] == pytest.approx(expected, rel=1e-3)
