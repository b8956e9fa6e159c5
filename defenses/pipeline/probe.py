"""Look inside a frozen causal LM of any architecture: early hidden states, and the Fisher matrix at its input."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from defenses.errors import UserError


class _EnoughError(Exception):
    """Raised by a hook to stop a forward pass after the last layer that is wanted."""


def decoder_layers(model: Any) -> torch.nn.ModuleList:
    """The list of transformer blocks, whatever the architecture calls it.

    Raises:
        UserError: no module list has as many entries as the config has layers.
    """
    wanted = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == wanted:
            return module
    raise UserError(f"cannot find the {wanted} transformer blocks of {type(model).__name__}")


def early_hidden_states(model: Any, embeds: torch.Tensor, layers: int) -> list[torch.Tensor]:
    """Outputs of the first blocks for input embeddings (B, T, b); later blocks and the LM head never run."""
    blocks = decoder_layers(model)
    layers = min(layers, len(blocks))
    states: list[torch.Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)
        if len(states) == layers:
            raise _EnoughError

    hooks = [block.register_forward_hook(keep) for block in blocks[:layers]]
    try:
        model(inputs_embeds=embeds, use_cache=False)
    except _EnoughError:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return states


def rms_normalised(states: torch.Tensor) -> torch.Tensor:
    """Each position's hidden vector divided by its root mean square: what the next block's norm sees."""
    return states / (states.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def fisher_at_input(
    model: Any,
    tokens: NDArray[np.int64],
    *,
    batch: int = 4,
    label: str = "Fisher matrix",
) -> NDArray[np.float64]:
    """G = E[g g'] with g the gradient of the summed LM loss at each input embedding.

    Args:
        model: A frozen causal LM.
        tokens: Windows of public text, (N, T).
        batch: Windows per pass.
        label: What the progress bar says.

    Returns:
        G, shape (b, b), float64.
    """
    table = model.get_input_embeddings()
    total = np.zeros((table.weight.shape[1],) * 2)
    for start in tqdm(range(0, len(tokens), batch), desc=label, unit="batch"):
        ids = torch.from_numpy(tokens[start : start + batch]).to(table.weight.device)
        embeds = table(ids).detach().requires_grad_()
        logits = model(inputs_embeds=embeds, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(),
            ids[:, 1:].flatten(),
            reduction="sum",
        )
        (gradient,) = torch.autograd.grad(loss, embeds)
        flat = gradient.flatten(0, 1).double().cpu().numpy()
        total += flat.T @ flat
    return np.asarray(total / tokens.size)
