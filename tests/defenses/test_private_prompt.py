"""DP-SGD of the soft prompt: slow oracles of the clip, the noise and the sample; resuming; what is never shown."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom, chi2

from defenses.base import Assets
from defenses.errors import UserError
from defenses.models.llm import LLM
from defenses.pipeline.private_gradient import DpSettings, Examples, PrivateGradient, clipped_gradients, example_nll
from defenses.pipeline.private_prompt import PromptTask, train_private_prompt
from defenses.pipeline.prompt_training import PromptSettings, continuation_nll

TINY_RATE = 1e-12  # no batch of these tests has an example
FALSE_ALARM = 1e-6  # of each statistical test


def _task(llm: LLM, assets: Assets, **changes: object) -> PromptTask:
    settings = {"n": 4, "mu": 30.0, "vectors": 3, "steps": 6, "learning_rate": 0.05, "checkpoint_every": 4, **changes}
    return PromptTask(llm, assets.needed_projection(), PromptSettings(**settings))


def _examples(llm: LLM, count: int, seed: int = 0) -> Examples:
    ids = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 12)))
    return Examples(llm.model.get_input_embeddings()(ids[:, :5]), ids[:, 5:])


def _start(vectors: int = 3) -> torch.Tensor:
    return torch.randn(vectors, 32, generator=torch.Generator().manual_seed(1)) * 0.1


def _oracle(llm: LLM, examples: Examples, clip: float) -> torch.Tensor:
    """The clipped sum, one example after another, by plain autograd."""
    total = torch.zeros_like(_start())
    for place in range(len(examples.continuation)):
        prompt = _start().requires_grad_()
        nll = continuation_nll(
            llm, examples.prefix[place : place + 1], examples.continuation[place : place + 1], prompt
        )
        gradient = torch.autograd.grad(nll[0].mean(), prompt)[0]
        norm = float(gradient.square().sum()) ** 0.5
        total += gradient * (clip / norm if norm > clip else 1.0)
    return total


def test_each_example_has_its_own_prompt(any_llm: LLM) -> None:
    """The loss with one copy of the prompt per example is that of the shared cache, on two architectures."""
    examples = _examples(any_llm, 4)
    copies = _start().expand(4, -1, -1)
    shared = continuation_nll(any_llm, examples.prefix, examples.continuation, _start())[0].mean(dim=1)
    torch.testing.assert_close(example_nll(any_llm, examples, copies), shared)


@pytest.mark.parametrize("physical_batch", [1, 3, 50])
def test_opacus_clips_each_example(any_llm: LLM, physical_batch: int) -> None:
    """The privatised sum under next to no noise is the oracle's, whatever goes through the LLM at once."""
    examples = _examples(any_llm, 7)
    norms = clipped_gradients(any_llm, examples, _start(), 1e9, 7).flatten(1).norm(dim=1)
    clip = float(norms.median())  # some are cut, some are not
    private = PrivateGradient(any_llm, DpSettings(1e-9, 0.5, clip, physical_batch, "seeded"), _start(), 0, "x")
    released = private.privatise(examples, np.random.default_rng(0))
    expected = _oracle(any_llm, examples, clip)
    torch.testing.assert_close(released, expected, rtol=1e-4, atol=1e-5 * clip)
    assert float((expected - _oracle(any_llm, examples, 1e9)).norm()) > 0.1 * clip  # the clip did cut
    again = private.privatise(examples, np.random.default_rng(0))
    assert torch.equal(again, released)  # nothing is left over from the step before


def test_adversary_computes_the_same_clipped_gradients(llm: LLM) -> None:
    """Gradients for the audit sum up to the oracle's, and none is longer than the clip."""
    examples = _examples(llm, 5)
    found = clipped_gradients(llm, examples, _start(), 0.2, 2)
    torch.testing.assert_close(found.sum(dim=0), _oracle(llm, examples, 0.2), rtol=1e-4, atol=1e-6)
    assert float(found.flatten(1).norm(dim=1).max()) <= 0.2 * (1 + 1e-5)


