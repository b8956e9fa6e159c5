"""The server's half of DEL on a real LLM: decoder, soft prompt, frozen model, streamed generation."""

import math
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from defenses.base import Float32, Projection
from defenses.errors import UserError
from defenses.models.llm import DEFAULT_MODEL, LLM, load_llm
from defenses.pipeline.artifacts import (
    DEFAULT_PROJECTION,
    PromptArtifact,
    find_projection,
    find_prompts,
    nearest_prompt,
)
from defenses.pipeline.defense import restore_counts
from defenses.pipeline.generation import end_tokens, stream_tokens
from defenses.pipeline.latents import LatentTable
from defenses.pipeline.mechanism import Quantizer
from defenses.pipeline.prompt_training import load_prompt
from defenses.pipeline.protocol import Deployment
from defenses.pipeline.wire import WireMessage


class LLMEngine:
    """Answers wire messages.

    Attributes:
        model: The LLM's name.
        table: The latent table that clients must encode with.
        tokenizer_json: The tokenizer, as the tokenizers library stores it.
        deployments: The noise settings that a soft prompt was trained for, most noise first: a client that does
            not choose gets the most private.
    """

    def __init__(self, llm: LLM, projection: Projection, prompts: Sequence[PromptArtifact] = ()) -> None:
        self._llm = llm
        self._projection = projection
        self._prompts = list(prompts)
        self._vectors: dict[str, torch.Tensor] = {}
        self.model = llm.name
        self.table = LatentTable.from_projection(projection, llm.embedding)
        self.tokenizer_json: str = llm.tokenizer.backend_tokenizer.to_str()
        self.deployments = [self._deployment(prompt) for prompt in self._prompts if prompt.n > 0]

    def generate(
        self,
        message: WireMessage,
        *,
        max_new_tokens: int,
        temperature: float,
        seed: int | None,
    ) -> Iterator[int]:
        """Stream the answer's token ids; the end token itself is not sent.

        Args:
            message: What the client sent; its header says n and A / c.
            max_new_tokens: The limit.
            temperature: 0 is greedy.
            seed: Of sampling; None draws one.
        """
        prefix, prompt = self.restore(message)
        generator = torch.Generator(self._llm.device).manual_seed(secrets.randbits(63) if seed is None else seed)
        stop = set(end_tokens(self._llm))
        for tokens in stream_tokens(
            self._llm,
            prefix,
            prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            generator=generator,
        ):
            if int(tokens[0]) in stop:
                return
            yield int(tokens[0])

    def restore(self, message: WireMessage) -> tuple[Float32, torch.Tensor | None]:
        """Input embeddings (1, T, b) and the soft prompt nearest to the message's noise."""
        quantizer = Quantizer(n=message.n, d=message.d, clip=self.table.clip, a_over_c=message.a_over_c)
        prefix = restore_counts(np.asarray(message.counts), quantizer, self._projection)[None]
        chosen = nearest_prompt(self._prompts, message.n, quantizer.mu)
        return prefix, None if chosen is None else self._load(chosen)

    def _load(self, prompt: PromptArtifact) -> torch.Tensor:
        """A prompt's vectors, read once."""
        if prompt.name not in self._vectors:
            self._vectors[prompt.name] = load_prompt(prompt.folder)
        return self._vectors[prompt.name]

    def _deployment(self, prompt: PromptArtifact) -> Deployment:
        quantizer = Quantizer.from_mu(n=prompt.n, d=self._projection.d, clip=self.table.clip, mu=prompt.mu)
        return Deployment(n=prompt.n, a_over_c=quantizer.a_over_c, mu=prompt.mu, prompt=prompt.name)


def load_engine(
    model: str = DEFAULT_MODEL,
    projection: str = DEFAULT_PROJECTION,
    *,
    root: Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> LLMEngine:
    """Load the LLM, a projection and every soft prompt trained behind it.

    Args:
        model: As for `load_llm`.
        projection: By name or file.
        root: Folder of artifacts; None for the shipped ones.
        device: As for `load_llm`.
        dtype: As for `load_llm`.

    Raises:
        UserError: the model or the projection cannot be found, or they do not belong together.
    """
    llm = load_llm(model, device=device, dtype=dtype)
    code = find_projection(model, llm.fingerprint, projection, root)
    if code.encoder.shape[1] != llm.embedding.shape[1]:
        raise UserError(f"--projection {projection} is for width {code.encoder.shape[1]}, not this model's")
    prompts = find_prompts(model, llm.fingerprint, code.name, root)
    return LLMEngine(llm, code, [prompt for prompt in prompts if prompt.n > 0 and math.isfinite(prompt.mu)])
