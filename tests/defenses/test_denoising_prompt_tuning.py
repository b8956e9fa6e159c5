"""RAPT's prompt: it learns from task and plain tokens, with gradients through the LLM, and resumes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from defenses.base import Assets
from defenses.baselines.hidden_states import HiddenStates, HiddenStatesConfig
from defenses.baselines.identity import Identity, IdentityConfig
from defenses.denoising.network import Scale
from defenses.denoising.outputs import pooled_outputs
from defenses.denoising.prompt_tuning import (
    Labelled,
    RaptSettings,
    _Tuner,
    pair_features,
    reduced_vocabulary,
    tune_prompt,
)
from defenses.errors import UserError
from defenses.models.llm import LLM
from defenses.pipeline.prompt_training import sentence_start

QUICK = RaptSettings(vectors=4, plain_tokens=3, candidates=16, steps=25, batch=8, learning_rate=0.1)


@pytest.fixture(scope="module")
def identity(assets: Assets) -> Identity:
    """No noise: what there is to learn is there."""
    return Identity(IdentityConfig(), assets)


@pytest.fixture(scope="module")
def pairs() -> Labelled:
    """Forty pairs of texts of unequal lengths; those of class 1 are two of a kind."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    first = [rng.integers(97, 123, rng.integers(4, 8)).tolist() for _ in labels]
    other = [rng.integers(48, 58, rng.integers(4, 8)).tolist() for _ in labels]
    second = [list(a) if label else b for a, b, label in zip(first, other, labels, strict=True)]
    return Labelled((first, second), labels.astype(np.int64), 2)


@pytest.fixture(scope="module")
def scale(llm: LLM, pairs: Labelled) -> Scale:
    """Of the texts' outputs without a prompt."""
    found = [pooled_outputs(llm, llm.embedding[np.array([ids])]) for column in pairs.columns for ids in column]
    return Scale.of(np.concatenate(found))


def heads(classes: int, candidates: int, inputs: int) -> tuple[torch.nn.Linear, torch.nn.Linear]:
    """Fixed heads of task and plain tokens."""
    generator = torch.Generator().manual_seed(0)
    found = torch.nn.Linear(inputs, classes), torch.nn.Linear(32, candidates)
    for head in found:
        for value in head.parameters():
            value.data = torch.randn(value.shape, generator=generator) * 0.1
    return found


def test_the_loss_is_the_sum_of_both_tasks(llm: LLM, identity: Identity, pairs: Labelled, scale: Scale) -> None:
    """Against a slow oracle that passes every text by itself, plain tokens in front, without a cached prompt."""
    tuner = _Tuner(llm, identity, pairs, scale, QUICK)
    prompt = sentence_start(llm, 4)
    vocabulary = reduced_vocabulary(pairs, QUICK)
    task, plain = heads(2, len(vocabulary), 64)
    found = float(tuner.loss(7, prompt, task, plain).detach())
    from defenses.randomness import seeded_rng

    rng = seeded_rng(QUICK.seed, "rapt", 7)
    rows = rng.choice(40, 8, replace=False)
    columns, plain_losses = [], []
    with torch.no_grad():
        for column in pairs.columns:
            drawn, outputs = rng.integers(len(vocabulary), size=(8, 3)), []
            for own, row in zip(drawn, rows, strict=True):
                table = llm.model.get_input_embeddings().weight
                vectors = torch.cat([prompt, table[torch.tensor([*vocabulary[own], *column[row]])]])
                states = llm.model.base_model(inputs_embeds=vectors[None]).last_hidden_state[0, 4:]
                read = scale.apply(states)
                outputs.append(read[-1])
                plain_losses += list(torch.nn.functional.cross_entropy(
                    plain(read[:3]), torch.from_numpy(own), reduction="none"))  # fmt: skip
            columns.append(torch.stack(outputs))
        right = torch.nn.functional.cross_entropy(task(pair_features(columns)), torch.from_numpy(pairs.labels[rows]))
    wanted = float(right) + QUICK.weight * float(torch.stack(plain_losses).mean())
    assert found == pytest.approx(wanted, rel=1e-4)