def test_noise_has_its_stated_size(llm: LLM) -> None:
    """Empty batches release N(0, (sigma C)^2): the sum of squares is chi-squared, at a false-alarm rate of 1e-6."""
    dp = DpSettings(2.0, 0.5, 0.3, coins="seeded")
    private = PrivateGradient(llm, dp, _start(20), 5, "noise")
    none = _examples(llm, 0)
    draws = torch.stack([private.privatise(none, private.coins(step)) for step in range(20)]).double() / (2.0 * 0.3)
    total, count = float(draws.square().sum()), draws.numel()
    assert chi2.ppf(FALSE_ALARM / 2, count) < total < chi2.isf(FALSE_ALARM / 2, count)
    assert len({float(draw[0, 0]) for draw in draws}) == 20  # no two steps share noise


def test_sample_is_poisson(llm: LLM) -> None:
    """Each example joins with probability q by a coin of its own: counts and batch sizes are binomial, at 1e-6."""
    private = PrivateGradient(llm, DpSettings(1.0, 0.3, coins="seeded"), _start(), 0, "sample")
    joined = np.zeros((400, 50), dtype=np.int64)
    for step in range(400):
        joined[step, private.sample(50, private.coins(step))] = 1
    tail = FALSE_ALARM / 2 / 50
    counts = joined.sum(axis=0)
    assert binom.ppf(tail, 400, 0.3) <= counts.min()
    assert counts.max() <= binom.isf(tail, 400, 0.3)
    spread = float(np.sum((joined.sum(axis=1) - 15.0) ** 2) / (50 * 0.3 * 0.7))  # about chi-squared with 400 degrees
    assert chi2.ppf(FALSE_ALARM / 2, 400) < spread < chi2.isf(FALSE_ALARM / 2, 400)


def test_empty_batches_take_noisy_steps(llm: LLM, assets: Assets, token_windows: np.ndarray) -> None:
    """A step without an example releases noise and moves the prompt: its absence would tell that nobody was there."""
    seen: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    dp = DpSettings(1.0, TINY_RATE, coins="seeded")
    task = _task(llm, assets)
    last = train_private_prompt(task, token_windows, dp, observe=lambda *step: seen.append(step))
    assert [step for step, _, _ in seen] == list(range(6))
    prompts = [prompt for _, prompt, _ in seen] + [last]
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(prompts))
    assert all(float(gradient.norm()) > 1.0 for _, _, gradient in seen)


def test_one_example_that_is_not_finite_counts_as_zero(llm: LLM) -> None:
    """A gradient of NaN is clipped to nothing, so that one example cannot announce itself by breaking training."""
    examples = _examples(llm, 4)
    broken = Examples(examples.prefix.clone(), examples.continuation)
    broken.prefix[2] = torch.nan
    private = PrivateGradient(llm, DpSettings(1e-9, 0.5, coins="seeded"), _start(), 0, "x")
    others = Examples(examples.prefix[[0, 1, 3]], examples.continuation[[0, 1, 3]])
    released = private.privatise(broken, np.random.default_rng(0))
    torch.testing.assert_close(released, private.privatise(others, np.random.default_rng(0)), rtol=1e-4, atol=1e-6)


def test_training_lowers_the_loss_of_the_private_text(llm: LLM, assets: Assets, token_windows: np.ndarray) -> None:
    """With little noise the continuation's loss falls, and the LLM stays as it was."""
    before = [value.clone() for value in llm.model.parameters()]
    task = _task(llm, assets, n=0, steps=30, learning_rate=0.3)
    prompt = train_private_prompt(task, token_windows, DpSettings(0.01, 0.25, coins="seeded"))
    examples = task.examples(token_windows, 0, np.random.default_rng(0))

    def loss(vectors: torch.Tensor) -> float:
        return float(continuation_nll(llm, examples.prefix, examples.continuation, vectors)[0].mean())

    assert loss(prompt) < loss(task.start()) - 0.01
    assert all(torch.equal(a, b) for a, b in zip(before, llm.model.parameters(), strict=True))


def _killed(task: PromptTask, windows: np.ndarray, dp: DpSettings, place: Path) -> list[tuple[int, torch.Tensor]]:
    """Releases of a run that is killed before step 5 and resumed, in order."""
    seen: list[tuple[int, torch.Tensor]] = []

    def observe(step: int, _: torch.Tensor, gradient: torch.Tensor) -> None:
        if step == 5 and not any(s == 5 for s, _ in seen):
            seen.append((step, gradient))
            raise KeyboardInterrupt
        seen.append((step, gradient))

    with pytest.raises(KeyboardInterrupt):
        train_private_prompt(task, windows, dp, checkpoint=place, observe=observe)
    train_private_prompt(task, windows, dp, checkpoint=place, observe=observe)
    return seen


