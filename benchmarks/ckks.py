"""CKKS libraries on what the sampling circuit asks of them, at 128 bits of security, each try in its own process.

First, for each library, the most levels of multiplication that it gives, by bisection, up to the 54 that the circuit
with post-processing and the embedding table takes. A depth is given where a fresh ciphertext can be multiplied by
another so many times and decrypts to what it should; a try that runs out of memory or time is not given.

Then, in a context of so many levels and in one of 12: ring dimension, seconds for an encryption, a product of two
ciphertexts, a product with a plaintext that is encoded in it, a rotation, and a public 512 x 64 matrix; the largest
error of the product, the most memory, and how far repeats lie apart. The products are of ciphertexts that are products
themselves, with relinearisation and rescaling: OpenFHE, under the technique that `ckks_worker.py` sets, rescales
factors before a product, the others rescale the product. Inputs are one draw; seconds are the median of five calls
after one that warms up, those of the matrix of one call, on one thread.

The matrix product is the circuit's: as many columns at a time as there are blocks, nine rotations each. TenSEAL gives
no rotation of its own, so neither is measured. The scale is the circuit's 45 bits; desilofhe chooses its own.

A library that is not installed is left out with a line. Each runs under this interpreter, or under the one that
DELAUDIT_OPENFHE_PYTHON, DELAUDIT_TENSEAL_PYTHON or DELAUDIT_DESILOFHE_PYTHON names; all need NumPy.

    python benchmarks/ckks.py [--json] [--levels 12] [--scale-bits 45] [--only LIBRARY] [--minutes 15]
"""

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIBRARIES = ("openfhe", "tenseal", "desilofhe")
WANTED = 54
SCALE_BITS = 45
ROWS, COLUMNS = 512, 64
STEPS = tuple(1 << bit for bit in range(9))
REPEATS = 5
LONGEST = 300.0  # seconds that one try may take
TOLERANCE = 1e-2  # a product without its level is wrong by orders of magnitude more than this
ABSENT = "not installed"
WORKER = Path(__file__).resolve().parents[1] / "defenses" / "crypto" / "engines" / "ckks_worker.py"

Values = NDArray[np.float64]
Row = dict[str, Any]


@dataclass(frozen=True)
class Scheme:
    """One library's context of some depth with its keys.

    Attributes:
        slots: Numbers in a ciphertext.
        encrypt: Of values (slots,).
        decrypt: Back to them.
        multiply: Two ciphertexts, for one level.
        multiply_plain: A ciphertext by values, for one level.
        rotate: A ciphertext by some step of STEPS; None where the library has no rotation.
        add: Two ciphertexts; None likewise.
    """

    slots: int
    encrypt: Callable[[Values], Any]
    decrypt: Callable[[Any], Values]
    multiply: Callable[[Any, Any], Any]
    multiply_plain: Callable[[Any, Values], Any]
    rotate: Callable[[Any, int], Any] | None = None
    add: Callable[[Any, Any], Any] | None = None


def openfhe(levels: int, scale_bits: int, steps: tuple[int, ...]) -> Scheme:
    """OpenFHE, in a context as the worker makes it."""
    import openfhe as library  # noqa: F401, PLC0415 - one library a process; here so that its absence is told

    spec = importlib.util.spec_from_file_location("ckks_worker", WORKER)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"no worker at {WORKER}")
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    context = worker.context_of(depth=levels, scale_bits=scale_bits)
    keys = context.KeyGen()
    context.EvalMultKeyGen(keys.secretKey)
    if steps:
        context.EvalRotateKeyGen(keys.secretKey, [-step for step in steps])
    slots = context.GetRingDimension() // 2

    def decrypt(one: Any) -> Values:
        plain = context.Decrypt(keys.secretKey, one)
        plain.SetLength(slots)
        return np.array(plain.GetRealPackedValue())

    return Scheme(
        slots,
        lambda values: context.Encrypt(keys.publicKey, context.MakeCKKSPackedPlaintext(values.tolist())),
        decrypt,
        context.EvalMult,
        lambda one, values: context.EvalMult(one, worker.plain_for(context, one, values.tolist())),
        lambda one, step: context.EvalRotate(one, -step),
        context.EvalAdd,
    )


