"""What nearly one-hot sampling does to a language model: embedding errors, lost text, collapse, in exact float64.

Rho, Seo et al., arXiv 2510.12343: the next input is sum_k I_k E_k in place of one row of E. Here the circuit is
evaluated in plaintext on a real model, so that orders of the vocabulary, post-processing and polynomial depth can be
compared. The whole vocabulary is sampled from at temperature 1, as in the paper; top-k would need an encrypted sort.

Coins are coupled. A coin r in the model's own order picks token k and a place u in its interval; in another order
r' = P'_{k-1} + u p_k is as uniform and picks the same token. So all conditions try to say the same text, and what
differs between them is what the approximation does.

Symbols: N prompts of S tokens, T generated tokens, V tokens of b coordinates.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from defenses.crypto.sampling_circuit import SamplingCircuit, post_processed
from defenses.crypto.tour_search import Int32
from defenses.models.llm import LLM

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

ROWS = 32  # prompts of one forward pass
_SATURATED = 2.0**-50  # a step this close to 0 or 1 is taken for it


@dataclass(frozen=True)
class Mixed:
    """One sampled embedding.

    Attributes:
        embedding: sum_k I_k E_k, (b,).
        token: The token of the largest weight, which a reader sees.
    """

    embedding: Float64
    token: int


@dataclass(frozen=True)
class Sampled:
    """Text that the clean model sampled.

    Attributes:
        prompts: (N, S).
        tokens: (N, T).
        places: Where the coins fell in the tokens' intervals, (N, T).
    """

    prompts: Int64
    tokens: Int64
    places: Float64


@dataclass(frozen=True)
class Forced:
    """What a condition does to text that the clean model sampled, position by position, mean over its coins.

    Attributes:
        cosine: 1 - cos between mixed and true embedding, (N, T).
        error: |mixed - true| / |true|, (N, T).
        agrees: How often the largest weight is the true token's, (N, T).
        loss: -log p(token t | prompt, mixed embeddings of the tokens before t) in nats, (N, T).
    """

    cosine: Float64
    error: Float64
    agrees: Float64
    loss: Float64


class Mixer:
    """Samples embeddings through one circuit in one order of the vocabulary.

    Only boundaries nearer to r than the circuit saturates at are evaluated: all other weights are below 2^-50.

    Args:
        table: E, (V, b).
        order: A permutation of the tokens, (V,).
        circuit: What the server computes.
    """

    def __init__(self, table: NDArray[np.floating], order: Int32, circuit: SamplingCircuit) -> None:
        self._table, self._order, self.circuit = table, order, circuit
        self._place = np.argsort(order)
        self._reach = saturation(circuit)

    def cumulative(self, probabilities: Float64) -> Float64:
        """P_k for k = -1 .. V - 1 in this order, of (V,), (V + 1,)."""
        return np.concatenate([[0.0], np.cumsum(probabilities[self._order])])

    def sample(self, cumulative: Float64, token: int, within: float) -> Mixed:
        """Sample with the coin that picks `token` at the place `within` its interval.

        Args:
            cumulative: As `cumulative` gives it.
            token: Which token exact sampling would give.
            within: u, in [0, 1).
        """
        place = int(self._place[token])
        r = cumulative[place] + within * (cumulative[place + 1] - cumulative[place])
        first, last = np.searchsorted(cumulative, (r - self._reach, r + self._reach))
        first, last = max(0, int(first) - 1), min(len(cumulative), int(last) + 1)
        step = self.circuit.step(cumulative[first:last] - r)
        weights = (1 - step[:-1]) * step[1:]
        if self.circuit.post:
            weights = post_processed(weights)
        tokens = self._order[first : last - 1]
        kept = weights > _SATURATED
        mixed = weights[kept] @ self._table[tokens[kept]].astype(np.float64)
        return Mixed(mixed, int(tokens[np.argmax(weights)]))


@lru_cache(maxsize=64)
def saturation(circuit: SamplingCircuit) -> float:
    """The distance from r at which H is a step to 2^-50; 2, so everything, where it never is."""
    found = circuit.resolution(_SATURATED)
    return found if np.isfinite(found) else 2.0


def draw(probabilities: Float64, r: float) -> tuple[int, float]:
    """The token that a coin picks in the model's own order, and where in its interval the coin fell.

    Args:
        probabilities: (V,).
        r: In [0, 1).
    """
    cumulative = np.cumsum(probabilities)
    token = min(int(np.searchsorted(cumulative, r, side="right")), len(cumulative) - 1)
    start = cumulative[token - 1] if token else 0.0
    return token, float(np.clip((r - start) / max(probabilities[token], 1e-300), 0.0, 1 - 2.0**-53))


def generate(llm: LLM, prompts: Int64, coins: Float64, mixer: Mixer | None = None) -> tuple[Int64, Float64]:
    """Sample continuations; with a mixer, each step's input is the mixed embedding of the step before.

    Args:
        llm: The model.
        prompts: (N, S).
        coins: Uniform, (N, T).
        mixer: None samples exactly: the clean model.

    Returns:
        Tokens (N, T), for a mixer those of the largest weights, and the places of the coins in the intervals, (N, T).
    """
    tokens, places = np.empty(coins.shape, dtype=np.int64), np.empty(coins.shape)
    for rows in _blocks(len(prompts)):
        for step, found in enumerate(_steps(llm, prompts[rows], coins[rows], mixer)):
            tokens[rows, step], places[rows, step] = found
    return tokens, places


def _steps(llm: LLM, prompts: Int64, coins: Float64, mixer: Mixer | None) -> Iterator[tuple[Int64, Float64]]:
    """Tokens and places of one step after another of one block of prompts."""
    from transformers import DynamicCache  # noqa: PLC0415 - slow to import

    cache, table = DynamicCache(), llm.model.get_input_embeddings()
    with torch.inference_mode():
        inputs = table(torch.as_tensor(prompts, device=llm.device))
        for step in tqdm(range(coins.shape[1]), desc="tokens", leave=False):
            probabilities = _softmax(_forward(llm, inputs, past_key_values=cache, use_cache=True)[:, -1])
            drawn = [draw(row, float(r)) for row, r in zip(probabilities, coins[:, step], strict=True)]
            places = np.array([within for _, within in drawn])
            if mixer is None:
                chosen = np.array([token for token, _ in drawn], dtype=np.int64)
                inputs = table(torch.as_tensor(chosen, device=llm.device))[:, None]
            else:
                mixed = [
                    mixer.sample(mixer.cumulative(row), *one) for row, one in zip(probabilities, drawn, strict=True)
                ]
                chosen = np.array([one.token for one in mixed], dtype=np.int64)
                inputs = _tensor(np.stack([one.embedding for one in mixed])[:, None], inputs)
            yield chosen, places


def forced(
    llm: LLM, text: Sampled, orders: Mapping[str, Int32], circuits: Sequence[SamplingCircuit], extra: Float64
) -> dict[tuple[str, SamplingCircuit], Forced]:
    """Put mixed embeddings in place of a text's own, every condition on the same distributions and coins.

    Args:
        llm: The model.
        text: What the clean model sampled.
        orders: Name -> permutation, (V,).
        circuits: Each is tried in each order.
        extra: More uniform coins at each position, (N, T, D), for the errors alone: D may be 0.

    Returns:
        (order's name, circuit) -> what it does.
    """
    table = llm.embedding
    mixers = {(name, circuit): Mixer(table, order, circuit) for name, order in orders.items() for circuit in circuits}
    parts: dict[tuple[str, SamplingCircuit], list[Forced]] = {key: [] for key in mixers}
    blocks = list(_blocks(len(text.prompts)))
    with tqdm(total=len(blocks) * len(mixers), desc="conditions", leave=False) as bar:
        for rows in blocks:
            block = _Block.of(llm, table, text, extra, rows)
            for name in orders:
                cumulative = [mixers[name, circuits[0]].cumulative(row) for row in block.probabilities]
                for circuit in circuits:
                    parts[name, circuit].append(block.measured(llm, mixers[name, circuit], cumulative))
                    bar.update()
    fields = ("cosine", "error", "agrees", "loss")
    return {key: Forced(*(np.concatenate([getattr(part, one) for part in own]) for one in fields))
            for key, own in parts.items()}  # fmt: skip


@dataclass(frozen=True)
class _Block:
    """Texts of one forward pass, R = B T positions, one after another.

    Attributes:
        whole: Prompts and what was sampled, (B, S + T).
        start: S.
        table: E, (V, b).
        probabilities: Before each position, (R, V).
        coins: For each position the text's own (token, place), then the extra ones.
    """

    whole: Int64
    start: int
    table: NDArray[np.floating]
    probabilities: Float64
    coins: list[list[tuple[int, float]]]

    @classmethod
    def of(cls, llm: LLM, table: NDArray[np.floating], text: Sampled, extra: Float64, rows: slice) -> "_Block":
        whole = np.concatenate([text.prompts[rows], text.tokens[rows]], axis=1)
        start = text.prompts.shape[1]
        probabilities = _distributions(llm, whole, start).reshape(-1, len(table))
        own = zip(text.tokens[rows].ravel().tolist(), text.places[rows].ravel().tolist(), strict=True)
        more = extra[rows].reshape(len(probabilities), -1)
        coins = [[one, *(draw(row, float(r)) for r in others)]
                 for one, row, others in zip(own, probabilities, more, strict=True)]  # fmt: skip
        return cls(whole, start, table, probabilities, coins)

    def measured(self, llm: LLM, mixer: Mixer, cumulative: Sequence[Float64]) -> Forced:
        """The figures of one condition; `cumulative` holds P_k of its order at each position."""
        shape = (len(self.whole), self.whole.shape[1] - self.start)
        figures, mixed = np.empty((len(self.coins), 3)), []
        for position, (coins, sums) in enumerate(zip(self.coins, cumulative, strict=True)):
            found = [mixer.sample(sums, *coin) for coin in coins]
            mixed.append(found[0].embedding)
            errors = [_errors(one, self.table[token], token) for one, (token, _) in zip(found, coins, strict=True)]
            figures[position] = np.mean(errors, axis=0)
        cosine, error, agrees = (figures[:, column].reshape(shape) for column in range(3))
        loss = _losses(llm, self.whole, self.start, np.array(mixed).reshape(*shape, -1))
        return Forced(cosine, error, agrees, loss)


def _errors(found: Mixed, true: NDArray[np.floating], token: int) -> tuple[float, float, float]:
    """1 - cos, relative distance, and whether the reader sees the true token."""
    wide = true.astype(np.float64)
    length = float(np.linalg.norm(wide))
    product = max(float(np.linalg.norm(found.embedding)) * length, 1e-300)
    cosine = max(0.0, 1 - float(found.embedding @ wide) / product)
    return cosine, float(np.linalg.norm(found.embedding - wide)) / length, float(found.token == token)


def losses(llm: LLM, prompts: Int64, tokens: Int64) -> Float64:
    """-log p of each token (N, T) under the clean model, after prompts (N, S) and the tokens before, in nats."""
    whole = np.concatenate([prompts, tokens], axis=1)
    return np.concatenate([_losses(llm, whole[rows], prompts.shape[1], None) for rows in _blocks(len(prompts))])


def _losses(llm: LLM, whole: Int64, start: int, mixed: Float64 | None) -> Float64:
    """Losses of the tokens from `start` on, with these embeddings (B, T, b) in their place where given."""
    with torch.inference_mode():
        inputs = llm.model.get_input_embeddings()(torch.as_tensor(whole[:, :-1], device=llm.device)).clone()
        if mixed is not None:
            inputs[:, start:] = _tensor(mixed[:, :-1], inputs)
        logits = _forward(llm, inputs, use_cache=False)[:, start - 1 :].double()
        own = torch.as_tensor(whole[:, start:], device=llm.device)[..., None]
        found = torch.logsumexp(logits, dim=-1) - logits.gather(-1, own)[..., 0]
    return np.asarray(found.cpu().numpy())


def _distributions(llm: LLM, whole: Int64, start: int) -> Float64:
    """p(next token) before each token from `start` on: (B, T, V)."""
    with torch.inference_mode():
        inputs = llm.model.get_input_embeddings()(torch.as_tensor(whole[:, :-1], device=llm.device))
        return _softmax(_forward(llm, inputs, use_cache=False)[:, start - 1 :])


def _forward(llm: LLM, inputs: torch.Tensor, **options: Any) -> torch.Tensor:
    return torch.as_tensor(llm.model(inputs_embeds=inputs, **options).logits)


def _softmax(logits: torch.Tensor) -> Float64:
    return np.asarray(torch.softmax(logits.double(), dim=-1).cpu().numpy())


def _tensor(values: Float64, like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(values, device=like.device).to(like.dtype)


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(count, start + ROWS)) for start in range(0, count, ROWS))
