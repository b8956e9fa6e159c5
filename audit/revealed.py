"""What stays in the open when the prompt itself is hidden: the model's answer in the clear, and the prompt's length.

Encryption hides a prompt from who computes on it, and noise blurs it; neither hides how long it is, and whoever is
given the answer reads it. These are stand-ins for prompts, prompt by prompt, so that every adversary can read them.
"""

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from defenses.models.llm import LLM
from defenses.pipeline.generation import end_tokens, generate

BATCH = 32


def lengths_alone(tokens: Sequence[Sequence[int]], vocabulary: int) -> list[list[int]]:
    """Prompts of the same lengths whose tokens say nothing else: the vocabulary's first ones, in order.

    One and the same token throughout would say as little, but leave classifiers' features without any spread.
    """
    return [[place % vocabulary for place in range(len(ids))] for ids in tokens]


def answers(llm: LLM, tokens: Sequence[Sequence[int]], *, new: int, longest: int, shortest: int) -> list[list[int]]:
    """The undefended model's greedy answer to each prompt.

    Args:
        llm: The model.
        tokens: Token ids of each prompt.
        new: Tokens of an answer at most.
        longest: Tokens kept of a prompt: what the defence would have been given.
        shortest: An answer that ends before is filled up with the token that ended it.
    """
    kept = [list(ids[:longest]) for ids in tokens]
    end = (end_tokens(llm) or [0])[0]
    found: list[list[int]] = [[] for _ in kept]
    with tqdm(total=len(kept), desc="answers", unit="prompt", leave=False) as bar:
        for length in sorted({len(ids) for ids in kept}):
            rows = [row for row, ids in enumerate(kept) if len(ids) == length]
            for start in range(0, len(rows), BATCH):
                part = rows[start : start + BATCH]
                prefix = llm.embedding[np.array([kept[row] for row in part])]
                for row, answer in zip(part, generate(llm, prefix, None, max_new_tokens=new, batch=BATCH), strict=True):
                    found[row] = [*answer, *[end] * (shortest - len(answer))]
                bar.update(len(part))
    return found
