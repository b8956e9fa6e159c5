"""The client's own language model, for the defences that let it write the final answer.

The server continued a perturbed prompt. The local model gets that text as material and the private prompt itself, and
goes on with the prompt (the extraction step of Tong et al. 2025). It reads the raw prompt, so that a part of the
utility is its own: a comparison must show the local model alone beside it.
"""

from collections.abc import Sequence

from defenses.base import Writer
from defenses.errors import UserError

_OPENING = "Notes written by another author, who saw only a disguised version of the text below. "
_TASK = "Take from them whatever fits, drop the rest, and carry the text on from its last word."


def extraction_prompt(prompt: str, answer: str) -> str:
    """What the local model reads: the server's text as material, then the private prompt, which it goes on with.

    The private prompt stands last and ends the text, so that a model without instruction tuning continues it.

    Args:
        prompt: The private prompt.
        answer: What the server wrote behind the perturbed one.
    """
    return f"{_OPENING}{_TASK}\n\nNotes:\n{' '.join(answer.split())}\n\nText:\n{prompt}"


def extract(prompts: Sequence[str], answers: Sequence[str], write: Writer, tokens: int) -> list[str]:
    """How the local model goes on with each private prompt.

    Args:
        prompts: The private prompts, P texts.
        answers: The server's texts, P of them.
        write: The local model.
        tokens: How many tokens it may write.

    Returns:
        P texts, without the prompts.

    Raises:
        UserError: prompts and answers are not as many, or the local model gave another number of texts.
    """
    if len(prompts) != len(answers):
        raise UserError(f"extraction: {len(prompts)} prompts and {len(answers)} answers; give one answer a prompt")
    written = write(
        [extraction_prompt(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)], tokens
    )
    if len(written) != len(prompts):
        raise UserError(f"extraction: the local model gave {len(written)} texts for {len(prompts)} prompts")
    return list(written)
