"""The server's half: generation equals transformers' own, the stream ends where it should, prompts are chosen."""

from pathlib import Path

import numpy as np
import pytest
import torch

from defenses.base import Assets
from defenses.errors import UserError
from defenses.models.llm import LLM
from defenses.pipeline.artifacts import find_prompts
from defenses.pipeline.defense import Del, DelConfig
from defenses.pipeline.engine import LLMEngine, load_engine
from defenses.pipeline.generation import end_tokens, generate, stream_tokens
from defenses.pipeline.prompt_training import load_prompt, save_prompt
from defenses.pipeline.wire import parse
from defenses.randomness import seeded_rng

TOKENS = np.random.default_rng(4).integers(0, 256, (3, 9))


@pytest.fixture
def ending_llm(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> LLM:
    """The tiny LLM with an end token that its greedy continuation of TOKENS meets."""
    answers = generate(llm, llm.embedding[TOKENS], None, max_new_tokens=8)
    monkeypatch.setattr(llm.model.generation_config, "eos_token_id", answers[0][4])
    return llm


@pytest.mark.filterwarnings("ignore:.*generation flags.*")
def test_greedy_stream_equals_transformers_generate(llm: LLM) -> None:
    """The same tokens as model.generate from the same token ids."""
    ours = generate(llm, llm.embedding[TOKENS], None, max_new_tokens=12, batch=2)
    ids = torch.from_numpy(TOKENS)
    theirs = llm.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0
    )[:, 9:]
    assert ours == theirs.tolist()


def test_a_soft_prompt_is_a_prefix(llm: LLM) -> None:
    """Generation behind m prompt vectors equals generation from the concatenated embeddings."""
    prompt = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    joined = np.concatenate([np.repeat(prompt.numpy()[None], 3, axis=0), llm.embedding[TOKENS]], axis=1)
    behind = generate(llm, llm.embedding[TOKENS], prompt, max_new_tokens=6)
    assert behind == generate(llm, joined, None, max_new_tokens=6)


def test_rows_end_at_the_end_token(ending_llm: LLM) -> None:
    """What follows a row's end token is not part of its answer; the others go on."""
    (end,) = end_tokens(ending_llm)
    answers = generate(ending_llm, ending_llm.embedding[TOKENS], None, max_new_tokens=8)
    assert len(answers[0]) <= 4
    assert all(end not in answer for answer in answers)


def test_sampling_is_seeded_and_follows_the_distribution(llm: LLM) -> None:
    """The same seed gives the same tokens; over many draws the first token follows softmax(logits / T)."""
    prefix = np.repeat(llm.embedding[TOKENS[:1]], 4000, axis=0)

    def first(seed: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        return next(stream_tokens(llm, prefix, None, max_new_tokens=1, temperature=0.05, generator=generator))

    draws = first(0)
    np.testing.assert_array_equal(draws, first(0))
    logits = llm.model(torch.from_numpy(TOKENS[:1])).logits[0, -1]
    p = (logits / 0.05).softmax(-1).numpy()
    share = np.bincount(draws, minlength=256) / 4000
    assert np.abs(share - p).max() < 5 * np.sqrt(0.25 / 4000)
    with pytest.raises(ValueError, match="generator"):
        next(stream_tokens(llm, prefix[:1], None, max_new_tokens=1, temperature=1.0))


def test_engine_answers_what_the_offline_path_answers(llm: LLM, assets: Assets, tmp_path: Path) -> None:
    """A wire message through the engine gives the tokens of restore + soft prompt + generate."""
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    projection = assets.needed_projection()
    card = {"embedding": llm.fingerprint, "projection": projection.name, "n": 4, "mu": 50.0, "vectors": 3}
    save_prompt(llm, vectors, tmp_path / "tiny" / "prompt-a", card)
    engine = LLMEngine(llm, projection, find_prompts("tiny", llm.fingerprint, projection.name, tmp_path))
    assert [(one.n, one.mu) for one in engine.deployments] == [(4, 50.0)]
    defense = Del(DelConfig(n=4, mu=60.0), assets)
    view = defense.protect(TOKENS, seeded_rng(0))
    for body, restored in zip(view.bodies(), defense.restore(view), strict=True):
        answer = list(engine.generate(parse(body), max_new_tokens=7, temperature=0.0, seed=None))
        assert [answer] == generate(llm, restored[None], load_prompt(tmp_path / "tiny" / "prompt-a"), max_new_tokens=7)


def test_the_null_still_answers(llm: LLM, assets: Assets) -> None:
    """A / c = infinity carries nothing, and the server answers from its soft prompt's absence without failing."""
    engine = LLMEngine(llm, assets.needed_projection())
    view = Del(DelConfig(n=4, a_over_c=float("inf")), assets).protect(TOKENS[:1], seeded_rng(0))
    assert len(list(engine.generate(parse(view.payload), max_new_tokens=3, temperature=0.0, seed=None))) == 3


def test_engine_refuses_what_does_not_exist(tmp_path: Path) -> None:
    """No such model is one line."""
    with pytest.raises(UserError, match="--model"):
        load_engine("/nowhere/at/all", "d18", root=tmp_path)
