"""Projections between embeddings (b) and latents (d): where they start, and how they are stored.

The start is a principal component analysis weighted by the Fisher information of the frozen LLM at its input
embeddings: minimise E[(x - x^)' G (x - x^)] with G = E[g g'], g the gradient of the LM loss at x. Directions
that the LLM does not react to are then given up first.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from defenses.base import Float32, Projection
from defenses.errors import UserError
from defenses.files import write_text, write_whole
from defenses.tensors import LARGEST, parsed_tensors
from defenses.untrusted import read_limited, reason, shown

PAPER_CLIP = 0.05  # c of arXiv 2602.11513; only A / c matters, so the latents are scaled to it
CLIP_QUANTILE = 0.99  # share of latent coordinates that the clip leaves untouched at the start


def weighted_pca(
    embedding: Float32,
    counts: NDArray[np.int64],
    d: int,
    fisher: NDArray[np.float64] | None = None,
    *,
    ridge: float = 1e-2,
    clip: float = PAPER_CLIP,
) -> Projection:
    """The rank-d linear code of least (Fisher-weighted) error under the token frequencies.

    Args:
        embedding: E, (V, b).
        counts: Token counts of public text, (V,).
        d: Latent width, 1 <= d <= b.
        fisher: G, (b, b), positive semi-definite; None is plain PCA.
        ridge: Share of G's mean eigenvalue added to its diagonal, so that no direction is free.
        clip: c; each latent coordinate is scaled to unit variance and then so that 99 % lie within [-c, c].

    Raises:
        UserError: d is not in 1..b.
    """
    _, b = embedding.shape
    if not 1 <= d <= b:
        raise UserError(f"--d {d}: the latent width must be between 1 and the embedding width {b}")
    weights = (counts + 1e-3) / (counts + 1e-3).sum()  # unseen tokens still count a little
    x = embedding.astype(np.float64)
    second_moment = (x * weights[:, None]).T @ x
    root, inverse_root = _roots(np.eye(b) if fisher is None else fisher, ridge)
    values, vectors = np.linalg.eigh(root @ second_moment @ root)
    top, scale = vectors[:, ::-1][:, :d], np.sqrt(np.maximum(values[::-1][:d], 1e-12))
    encoder = (top / scale).T @ root
    decoder = inverse_root @ (top * scale)
    # At d = b nothing need be lost, so there the clip leaves every token whole.
    unit = _weighted_quantile(np.abs(x @ encoder.T), weights, 1.0 if d == b else CLIP_QUANTILE)
    return Projection(
        (encoder * (clip / unit)).astype(np.float32),
        (decoder * (unit / clip)).astype(np.float32),
        clip,
        name=f"{'pca' if fisher is None else 'fisher-pca'}-d{d}",
        objective="pca",
    )


def rotated_svd(embedding: Float32, d: int, rng: np.random.Generator) -> Projection:
    """The top-d right singular directions of the table under a random rotation: a code that nobody trained.

    Rotation spreads the variance over the coordinates, so that one clip fits all of them. It is the reference on which
    attacks are compared, as it depends on nothing but the table.

    Args:
        embedding: E, (V, b).
        d: Latent width, 1 <= d <= b.
        rng: Draws the rotation.

    Raises:
        UserError: d is not in 1..b.
    """
    _, b = embedding.shape
    if not 1 <= d <= b:
        raise UserError(f"the latent width must be between 1 and the embedding width {b}, not {d}")
    vectors = np.linalg.svd(embedding.T @ embedding)[0][:, :d]
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    encoder = (turn @ vectors.T).astype(np.float32)
    clip = float(np.quantile(np.abs(embedding @ encoder.T), CLIP_QUANTILE))
    return Projection(encoder, encoder.T.copy(), clip, name=f"rotated-svd-d{d}", objective="pca")


def _roots(matrix: NDArray[np.float64], ridge: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Symmetric square root and inverse square root of a positive semi-definite matrix, ridge added."""
    values, vectors = np.linalg.eigh(matrix)
    values = np.maximum(values, 0) + ridge * max(float(values.mean()), 1e-300)
    return (vectors * np.sqrt(values)) @ vectors.T, (vectors / np.sqrt(values)) @ vectors.T


def _weighted_quantile(values: NDArray[np.float64], weights: NDArray[np.float64], q: float) -> float:
    """The q-quantile of values (V, ...) whose rows carry weights (V,)."""
    flat = values.reshape(len(weights), -1)
    order = np.argsort(flat, axis=None)
    mass = np.repeat(weights / flat.shape[1], flat.shape[1])[order]
    place = int(np.searchsorted(np.cumsum(mass), q * mass.sum()))
    return float(flat.ravel()[order[min(place, len(order) - 1)]])


def save_projection(projection: Projection, path: Path, card: Mapping[str, Any]) -> None:
    """Write W_enc and W_dec (float16) as safetensors, the card beside it as JSON; both replaced whole."""
    tensors = {
        "encoder": projection.encoder.astype(np.float16),
        "decoder": projection.decoder.astype(np.float16),
    }
    facts = {"clip": repr(projection.clip), "name": projection.name, "objective": projection.objective}
    save_with_card(tensors, facts, path, card)


def save_with_card(
    tensors: dict[str, NDArray[Any]], facts: dict[str, str], path: Path, card: Mapping[str, Any]
) -> None:
    """Write tensors as safetensors, and beside them the card with their SHA-256 as JSON; both replaced whole.

    Raises:
        UserError: they cannot be written.
    """
    content = bytes(save(tensors, facts))
    write_whole(path, content)
    text = json.dumps({**card, "sha256": hashlib.sha256(content).hexdigest()}, indent=2)
    write_text(path.with_suffix(".json"), text + "\n")


def load_projection(path: Path, sha256: str | None = None) -> Projection:
    """Read a projection written by `save_projection`.

    Args:
        path: Its safetensors file.
        sha256: Its hash in hexadecimal, where that is known.

    Raises:
        UserError: the file is missing, damaged or not a projection, or has another hash.
    """
    content = read_limited(path, LARGEST, "projection")
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        told = f"has sha256 {found}, its card expects {shown(sha256)}"
        raise UserError(f"{path}: {told}: it is damaged or was changed; get it again or train one")
    try:
        tensors, facts = parsed_tensors(content)
        encoder, decoder = (tensors[name].astype(np.float32) for name in ("encoder", "decoder"))
        return Projection(encoder, decoder, _finite(facts["clip"]), name=facts["name"], objective=facts["objective"])
    except (KeyError, ValueError) as error:
        told = reason(error)
        raise UserError(f"{path} is not a readable projection ({told}); train one with `delaudit train`") from error


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{shown(text)} is no number")
    return number
