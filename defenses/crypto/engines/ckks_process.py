"""The process that OpenFHE runs in: its parameters, how it is asked, and what its answers add up to.

OpenFHE's wheel fits one version of Python: 1.6.1 is for 3.10. So a worker process holds it (`ckks_worker.py`), under
the interpreter that `DELAUDIT_OPENFHE_PYTHON` names, else this one, and answers over its standard streams.
"""

import contextlib
import json
import math
import os
import subprocess
import sys
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from defenses.crypto.engines.base import OperatorCost
from defenses.errors import UserError

VARIABLE = "DELAUDIT_OPENFHE_PYTHON"
INSTALL = f"python3.10 -m venv he && he/bin/pip install openfhe==1.6.1.0.22.4, then {VARIABLE}=he/bin/python"
_KEYS = frozenset({"setup", "rotations"})
_WORKER = Path(__file__).with_name("ckks_worker.py")


@dataclass(frozen=True)
class CkksSettings:
    """Parameters of a CKKS context.

    Attributes:
        depth: Levels of multiplication.
        scale_bits: Of the encoding; about 21 of them are noise in a full ciphertext at ring dimension 2^17.
        ring_bits: log2 of the ring dimension; 0 takes the smallest that is secure.
        digits: Digits of key switching; more need fewer auxiliary bits of modulus and larger keys. 0 takes OpenFHE's.
        secure: Demand 128 bits of classical security (HEStd_128_classic). False is for tests of small rings only.
        bootstrap: Slots of every ciphertext, which `CkksEngine.bootstrap` can then refresh; fewer take less time and
            memory. 0 makes no keys for it, and ciphertexts have half the ring's dimension.
        budget: Levels that bootstrapping spends on its two transforms.
    """

    depth: int
    scale_bits: int = 45
    ring_bits: int = 0
    digits: int = 0
    secure: bool = True
    bootstrap: int = 0
    budget: tuple[int, int] = (3, 3)

    def __post_init__(self) -> None:
        if self.depth < 1 or not 20 <= self.scale_bits <= 59 or self.digits < 0:
            raise UserError(
                f"CKKS needs a depth of 1 or more, digits of 0 or more and a scale of 20 to 59 bits, not {self}"
            )
        if not (self.ring_bits == 0 or 10 <= self.ring_bits <= 17):
            raise UserError(
                f"ring_bits {self.ring_bits}: OpenFHE takes ring dimensions of 2^10 to 2^17; 0 lets it choose"
            )


@dataclass(frozen=True, eq=False)
class Ciphertext:
    """A ciphertext in the worker.

    Attributes:
        number: How the worker knows it.
        used: Levels of multiplication spent.
        remaining: Levels left.
    """

    number: int
    used: int
    remaining: int


@dataclass(frozen=True)
class CkksAccount:
    """What was done, since the engine began or, after `account_between`, in one piece of work.

    Attributes:
        operators: Calls and seconds by kind, dearest first. Bytes stand at those that cross between the parties.
        seconds: Sum of them in the worker, without those that made the keys.
        key_seconds: For context and keys, once for each engine, whatever is computed.
        key_bytes: Of the keys that the server is sent, as OpenFHE serialises them one by one: the public key and those
            to relinearise, to rotate and to bootstrap. Once for each engine; none of them is in `bytes`.
        bytes: Of all ciphertexts that were sent: encrypted inputs and decrypted outputs.
        levels_used: Most that any ciphertext has spent.
        precision_bits: -log2 of the largest deviation from a plaintext twin; None where none was checked.
        ring: Ring dimension.
        memory: Most bytes that the worker has held since it began, keys included.
    """

    operators: tuple[OperatorCost, ...]
    seconds: float
    key_seconds: float
    key_bytes: int
    bytes: int
    levels_used: int
    precision_bits: float | None
    ring: int
    memory: int


def account_between(
    earlier: CkksAccount, later: CkksAccount, *, levels_used: int, precision_bits: float | None
) -> CkksAccount:
    """What one engine did between two of its accounts: differences of calls, seconds and bytes.

    What the keys cost, which is once for each engine, and the most memory so far are those of the later account.

    Args:
        earlier: Before.
        later: After.
        levels_used: The most in between, which two maxima over a longer time do not tell.
        precision_bits: Likewise.
    """
    before = {row.name: row for row in earlier.operators}
    rows = [
        replace(
            row, calls=row.calls - before[row.name].calls, seconds=row.seconds - before[row.name].seconds,
            bytes=row.bytes - before[row.name].bytes,
        ) if row.name in before else row
        for row in later.operators
    ]  # fmt: skip
    return replace(
        later, operators=_dearest_first(row for row in rows if row.calls), seconds=later.seconds - earlier.seconds,
        bytes=later.bytes - earlier.bytes, levels_used=levels_used, precision_bits=precision_bits,
    )  # fmt: skip


def precision_of(worst: float | None) -> float | None:
    """-log2 of a largest deviation; None where there is none, or where it is zero."""
    return -math.log2(worst) if worst else None


