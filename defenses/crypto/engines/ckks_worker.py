"""The process that holds OpenFHE: it answers one JSON line with another. Run by `ckks.py`, under OpenFHE's own Python.

OpenFHE's wheels are built for one version of Python each, which need not be delaudit's. So this file imports nothing of
delaudit, and nothing but OpenFHE outside the standard library. Requests are {"do": NAME, ...}; answers
{"ok": RESULT, "seconds": WALL} or {"error": TEXT}. Ciphertexts stay here and are known by number.

Client and server are both played here: the secret key never leaves the process, and what would cross between them is
counted.
"""

import base64
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

import openfhe

_COUNTER = "import sys; print(sum(len(part) for part in iter(lambda: sys.stdin.buffer.read(1 << 20), b'')))"


def context_of(*, depth: int, scale_bits: int, ring_bits: int = 0, digits: int = 0, secure: bool = True) -> Any:
    """A context without keys; ring_bits 0 and digits 0 let OpenFHE choose. `benchmarks/ckks.py` measures in it."""
    chosen = openfhe.CCParamsCKKSRNS()
    level = openfhe.SecurityLevel.HEStd_128_classic if secure else openfhe.SecurityLevel.HEStd_NotSet
    chosen.SetSecurityLevel(level)
    chosen.SetSecretKeyDist(openfhe.SecretKeyDist.UNIFORM_TERNARY)
    chosen.SetScalingTechnique(openfhe.ScalingTechnique.FLEXIBLEAUTO)
    chosen.SetMultiplicativeDepth(depth)
    chosen.SetScalingModSize(scale_bits)
    chosen.SetFirstModSize(60)
    if digits:
        chosen.SetNumLargeDigits(digits)
    if ring_bits:
        chosen.SetRingDim(1 << ring_bits)
    context = openfhe.GenCryptoContext(chosen)
    features = openfhe.PKESchemeFeature
    for feature in (features.PKE, features.KEYSWITCH, features.LEVELEDSHE, features.ADVANCEDSHE, features.FHE):
        context.Enable(feature)
    return context


def plain_for(context: Any, held: Any, values: list[float]) -> Any:
    """Values as a factor of a ciphertext, encoded for its level only."""
    level = held.GetLevel() + held.GetNoiseScaleDeg() - 1
    return context.MakeCKKSPackedPlaintext(values, 1, level, None, held.GetSlots())


