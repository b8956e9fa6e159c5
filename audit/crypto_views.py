"""What one computing party sees of two prompts: is it the same, and what can be read from it?

Every party is a process of its own, and what reaches it is recorded on the wire. Three things are asked of that view:
whether its law depends on the prompt (`audit.independence`), what the paper's inversion reads from the party's share of
the embeddings, and, where a protocol has a dealer of triples, what the dealer reads (`audit.dealer`). What is read is
held against the same inversion of random words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from audit.crypto_record import DEALER, INDEPENDENCE, INVERSION
from audit.dealer import read_by_dealer
from audit.independence import enough_swaps, independence, paired_views
from audit.intervals import Interval, clopper_pearson
from defenses.crypto.engines.processes import ProcessEngine
from defenses.crypto.engines.recorder import PartyView
from defenses.crypto.engines.spu_settings import PARTIES, ProtocolName
from defenses.crypto.sharing import decode, join
from defenses.errors import UserError
from defenses.randomness import seeded_rng

if TYPE_CHECKING:
    from defenses.crypto.language_models import LanguageModel

Row = dict[str, Any]
Float = NDArray[np.float32]
Words = NDArray[np.uint64]
WORD = 8
WIDTH = 16
"""Coordinates of the embeddings that the program reads: as many as it takes, and it is run dozens of times."""
DRAWS = 100_000
"""Vectors of random words that the inversion is run on, for its chance: about 100 hits in a vocabulary of 1,024."""
PATIENCE = 900.0
"""Seconds that a run may take: CHEETAH's, with keys of its own, took 20 to more than 120 on two busy cores."""


@dataclass(frozen=True)
class ViewPlan:
    """What is recorded.

    Attributes:
        protocols: SPU protocols.
        pairs: Pairs of runs of each, one run under each prompt.
        tokens: Tokens of each prompt.
        level: Probability at most of any rejection, over all parties of one protocol, where views are independent.
        seed: Of the prompts, the order of runs and the swaps.

    Raises:
        UserError: a protocol is unknown, a number is out of range, or so few pairs cannot reject anything at the level.
    """

    protocols: tuple[str, ...] = ("semi2k", "cheetah", "aby3")
    pairs: int = 20
    tokens: int = 8
    level: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := [one for one in self.protocols if one not in PARTIES]:
            raise UserError(f"no protocol is called {unknown[0]!r}: choose among {', '.join(get_args(ProtocolName))}")
        if self.tokens < 1 or not 0 < self.level < 1:
            raise UserError(f"tokens must be at least 1 and level between 0 and 1, not {self.tokens} and {self.level}")
        for protocol in self.protocols:
            enough_swaps(self.pairs, self.level_of(protocol))

    def level_of(self, protocol: str) -> float:
        """Of one party's tests: every party has the same part of the level."""
        return self.level / PARTIES[protocol]


@dataclass(frozen=True, eq=False)
class Prompts:
    """Two prompts of one length, and what is computed on them.

    Attributes:
        tokens: (2, T).
        table: Embeddings, their first `WIDTH` coordinates, (V, WIDTH).
        weights: A square matrix, (WIDTH, WIDTH).
    """

    tokens: NDArray[np.int64]
    table: Float
    weights: Float

    @classmethod
    def of(cls, model: "LanguageModel", count: int, seed: int) -> "Prompts":
        """The first two prompts of the embedded workload that begin with different tokens.

        Raises:
            UserError: no prompt has that many tokens.
        """
        from audit.crypto_models import agreement_text  # noqa: PLC0415 - needs the extra

        texts = agreement_text("embedded", seed).documents
        ids = [one.ids[:count] for one in model.tokenizer.encode_batch(texts) if len(one.ids) >= count]
        other = next((row for row in ids if row != ids[0]), None)
        if other is None:
            raise UserError(f"no two embedded prompts have {count} tokens: ask for fewer")
        table = np.asarray(model.parameters["embedding"], dtype=np.float32)[:, :WIDTH]
        weights = seeded_rng(seed, "views", "weights").normal(size=(WIDTH, WIDTH)) / WIDTH**0.5
        return cls(np.array([ids[0], other]), table, weights.astype(np.float32))


@dataclass(frozen=True)
class Chance:
    """How many tokens the inversion gets right on uniform words, which is what a share under fresh masks is.

    Not one in V: a token whose embedding lies far from the others is the nearest to more directions.

    Attributes:
        hits: Vectors of words that gave the token they were held against.
        draws: Vectors.
    """

    hits: int
    draws: int

    @property
    def interval(self) -> Interval:
        """Clopper and Pearson's, at 0.95."""
        return clopper_pearson(self.hits, self.draws)


def views_study(plan: ViewPlan, model: "LanguageModel") -> list[Row]:
    """Every party of every protocol, on the same two prompts.

    Args:
        plan: What is recorded.
        model: Whose tokens and embeddings prompts have.

    Raises:
        UserError: the extra is missing, or a party fails.
    """
    prompts = Prompts.of(model, plan.tokens, plan.seed)
    chance = blind_chance(prompts, seeded_rng(plan.seed, "views", "chance"))
    return [row for protocol in plan.protocols for row in _protocol(plan, protocol, prompts, chance)]


