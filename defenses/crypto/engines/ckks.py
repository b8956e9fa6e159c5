"""CKKS by OpenFHE with an account of levels, precision, seconds and bytes.

Chosen by `benchmarks/ckks.py`: the sampling circuit takes 54 levels. At its scale of 45 bits and 128 bits of security
TenSEAL gives 16, desilofhe 36, OpenFHE all of them; desilofhe is closed besides, and free for non-commercial use only,
OpenFHE is BSD. At 12 levels, which all have, it needs a ring of twice the slots and its product takes 1.6 to 1.9 times
as long; at 40 bits it does with TenSEAL's ring and takes as long. It runs in a process of its own: `ckks_process.py`.
"""

import base64
import math
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defenses.crypto.engines.ckks_process import Ciphertext, CkksAccount, CkksSettings, CkksWorker

Float64 = NDArray[np.float64]


class CkksEngine:
    """A context with its keys in a worker process; leave it, as a context manager, to end the process.

    Args:
        settings: The context's parameters.
        rotations: Steps that `rotate` may take; each key takes hundreds of megabytes at ring dimension 2^17.
        threads: Of the worker.

    Raises:
        UserError: OpenFHE is missing, or refuses the parameters, for example as not secure.
    """

    name = "ckks-openfhe"
    parties = 2

    def __init__(self, settings: CkksSettings, rotations: Sequence[int] = (), *, threads: int = 1) -> None:
        self.settings = settings
        self._worker = CkksWorker(settings, threads)
        self.ring, self.slots = self._worker.ring, self._worker.slots
        self._steps = frozenset(rotations)
        try:
            for step in sorted(self._steps):
                self._worker.ask("rotations", steps=[step])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def guarantee(self) -> str:
        """What is promised to whom, in one line."""
        if not self.settings.secure:
            return "none: the parameters of a test, which are not secure"
        return "computational (128-bit RLWE), against an honest-but-curious server that sees ciphertexts"

    @property
    def precision(self) -> float:
        """The largest absolute error of one product of numbers below 1 that is to be expected.

        Encoding, encryption and one key switch leave noise of sqrt(N) times the noise of a coefficient, itself of
        sqrt(N) times 3.2, over the scale; 16 covers the largest of all slots.
        """
        return 16 * 3.2 * self.ring / 2.0**self.settings.scale_bits

    def encrypt(self, values: ArrayLike) -> Ciphertext:
        """A ciphertext of up to `slots` real numbers (n,), zeros behind them."""
        made = self._worker.kept("encrypt", values=self._full(values), slots=self.slots, level=0)
        self._worker.sent("encrypt", self.size(made))
        return made

    def decrypt(self, one: Ciphertext, length: int) -> Float64:
        """The first `length` slots; the ciphertext counts as sent."""
        size = self.size(one)
        found = np.array(self._worker.ask("decrypt", one=one.number, length=length))
        self._worker.sent("decrypt", size)
        return found

    def add(self, one: Ciphertext, two: "Ciphertext | float") -> Ciphertext:
        """Slot by slot, one + two."""
        if isinstance(two, Ciphertext):
            return self._worker.kept("add", one=one.number, two=two.number)
        return self._worker.kept("add_number", one=one.number, number=float(two))

    def subtract(self, one: Ciphertext, two: "Ciphertext | float") -> Ciphertext:
        """Slot by slot, one - two."""
        if isinstance(two, Ciphertext):
            return self._worker.kept("subtract", one=one.number, two=two.number)
        return self.add(one, -float(two))

    def multiply(self, one: Ciphertext, two: "Ciphertext | float | Float64") -> Ciphertext:
        """Slot by slot, one * two, for one level: by a ciphertext, a number or public values (n,)."""
        if isinstance(two, Ciphertext):
            return self._worker.kept("multiply", one=one.number, two=two.number)
        if isinstance(two, np.ndarray):
            return self._worker.kept("multiply_plain", one=one.number, values=self._full(two))
        return self._worker.kept("multiply_number", one=one.number, number=float(two))

    def square(self, one: Ciphertext) -> Ciphertext:
        """Slot by slot, one * one."""
        return self._worker.kept("square", one=one.number)

    def rotate(self, one: Ciphertext, steps: int) -> Ciphertext:
        """Slot i takes the value of slot i + steps, in a circle.

        Raises:
            ValueError: there is no key for these steps.
        """
        if steps not in self._steps:
            raise ValueError(f"no key to rotate by {steps}: there are {sorted(self._steps)}")
        return self._worker.kept("rotate", one=one.number, steps=steps)

    def cubic(self, one: Ciphertext, linear: float, cubic: float, *, scale: float = 1.0, to: float = 1.0) -> Ciphertext:
        """From w = scale * x to to * (linear * x - cubic * x^3), for two levels.

        The constants go into the scale where they can: at scale = to = sqrt(cubic) none is multiplied with.
        """
        factor = to * cubic / scale**3
        inner = self.add(self.negative(self.square(one)), to * linear / (scale * factor))
        outer = one if math.isclose(factor, 1.0, rel_tol=1e-12) else self.multiply(one, factor)
        return self.multiply(outer, inner)

    def negative(self, one: Ciphertext) -> Ciphertext:
        """Slot by slot, -one, for no level."""
        return self._worker.kept("negate", one=one.number)

    def window_sum(self, one: Ciphertext, window: int) -> Ciphertext:
        """Slot i takes the sum of slots i - window + 1 .. i, in a circle: cumulative sums where zeros come before.

        Needs keys to rotate by -1, -2, -4 ... - window / 2, and no level.

        Raises:
            ValueError: window is no power of two.
        """
        if window < 1 or window & (window - 1):
            raise ValueError(f"window must be a power of two, not {window}")
        step = 1
        while step < window:
            one = self.add(one, self.rotate(one, -step))
            step *= 2
        return one

    def matrix_product(self, one: Ciphertext, matrix: Float64, block: int) -> list[Ciphertext]:
        """The product x M of an encrypted vector x (n,) and a public matrix M (n, m), for one level.

        Every block of `block` slots holds a copy of x; its slots behind the n-th may hold anything. Needs the keys
        of `window_sum` for the least power of two of n or more. With C blocks, C columns are done at a time.

        Returns:
            ceil(m / C) ciphertexts; `matrix_outputs` reads them.
        """
        window = _power(len(matrix))
        blocks = self.slots // block
        found = []
        for start in range(0, matrix.shape[1], blocks):
            columns = matrix[:, start : start + blocks]
            spread = np.zeros((blocks, block))
            spread[: columns.shape[1], : len(matrix)] = columns.T
            found.append(self.window_sum(self.multiply(one, spread.ravel()), window))
        return found

    def matrix_outputs(self, products: Sequence[Ciphertext], rows: int, columns: int, block: int) -> Float64:
        """The decrypted x M, (columns,), of a matrix (rows, columns)."""
        window = _power(rows)
        parts = [self.decrypt(product, self.slots).reshape(-1, block)[:, window - 1] for product in products]
        return np.concatenate(parts)[:columns]

    def bootstrap(self, one: Ciphertext) -> Ciphertext:
        """The same value with levels to spend again.

        Raises:
            ValueError: the settings made no keys for it.
        """
        if not self.settings.bootstrap:
            raise ValueError("this context has no bootstrapping keys: set CkksSettings.bootstrap")
        return self._worker.kept("bootstrap", one=one.number)

    def check(self, one: Ciphertext, twin: ArrayLike) -> Float64:
        """The first slots, whose largest deviation from what they should be, `twin`, is kept for the account.

        It looks with the secret key, for measurement; nothing counts as sent. Each look differs: decrypting adds noise.
        """
        expected = np.asarray(twin, dtype=np.float64)
        found = np.array(self._worker.ask("decrypt", quiet=True, one=one.number, length=len(expected)))
        self._worker.deviated(float(np.abs(found - expected).max()))
        return found

    def size(self, one: Ciphertext) -> int:
        """Bytes of a ciphertext on the wire."""
        return int(self._worker.ask("size", quiet=True, one=one.number))

    def view(self, one: Ciphertext) -> bytes:
        """A ciphertext as the server sees it."""
        return base64.b64decode(self._worker.ask("export", quiet=True, one=one.number))

    def account(self) -> CkksAccount:
        """What was done so far."""
        return self._worker.account()

    def close(self) -> None:
        """End the worker."""
        self._worker.close()

    def _full(self, values: ArrayLike) -> list[float]:
        """Values (n,) with zeros up to the number of slots."""
        given = np.asarray(values, dtype=np.float64)
        if given.ndim != 1 or not 1 <= len(given) <= self.slots or not np.isfinite(given).all():
            raise ValueError(
                f"a ciphertext holds 1 to {self.slots} finite numbers, not an array of shape {given.shape}"
            )
        found = np.zeros(self.slots)
        found[: len(given)] = given
        return [float(value) for value in found]


def _power(count: int) -> int:
    """The least power of two that is `count` or more."""
    return 1 << max(0, count - 1).bit_length()
