"""An order of a vocabulary in which neighbours are near in meaning: a short tour through the embedding table.

Rho, Seo et al., "Traveling Salesman-Based Token Ordering Improves Stability in Homomorphically Encrypted Language
Models", arXiv 2510.12343: sampling under encryption mixes tokens that stand side by side in the vocabulary's order, so
the order should be a tour that is short in cosine distance.

Up to `SMALL` tokens fast_tsp (Or-opt with perturbations, MIT) looks at all pairs. Above, the searches of `tour_search`
do, which look at near tokens alone.

Symbols: V tokens, b coordinates. An order is a permutation `order`, (V,): the token at place k is order[k].
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from defenses.base import Float32
from defenses.crypto.extra import needed
from defenses.crypto.tour_search import Int32, LocalSearch, greedy_tour, nearest, unit_rows
from defenses.errors import UserError
from defenses.files import write_text, write_whole
from defenses.pipeline.artifacts import store_for
from defenses.tensors import LARGEST, parsed_tensors
from defenses.untrusted import MIB, json_value, read_limited, reason

SMALL = 2048  # tokens up to which a solver sees every pair
_SCALE = 30_000  # the solver's distances are whole numbers below 2^16


@dataclass(frozen=True)
class TourSettings:
    """How a tour is searched for.

    Attributes:
        neighbours: K, candidates of each token for edges and moves.
        segment: Longest run of tokens that Or-opt moves.
        seconds: What the solver of small tables may take.
    """

    neighbours: int = 10
    segment: int = 3
    seconds: float = 5.0

    def __post_init__(self) -> None:
        if self.neighbours < 1 or self.segment < 1 or not self.seconds > 0:
            raise UserError(f"a tour needs neighbours and segment of at least 1 and seconds above 0, not {self}")


@dataclass(frozen=True)
class Tour:
    """A vocabulary's order with what is known of it.

    Attributes:
        order: (V,), int32.
        card: Table, settings, metrics and the command that made it.
    """

    order: Int32
    card: Mapping[str, Any]


def find_order(table: Float32, settings: TourSettings | None = None, *, exhaustive: bool | None = None) -> Int32:
    """A short open tour through the rows of a table (V, b) in cosine distance, cut at its longest edge.

    Args:
        table: Embeddings. A row of zeros has distance 1 to all others.
        settings: The search's.
        exhaustive: Look at all pairs with fast_tsp, which needs the extra and obeys a clock, so that two runs may
            differ. False: neighbour lists, which need nothing and give the same tour again. None: all pairs where
            there are at most `SMALL` tokens.

    Raises:
        UserError: there are fewer than two tokens, or the extra is not installed and needed.
    """
    chosen = TourSettings() if settings is None else settings
    size = len(table)
    if table.ndim != 2 or size < 2:
        raise UserError(f"a tour needs a table of two tokens or more, not one of shape {table.shape}")
    unit = unit_rows(table)
    if size < 5:
        closed = np.arange(size, dtype=np.int32)
    elif exhaustive or (exhaustive is None and size <= SMALL):
        closed = solve_pairs(1 - unit.astype(np.float64) @ unit.T.astype(np.float64), chosen.seconds)
    else:
        neighbours = nearest(unit, min(chosen.neighbours, size - 1))
        search = LocalSearch(unit, greedy_tour(unit, neighbours), neighbours, chosen.segment)
        search.run()
        closed = search.tour
    return cut(unit, closed)


def solve_pairs(distances: NDArray[np.float64], seconds: float) -> Int32:
    """A closed tour (V,) through all points of a symmetric matrix of distances (V, V), by fast_tsp.

    Raises:
        UserError: fast_tsp is not installed.
    """
    fast_tsp = needed("fast_tsp")
    whole = np.rint(np.clip(distances, 0, None) * (_SCALE / max(float(distances.max()), 1e-12))).astype(np.int32)
    whole = np.maximum(whole, whole.T)
    np.fill_diagonal(whole, 0)
    return np.array(fast_tsp.find_tour(whole, duration_seconds=seconds), dtype=np.int32)


def cut(unit: Float32, closed: Int32) -> Int32:
    """A closed tour (V,) opened at its longest edge, since cumulative sums run from one end to the other."""
    following = np.roll(closed, -1)
    lengths = 1 - np.einsum("vb,vb->v", unit[closed], unit[following])
    return np.roll(closed, -int(np.argmax(lengths)) - 1)


def neighbour_distance(table: Float32, order: Int32 | None = None) -> float:
    """Mean cosine distance of tokens that stand side by side in an order; None is the table's own."""
    unit = unit_rows(table if order is None else table[order])
    return float(1 - np.einsum("vb,vb->v", unit[:-1].astype(np.float64), unit[1:].astype(np.float64)).mean())