def serialised_bytes(one: Any) -> int:
    """Bytes of a key or a map of keys on the wire.

    A process counts them as they come: gigabytes of rotation keys fit neither twice into memory nor onto every disk.
    """
    with subprocess.Popen([sys.executable, "-c", _COUNTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as counter:  # noqa: S603 - this file's own text
        if counter.stdin is None or counter.stdout is None:
            raise RuntimeError("no pipe to count bytes through")
        if not openfhe.SerializeToFile(f"/dev/fd/{counter.stdin.fileno()}", one, openfhe.BINARY):
            raise RuntimeError("a key cannot be serialised")
        counter.stdin.close()
        return int(counter.stdout.read())


class Session:
    """One context, its keys and its ciphertexts."""

    def __init__(self) -> None:
        self._context: Any = None
        self._keys: Any = None
        self._held: dict[int, Any] = {}
        self._next = 0
        self._key_bytes: int | None = None

    def setup(
        self,
        *,
        depth: int,
        scale_bits: int,
        ring_bits: int,
        digits: int,
        secure: bool,
        bootstrap: int,
        budget: list[int],
    ) -> Any:
        """Make context and keys."""
        context = context_of(depth=depth, scale_bits=scale_bits, ring_bits=ring_bits, digits=digits, secure=secure)
        self._context, self._keys = context, context.KeyGen()
        context.EvalMultKeyGen(self._keys.secretKey)
        slots = bootstrap or context.GetRingDimension() // 2
        if bootstrap:
            context.EvalBootstrapSetup(budget, [0, 0], bootstrap)
            context.EvalBootstrapKeyGen(self._keys.secretKey, bootstrap)
        return {"ring": context.GetRingDimension(), "slots": slots}

    def rotations(self, steps: list[int]) -> None:
        """Make the keys of these rotations."""
        self._key_bytes = None
        self._context.EvalRotateKeyGen(self._keys.secretKey, steps)

    def encrypt(self, values: list[float], slots: int, level: int) -> Any:
        """Encrypt under the public key."""
        plain = self._context.MakeCKKSPackedPlaintext(values, 1, level, None, slots)
        return self._keep(self._context.Encrypt(self._keys.publicKey, plain))

    def decrypt(self, one: int, length: int) -> list[float]:
        """The first `length` slots."""
        plain = self._context.Decrypt(self._keys.secretKey, self._held[one])
        plain.SetLength(length)
        return list(plain.GetRealPackedValue())

    def add(self, one: int, two: int) -> Any:
        """Slot by slot, one + two."""
        return self._keep(self._context.EvalAdd(self._held[one], self._held[two]))

    def subtract(self, one: int, two: int) -> Any:
        """Slot by slot, one - two."""
        return self._keep(self._context.EvalSub(self._held[one], self._held[two]))

    def multiply(self, one: int, two: int) -> Any:
        """Slot by slot, one * two, relinearised."""
        return self._keep(self._context.EvalMult(self._held[one], self._held[two]))

    def square(self, one: int) -> Any:
        """Slot by slot, one * one, relinearised."""
        return self._keep(self._context.EvalSquare(self._held[one]))

    def negate(self, one: int) -> Any:
        """Change every sign."""
        return self._keep(self._context.EvalNegate(self._held[one]))

    def add_number(self, one: int, number: float) -> Any:
        """Add a number to every slot."""
        return self._keep(self._context.EvalAdd(self._held[one], number))

    def multiply_number(self, one: int, number: float) -> Any:
        """Multiply every slot by a number."""
        return self._keep(self._context.EvalMult(self._held[one], number))

    def multiply_plain(self, one: int, values: list[float]) -> Any:
        """Multiply by values, slot by slot."""
        held = self._held[one]
        return self._keep(self._context.EvalMult(held, plain_for(self._context, held, values)))

    def rotate(self, one: int, steps: int) -> Any:
        """Slot i takes the value of slot i + steps."""
        return self._keep(self._context.EvalRotate(self._held[one], steps))

    def bootstrap(self, one: int) -> Any:
        """The same value with levels to spend."""
        return self._keep(self._context.EvalBootstrap(self._held[one]))

    def size(self, one: int) -> int:
        """Bytes of a ciphertext on the wire."""
        return len(openfhe.Serialize(self._held[one], openfhe.BINARY))

    def export(self, one: int) -> str:
        """A ciphertext as it crosses the wire, base64."""
        return base64.b64encode(openfhe.Serialize(self._held[one], openfhe.BINARY)).decode()

    def key_bytes(self) -> int:
        """Bytes of the keys that a server is sent, as they are serialised: public, relinearisation, rotations."""
        if self._key_bytes is None:
            tag = self._keys.publicKey.GetKeyTag()
            kinds = [self._keys.publicKey, *self._context.GetEvalMultKeyVector(tag)]
            if self._context.GetExistingEvalAutomorphismKeyIndices(tag):
                kinds.append(self._context.GetEvalAutomorphismKeyMap(tag))
            self._key_bytes = sum(serialised_bytes(kind) for kind in kinds)
        return self._key_bytes

    def memory(self) -> int:
        """Most bytes that this process has held."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def forget(self, numbers: list[int]) -> None:
        """Drop ciphertexts."""
        for number in numbers:
            self._held.pop(number, None)

    def _keep(self, held: Any) -> Any:
        self._next += 1
        self._held[self._next] = held
        return {"number": self._next, "used": held.GetLevel() + held.GetNoiseScaleDeg() - 1}


def serve() -> None:
    """Answer requests until standard input ends. OpenFHE's own notices go to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    session = Session()
    for line in sys.stdin:
        request = json.loads(line)
        began = time.perf_counter()
        try:
            result = getattr(session, request.pop("do"))(**request)
            answer = {"ok": result, "seconds": time.perf_counter() - began}
        except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, MemoryError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
