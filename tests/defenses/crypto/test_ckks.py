"""CKKS by OpenFHE: what comes out is what numpy gives, within the stated precision, and every level is accounted for.

Rings here are small and not secure, so that tests take seconds.
"""

import importlib.util
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock, call

import numpy as np
import pytest

from defenses.crypto.engines import ckks_process
from defenses.crypto.engines.base import OperatorCost
from defenses.crypto.engines.ckks import CkksEngine
from defenses.crypto.engines.ckks_process import (
    INSTALL,
    VARIABLE,
    CkksAccount,
    CkksSettings,
    account_between,
    interpreter,
)
from defenses.errors import UserError
from defenses.randomness import seeded_rng


def need_openfhe() -> None:
    """Skip where no interpreter has OpenFHE."""
    try:
        interpreter()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def engine() -> Iterator[CkksEngine]:
    """A context of five levels and 512 slots."""
    need_openfhe()
    settings = CkksSettings(depth=5, scale_bits=50, ring_bits=10, secure=False)
    with CkksEngine(settings, [-1, -2, -4, -8, 3]) as made:
        yield made


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    """Numbers between -1 and 1, one a slot."""
    return seeded_rng(0, "ckks").uniform(-1, 1, 512)


def test_operators_are_numpy_s(engine: CkksEngine, values: np.ndarray) -> None:
    """Every operator is the one on vectors, within ten times the precision of a product."""
    one, two = engine.encrypt(values), engine.encrypt(values[::-1].copy())
    cases = [
        (engine.add(one, two), values + values[::-1]), (engine.add(one, 0.25), values + 0.25),
        (engine.subtract(one, two), values - values[::-1]), (engine.subtract(one, 0.25), values - 0.25),
        (engine.multiply(one, two), values * values[::-1]), (engine.multiply(one, -0.5), -0.5 * values),
        (engine.multiply(one, values), values**2), (engine.square(one), values**2),
        (engine.negative(one), -values), (engine.rotate(one, 3), np.roll(values, -3)),
        (engine.rotate(one, -1), np.roll(values, 1)),
        (engine.window_sum(one, 16), sum(np.roll(values, k) for k in range(16))),
    ]  # fmt: skip
    for found, expected in cases:
        np.testing.assert_allclose(engine.decrypt(found, 512), expected, atol=30 * engine.precision)


@pytest.mark.parametrize(("scale", "to"), [(1.0, 1.0), (1.0, 0.7), (0.7, 0.7), (np.sqrt(0.5), np.sqrt(0.5))])
def test_cubics_carry_their_scale(engine: CkksEngine, values: np.ndarray, scale: float, to: float) -> None:
    """From scale * x to to * (a x - b x^3) in two levels, whatever both scales are."""
    found = engine.cubic(engine.encrypt(scale * values), 1.5, 0.5, scale=scale, to=to)
    assert found.used == 2
    expected = to * (1.5 * values - 0.5 * values**3)
    np.testing.assert_allclose(engine.decrypt(found, 512), expected, atol=30 * engine.precision)


def test_levels_are_counted(engine: CkksEngine, values: np.ndarray) -> None:
    """A product takes one, sums and rotations take none, and what is left adds up to the depth."""
    one = engine.encrypt(values)
    product = engine.multiply(one, one)
    assert (one.used, one.remaining) == (0, 5)
    assert (product.used, product.remaining) == (1, 4)
    assert engine.rotate(engine.add(product, product), 3).used == 1
    assert engine.multiply(engine.square(product), product).used == 3


def test_matrix_products_are_numpy_s(engine: CkksEngine) -> None:
    """A vector in every block by a public matrix with more columns than blocks, garbage behind the vector."""
    rng = seeded_rng(1, "matrix")
    vector, matrix = rng.random(6), rng.normal(size=(6, 45))
    block = np.concatenate([vector, rng.normal(size=10)])
    products = engine.matrix_product(engine.encrypt(np.tile(block, 32)), matrix, 16)
    assert len(products) == 2
    found = engine.matrix_outputs(products, 6, 45, 16)
    np.testing.assert_allclose(found, vector @ matrix, atol=100 * engine.precision)


def test_the_account_adds_up(values: np.ndarray) -> None:
    """Calls, levels, precision against the twin, and bytes of what crosses the wire, nothing else."""
    need_openfhe()
    with CkksEngine(CkksSettings(depth=2, scale_bits=50, ring_bits=10, secure=False)) as engine:
        one = engine.encrypt(values)
        found = engine.multiply(one, one)
        worst = np.abs(engine.check(found, values**2) - values**2).max()
        engine.decrypt(found, 3)
        account = engine.account()
        assert account.bytes == engine.size(one) + engine.size(found)
        assert len(engine.view(one)) == engine.size(one)
    rows = {row.name: row for row in account.operators}
    assert {name: row.calls for name, row in rows.items()} == {"setup": 1, "encrypt": 1, "multiply": 1, "decrypt": 1}
    assert rows["multiply"].bytes == 0
    assert account.levels_used == 1
    assert account.precision_bits == pytest.approx(-np.log2(worst))
    assert account.precision_bits > 25
    assert account.seconds > 0