def make_tour(
    table: Float32, fingerprint: str, settings: TourSettings, facts: Mapping[str, Any], rng: np.random.Generator
) -> Tour:
    """Search for a tour and write its card.

    Args:
        table: Embeddings, (V, b).
        fingerprint: The table's, as `defenses.models.llm.LLM` has it.
        settings: The search's.
        facts: What else belongs on the card: model, command, seed.
        rng: For the random order that it is compared with.
    """
    began = time.process_time()
    order = find_order(table, settings)
    metrics = {
        "neighbour_distance": neighbour_distance(table, order),
        "neighbour_distance_identity": neighbour_distance(table),
        "neighbour_distance_random": neighbour_distance(table, rng.permutation(len(table)).astype(np.int32)),
        "cpu_seconds": time.process_time() - began,
    }
    card = {
        **facts, "kind": "tour", "embedding": fingerprint, "tokens": len(table), "settings": asdict(settings),
        "metrics": {key: float(f"{value:.5g}") for key, value in metrics.items()},
        "source": "arXiv 2510.12343; greedy edges, 2-opt and Or-opt in cosine distance",
    }  # fmt: skip
    return Tour(order, card)


def tour_path(model: str, root: Path | None = None) -> Path:
    """Where a model's tour lies; its card has the suffix .json."""
    return store_for(model, root) / "tour.safetensors"


def save_tour(tour: Tour, path: Path) -> Path:
    """Write order and card, the card last: a tour with a card is whole.

    Raises:
        UserError: the folder cannot be written.
    """
    narrow = np.uint16 if len(tour.order) <= 1 << 16 else np.int32
    content = bytes(save({"order": tour.order.astype(narrow)}))
    write_whole(path, content)
    card = {**tour.card, "sha256": hashlib.sha256(content).hexdigest()}
    write_text(path.with_suffix(".json"), json.dumps(card, indent=2) + "\n")
    return path


def load_tour(path: Path, fingerprint: str) -> Tour:
    """Read a tour of the embedding table with this fingerprint.

    Raises:
        UserError: there is none, it is damaged, or it belongs to another table.
    """
    remedy = "make one with `delaudit crypto tsp --make-tour`"
    try:
        card = json_value(read_limited(path.with_suffix(".json"), MIB, "card"))
        data = read_limited(path, LARGEST, "tour")
        order = parsed_tensors(data)[0]["order"].astype(np.int32)
    except (UserError, ValueError, KeyError) as error:
        raise UserError(f"{path}: no readable tour ({reason(error)}); {remedy}") from error
    if not isinstance(card, dict) or card.get("sha256") != hashlib.sha256(data).hexdigest():
        raise UserError(f"{path}: does not fit its card; {remedy}")
    if card.get("embedding") != fingerprint:
        raise UserError(
            f"{path}: belongs to the embedding table {card.get('embedding')}, this model's is {fingerprint}; {remedy}"
        )
    if not np.array_equal(np.sort(order), np.arange(len(order))):
        raise UserError(f"{path}: is no permutation of its tokens; {remedy}")
    return Tour(order, card)


def tour_of(
    table: Float32,
    fingerprint: str,
    path: Path,
    rng: np.random.Generator,
    *,
    settings: TourSettings | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Tour:
    """The tour at `path` where there is one for this table, else a new one that is kept there.

    Raises:
        UserError: what lies there belongs to another table or is damaged, or the folder cannot be written.
    """
    if path.with_suffix(".json").exists():
        return load_tour(path, fingerprint)
    tour = make_tour(table, fingerprint, TourSettings() if settings is None else settings, facts or {}, rng)
    save_tour(tour, path)
    return load_tour(path, fingerprint)
