"""A server's outputs from any block on, against a full forward pass."""

import numpy as np
import pytest
import torch

from defenses.denoising.outputs import all_outputs, pooled_outputs, prefix_outputs, server_states
from defenses.errors import UserError
from defenses.models.hidden import hidden_states
from defenses.models.llm import LLM


def naive(llm: LLM, tokens: np.ndarray) -> np.ndarray:
    """Final states by the library's own full pass, one prompt at a time."""
    with torch.no_grad():
        return np.stack(
            [llm.model.base_model(input_ids=torch.tensor(row[None])).last_hidden_state[0].numpy() for row in tokens]
        )


@pytest.mark.parametrize("block", [0, 1, 2, 4])
def test_outputs_equal_a_full_forward(any_llm: LLM, token_windows: np.ndarray, block: int) -> None:
    """Whatever block is entered, the pooled outputs are those of the whole model, for both ways of pooling."""
    tokens = token_windows[:5]
    entered = hidden_states(any_llm)(tokens, block) if block else any_llm.embedding[tokens]
    states = naive(any_llm, tokens)
    for pool, wanted in (("last", states[:, -1]), ("mean", states.mean(axis=1))):
        found = pooled_outputs(any_llm, entered, None, block, pool)
        np.testing.assert_allclose(found, wanted, atol=2e-4)


@pytest.mark.parametrize("block", [0, 2])
def test_a_soft_prompt_stands_in_front(any_llm: LLM, token_windows: np.ndarray, block: int) -> None:
    """A cached prompt gives what one long input gives, and its own positions are not pooled."""
    tokens = token_windows[:3]
    entered = hidden_states(any_llm)(tokens, block) if block else any_llm.embedding[tokens]
    prompt = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)) * 0.1
    found = all_outputs(any_llm, entered, prompt, block)
    together = np.concatenate([np.broadcast_to(prompt.numpy(), (3, 4, 32)), entered], axis=1)
    np.testing.assert_allclose(found, all_outputs(any_llm, together, None, block)[:, 4:], atol=2e-4)
    assert np.abs(found - all_outputs(any_llm, entered, None, block)).max() > 1e-3


@pytest.mark.parametrize("block", [0, 3])
def test_gradients_reach_the_prompt(llm: LLM, token_windows: np.ndarray, block: int) -> None:
    """The derivative along a direction is the difference quotient's."""
    entered = torch.from_numpy(hidden_states(llm)(token_windows[:2], block))
    start = torch.randn(3, 32, generator=torch.Generator().manual_seed(1)) * 0.1
    along = torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    prompt = start.clone().requires_grad_()
    weights = torch.randn(2, 24, 32, generator=torch.Generator().manual_seed(5))
    (gradient,) = torch.autograd.grad((weights * server_states(llm, entered, prompt, block)).sum(), prompt)
    with torch.no_grad():
        ends = [
            (weights * server_states(llm, entered, start + step * along, block)).double().sum()
            for step in (3e-3, -3e-3)
        ]
    assert float((gradient * along).sum()) == pytest.approx(float(ends[0] - ends[1]) / 6e-3, rel=0.01)


def test_a_prefix_is_a_prompt_of_its_own(llm: LLM, token_windows: np.ndarray) -> None:
    """Outputs of all prefixes equal those of the cut prompts, for both ways of pooling."""
    entered = llm.embedding[token_windows[:4]]
    for pool in ("last", "mean"):
        every = all_outputs(llm, entered, None, 0, pool)
        for length in (1, 7, 24):
            cut = pooled_outputs(llm, entered[:, :length], None, 0, pool)
            np.testing.assert_allclose(every[:, length - 1], cut, atol=2e-5)


def test_the_mean_of_prefixes() -> None:
    """Cumulative means, written out."""
    states = torch.arange(12.0).reshape(1, 4, 3)
    found = prefix_outputs(states, "mean")
    for length in range(1, 5):
        torch.testing.assert_close(found[:, length - 1], states[:, :length].mean(dim=1))


def test_a_server_without_blocks_is_refused(llm: LLM) -> None:
    """A client that runs every block leaves nothing to serve."""
    with pytest.raises(UserError, match="none to run"):
        pooled_outputs(llm, np.zeros((1, 3, 32), dtype=np.float32), None, 5)