def test_keys_are_sized_once_and_apart_from_ciphertexts() -> None:
    """What OpenFHE makes of all keys of their kind at once, within 2 %, and the same whatever is computed."""
    need_openfhe()
    program = f"""if True:
        import sys, openfhe
        sys.path.insert(0, {str(Path(ckks_process.__file__).parent)!r})
        from ckks_worker import context_of
        context = context_of(depth=4, scale_bits=50, ring_bits=12, secure=False)
        keys = context.KeyGen()
        context.EvalMultKeyGen(keys.secretKey)
        context.EvalRotateKeyGen(keys.secretKey, [-1, 3])
        print(len(openfhe.Serialize(keys.publicKey, openfhe.BINARY))
              + len(openfhe.SerializeEvalMultKeyString(openfhe.BINARY, ""))
              + len(openfhe.SerializeEvalAutomorphismKeyString(openfhe.BINARY, "")))
    """
    done = subprocess.run(  # noqa: S603 - the same interpreter as the engine's
        [interpreter(), "-c", program], capture_output=True, text=True, check=True
    )
    with CkksEngine(CkksSettings(depth=4, scale_bits=50, ring_bits=12, secure=False), [-1, 3]) as engine:
        before = engine.account()
        one = engine.encrypt(np.ones(4))
        engine.rotate(engine.multiply(one, one), 3)
        after = engine.account()
        assert after.bytes == engine.size(one)
    assert before.bytes == 0
    assert before.key_bytes == pytest.approx(int(done.stdout.split()[-1]), rel=0.02)
    assert after.key_bytes == before.key_bytes


def test_accounts_are_subtracted() -> None:
    """Calls, seconds and bytes of what lies in between; keys and memory as they are; no row of what was not done."""
    known = {"key_seconds": 9.0, "key_bytes": 1000, "ring": 1024}
    setup, product = OperatorCost("setup", 1, 9.0, 0, 0), OperatorCost("multiply", 3, 6.0, 0, 0)
    earlier = CkksAccount(
        (setup, product, OperatorCost("encrypt", 2, 0.5, 200, 0)), seconds=6.5, bytes=200, levels_used=9,
        precision_bits=3.0, memory=7, **known,
    )  # fmt: skip
    decrypt = OperatorCost("decrypt", 1, 0.25, 50, 0)
    later = replace(
        earlier, operators=(setup, product, OperatorCost("encrypt", 3, 2.0, 300, 0), decrypt), seconds=8.25, bytes=350,
        memory=8,
    )  # fmt: skip
    assert account_between(earlier, later, levels_used=2, precision_bits=20.0) == CkksAccount(
        (OperatorCost("encrypt", 1, 1.5, 100, 0), decrypt), seconds=1.75, bytes=150, levels_used=2,
        precision_bits=20.0, memory=8, **known,
    )  # fmt: skip


def test_test_parameters_promise_nothing(engine: CkksEngine) -> None:
    """A record must not call a ring of 1,024 secure."""
    assert engine.guarantee.startswith("none")
    with CkksEngine(CkksSettings(depth=1)) as secure:
        assert "128-bit" in secure.guarantee


def test_bootstrapping_gives_levels_back() -> None:
    """A spent ciphertext is refreshed to the same value, to ten bits or more, with levels to spend."""
    need_openfhe()
    values = seeded_rng(2, "boot").uniform(-1, 1, 8)
    with CkksEngine(CkksSettings(depth=24, scale_bits=55, ring_bits=10, secure=False, bootstrap=8)) as engine:
        assert engine.slots == 8
        spent = engine.encrypt(values)
        while spent.remaining > 1:
            spent = engine.multiply(spent, 1.0)
        fresh = engine.bootstrap(spent)
        assert fresh.remaining >= 3
        np.testing.assert_allclose(engine.decrypt(engine.square(fresh), 8), values**2, atol=2e-3)


def test_two_encryptions_of_one_value_differ(engine: CkksEngine, values: np.ndarray) -> None:
    """A server that sees the same value twice must not notice."""
    assert engine.view(engine.encrypt(values)) != engine.view(engine.encrypt(values))


def test_ciphertexts_are_freed(engine: CkksEngine, values: np.ndarray) -> None:
    """What nobody refers to any more leaves the worker, or a deep circuit would not fit its memory."""
    number = engine.encrypt(values).number
    engine.encrypt(values)
    with pytest.raises(UserError, match="KeyError"):
        engine._worker.ask("size", one=number)


