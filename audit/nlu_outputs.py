"""A server's outputs for a task's texts behind one defence: grouped by length, and each pass of the LLM made once.

A pass is kept under a hash of what it was given, in memory and, where a folder is named, on disk: arms share passes,
and a run that was broken off does not repeat them.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from audit.attribute_tasks import grouped
from audit.nlu_tasks import Examples
from defenses.base import Assets, Defense, Float32, Tokens, View
from defenses.baselines.identity import Identity, IdentityConfig
from defenses.denoising import outputs
from defenses.denoising.network import Denoiser, known_features
from defenses.denoising.outputs import Pool, all_outputs, pooled_outputs
from defenses.errors import UserError
from defenses.kept import keep_arrays, kept_arrays
from defenses.models.llm import LLM

Int64 = NDArray[np.int64]

_LARGE = 4  # outputs of all prefixes that are held in memory: some 100 MB each


@dataclass(frozen=True, eq=False)
class Group:
    """Prompts of one length that crossed the wire together.

    Attributes:
        rows: Their numbers among the examples, (B,).
        tokens: Token ids, (B, T).
        view: What was sent.
        restored: What the server made of it, (B, T, h), or (B, 1, h).
    """

    rows: Int64
    tokens: Tokens
    view: View
    restored: Float32


def protected(
    defense: Defense[Any], tokens: Sequence[Sequence[int]], longest: int, rng: np.random.Generator
) -> list[Group]:
    """Prompts through the true mechanism, those of one length together: nothing is padded."""
    found = []
    for rows, ids in grouped(tokens, longest, 1):
        found.append(Group(rows, ids, *defense.deliver(ids, rng)))
    return found


def tokenized(llm: LLM, examples: Examples) -> tuple[list[list[int]], ...]:
    """Token ids of each column's texts.

    Raises:
        UserError: a text has no token.
    """
    columns = tuple([llm.tokenize(text) for text in column] for column in examples.columns)
    for column, texts in zip(columns, examples.columns, strict=True):
        for ids, text in zip(column, texts, strict=True):
            if not ids:
                raise UserError(f"the text {text!r} has no token of {llm.name}: leave its row out")
    return columns


class Server:
    """The frozen LLM with a memory of its passes.

    Args:
        llm: The frozen LLM.
        pool: How a prompt's final states become one output.
        work: A folder for what has been computed; None keeps it in memory alone.
    """

    def __init__(self, llm: LLM, pool: Pool, work: Path | None) -> None:
        self.llm, self.pool, self._work = llm, pool, work
        self._small: dict[str, Float32] = {}
        self._large: OrderedDict[str, Float32] = OrderedDict()

    def pooled(self, groups: Sequence[Group], prompt: torch.Tensor | None, entry_block: int, label: str) -> Float32:
        """Pooled outputs of all prompts in their old order, (N, h)."""
        key = self._key([group.restored for group in groups], prompt, entry_block, "pooled")

        def make() -> Float32:
            total = sum(group.tokens.size for group in groups)
            with tqdm(total=total, desc=label, unit="token", leave=False) as bar:
                found: Float32 | None = None
                for group in groups:
                    part = pooled_outputs(self.llm, group.restored, prompt, entry_block, self.pool)
                    if found is None:
                        found = np.zeros((sum(len(one.rows) for one in groups), part.shape[1]), dtype=np.float32)
                    found[group.rows] = part
                    bar.update(group.tokens.size)
            if found is None:
                raise ValueError("no prompts to pass")
            return found

        if key not in self._small:
            self._small[key] = self._on_disk(key, make)
        return self._small[key]

    def every(self, restored: Float32, prompt: torch.Tensor | None, entry_block: int, label: str) -> Float32:
        """Pooled outputs of all prefixes of windows (N, T, h), (N, T, h)."""
        key = self._key([restored], prompt, entry_block, "every")

        def make() -> Float32:
            parts = [restored[start : start + 64] for start in range(0, len(restored), 64)]
            bar = tqdm(parts, desc=label, unit="batch", leave=False)
            return np.concatenate([all_outputs(self.llm, part, prompt, entry_block, self.pool) for part in bar])

        if key not in self._large:
            self._large[key] = self._on_disk(key, make)
        self._large.move_to_end(key)
        while len(self._large) > _LARGE:
            self._large.popitem(last=False)
        return self._large[key]

    @cached_property
    def identity(self) -> Identity:
        """No defence at all."""
        return Identity(IdentityConfig(), Assets(self.llm.embedding, None, self.llm.name))

    def _key(self, restored: Sequence[Float32], prompt: torch.Tensor | None, entry_block: int, kind: str) -> str:
        """A hash over everything that outputs depend on."""
        code = Path(outputs.__file__).read_bytes()
        start = f"{self.llm.name} {self.llm.fingerprint} {self.pool} {entry_block} {kind} ".encode()
        state = hashlib.sha256(start + hashlib.sha256(code).digest())
        arrays = list(restored) if prompt is None else [prompt.cpu().numpy(), *restored]
        for array in arrays:
            state.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return state.hexdigest()[:32]

    def _on_disk(self, key: str, make: Callable[[], Float32]) -> Float32:
        """The array of this name, from the folder where it is there and whole; made and kept there otherwise."""
        if self._work is None:
            return make()
        place = self._work / f"{key}.npz"
        kept = kept_arrays(place)
        if kept is not None and "array" in kept:
            return np.asarray(kept["array"], dtype=np.float32)
        found = make()
        keep_arrays(place, {"array": found})
        return found


def denoised(
    defense: Defense[Any], groups: Sequence[Group], pooled: Float32, denoiser: Denoiser, *, client: bool
) -> Float32:
    """Denoised outputs of all prompts, (N, h)."""
    found = np.zeros_like(pooled)
    for group in groups:
        known = known_features(defense, group.tokens, group.view, group.restored, client=client)
        found[group.rows] = denoiser.denoise(pooled[group.rows], known)
    return found