def _protocol(plan: ViewPlan, protocol: str, prompts: Prompts, chance: Chance) -> list[Row]:
    from defenses.crypto.engines.probes import attention  # noqa: PLC0415 - needs the extra

    rng = seeded_rng(plan.seed, "views", protocol)
    inputs = prompts.table[prompts.tokens]
    with (
        ProcessEngine(protocol, record=True, timeout=PATIENCE) as engine,
        tqdm(total=2 * plan.pairs, unit="run", desc=engine.settings.name, leave=False) as bar,
    ):

        def record(side: int) -> dict[int, PartyView]:
            return {view.rank: view for view in engine.run_recorded(attention, inputs[side], prompts.weights).views}

        views = paired_views(record, plan.pairs, rng, bar.update)
        labels: Row = {"engine": engine.settings.name, "parties": engine.parties, "guarantee": engine.guarantee}
        rows: list[Row] = []
        for rank, sides in sorted(views.items()):
            found = independence(*sides, rng, level=plan.level_of(protocol))
            rows += found.rows(table=INDEPENDENCE, **labels)
            rows.append({"table": INVERSION, "party": rank, **inverted(sides, prompts, chance), **labels})
        if protocol == "semi2k":
            rows.append(_dealt(engine, inputs[0], prompts, chance) | labels)
    return rows


def blind_chance(prompts: Prompts, rng: np.random.Generator, draws: int = DRAWS) -> Chance:
    """Run the inversion on uniform words.

    Args:
        prompts: Whose tokens are to be met, each place in its turn.
        rng: Draws the words.
        draws: Vectors.
    """
    answers = np.resize(prompts.tokens.ravel(), draws)
    hits = 0
    for start in range(0, draws, 10_000):
        block = answers[start : start + 10_000]
        words = rng.integers(0, 1 << 64, size=(len(block), WIDTH), dtype=np.uint64)
        hits += int((_nearest(decode(words), prompts) == block).sum())
    return Chance(hits, draws)


def inverted(views: tuple[Sequence[PartyView], Sequence[PartyView]], prompts: Prompts, chance: Chance) -> Row:
    """The paper's inversion on a party's share of the embeddings: nearest token by cosine, run by run.

    A share is one word an element under SEMI2K and CHEETAH, and two under ABY3, of the three that add up to the secret:
    there each is read, and their sum modulo 2^64. The best reading is reported, at an interval that holds for all.

    Args:
        views: One party's under either prompt; their first input is the share of the embeddings.
        prompts: What is to be read.
        chance: Of `blind_chance`.

    Raises:
        ValueError: a share is no whole number of words an element.
    """
    tokens = prompts.tokens.shape[1]
    hits = np.array([
        [int((_nearest(decode(words), prompts) == prompts.tokens[side]).sum()) for words in readings(view, tokens)]
        for side, found in enumerate(views) for view in found
    ])  # fmt: skip
    best, tries = int(hits.sum(axis=0).max()), hits.shape[1]
    return _held_against(chance, best, tokens * len(hits), tries)


def readings(view: PartyView, tokens: int) -> list[Words]:
    """What a share of embeddings, (T, WIDTH), may be read as: each word of an element, and their sum; (T WIDTH,) each.

    Raises:
        ValueError: it is no whole number of words an element.
    """
    columns = _words(view.inputs[0]).reshape(tokens * WIDTH, -1).T
    return [*columns] if len(columns) == 1 else [*columns, join([*columns])]


def _dealt(engine: ProcessEngine, x: Float, prompts: Prompts, chance: Chance) -> Row:
    """What the first party of SEMI2K reads of a prompt, from its own view of one product."""
    from defenses.crypto.engines.probes import linear  # noqa: PLC0415 - needs the extra

    view = next(one for one in engine.run_recorded(linear, x, prompts.weights).views if one.rank == 0)
    other, _ = read_by_dealer(view, x.size, prompts.weights.size)
    read = decode(join([_words(view.inputs[0]), other]))
    hits = int((_nearest(read, prompts) == prompts.tokens[0]).sum())
    return {
        "table": DEALER, "party": 0, **_held_against(chance, hits, len(x)),
        "largest_error": float(np.abs(read - x.ravel()).max()),
    }  # fmt: skip


def _words(share: bytes) -> NDArray[np.uint64]:
    return np.frombuffer(share[: len(share) // WORD * WORD], dtype="<u8").astype(np.uint64)


def _nearest(read: NDArray[np.float64], prompts: Prompts) -> NDArray[np.int64]:
    """The token whose embedding is nearest by cosine to what stands at every place."""
    table = prompts.table / np.linalg.norm(prompts.table, axis=1, keepdims=True)
    return np.asarray((read.reshape(-1, WIDTH) @ table.T).argmax(axis=1), dtype=np.int64)


def _held_against(chance: Chance, hits: int, trials: int, tries: int = 1) -> Row:
    """The share read with its interval, which holds for the best of `tries`, and whether it is above chance.

    Said where the intervals part: wrongly with probability 0.05 at most.
    """
    read, blind = clopper_pearson(hits, trials, 1 - 0.05 / tries), chance.interval
    return {
        "tokens": trials, "read": hits / trials, "read_low": read.low, "read_high": read.high, "tries": tries,
        "chance": chance.hits / chance.draws, "chance_low": blind.low, "chance_high": blind.high,
        "chance_draws": chance.draws, "above_chance": read.low > blind.high,
    }  # fmt: skip
