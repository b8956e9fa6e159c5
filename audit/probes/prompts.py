"""Whole prompts: which neighbours to send, so that coins that are shared between tokens or requests show."""

import numpy as np

from audit.probes.base import Inputs
from defenses.base import Tokens


def replace_one(context: Tokens, position: int, first: int, second: int) -> Inputs:
    """A prompt (T,) with one of two tokens at a position; one use."""
    prompts = np.stack([context, context]).astype(np.int64)
    prompts[:, position] = first, second
    return Inputs(prompts[:1], prompts[1:], "one token of a prompt")


def whole_prompt(first: int, second: int, length: int) -> Inputs:
    """T times one token, or T times another: every token differs, so T uses and N T trials in the quantizer's claim."""
    return Inputs(np.full((1, length), first), np.full((1, length), second), "whole prompts")


def repeated_tokens(first: int, second: int, length: int) -> Inputs:
    """T times one token, or the same with its last token replaced; one use.

    Where one set of coins serves all positions, equal tokens are sent as equal bytes, and the other one is not.
    """
    return replace_one(np.full(length, first, dtype=np.int64), length - 1, first, second)


def repeated_sends(inputs: Inputs, sends: int = 2) -> Inputs:
    """The first input, sent (sends - 1) times, before either input; the uses are as before.

    Where coins start anew with each request, the adversary knows them from the requests that it knows.

    Raises:
        ValueError: sends is below 2.
    """
    if sends < 2:
        raise ValueError(f"repeated sends are at least 2, not {sends}")
    known = np.tile(inputs.first, (sends - 1, 1))
    return Inputs(
        np.concatenate([known, inputs.first]),
        np.concatenate([known, inputs.second]),
        f"{inputs.name}, after {sends - 1} known request{'s' if sends > 2 else ''}",
        inputs.distance,
    )


def all_sends(inputs: Inputs, sends: int) -> Inputs:
    """Either input, sent m = `sends` times with fresh coins: m times the uses.

    Raises:
        ValueError: sends is below 1.
    """
    if sends < 1:
        raise ValueError(f"sends are at least 1, not {sends}")
    first, second = (np.tile(side, (sends, 1)) for side in (inputs.first, inputs.second))
    return Inputs(first, second, f"{inputs.name}, {sends} sends", inputs.distance)


def variants(inputs: Inputs) -> tuple[Inputs, ...]:
    """These inputs, and others with as many uses under which shared coins show; the training draws pick among them."""
    found = [inputs]
    requests, tokens = inputs.first.shape
    if requests == 1 and tokens > 1 and inputs.uses == 1:
        _, at = inputs.cells[0]
        first, second = int(inputs.first[0, at]), int(inputs.second[0, at])
        same = replace_one(np.full(tokens, first, dtype=np.int64), int(at), first, second)
        if not np.array_equal(same.first, inputs.first):
            found.append(Inputs(same.first, same.second, "one token of a prompt of equal tokens", inputs.distance))
    if requests == 1:
        found.append(repeated_sends(inputs))
    return tuple(found)
