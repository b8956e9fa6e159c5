"""The sampling circuit under real CKKS: encrypted probabilities in, the next token's encrypted embedding out.

The server holds p encrypted and draws r itself: neither party learns the token. Slots are cut into blocks of 2 V, each
with a copy of p and V zeros behind it: cumulative sums are rotations alone, since what runs over falls on the zeros
before the next block, P_{-1} is what a block's last slot holds, and the product with the embedding table does a column
for each block at a time. What stands in the second halves is never read: the table's plaintext is zero there.

Between the cubics the ciphertext carries w = s x with s = sqrt(cubic coefficient), so that an iteration multiplies by
no constant; `CkksEngine.cubic` says how. Levels are those of `SamplingCircuit.levels`, and one for the table.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.crypto.engines.ckks import CkksEngine
from defenses.crypto.engines.ckks_process import (
    Ciphertext,
    CkksAccount,
    CkksSettings,
    account_between,
    precision_of,
)
from defenses.crypto.sampling_circuit import G1_CUBIC, G1_LINEAR, SamplingCircuit, mixed_embeddings
from defenses.errors import UserError

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class EncryptedSample:
    """One sampled embedding with its plaintext twin.

    Attributes:
        weights: I, (V,), which the protocol keeps encrypted: looked at to measure, not accounted.
        embedding: Decrypted sum_k I_k E_k, (b,).
        twin_weights: The float64 circuit's I on the same p and r, (V,).
        twin_embedding: The float64 circuit's mix, (b,).
        account: Levels, seconds and bytes of this sample, and the precision of its weights. What the keys cost is once
            for the engine, however many samples.
    """

    weights: Float64
    embedding: Float64
    twin_weights: Float64
    twin_embedding: Float64
    account: CkksAccount

    @property
    def weight_error(self) -> float:
        """The largest deviation of a weight."""
        return float(np.abs(self.weights - self.twin_weights).max())

    @property
    def embedding_error(self) -> float:
        """The largest deviation of a coordinate."""
        return float(np.abs(self.embedding - self.twin_embedding).max())


def padded(vocabulary: int) -> int:
    """V as the circuit takes it: the least power of two."""
    return 1 << max(0, vocabulary - 1).bit_length()


def rotations_for(vocabulary: int) -> list[int]:
    """The rotation keys that a vocabulary needs, the same for cumulative sums and for the table."""
    return [-(1 << bit) for bit in range(max(1, padded(vocabulary).bit_length() - 1))]


def settings_for(circuit: SamplingCircuit, **chosen: int | bool) -> CkksSettings:
    """A context deep enough for a circuit and the product with the table."""
    return CkksSettings(depth=circuit.levels + 1, **chosen)  # type: ignore[arg-type]  # checked by the class


class EncryptedSampler:
    """Samples embeddings of one table under CKKS.

    Args:
        engine: With the keys of `rotations_for` and a depth of `circuit.levels + 1` or more.
        table: E, (V, b), in the order of the probabilities.
        circuit: What is computed.

    Raises:
        UserError: the vocabulary does not fit the slots, or the context is too shallow.
    """

    def __init__(self, engine: CkksEngine, table: NDArray[np.floating], circuit: SamplingCircuit) -> None:
        self._block = 2 * padded(len(table))
        if self._block > engine.slots:
            raise UserError(f"{len(table)} tokens take blocks of {self._block} slots, there are {engine.slots}")
        if engine.settings.depth < circuit.levels + 1:
            raise UserError(f"the circuit takes {circuit.levels + 1} levels, the context has {engine.settings.depth}")
        if circuit.amplify < 1 or circuit.sign + circuit.sharpen < 1:
            raise UserError("under CKKS the circuit needs at least one iteration of g1 and one of f1 or f")
        self._engine, self._table, self.circuit = engine, table.astype(np.float64), circuit

    def encrypt(self, probabilities: Float64) -> Ciphertext:
        """A distribution (V,) in every block."""
        block = np.zeros(self._block)
        block[: len(probabilities)] = probabilities
        return self._engine.encrypt(np.tile(block, self._engine.slots // self._block))

    def weights(self, probabilities: Ciphertext, r: float) -> Ciphertext:
        """Encrypted I, or I' where the circuit post-processes."""
        engine = self._engine
        cumulative = engine.window_sum(probabilities, self._block // 2)
        half_sign = self._half_sign(engine.subtract(cumulative, r))
        # H_k = 1/2 + q_k, so that 1 - H_{k-1} = 1/2 - q_{k-1}.
        before = engine.add(engine.negative(engine.rotate(half_sign, -1)), 0.5)
        found = engine.multiply(before, engine.add(half_sign, 0.5))
        if not self.circuit.post:
            return found
        inner = engine.add(engine.negative(engine.add(found, found)), 3.0)
        return engine.multiply(engine.square(found), inner)

    def _half_sign(self, gaps: Ciphertext) -> Ciphertext:
        """H - 1/2 of P_k - r."""
        engine, circuit = self._engine, self.circuit
        sharp, root, half = circuit.sign + circuit.sharpen, np.sqrt(G1_CUBIC), np.sqrt(0.5)
        one, scale = gaps, 1.0
        for left in reversed(range(circuit.amplify)):
            to = float(root if left else half)
            one, scale = engine.cubic(one, G1_LINEAR, G1_CUBIC, scale=scale, to=to), to
        for left in reversed(range(sharp)):
            to = float(half if left else 0.5)
            one, scale = engine.cubic(one, 1.5, 0.5, scale=scale, to=to), to
        return one

    def mix(self, weights: Ciphertext) -> list[Ciphertext]:
        """Encrypted sum_k I_k E_k, as `CkksEngine.matrix_product` packs it."""
        return self._engine.matrix_product(weights, self._table, self._block)

    def sample(self, probabilities: Float64, r: float) -> EncryptedSample:
        """One token's embedding, decrypted beside its twin.

        Args:
            probabilities: (V,).
            r: The server's coin, in (0, 1).
        """
        engine = self._engine
        before = engine.account()
        found = self.weights(self.encrypt(probabilities), r)
        products = self.mix(found)
        tokens, width = self._table.shape
        mixed = engine.matrix_outputs(products, tokens, width, self._block)
        after = engine.account()
        twin = self.circuit.weights(probabilities[None], np.array([r]))
        weights = engine.check(found, twin[0])
        account = account_between(
            before, after, levels_used=max(one.used for one in products),
            precision_bits=precision_of(float(np.abs(weights - twin[0]).max())),
        )  # fmt: skip
        return EncryptedSample(weights, mixed, twin[0], mixed_embeddings(twin, self._table)[0], account)