def tenseal(levels: int, scale_bits: int, _: tuple[int, ...]) -> Scheme:
    """TenSEAL in its largest ring."""
    import tenseal as library  # noqa: PLC0415 - one library a process

    bits = [60, *[scale_bits] * levels, 60]
    context = library.context(library.SCHEME_TYPE.CKKS, poly_modulus_degree=32_768, coeff_mod_bit_sizes=bits)
    context.global_scale = 2.0**scale_bits
    return Scheme(
        16_384,
        lambda values: library.ckks_vector(context, values.tolist()),
        lambda one: np.array(one.decrypt()),
        lambda one, two: one * two,
        lambda one, values: one * values.tolist(),
    )


def desilofhe(levels: int, _: int, steps: tuple[int, ...]) -> Scheme:
    """The DESILO library, which chooses ring and scale by the levels."""
    import desilofhe as library  # noqa: PLC0415 - one library a process

    engine = library.Engine(max_level=levels)
    secret = engine.create_secret_key()
    public, relinear = engine.create_public_key(secret), engine.create_relinearization_key(secret)
    keys = {step: engine.create_fixed_rotation_key(secret, step) for step in steps}
    return Scheme(
        engine.slot_count,
        lambda values: engine.encrypt(values, public),
        lambda one: np.asarray(engine.decrypt(one, secret), dtype=np.float64),
        lambda one, two: engine.multiply(one, two, relinear),
        engine.multiply,
        lambda one, step: engine.rotate(one, keys[step]),
        engine.add,
    )


def multiplied(scheme: Scheme, levels: int) -> float:
    """The largest error after so many products in a row, by a ciphertext of signs, which keeps values as they are."""
    values, signs = draws(scheme.slots)[0], np.sign(draws(scheme.slots)[1])
    found, factor = scheme.encrypt(values), scheme.encrypt(signs)
    for _ in range(levels):
        found = scheme.multiply(found, factor)
    return deviation(scheme.decrypt(found), values * signs**levels)


def timings(scheme: Scheme) -> Row:
    """Seconds of each operation, how far repeats lie apart, and the error of the product."""
    values, others = draws(scheme.slots)
    seconds: dict[str, list[float]] = {}
    seconds["encrypt"], one = timed(lambda: scheme.encrypt(values))
    two = scheme.encrypt(others)
    one, two = scheme.multiply(one, one), scheme.multiply(two, two)
    seconds["product"], product = timed(lambda: scheme.multiply(one, two))
    seconds["plain product"], _ = timed(lambda: scheme.multiply_plain(one, values))
    if scheme.rotate is not None:
        rotate = scheme.rotate
        seconds["rotation"], _ = timed(lambda: rotate(one, 1))
    found: Row = {name: statistics.median(each) for name, each in seconds.items()}
    if scheme.rotate is not None and scheme.add is not None:
        began = time.perf_counter()
        summed_product(one, scheme.slots, scheme.multiply_plain, scheme.rotate, scheme.add)
        found["matrix"] = time.perf_counter() - began
    apart = max(max(each) / min(each) for each in seconds.values()) - 1
    return {
        "ring": 2 * scheme.slots, **found, "apart": apart, "seconds": seconds,
        "error": deviation(scheme.decrypt(product), np.square(values * others)),
    }  # fmt: skip


def timed(work: Callable[[], Any]) -> tuple[list[float], Any]:
    """Seconds of each of REPEATS calls, after one that warms up, and what the last gave."""
    work()
    seconds, found = [], None
    for _ in range(REPEATS):
        began = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - began)
    return seconds, found


