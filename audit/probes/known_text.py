"""Text defences with a known law: the pair of real tokens that it tells apart best, and which tokens were sent."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from audit.probes.base import Draws, Float64, Inputs, Ints
from defenses.base import Defense, LikelihoodUnavailable, Unavailable, View
from defenses.errors import UserError
from defenses.sent_text import SentText

_CANDIDATES = 192  # tokens that are compared with each other
_OUTERMOST = 64  # of them, the ones farthest from the table's mean
_DRAWS = 16  # views of each
_CELLS = 1 << 24  # likelihoods at a time: 64 MiB of float32


def text_pairs(
    defense: Defense[Any], order: Ints, rng: np.random.Generator, count: int
) -> list[tuple[int, int, float]]:
    """Pairs (x, x', share), the best first: x is told from x' by what no epsilon of the claim allows.

    The share estimates delta(epsilon) between the two, E_x max(0, 1 - e^epsilon P(y | x') / P(y | x)), with the claim's
    epsilon (0 where it has none), from a few views of x under the public law. Candidates are a third of the tokens
    farthest from the table's mean, where a mechanism by distance is at its worst, and others of all frequencies.

    Args:
        defense: Any; only one that sends text and has a likelihood has such pairs.
        order: Token ids, the most frequent first, (V,); the assets' own frequencies come before it.
        rng: Candidates and views.
        count: At most so many pairs, each with another x.

    Returns:
        None at all where the law is not known.
    """
    if not isinstance(defense, SentText) or not _has_law(defense, int(order[0])):
        return []
    frequencies = defense.assets.frequencies
    tokens = _candidates(defense, order if frequencies is None else np.argsort(-frequencies, kind="stable"), rng)
    epsilon = float(defense.claim.parameters.get("epsilon", 0.0))
    shares = np.zeros((len(tokens), len(tokens)))
    step = max(1, _CELLS // (_DRAWS * defense.assets.vocabulary))
    with tqdm(total=len(tokens), unit="token", desc="worst pair", disable=None, leave=False) as bar:
        for start in range(0, len(tokens), step):
            part = tokens[start : start + step]
            logs = defense.log_likelihood(defense.protect(np.repeat(part[:, None], _DRAWS, axis=1), rng))
            logs = logs[..., tokens].astype(np.float64)  # (part, draws, candidates)
            own = logs[np.arange(len(part)), :, start + np.arange(len(part))]
            gains = -np.expm1(np.minimum(0.0, epsilon + logs - own[..., None]))
            shares[start : start + step] = gains.mean(axis=1)
            bar.update(len(part))
    return [(int(tokens[i]), int(tokens[j]), float(shares[i, j])) for i, j in _best(shares, count)]


def _best(shares: Float64, count: int) -> list[tuple[int, int]]:
    """Pairs of rows and columns with the largest shares, each row once; of equals the ones that come first.

    Shares within a twentieth are equal, and the candidates that come first are common words: the plainer witness.
    """
    coarse = np.floor(20 * shares)
    rivals = coarse.argmax(axis=1)
    best = np.argsort(-coarse.max(axis=1), kind="stable")[:count]
    return [(int(i), int(rivals[i])) for i in best if i != rivals[i]]


def sent_at(defense: Defense[Any] | None, draws: Draws, inputs: Inputs) -> Ints | None:
    """The token that was sent in place of the one that differs, (S,).

    None where several differ, the defence sends no text, or its bytes cannot be read as text.
    """
    if not isinstance(defense, SentText) or inputs.uses != 1 or len(np.unique(draws.lengths)) > 1:
        return None
    request, position = inputs.cells[0]
    bodies = np.ascontiguousarray(draws.bodies[:, request, : int(draws.lengths[0, request])])
    try:
        return defense.sent_tokens(View(bodies.tobytes(), (draws.count, draws.tokens)))[:, position]
    except (Unavailable, UserError, ValueError):  # a broken defence's reader may fail on its own bytes
        return None


def _has_law(defense: SentText[Any], token: int) -> bool:
    """Whether there is a likelihood."""
    try:
        defense.log_likelihood(defense.protect(np.array([[token]]), np.random.default_rng(0)))
    except LikelihoodUnavailable:
        return False
    return True


def _candidates(defense: SentText[Any], order: Ints, rng: np.random.Generator) -> NDArray[np.int64]:
    """Distinct tokens: the outermost of the frequent ones and a spread over all frequencies; plain words come first."""
    table = defense.assets.embedding
    most = max(2, len(order) // 5)
    spread: Float64 = np.linalg.norm(table[order[:most]] - table.mean(axis=0), axis=1)
    outer = np.argsort(-spread, kind="stable")[:_OUTERMOST]
    ranks = np.linspace(0, len(order) - 1, min(len(order), _CANDIDATES - len(outer))).astype(np.int64)
    shifted = np.minimum(ranks + rng.integers(max(1, len(order) // _CANDIDATES)), len(order) - 1)
    found = np.asarray(order[np.unique(np.concatenate([outer, shifted]))], dtype=np.int64)
    text = defense.assets.text
    if text is None:
        return found
    plain = np.array([text(int(token)).strip().isalpha() for token in found])
    return np.concatenate([found[plain], found[~plain]])
