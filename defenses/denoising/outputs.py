"""What a server computes from a restored prompt: final hidden states, pooled into one output a prompt.

The last position is what the released code of Split-and-Denoise takes for decoder models; the mean over positions is
the usual alternative. Both are defined for every prefix of a prompt, and one pass of a causal LM gives them all.

A defence whose client runs
the first k blocks restores the input of block k + 1: a hook puts it there, so nothing is said about an architecture.
The blocks before it still run, on anything, and what they give is dropped: a share k / L of the work is wasted.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from transformers import DynamicCache

from defenses.base import Float32
from defenses.errors import UserError
from defenses.models.llm import LLM
from defenses.pipeline.probe import decoder_layers

BATCH_TOKENS = 1024

Pool = Literal["last", "mean"]
POOLS = ("last", "mean")


def server_states(llm: LLM, restored: torch.Tensor, prompt: torch.Tensor | None, entry_block: int) -> torch.Tensor:
    """Final hidden states behind a soft prompt; gradients flow to the prompt and to what was restored.

    Args:
        llm: The frozen LLM.
        restored: What block entry_block + 1 reads, (B, T, h); with entry_block = 0 input embeddings.
        prompt: Soft prompt (m, h), read by the same block in front of it; None goes without.
        entry_block: How many blocks the client has run.

    Returns:
        States after the final norm at the T restored positions, (B, T, h), float32.

    Raises:
        UserError: the model has no more than entry_block blocks.
    """
    dtype = llm.model.get_input_embeddings().weight.dtype
    cache = None
    if prompt is not None:
        cache = DynamicCache(config=llm.model.config)
        _pass(llm, prompt[None].to(dtype), entry_block, cache)
        cache.batch_repeat_interleave(len(restored))
    return _pass(llm, restored.to(dtype), entry_block, cache).float()


def prefix_outputs(states: torch.Tensor, pool: Pool) -> torch.Tensor:
    """The pooled output of every prefix, (B, T, h) -> (B, T, h): its last state, or the mean of its states."""
    if pool == "last":
        return states
    counts = torch.arange(1, states.shape[1] + 1, device=states.device, dtype=states.dtype)
    return states.cumsum(dim=1) / counts[:, None]


def all_outputs(
    llm: LLM, restored: Float32, prompt: torch.Tensor | None = None, entry_block: int = 0, pool: Pool = "last"
) -> Float32:
    """Pooled outputs of all prefixes, in batches and without gradients: (N, T, h) -> (N, T, h), float32."""
    found = _batches(llm, restored, prompt, entry_block)
    return np.concatenate([prefix_outputs(states, pool).cpu().numpy() for states in found])


def pooled_outputs(
    llm: LLM, restored: Float32, prompt: torch.Tensor | None = None, entry_block: int = 0, pool: Pool = "last"
) -> Float32:
    """Pooled outputs of whole prompts, in batches and without gradients: (N, T, h) -> (N, h), float32.

    Args:
        llm: The frozen LLM.
        restored: Prompts of one length, as `server_states` takes them.
        prompt: Soft prompt (m, h), or None.
        entry_block: How many blocks the client has run.
        pool: "last" or "mean"; a soft prompt's own positions are not pooled.
    """
    found = _batches(llm, restored, prompt, entry_block)
    return np.concatenate([prefix_outputs(states, pool)[:, -1].cpu().numpy() for states in found])


@torch.inference_mode()
def _batches(llm: LLM, restored: Float32, prompt: torch.Tensor | None, entry_block: int) -> Iterator[torch.Tensor]:
    rows = max(1, BATCH_TOKENS // max(1, restored.shape[1]))
    vectors = None if prompt is None else prompt.to(llm.device)
    for start in range(0, len(restored), rows):
        batch = torch.from_numpy(np.ascontiguousarray(restored[start : start + rows])).to(llm.device)
        yield server_states(llm, batch, vectors, entry_block)


def _pass(llm: LLM, inputs: torch.Tensor, entry_block: int, cache: DynamicCache | None) -> torch.Tensor:
    """One pass of the blocks from entry_block on, and the final norm."""
    with _entering(llm, inputs, entry_block):
        # Blocks before the entry read the same vectors only because something must stand there.
        start = inputs if entry_block == 0 else inputs.detach()
        found = llm.model.base_model(inputs_embeds=start, past_key_values=cache, use_cache=cache is not None)
    states: torch.Tensor = found.last_hidden_state
    return states


@contextmanager
def _entering(llm: LLM, inputs: torch.Tensor, entry_block: int) -> Iterator[None]:
    """While this lasts, block entry_block + 1 reads `inputs`, in this thread alone."""
    if entry_block == 0:
        yield
        return
    blocks, own = decoder_layers(llm.model), threading.get_ident()
    if entry_block >= len(blocks):
        raise UserError(f"{llm.name} has {len(blocks)} blocks: after {entry_block} of them the server has none to run")

    def put(_module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if threading.get_ident() != own:
            return None
        return ((inputs, *arguments[1:]), named) if arguments else (arguments, {**named, "hidden_states": inputs})

    hook = blocks[entry_block].register_forward_pre_hook(put, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