def test_the_prompt_itself_learns(llm: LLM, identity: Identity, pairs: Labelled, scale: Scale) -> None:
    """The gradient passes the LLM: with fixed heads, a step down it lowers the loss of the same batch."""
    tuner = _Tuner(llm, identity, pairs, scale, QUICK)
    task, plain = heads(2, len(reduced_vocabulary(pairs, QUICK)), 64)
    prompt = sentence_start(llm, 4).requires_grad_()
    before = tuner.loss(0, prompt, task, plain)
    (gradient,) = torch.autograd.grad(before, prompt)
    assert float(gradient.norm()) > 0
    after = tuner.loss(0, (prompt - 1e-3 * gradient / gradient.norm()).detach(), task, plain)
    assert float(after.detach()) < float(before.detach())


def test_tuning_moves_the_prompt_and_resumes(
    llm: LLM, identity: Identity, pairs: Labelled, scale: Scale, tmp_path: Path, *, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that dies after ten steps ends where an undisturbed one does."""
    whole = tune_prompt(llm, identity, pairs, scale, QUICK)
    assert whole.shape == (4, 32)
    assert float((whole - sentence_start(llm, 4)).abs().max()) > 1e-3
    true = _Tuner.loss

    def dying(self: _Tuner, step: int, *rest: Any) -> torch.Tensor:
        if step == 12:
            raise KeyboardInterrupt
        return true(self, step, *rest)

    place = tmp_path / "rapt.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(_Tuner, "loss", dying)
        with pytest.raises(KeyboardInterrupt):
            tune_prompt(llm, identity, pairs, scale, QUICK, checkpoint=place)
    again = tune_prompt(llm, identity, pairs, scale, QUICK, checkpoint=place)
    torch.testing.assert_close(again, whole)


def test_without_reconstruction_it_is_prompt_tuning(
    llm: LLM, identity: Identity, pairs: Labelled, scale: Scale
) -> None:
    """Weight 0, or no plain token, leaves the task's loss alone."""
    prompt, (task, plain) = sentence_start(llm, 4), heads(2, 16, 64)
    bare = [
        float(_Tuner(llm, identity, pairs, scale, changed).loss(0, prompt, task, plain).detach())
        for changed in (replace(QUICK, plain_tokens=0), replace(QUICK, plain_tokens=0, weight=0.0))
    ]
    assert bare[0] == pytest.approx(bare[1])
    weighted = [
        float(_Tuner(llm, identity, pairs, scale, replace(QUICK, weight=w)).loss(0, prompt, task, plain).detach())
        for w in (0.0, 1.0, 2.0)
    ]
    assert weighted[2] - weighted[1] == pytest.approx(weighted[1] - weighted[0], rel=1e-3)
    assert weighted[1] > weighted[0]


def test_a_defence_that_pools_has_no_plain_tokens_to_read(
    llm: LLM, assets: Assets, pairs: Labelled, scale: Scale
) -> None:
    """One vector a prompt: the prompt learns from the task alone."""
    pooled = HiddenStates(HiddenStatesConfig(blocks=1, pool="mean"), assets)
    tuner = _Tuner(llm, pooled, pairs, scale, QUICK)
    assert not tuner.positions
    assert tune_prompt(llm, pooled, pairs, scale, replace(QUICK, steps=2)).shape == (4, 32)


def test_the_reduced_vocabulary_is_the_most_frequent() -> None:
    """Tokens by count, at most as many as were asked for, in order of their ids."""
    examples = Labelled(([[5, 5, 5, 9, 9, 2], [7, 9]],), np.array([0, 1]), 2)
    assert reduced_vocabulary(examples, replace(QUICK, candidates=2)).tolist() == [5, 9]
    assert reduced_vocabulary(examples, replace(QUICK, candidates=50)).tolist() == [2, 5, 7, 9]


def test_features_of_one_text_and_of_two() -> None:
    """One output as it is; of two their distance and product, which do not depend on the order."""
    a, b = torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 1.0]])
    assert torch.equal(pair_features([a]), a)
    assert torch.equal(pair_features([a, b]), torch.tensor([[2.0, 3.0, 3.0, -2.0]]))
    assert torch.equal(pair_features([a, b]), pair_features([b, a]))


@pytest.mark.parametrize(
    "changes", [{"vectors": 0}, {"plain_tokens": -1}, {"candidates": 1}, {"weight": -1.0}, {"steps": 0}]
)
def test_settings_are_checked(changes: dict[str, Any]) -> None:
    """Numbers out of range are one line."""
    with pytest.raises(UserError):
        replace(QUICK, **changes)