def test_resuming_repeats_the_same_release(llm: LLM, assets: Assets, token_windows: np.ndarray, tmp_path: Path) -> None:
    """With seeded coins a repeated step releases the same bits: nothing new is told, nothing is accounted twice."""
    task, dp = _task(llm, assets, steps=8), DpSettings(1.0, 0.2, coins="seeded")
    seen = _killed(task, token_windows, dp, tmp_path / "c.safetensors")
    assert [step for step, _ in seen] == [0, 1, 2, 3, 4, 5, 4, 5, 6, 7]
    assert torch.equal(seen[4][1], seen[6][1])
    assert torch.equal(seen[5][1], seen[7][1])
    whole = train_private_prompt(task, token_windows, dp)
    assert torch.equal(train_private_prompt(task, token_windows, dp, checkpoint=tmp_path / "c.safetensors"), whole)


def test_service_coins_take_no_written_step_again(
    llm: LLM, assets: Assets, token_windows: np.ndarray, tmp_path: Path
) -> None:
    """With the service's coins every step is written before the next: only the step that was cut off is taken anew."""
    task, dp = _task(llm, assets, steps=8), DpSettings(1.0, 0.2)
    seen = _killed(task, token_windows, dp, tmp_path / "c.safetensors")
    assert [step for step, _ in seen] == [0, 1, 2, 3, 4, 5, 5, 6, 7]
    other = train_private_prompt(task, token_windows, dp)
    assert not torch.equal(other, train_private_prompt(task, token_windows, dp))  # a fresh key, whatever the seed


def test_other_data_has_other_noise(llm: LLM, assets: Assets, token_windows: np.ndarray) -> None:
    """Two data sets under one seed share no noise: their difference would be the difference of the examples."""
    releases = []
    for windows in (token_windows, token_windows[1:]):
        seen: list[torch.Tensor] = []
        dp = DpSettings(1.0, TINY_RATE, coins="seeded")
        train_private_prompt(
            _task(llm, assets, steps=1), windows, dp, observe=lambda *step, to=seen: to.append(step[2])
        )
        releases.append(seen[0])
    assert not torch.isclose(releases[0], releases[1]).any()


def test_another_runs_checkpoint_is_refused(
    llm: LLM, assets: Assets, token_windows: np.ndarray, tmp_path: Path
) -> None:
    """A checkpoint made with other noise cannot be continued under this claim; the physical batch is free to change."""
    task, place = _task(llm, assets), tmp_path / "c.safetensors"
    first = train_private_prompt(task, token_windows, DpSettings(1.0, 0.2, coins="seeded"), checkpoint=place)
    with pytest.raises(UserError, match="another run"):
        train_private_prompt(task, token_windows, DpSettings(2.0, 0.2, coins="seeded"), checkpoint=place)
    same = DpSettings(1.0, 0.2, physical_batch=3, coins="seeded")
    assert torch.equal(train_private_prompt(task, token_windows, same, checkpoint=place), first)


def test_no_loss_is_logged(llm: LLM, assets: Assets, token_windows: np.ndarray) -> None:
    """The log has what is privatised or public, and no loss of the private text."""
    logged: list[set[str]] = []
    dp = DpSettings(1.0, 0.2, coins="seeded")
    train_private_prompt(_task(llm, assets), token_windows, dp, log=lambda _, metrics: logged.append(set(metrics)))
    assert logged == [{"noisy_gradient_norm", "learning_rate_share"}] * 6


@pytest.mark.parametrize(
    "settings",
    [
        {"noise_multiplier": 0.0, "sample_rate": 0.1},
        {"noise_multiplier": float("nan"), "sample_rate": 0.1},
        {"noise_multiplier": 1.0, "sample_rate": 0.0},
        {"noise_multiplier": 1.0, "sample_rate": 1.1},
        {"noise_multiplier": 1.0, "sample_rate": 0.1, "clip": 0.0},
        {"noise_multiplier": 1.0, "sample_rate": 0.1, "physical_batch": 0},
        {"noise_multiplier": 1.0, "sample_rate": 0.1, "coins": "lucky"},
    ],
)
def test_bad_settings_are_refused(settings: dict) -> None:
    """Each bad setting is one line."""
    with pytest.raises(UserError, match="--"):
        DpSettings(**settings)
