"""Token-by-token generation behind restored embeddings and a soft prompt.

`transformers.generate` wants its streamer fed from a second thread and cannot be stopped between tokens by the
reader; a generator can, which is what a service needs when its client hangs up.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from defenses.base import Float32
from defenses.models.llm import LLM
from defenses.pipeline.prompt_training import shared_prompt_cache


@torch.inference_mode()
def stream_tokens(
    llm: LLM,
    prefix: Float32,
    prompt: torch.Tensor | None,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[NDArray[np.int64]]:
    """Yield the next token of each row, (B,), until the limit or until every row has ended.

    Args:
        llm: The frozen LLM.
        prefix: Restored input embeddings, (B, P, b).
        prompt: Soft prompt (m, b), or None.
        max_new_tokens: The limit.
        temperature: 0 is greedy; otherwise logits are divided by it and a token is drawn.
        generator: The coins of sampling; needed when temperature > 0.

    A row that has ended goes on with the end token. Generated tokens re-enter through the ordinary table.
    """
    table = llm.model.get_input_embeddings()
    ends = torch.tensor(end_tokens(llm), dtype=torch.long, device=llm.device)
    cache = None if prompt is None else shared_prompt_cache(llm, prompt.to(llm.device), len(prefix))
    embeds = torch.from_numpy(prefix).to(llm.device, table.weight.dtype)
    ended = torch.zeros(len(prefix), dtype=torch.bool, device=llm.device)
    for _ in range(max_new_tokens):
        output = llm.model(inputs_embeds=embeds, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        tokens = _choose(output.logits[:, -1].float(), temperature, generator)
        if len(ends):
            tokens = torch.where(ended, ends[0], tokens)
            ended |= torch.isin(tokens, ends)
        yield tokens.cpu().numpy()
        if bool(ended.all()):
            return
        embeds = table(tokens)[:, None]


def generate(
    llm: LLM,
    prefix: Float32,
    prompt: torch.Tensor | None,
    *,
    max_new_tokens: int,
    batch: int = 16,
) -> list[list[int]]:
    """Greedy continuations of prefixes (B, P, b): a list of B token lists, end tokens removed."""
    ends = set(end_tokens(llm))
    answers: list[list[int]] = []
    for start in range(0, len(prefix), batch):
        steps = list(stream_tokens(llm, prefix[start : start + batch], prompt, max_new_tokens=max_new_tokens))
        for row in np.stack(steps, axis=1).tolist():
            first_end = next((i for i, token in enumerate(row) if token in ends), len(row))
            answers.append(row[:first_end])
    return answers


def write_on(llm: LLM, texts: Sequence[str], tokens: int) -> list[str]:
    """Greedy continuations of clear texts, at most so many tokens each: a client's own model at work.

    Texts of equal length in tokens go through the model together.
    """
    rows = [llm.tokenize(text) or end_tokens(llm)[:1] or [0] for text in texts]
    found = [""] * len(rows)
    for length in sorted({len(row) for row in rows}):
        places = [place for place, row in enumerate(rows) if len(row) == length]
        prefix = llm.embedding[np.array([rows[place] for place in places])]
        for place, answer in zip(places, generate(llm, prefix, None, max_new_tokens=tokens), strict=True):
            found[place] = str(llm.tokenizer.decode(answer))
    return found


def _choose(logits: torch.Tensor, temperature: float, generator: torch.Generator | None) -> torch.Tensor:
    """The next token of each row of logits (B, V)."""
    if temperature == 0:
        return logits.argmax(-1)
    if generator is None:
        raise ValueError("sampling needs a generator")
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]


def end_tokens(llm: LLM) -> list[int]:
    """The model's end-of-text tokens; a base model may have none."""
    declared = llm.model.generation_config.eos_token_id
    if declared is None:
        declared = llm.model.config.get_text_config().eos_token_id
    return [] if declared is None else [declared] if isinstance(declared, int) else list(declared)
