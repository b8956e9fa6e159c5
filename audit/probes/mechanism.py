"""A defence alone: tokens through `protect`, and nothing but the bytes of its views."""

from typing import Any

import numpy as np

from audit.bounds.base import EvidenceError
from audit.probes.base import Bar, Bytes, Draws, Inputs, Ints, Target, evidence_of
from defenses.base import Assets, Defense, Projection, Tokens, View

BATCHED, SINGLE = "batched", "single"

_BATCH = 256
_LOOK = 8  # single draws that show whether the lengths of bodies vary
_BATCH_TOKENS = 1 << 14


class DefenseTarget(Target):
    """Draws of a defence's own `protect`, many prompts a call or one a call.

    A fault that belongs to a call (coins that start anew in each) shows only where every draw is a call of its own;
    drawing many prompts a call is much faster. Training draws are of both kinds and say which shows more.

    Args:
        defense: The defence, as configured.
        batch: Prompts a call at most.
    """

    def __init__(self, defense: Defense[Any], batch: int = _BATCH) -> None:
        self.defense: Defense[Any] = defense
        self.name = f"the defence {defense.name}"
        self.modes = (BATCHED, SINGLE)
        self._batch = batch

    def sample(
        self, inputs: Inputs, count: int, rng: np.random.Generator, mode: str, bar: Bar | None = None
    ) -> tuple[Draws, Draws]:
        """As in Target; "batched" falls back to single calls where the lengths of bodies vary."""
        first, second = (self._side(side, count, rng, mode, bar) for side in (inputs.first, inputs.second))
        return first, second

    def body_length(self, prompt: Tokens, rng: np.random.Generator) -> int:
        """As in Target."""
        return len(self._view(prompt, rng).payload)

    def _side(self, requests: Tokens, count: int, rng: np.random.Generator, mode: str, bar: Bar | None) -> Draws:
        """All draws under one input."""
        if mode == SINGLE:
            return self._singles(requests, count, rng, bar)
        look = self._singles(requests, min(count, _LOOK), rng, bar)
        if len(np.unique(look.lengths, axis=0)) > 1 or count <= _LOOK:
            return (
                Draws.joined([look, self._singles(requests, count - look.count, rng, bar)]) if count > _LOOK else look
            )
        parts, lengths = [look], look.lengths[0]
        batch = max(1, min(self._batch, _BATCH_TOKENS // requests.shape[1]))
        for start in range(look.count, count, batch):
            size = min(batch, count - start)
            block = self._block(requests, size, lengths, rng)
            parts.append(self._singles(requests, size, rng, None) if block is None else block)
            if bar is not None:
                bar.update(size)
        return Draws.joined(parts)

    def _block(self, requests: Tokens, size: int, lengths: Ints, rng: np.random.Generator) -> Draws | None:
        """`size` draws with one call a request; None where the bodies are not as long as they were."""
        found: list[Bytes] = []
        for prompt, length in zip(requests, lengths, strict=True):
            payload = self._view(np.tile(prompt, (size, 1)), rng).payload
            if len(payload) != size * int(length):
                return None
            found.append(np.frombuffer(payload, dtype=np.uint8).reshape(size, int(length)))
        longest = int(lengths.max())
        bodies = np.stack([np.pad(one, ((0, 0), (0, longest - one.shape[1]))) for one in found], axis=1)
        return Draws(bodies, np.tile(lengths, (size, 1)), requests.shape[1])

    def _singles(self, requests: Tokens, count: int, rng: np.random.Generator, bar: Bar | None) -> Draws:
        """Every request a call of its own."""
        drawn = []
        for _ in range(count):
            drawn.append([self._view(prompt[None], rng).payload for prompt in requests])
            if bar is not None:
                bar.update(1)
        return Draws.of(drawn, requests.shape[1])

    def _view(self, tokens: Tokens, rng: np.random.Generator) -> View:
        """One call of `protect`, held to its contract."""
        with evidence_of(self.name, "protect"):
            view: Any = self.defense.protect(tokens, rng)
        if not isinstance(view, View) or not isinstance(view.payload, bytes):
            kind = type(view.payload).__name__ if isinstance(view, View) else type(view).__name__
            raise EvidenceError(f"{self.name} gave {kind}, not a View of bytes: mend its protect")
        if tuple(view.shape) != tokens.shape:
            raise EvidenceError(f"{self.name} gave a view of shape {tuple(view.shape)} for tokens {tokens.shape}")
        return View(view.payload, (tokens.shape[0], tokens.shape[1]))

    def check(self, inputs: Inputs, rng: np.random.Generator) -> None:
        """The server's half of the contract: what is restored has the model's shape and is finite.

        Raises:
            EvidenceError: it has not, or is NaN or infinite.
        """
        width = int(self.defense.assets.embedding.shape[1])
        for side in (inputs.first, inputs.second):
            view = self._view(side[:1], rng)
            with evidence_of(self.name, "restore"):
                restored = np.asarray(self.defense.restore(view))
            if restored.shape != (*view.shape, width):
                raise EvidenceError(
                    f"{self.name} restores {restored.shape}, not {(*view.shape, width)}: mend its restore"
                )
            if not np.isfinite(restored).all():
                raise EvidenceError(f"{self.name} gave a view that restores to NaN or infinity: mend its protect")


def corner_assets(d: int, *, vocabulary: int = 64, width: int = 32, clip: float = 0.05, seed: int = 0) -> Assets:
    """Synthetic public assets that hold the worst case: token 0 is a corner of the latent cube, token 1 the opposite.

    The same holds for the last two tokens, the rarest ones; the others have random embeddings, about half as large.

    Args:
        d: Latent width, at most `width`.
        vocabulary: V, at least 4.
        width: b.
        clip: c.
        seed: Of the random embeddings.

    Raises:
        ValueError: d is above the width, or V below 4.
    """
    if not 1 <= d <= width or vocabulary < 4:
        raise ValueError(f"assets need 1 <= d <= width and V >= 4, not d = {d}, width = {width}, V = {vocabulary}")
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(width, width)))[0][:d].astype(np.float32)
    embedding = (0.5 * clip * rng.normal(size=(vocabulary, width))).astype(np.float32)
    corner = 3 * clip * (basis.T @ np.where(rng.random(d) < 0.5, -1.0, 1.0).astype(np.float32))
    embedding[[0, -2]], embedding[[1, -1]] = corner, -corner
    projection = Projection(basis, np.ascontiguousarray(basis.T), clip, name="corners")
    return Assets(embedding, projection, "synthetic")