def _dearest_first(rows: Iterable[OperatorCost]) -> tuple[OperatorCost, ...]:
    return tuple(sorted(rows, key=lambda row: -row.seconds))


@dataclass
class _Ledger:
    calls: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    used: int = 0
    worst: float | None = None

    def note(self, name: str, seconds: float, size: int = 0) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.bytes[name] = self.bytes.get(name, 0) + size


def interpreter() -> str:
    """The Python that can import OpenFHE.

    Raises:
        UserError: there is none; the message says how to get one.
    """
    python = os.environ.get(VARIABLE, sys.executable)
    if not _imports(python):
        raise UserError(f"CKKS needs OpenFHE, which {python} cannot import: {INSTALL}")
    return python


@lru_cache(maxsize=4)
def _imports(python: str) -> bool:
    try:
        done = subprocess.run([python, "-c", "import openfhe"], capture_output=True, check=False, timeout=60)  # noqa: S603 - the user's own interpreter
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


class CkksWorker:
    """A worker process with its context and keys, and the account of what it did.

    Args:
        settings: The context's parameters.
        threads: Of the worker.

    Raises:
        UserError: OpenFHE is missing, or refuses the parameters, for example as not secure.
    """

    def __init__(self, settings: CkksSettings, threads: int) -> None:
        self._settings, self._ledger = settings, _Ledger()
        self._dropped: list[int] = []
        self._process = subprocess.Popen(  # noqa: S603 - a file of ours under the user's own interpreter
            [interpreter(), str(_WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
        try:
            facts = self.ask("setup", **asdict(settings))
        except BaseException:
            self.close()
            raise
        self.ring, self.slots = int(facts["ring"]), int(facts["slots"])

    def kept(self, do: str, **arguments: Any) -> Ciphertext:
        """Ask for something whose result stays in the worker until nobody here refers to it any more."""
        made = self.ask(do, **arguments)
        used = int(made["used"])
        self._ledger.used = max(self._ledger.used, used)
        found = Ciphertext(int(made["number"]), used, self._settings.depth - used)
        weakref.finalize(found, self._dropped.append, found.number).atexit = False
        return found

    def ask(self, do: str, *, quiet: bool = False, **arguments: Any) -> Any:
        """One request and its answer; what is not quiet goes into the account.

        Raises:
            UserError: the worker failed or is gone.
            ValueError: an argument is a number that is not finite.
        """
        if self._dropped:
            numbers, self._dropped[:] = list(self._dropped), []
            self.ask("forget", quiet=True, numbers=numbers)
        request = json.dumps({"do": do, **arguments}, allow_nan=False) + "\n"
        try:
            line = self._exchanged(request)
        except BaseException as error:
            # An answer that nobody has read would be taken for that to the next request, so there is to be none.
            self._process.kill()
            self.close()
            if not isinstance(error, OSError | ValueError):
                raise
            raise UserError(f"the CKKS worker cannot be reached for '{do}': {error}; make a new engine") from error
        if not line.endswith("\n"):
            raise UserError(f"the CKKS worker ended in '{do}', most likely for want of memory: take a smaller context")
        answer: Mapping[str, Any] = json.loads(line)
        if "error" in answer:
            raise UserError(f"OpenFHE refuses '{do}': {answer['error']}")
        if not quiet:
            self._ledger.note(do, float(answer["seconds"]))
        return answer["ok"]

    def _exchanged(self, request: str) -> str:
        """The line that comes back for one that is sent; without an end where the worker ended."""
        source, target = self._process.stdout, self._process.stdin
        if source is None or target is None:
            raise BrokenPipeError
        target.write(request)
        target.flush()
        return source.readline()

    def sent(self, name: str, size: int) -> None:
        """Count a ciphertext that crossed between the parties."""
        self._ledger.bytes[name] = self._ledger.bytes.get(name, 0) + size

    def deviated(self, worst: float) -> None:
        """Keep the largest deviation from a twin."""
        self._ledger.worst = worst if self._ledger.worst is None else max(worst, self._ledger.worst)

    def account(self) -> CkksAccount:
        """What was done so far."""
        ledger = self._ledger
        rows = [OperatorCost(name, calls, ledger.seconds[name], ledger.bytes[name], 0)
                for name, calls in ledger.calls.items()]  # fmt: skip
        return CkksAccount(
            operators=_dearest_first(rows),
            seconds=sum(value for name, value in ledger.seconds.items() if name not in _KEYS),
            key_seconds=sum(value for name, value in ledger.seconds.items() if name in _KEYS),
            key_bytes=int(self.ask("key_bytes", quiet=True)),
            bytes=sum(ledger.bytes.values()),
            levels_used=ledger.used,
            precision_bits=precision_of(ledger.worst),
            ring=self.ring,
            memory=int(self.ask("memory", quiet=True)),
        )

    def close(self) -> None:
        """End the worker."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
