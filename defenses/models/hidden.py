"""Hidden states of a frozen causal LM after its first blocks: what a client that runs k blocks itself would send."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from defenses.base import Float32, Tokens
from defenses.errors import UserError
from defenses.models.llm import LLM
from defenses.pipeline.probe import decoder_layers

BATCH_TOKENS = 4096  # a pass at h = 576 then keeps some 100 MB of activations
QUIET_BATCHES = 8  # fewer than these take no visible time


class _StopError(Exception):
    """Carries the hidden states out of a forward pass that need not go on."""

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__("the wanted block has run")
        self.states = states


def hidden_states(llm: LLM) -> Callable[[Tokens, int], Float32]:
    """The function that `Assets.hidden` holds.

    A forward hook on block k stops the pass there: asking for `output_hidden_states` would run all blocks and the LM
    head, and a shortened list of layers would be seen by every other user of the model. The hook acts in its own
    thread alone, so several threads may share the model.

    Args:
        llm: The frozen model.

    Returns:
        (tokens (B, T), k) -> hidden states after k blocks, (B, T, h), float32, before any final norm. k = 0 gives
        the input embeddings E[t], to which a model with learned positions adds those itself.

    Raises:
        UserError: from the function, where the model has fewer than k blocks.
    """
    blocks = decoder_layers(llm.model)

    def states(tokens: Tokens, k: int) -> Float32:
        if not 0 <= k <= len(blocks):
            raise UserError(f"{llm.name} has {len(blocks)} blocks: a client cannot run {k} of them; choose fewer")
        rows = max(1, BATCH_TOKENS // max(1, tokens.shape[1]))
        starts = range(0, len(tokens), rows)
        bar = tqdm(starts, desc="hidden states", unit="batch", leave=False, disable=len(starts) < QUIET_BATCHES)
        parts = [_after(llm, blocks, tokens[start : start + rows], k) for start in bar]
        width = llm.model.get_input_embeddings().weight.shape[1]
        return np.concatenate(parts) if parts else np.zeros((*tokens.shape, width), dtype=np.float32)

    return states


def _after(llm: LLM, blocks: torch.nn.ModuleList, tokens: Tokens, k: int) -> Float32:
    """One batch."""
    ids = torch.from_numpy(np.asarray(tokens, dtype=np.int64)).to(llm.device)
    with torch.inference_mode():
        found = llm.model.get_input_embeddings()(ids) if k == 0 else _stopped_pass(llm.model, blocks[k - 1], ids)
        return np.ascontiguousarray(found.float().cpu().numpy())


def _stopped_pass(model: Any, block: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The output of one block; later ones never run."""
    own = threading.get_ident()

    def stop(_module: Any, _inputs: Any, output: Any) -> None:
        if threading.get_ident() == own:
            raise _StopError(output[0] if isinstance(output, tuple) else output)

    hook = block.register_forward_hook(stop)
    try:
        model(input_ids=ids, use_cache=False)
    except _StopError as stopped:
        return stopped.states
    finally:
        hook.remove()
    raise ValueError("the block was not part of the forward pass")