def summed_product(
    vector: Any, slots: int, product: Callable[[Any, Values], Any], rotate: Callable[[Any, int], Any],
    add: Callable[[Any, Any], Any],
) -> None:  # fmt: skip
    """A public 512 x 64 matrix: as many columns at a time as there are blocks of 1,024 slots."""
    at_once = slots // (2 * ROWS)
    for _ in range(-(-COLUMNS // at_once)):
        found = product(vector, np.full(slots, 0.5))
        for step in STEPS:
            found = add(found, rotate(found, step))


def draws(count: int) -> Values:
    """What is encrypted, (2, count)."""
    return np.random.default_rng(0).uniform(-1, 1, (2, count))


def deviation(found: Values, expected: Values) -> float:
    """The largest error."""
    return float(np.abs(found[: len(expected)] - expected).max())


def here(library: str, levels: int, scale_bits: int, *, search: bool) -> Row:
    """In a process of its own: one library at one depth, tried for the search or timed."""
    try:
        scheme = globals()[library](levels, scale_bits, () if search else STEPS)
        found = {"error": multiplied(scheme, levels)} if search else timings(scheme)
    except ImportError:
        return {"refused": ABSENT}
    except (RuntimeError, ValueError) as error:
        return {"refused": str(error).splitlines()[0][:160]}
    if not found["error"] < TOLERANCE:
        return {"refused": f"a product is wrong by {found['error']:.1e}"}
    return {**found, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def python_for(library: str) -> str:
    """A library's wheel may need another interpreter than this one."""
    return os.environ.get(f"DELAUDIT_{library.upper()}_PYTHON", sys.executable)


def apart(library: str, levels: int, scale_bits: int, end: float, *, search: bool) -> Row:
    """`here` in another process, which is stopped where it takes too long; `end` is on the monotonic clock."""
    row = {"library": library, "levels": levels}
    left = min(LONGEST, end - time.monotonic())
    if left <= 0:
        return {**row, "refused": "not tried, the time was out"}
    command = [python_for(library), str(Path(__file__).resolve()), "--only", library, "--levels", str(levels),
               "--scale-bits", str(scale_bits), "--here", "search" if search else "timings"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(  # noqa: S603 - this file
            command, capture_output=True, text=True, check=False, env=environment, timeout=left
        )
    except subprocess.TimeoutExpired:
        return {**row, "refused": f"not done in {left:.0f} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {**row, "refused": f"ended with {done.returncode}"}
    return {**row, **json.loads(lines[-1])}


def deepest(refusal: Callable[[int], str], wanted: int) -> tuple[int, str]:
    """The most levels that are given, by bisection, and why not one more.

    Args:
        refusal: Why so many levels are not given, "" where they are; no more are where fewer are not.
        wanted: No more than these are tried, and these first.
    """
    given, refused, levels, reason = 0, wanted + 1, wanted, ""
    while refused - given > 1:
        told = refusal(levels)
        if told:
            refused, reason = levels, told
        else:
            given = levels
        levels = (given + refused) // 2
    return given, reason


def studied(library: str, depths: list[int], scale_bits: int, end: float) -> tuple[Row, list[Row]]:
    """The search in one library, and a row of timings at each depth that it gives."""
    most, reason = deepest(
        lambda levels: str(apart(library, levels, scale_bits, end, search=True).get("refused", "")), WANTED
    )
    wanted = sorted({depth for depth in depths if depth <= most} | ({most} if most > 1 else set()))
    rows = [apart(library, depth, scale_bits, end, search=False) for depth in wanted]
    return {"library": library, "most": most, "reason": reason}, rows


def line(row: Row) -> str:
    """One row of timings for people."""
    head = f"{row['library']:<10}{row['levels']:>7}"
    if "ring" not in row:
        return f"{head}  {row['refused']}"
    keys = ("encrypt", "product", "plain product", "rotation", "matrix")
    cells = "".join(f"{row[key]:>15.3f}" if key in row else f"{'-':>15}" for key in keys)
    return f"{head}{row['ring']:>9}{cells}{row['error']:>11.1e}{row['memory'] / 1e9:>8.2f}{100 * row['apart']:>8.0f} %"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--levels", default="12", help="also timed at these, with commas between them (default 12)")
    parser.add_argument("--scale-bits", type=int, default=SCALE_BITS, help=f"of the encoding (default {SCALE_BITS})")
    parser.add_argument("--only", choices=LIBRARIES, help="one library")
    parser.add_argument("--minutes", type=float, default=15, help="no try begins or goes on after these (default 15)")
    parser.add_argument("--here", choices=("search", "timings"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    depths = [int(part) for part in arguments.levels.split(",")]
    if arguments.here:
        print(json.dumps(here(arguments.only, depths[0], arguments.scale_bits, search=arguments.here == "search")))
        return
    end = time.monotonic() + 60 * arguments.minutes
    libraries = [arguments.only] if arguments.only else LIBRARIES
    found = [studied(library, depths, arguments.scale_bits, end) for library in libraries]
    searches, rows = [search for search, _ in found], [row for _, each in found for row in each]
    if arguments.json:
        print(json.dumps({"repeats": REPEATS, "wanted": WANTED, "searches": searches, "results": rows}))
        return
    for search in searches:
        print(f"{search['library']:<10} most levels of {WANTED}: {search['most']}; one more: {search['reason'] or '-'}")
    print(f"\nSeconds: median of {REPEATS} calls after one, of the matrix one call. One draw of inputs.")
    print("library    levels     ring        encrypt        product  plain product       rotation         matrix"
          "      error      GB     apart")  # fmt: skip
    for row in rows:
        print(line(row))


if __name__ == "__main__":
    main()