def test_misuse_is_told(engine: CkksEngine, values: np.ndarray) -> None:
    """No key, no bootstrapping, too many values, no number, a window that is no power of two: the worker lives on."""
    one = engine.encrypt(values)
    with pytest.raises(ValueError, match="no key to rotate by 5"):
        engine.rotate(one, 5)
    with pytest.raises(ValueError, match="bootstrapping keys"):
        engine.bootstrap(one)
    with pytest.raises(ValueError, match="1 to 512 finite numbers"):
        engine.encrypt(np.zeros(513))
    with pytest.raises(ValueError, match="finite"):
        engine.encrypt(np.array([np.nan]))
    with pytest.raises(ValueError, match="power of two"):
        engine.window_sum(one, 3)
    with pytest.raises(ValueError, match="JSON compliant"):
        engine.multiply(one, float("nan"))
    assert engine.size(one) > 0


def test_too_small_a_ring_is_refused_as_not_secure() -> None:
    """The library's own table of 128-bit parameters guards what is called secure."""
    need_openfhe()
    with pytest.raises(UserError, match="HE standards"):
        CkksEngine(CkksSettings(depth=20, ring_bits=12))


@pytest.mark.parametrize("settings", [{"depth": 0}, {"depth": 1, "scale_bits": 10}, {"depth": 1, "ring_bits": 20}])
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    """Before any process is started."""
    with pytest.raises(UserError):
        CkksSettings(**settings)


def test_a_missing_openfhe_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line with the command that installs it."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(UserError) as caught:
        interpreter()
    assert INSTALL in str(caught.value)


def test_a_worker_that_is_gone_is_told(values: np.ndarray) -> None:
    """A killed worker gives one line, not a hang."""
    need_openfhe()
    engine = CkksEngine(CkksSettings(depth=1, ring_bits=10, secure=False))
    engine.close()
    with pytest.raises(UserError, match="worker"):
        engine.encrypt(values)


@pytest.mark.parametrize(("raised", "told"), [(KeyboardInterrupt, KeyboardInterrupt), (TimeoutError, UserError)])
def test_an_unread_answer_is_nobody_s(values: np.ndarray, raised: type, told: type) -> None:
    """What interrupts a request leaves its answer unread: the next request must not take it for its own."""
    need_openfhe()
    engine = CkksEngine(CkksSettings(depth=1, ring_bits=10, secure=False))
    one = engine.encrypt(values)
    process = engine._worker._process

    def interrupt(*_: object) -> None:
        raise raised

    earlier = signal.signal(signal.SIGALRM, interrupt)
    try:
        # A stopped worker cannot answer before the alarm.
        process.send_signal(signal.SIGSTOP)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(told):
            engine.decrypt(one, 3)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
        process.send_signal(signal.SIGCONT)
    with pytest.raises(UserError, match="make a new engine"):
        engine.size(one)
    assert process.returncode is not None


def test_an_answer_that_breaks_off_is_told(monkeypatch: pytest.MonkeyPatch, values: np.ndarray) -> None:
    """A worker that is killed while it writes leaves half a line, which is no JSON."""
    need_openfhe()
    with CkksEngine(CkksSettings(depth=1, ring_bits=10, secure=False)) as engine:
        monkeypatch.setattr(engine._worker, "_exchanged", lambda _: '{"ok": {"num')
        with pytest.raises(UserError, match="worker ended in 'encrypt'"):
            engine.encrypt(values)


@pytest.mark.parametrize("most", range(10))
def test_the_benchmark_finds_the_deepest_circuit(most: int) -> None:
    """Whatever a library gives, up to what is wanted, in as many tries as bisection takes, with the reason for less."""
    refusal = Mock(side_effect=lambda levels: f"no {levels}" if levels > most else "")
    assert benchmark().deepest(refusal, 8) == (min(most, 8), "" if most >= 8 else f"no {most + 1}")
    assert refusal.call_args_list[0] == call(8)
    assert refusal.call_count <= 5


def test_the_benchmark_multiplies_as_often_as_it_says() -> None:
    """A depth is tried with so many products, which come out right, and not where the time is out."""
    need_openfhe()
    tool, end = benchmark(), time.monotonic() + 600
    found = tool.apart("openfhe", 2, 45, end, search=True)
    assert found["error"] < 1e-6
    assert tool.apart("openfhe", 2, 45, 0.0, search=True)["refused"].startswith("not tried")
    scheme = tool.Scheme(64, np.copy, np.copy, np.multiply, np.multiply)
    assert tool.multiplied(scheme, 3) == 0
    assert tool.multiplied(replace(scheme, multiply=lambda one, _: one), 3) > 0.1


def test_each_library_of_the_benchmark_has_its_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wheels are built for one version of Python each; without a word for it, it is this one."""
    monkeypatch.setenv("DELAUDIT_TENSEAL_PYTHON", "elsewhere")
    monkeypatch.delenv("DELAUDIT_DESILOFHE_PYTHON", raising=False)
    assert benchmark().python_for("tenseal") == "elsewhere"
    assert benchmark().python_for("desilofhe") == sys.executable


@lru_cache
def benchmark() -> ModuleType:
    """The script benchmarks/ckks.py."""
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "ckks.py"
    spec = importlib.util.spec_from_file_location("ckks_benchmark", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
