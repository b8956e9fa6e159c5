"""One coordinate at a time: what an audit can still see where a whole token is an open book.

At the noise levels that keep an LLM useful two tokens are told apart with near-certainty, as the claim allows, and no
number of draws shows whether A is a tenth too small. A coordinate alone keeps its secret: it is Binomial(2^n - 1, p),
its own claim has (2^n - 1) trials, and a token gives d of them. What is tested is then the mechanism that the token's
claim is made of, coordinate by coordinate, and not the token's claim itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from tqdm import tqdm

from audit.bounds.base import Scores
from audit.probes.base import Draws, Float64, Inputs, ProbeResult, Target, evidence_of
from audit.probes.mechanism import DefenseTarget
from defenses.base import Defense
from defenses.errors import UserError
from defenses.pipeline.defense import Del
from defenses.pipeline.wire import WireLimits, parse_each

_OPPOSITE = 0.98  # of 2 c: coordinates whose latents lie this far apart are taken for opposite ends of the clip
_BLOCK = 512


def collect_coordinates(
    defense: Defense[Any],
    inputs: Inputs,
    samples: int,
    rng: np.random.Generator,
    *,
    through: str = "mechanism",
    progress: bool = True,
) -> ProbeResult:
    """Counts of single coordinates of the token that differs, pooled over coordinates with opposite latents.

    Nothing is chosen on draws: the coordinates and their signs follow from the public latents of the two tokens.

    Args:
        defense: DEL, or a defence that sends its messages.
        inputs: One request each, in which one token differs.
        samples: S, coordinates per side; a draw gives as many as the two tokens have at opposite ends.
        rng: For the defence's coins (but on the wire, where the client has its own).
        through: "mechanism" or "wire".
        progress: Show a bar, where standard error is a terminal.

    Raises:
        UserError: the defence has no coordinates, or the two tokens share every one of them.
        EvidenceError: the mechanism raised, or its bodies are no messages.
        ValueError: more than one token differs.
    """
    if inputs.uses != 1 or len(inputs.first) != 1:
        raise ValueError("coordinates are looked at in one request in which one token differs")
    if not isinstance(defense, Del):
        raise UserError(f"{defense.name} has no quantized coordinates: audit it by the token")
    at, signs = _opposite(defense, inputs)
    draws, middle = -(-samples // len(at)), 0.5 * (2**defense.config.n - 1)
    null: list[Float64] = []
    alternative: list[Float64] = []
    with (
        _target(defense, through) as target,
        tqdm(
            total=2 * draws, unit="draw", desc=f"probing {target.name}", disable=None if progress else True, leave=False
        ) as bar,
    ):
        for start in range(0, draws, _BLOCK):
            pair = target.sample(inputs, min(_BLOCK, draws - start), rng, target.modes[0], bar)
            for side, drawn in zip((null, alternative), pair, strict=True):
                # Turned about the middle count, so that coordinates of both signs have one law.
                side.append(((_counts(drawn, inputs, target.name)[:, at] - middle) * signs).ravel())
    scores = Scores(*(np.concatenate(side)[:samples] for side in (null, alternative)))
    return ProbeResult(
        scores=scores,
        score=f"counts of {len(at)} coordinates at opposite ends of the clip",
        through=through,
        inputs=str(inputs),
        uses=1,
        distance=1.0,
        facts={"coordinates": len(at), "swapped": False},
        pair=inputs,
    )


def _opposite(defense: Del, inputs: Inputs) -> tuple[np.ndarray, Float64]:
    """Coordinates at which the two tokens' latents lie at opposite ends, and which way round."""
    position = int(inputs.cells[0, 1])
    tokens = np.array([inputs.first[0, position], inputs.second[0, position]])
    first, second = defense.table.latents(tokens).astype(np.float64)
    at = np.flatnonzero(np.abs(second - first) >= _OPPOSITE * 2 * defense.quantizer.clip)
    if not len(at):
        raise UserError(
            f"tokens {tokens[0]} and {tokens[1]} have no coordinate at opposite ends of the clip: give another pair"
        )
    return at, np.sign(second - first)[at]


def _counts(draws: Draws, inputs: Inputs, name: str) -> Float64:
    """K of the token that differs, shape (S, d)."""
    position = int(inputs.cells[0, 1])
    limits = WireLimits(max_tokens=draws.tokens, max_bytes=draws.bodies.shape[2] + 1)
    with evidence_of(name, "reading its messages"):
        counts = parse_each([draws.body(draw, 0) for draw in range(draws.count)], limits)
    return counts[:, position].astype(np.float64)


@contextmanager
def _target(defense: Defense[Any], through: str) -> Iterator[Target]:
    if through == "wire":
        from audit.probes.wire import wire_target  # noqa: PLC0415 - brings the service

        with wire_target(defense) as target:
            yield target
    else:
        yield DefenseTarget(defense)
